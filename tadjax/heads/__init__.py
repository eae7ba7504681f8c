"""Detection heads: features of a window in, losses or candidate segments out.

All have the same face, pure functions of their parameters on a frozen holder of settings:

    init_params(key, feature_width) -> params
    init_state() -> state
    losses(params, state, features, valid, targets, *, rng=None, train=True) -> (losses, state)
    candidates(params, features, valid) -> {"segments", "scores", "valid"}
"""

from tadjax.heads.actionformer import ActionFormer

HEADS = {"actionformer": ActionFormer}
