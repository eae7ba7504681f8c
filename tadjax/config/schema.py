"""Every field of a config, once: name, default, rule, meaning. Imports no JAX, to be fast.

From it come the ConfigDict that recipes start from, the checks and suggestions (checks.py), and docs/config.md:

    python -m tadjax.config.schema > docs/config.md
"""

from collections.abc import Iterator

from ml_collections import ConfigDict

from tadjax.config.fields.data import AUGMENT, DATA, FEATURES, WINDOW
from tadjax.config.fields.model import ADAPTATION, BACKBONE, HEAD
from tadjax.config.fields.results import CLASSIFIER, EVALUATION, POST
from tadjax.config.fields.training import LOFI, MEMORY, MESH, OPTIM, TRAIN
from tadjax.config.rules import Field, Section, one_of, within

CONFIG = Section(
    "A recipe starts from these defaults and changes some. Unless said otherwise they are those of AdaTAD on THUMOS14 "
    "(OpenTAD's published settings). Any field can be overridden on the command line: --config.optim.head_lr=2e-4",
    seed=Field(0, "the random seed of initial weights, sampling, augmentation and dropout", within(0, 2**31 - 1)),
    dtype=Field(
        "bfloat16",
        "the dtype of matrix products; trained weights, norms, softmax and losses are float32 in either case",
        one_of("bfloat16", "float32"),
    ),
    data=DATA,
    features=FEATURES,
    window=WINDOW,
    augment=AUGMENT,
    backbone=BACKBONE,
    adaptation=ADAPTATION,
    head=HEAD,
    optim=OPTIM,
    lofi=LOFI,
    train=TRAIN,
    memory=MEMORY,
    post=POST,
    evaluation=EVALUATION,
    classifier=CLASSIFIER,
    mesh=MESH,
)


def _sections(section: Section = CONFIG, prefix: str = "", may_change: bool = False) -> Iterator[tuple]:
    """(prefix of its fields' names, section, whether they may change), outer ones first."""
    may_change = may_change or section.may_change
    yield prefix, section, may_change
    for name, inner in section.fields.items():
        if isinstance(inner, Section):
            yield from _sections(inner, f"{prefix}{name}.", may_change)


_ALL = [
    (f"{prefix}{name}", field, all_may or field.may_change)
    for prefix, section, all_may in _sections()
    for name, field in section.fields.items()
    if isinstance(field, Field)
]
FIELDS: dict[str, Field] = {name: field for name, field, _ in _ALL}
MAY_CHANGE = frozenset(name for name, _, may in _ALL if may)


def defaults(section: Section = CONFIG) -> ConfigDict:
    """All fields with their defaults."""
    return ConfigDict({n: f.default if isinstance(f, Field) else defaults(f) for n, f in section.fields.items()})


def page() -> str:
    """docs/config.md: a table a section."""
    lines = ["# Every field of a config", "", "Made by `python -m tadjax.config.schema`.", ""]
    for prefix, section, _ in _sections():
        title = [f"## config.{prefix.rstrip('.')}", ""] if prefix else []
        lines += [*title, section.meaning, "", "| Field | Default | Must be | Meaning |", "|---|---|---|---|"]
        for name, field in section.fields.items():
            if isinstance(field, Field):
                rule = field.rule.text if field.rule else field.kind
                lines.append(f"| `{prefix}{name}` | `{field.default!r}` | {rule} | {field.meaning} |")
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    print(page(), end="")
