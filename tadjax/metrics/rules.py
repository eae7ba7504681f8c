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
    empty_matches_empty: bool  # two segments of no length, tIoU 0/0, match at every threshold and before all others
    sorted_classes: bool  # by id; otherwise in the order of the ground truth file
    tiou: tuple[float, ...]  # thresholds where none are named


RULES = {
    "opentad": Rules(
        "opentad",
        duplicate_tolerance=1e-3,
        empty_matches_empty=False,
        sorted_classes=False,
        tiou=(0.3, 0.4, 0.5, 0.6, 0.7),
    ),
    "activitynet": Rules(
        "activitynet",
        duplicate_tolerance=None,
        empty_matches_empty=True,
        sorted_classes=False,
        tiou=(0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95),
    ),
    "epic": Rules(
        "epic",
        duplicate_tolerance=None,
        empty_matches_empty=False,
        sorted_classes=True,
        tiou=(0.1, 0.2, 0.3, 0.4, 0.5),
    ),
}


def rules_named(name: str) -> Rules:
    """The rules of that name; ConfigError, listing the names, for any other."""
    if name not in RULES:
        raise ConfigError(f"no evaluation rules are called {name!r}; {', '.join(RULES)} are")
    return RULES[name]
