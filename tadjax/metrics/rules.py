"""The public evaluators differ in four details, worth up to 0.1 mAP: each set of rules by name.

opentad      OpenTAD, and ActionFormer: annotations without length and near duplicates do not count
activitynet  ActivityNet's own evaluator: every annotation counts
epic         EPIC-Kitchens' evaluator: every annotation counts, classes are sorted ids
"""

import dataclasses

from tadjax.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Rules:
    name: str
    # instances of one class that start and end within this many seconds are one; None: all count, and so do those
    # that have no length
    duplicate_tolerance: float | None
    empty_matches_empty: (
        bool  # two segments of no length at the same time: tIoU 0/0 counts as a match, before all others
    )
    sorted_classes: bool  # by id; otherwise in the order of the ground truth file


RULES = {
    "opentad": Rules("opentad", duplicate_tolerance=1e-3, empty_matches_empty=False, sorted_classes=False),
    "activitynet": Rules("activitynet", duplicate_tolerance=None, empty_matches_empty=True, sorted_classes=False),
    "epic": Rules("epic", duplicate_tolerance=None, empty_matches_empty=False, sorted_classes=True),
}


def rules_named(name: str) -> Rules:
    """The rules of that name; ConfigError, listing the names, for any other."""
    if name not in RULES:
        raise ConfigError(f"no evaluation rules are called {name!r}; {', '.join(RULES)} are")
    return RULES[name]
