"""Detection heads: features of a window in, losses or candidate segments out.

All have the same face, pure functions of their parameters on a frozen holder of settings:

    init_params(key, feature_width) -> params
    init_state() -> state
    losses(params, state, features, valid, targets, *, rng=None, train=True) -> (losses, state)
    candidates(params, features, valid) -> {"segments", "scores", "valid"}
"""

import dataclasses
from typing import Any

from tadjax.heads.actionformer import ActionFormer
from tadjax.heads.classifier import Classifier
from tadjax.heads.gtad import GTad
from tadjax.heads.tridet import TriDet

HEADS = {"actionformer": ActionFormer, "tridet": TriDet, "gtad": GTad, "classifier": Classifier}


def make_head(options: dict[str, Any], classes: int, dtype: Any) -> Any:
    """The head of `config.head`, as a dict: from the common fields that it has, and its own section."""
    name = options["name"]
    fields = {field.name for field in dataclasses.fields(HEADS[name])} - {"name"}  # Flax's own name of a module
    common = {field: value for field, value in options.items() if field in fields}
    return HEADS[name](classes=classes, dtype=dtype, **common, **options.get(name, {}))
