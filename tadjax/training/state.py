"""The state of a training run as one tree, and the step that advances it."""

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from tadjax.localizer import Batch, Localizer
from tadjax.training.optimizer import hold


@flax.struct.dataclass
class TrainState:
    """step: int32, steps done. trained, frozen: the collections of params. ema: average of `trained`, or {} for none.

    head_state: what the head carries from step to step (its loss normaliser). skipped: int32, steps in a row whose loss
    or gradient was not finite; such a step changes nothing but the counters.
    """

    step: jax.Array
    skipped: jax.Array
    trained: dict
    frozen: dict
    ema: dict
    optimizer: Any
    head_state: dict


def split(params: dict, trained: tuple[str, ...]) -> tuple[dict, dict]:
    """(trained, frozen) collections of params."""
    return (
        {name: tree for name, tree in params.items() if name in trained},
        {name: tree for name, tree in params.items() if name not in trained},
    )


def create(
    params: dict, trained: tuple[str, ...], localizer: Localizer, tx: optax.GradientTransformation, ema_decay: float
) -> TrainState:
    """The state before the first step; no average is kept where `ema_decay` is 0."""
    trained_params, frozen = split(params, trained)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        skipped=jnp.zeros((), jnp.int32),
        trained=trained_params,
        frozen=frozen,
        ema=jax.tree.map(jnp.copy, trained_params) if ema_decay else {},
        optimizer=tx.init(trained_params),
        head_state=localizer.head.init_state(),
    )


def moving_average(average: Any, new: Any, decay: float) -> Any:
    """decay * average + (1 - decay) * new, each product rounded to float32 before the sum, as published averages are.

    A compiler would fuse the sum into a multiply-add that rounds once, and the last bit of every step would differ;
    over thousands of small steps that adds up. The comparison, always true but for NaN, stands in its way.
    """

    def rounded(product: jax.Array) -> jax.Array:
        return jnp.where(product == product, product, jnp.nan)

    return jax.tree.map(lambda a, b: rounded(decay * a) + rounded((1 - decay) * b), average, new)


def updates_of(optimizer: Any) -> jax.Array:
    """int32: how often an optimizer's state was advanced, by the count that its learning rates go by."""
    return optax.tree.get_all_with_path(optimizer, "count")[0][1]


def make_train_step(
    localizer: Localizer,
    tx: optax.GradientTransformation,
    *,
    ema_decay: float,
    accumulate: int = 1,
    rng_seed: int = 0,
    deterministic: bool = False,
) -> Callable[[TrainState, Batch], tuple[TrainState, dict[str, jax.Array]]]:
    """(state, batch) -> (next state, metrics: the losses, grad_norm, skipped, updates).

    updates: int32, steps before this one that were not skipped, which the learning rates of this step follow from.
    batch: what `Localizer.losses` takes; features in place of frames where there are any. deterministic: no drop path,
    no dropout. accumulate: the batch is cut into that many micro-batches, whose gradients are averaged.
    """

    def loss(trained: dict, frozen: dict, head_state: dict, batch: Batch, rng: jax.Array) -> tuple[jax.Array, Any]:
        frames = batch["features" if "features" in batch else "frames"]
        losses, head_state = localizer.losses(
            {**frozen, **hold(trained)}, head_state, {**batch, "frames": frames}, rng=None if deterministic else rng
        )
        return losses["loss"], (losses, head_state)

    gradient = jax.grad(loss, has_aux=True)

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, jax.Array]]:
        rng = jax.random.fold_in(jax.random.key(rng_seed), state.step)

        def micro(carry: tuple, part: tuple) -> tuple[tuple, dict]:
            total, head_state = carry
            micro_batch, micro_rng = part
            grads, (losses, head_state) = gradient(state.trained, state.frozen, head_state, micro_batch, micro_rng)
            return (jax.tree.map(jnp.add, total, grads), head_state), losses

        if accumulate == 1:
            grads, (losses, head_state) = gradient(state.trained, state.frozen, state.head_state, batch, rng)
        else:
            # Micro-batch k takes every accumulate-th record, so that each is spread over all devices.
            parts = jax.tree.map(lambda a: a.reshape(-1, accumulate, *a.shape[1:]).swapaxes(0, 1), batch)
            zeros = jax.tree.map(jnp.zeros_like, state.trained)
            rngs = jax.random.split(rng, accumulate)
            (grads, head_state), losses = jax.lax.scan(micro, (zeros, state.head_state), (parts, rngs))
            grads = jax.tree.map(lambda g: g / accumulate, grads)
            losses = jax.tree.map(jnp.mean, losses)

        norm = optax.tree.norm(grads)
        finite = jnp.isfinite(losses["loss"]) & jnp.isfinite(norm)
        updates, optimizer = tx.update(grads, state.optimizer, state.trained)
        trained = optax.apply_updates(state.trained, updates)
        advanced = dict(
            trained=trained,
            ema=moving_average(state.ema, trained, ema_decay) if ema_decay else state.ema,
            optimizer=optimizer,
            head_state=head_state,
        )
        kept = {name: getattr(state, name) for name in advanced}
        chosen = jax.tree.map(lambda new, old: jnp.where(finite, new, old), advanced, kept)
        following = state.replace(step=state.step + 1, skipped=jnp.where(finite, 0, state.skipped + 1), **chosen)
        metrics = {**losses, "grad_norm": norm, "skipped": following.skipped, "updates": updates_of(state.optimizer)}
        return following, metrics

    return train_step
