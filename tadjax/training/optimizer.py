"""What is trained, and how fast: groups of parameters, their learning rates, AdamW (or Adam, SGD), clipping.

The groups are OpenTAD's: all adapter parameters in one group with weight decay (their biases too); of the head, the
weights of linear layers and convolutions decay, while biases, norms and scales do not. Full fine-tuning moves a ViT's
norms, and leaves those of all other backbones, with batch norm's statistics, as the pre-training left them: OpenTAD's
settings say so (`norm_eval`); LoFi-E2E's paper says nothing.
Adam and SGD are what G-TAD and LoFi-E2E were published with: weight decay there is PyTorch's, an L2 term of the loss,
and acts on everything.
"""

import re
from collections.abc import Callable
from typing import Any

import jax
import optax

HELD = "held"  # no gradient reaches it, and no decay
# The first pattern that matches a parameter's path names its group. Every trained parameter must be covered.
GROUPS = (
    (r"adapter/.*", "adapter"),
    (r"backbone/(?!(\w+_)?blocks/)(.*/)?norm\d?/.*", HELD),
    (r"backbone/.*", "backbone"),
    (r"head/(.*/)?kernel", "head_decay"),
    (r"head/.*", "head_no_decay"),
)


def path_of(path: tuple) -> str:
    """A tree path as "head/projection/embed_0/conv/kernel"."""
    return "/".join(str(getattr(key, "key", getattr(key, "idx", key))) for key in path)


def group_of(path: str) -> str:
    for pattern, group in GROUPS:
        if re.fullmatch(pattern, path):
            return group
    raise ValueError(f"no optimizer group covers the trained parameter {path}")


def labels(params: Any) -> Any:
    """The tree of group names for a tree of trained parameters."""
    return jax.tree_util.tree_map_with_path(lambda path, _: group_of(path_of(path)), params)


def hold(params: Any) -> Any:
    """The same trained parameters, without a way for gradients to those that are held."""
    return jax.tree.map(lambda a, group: jax.lax.stop_gradient(a) if group == HELD else a, params, labels(params))


def warmup_cosine(base: float, warmup: int, total: int, minimum: float) -> Callable[[Any], Any]:
    """Linear warm-up from 0, `base` at steps warmup-1 and warmup, then a cosine to `minimum` at step `total`."""
    cosine = optax.cosine_decay_schedule(base, max(total - warmup, 1), alpha=minimum / base if base else 0.0)
    if warmup == 0:
        return cosine
    return optax.join_schedules([optax.linear_schedule(0.0, base, max(warmup - 1, 1)), cosine], [warmup])


def steps_down(base: float, every: int, factor: float) -> Callable[[Any], Any]:
    """`base`, times `factor` after every `every` steps."""
    return optax.exponential_decay(base, max(every, 1), factor, staircase=True)


def schedules(optim: Any, steps_per_epoch: int) -> dict[str, Callable]:
    """Learning rate by step, for each group. `optim` is config.optim."""

    def of(base: float) -> Callable:
        if optim.schedule == "step":
            return steps_down(base, round(optim.step_epochs * steps_per_epoch), optim.step_factor)
        warmup, total = optim.warmup_epochs * steps_per_epoch, optim.schedule_epochs * steps_per_epoch
        return warmup_cosine(base, round(warmup), round(total), optim.min_lr)

    head = of(optim.head_lr)
    return {
        "adapter": of(optim.adapter_lr),
        "backbone": of(optim.backbone_lr),
        "head_decay": head,
        "head_no_decay": head,
    }


def make_optimizer(optim: Any, steps_per_epoch: int) -> optax.GradientTransformation:
    """The optimizer per group after one clipping of the global norm of all gradients. `optim` is config.optim."""
    decay = {
        "adapter": optim.adapter_weight_decay,
        "backbone": optim.backbone_weight_decay,
        "head_decay": optim.head_weight_decay,
        "head_no_decay": 0.0 if optim.optimizer == "adamw" else optim.head_weight_decay,
    }
    groups = {
        name: _optimizer(optim, schedule, decay[name]) for name, schedule in schedules(optim, steps_per_epoch).items()
    }
    groups[HELD] = optax.set_to_zero()
    # Clipping stands outside of the partition: inside, it would clip each group by its own norm.
    clip = optax.clip_by_global_norm(optim.clip_norm) if optim.clip_norm else optax.identity()
    return optax.chain(clip, optax.partition(groups, labels))


def _optimizer(optim: Any, rate: Callable, decay: float) -> optax.GradientTransformation:
    if optim.optimizer == "sgd":
        return optax.chain(optax.add_decayed_weights(decay), optax.sgd(rate, momentum=optim.momentum or None))
    moments = dict(b1=0.9, b2=0.999, eps=1e-8)
    if optim.optimizer == "adam":
        return optax.chain(optax.add_decayed_weights(decay), optax.adam(rate, **moments))
    return optax.adamw(rate, weight_decay=decay, **moments)
