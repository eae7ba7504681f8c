"""A linear classifier of feature steps: what an encoder is trained with on the actions themselves (LoFi-E2E's ACP+).

Each feature step within a true segment is a clip of that action. A step in several belongs to the shortest; steps in
none are not counted. As a detector it is a poor one: every step is a candidate of its own.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax


class Classifier(nn.Module):
    """The head: a frozen holder of its settings, which docs/config.md describes; see tadjax/heads/__init__.py."""

    classes: int
    width: int = 0  # of other heads
    label_smoothing: float = 0.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, features: jax.Array) -> jax.Array:
        """Features [B, T, C] -> logits float32 [B, T, K]."""
        return nn.Dense(self.classes, name="out")(features.astype(jnp.float32))

    @nn.nowrap
    def init_params(self, key: jax.Array, feature_width: int) -> dict:
        return self.init(key, jnp.zeros((1, 1, feature_width)))["params"]

    @nn.nowrap
    def init_state(self) -> dict:
        """Nothing is carried from step to step."""
        return {}

    @nn.nowrap
    def losses(
        self,
        params: dict,
        state: dict,
        features: jax.Array,
        valid: jax.Array,
        targets: dict,
        *,
        rng: jax.Array | None = None,
        train: bool = True,
    ) -> tuple[dict, dict]:
        """{"loss"}: mean cross entropy over the steps of actions, 0 without any; arguments as of the other heads."""
        label, counted = step_labels(targets, valid)
        wanted = optax.smooth_labels(jax.nn.one_hot(label, self.classes), self.label_smoothing)
        log_probability = jax.nn.log_softmax(self.apply({"params": params}, features))
        cross_entropy = -jnp.sum(wanted * log_probability, axis=-1)  # [B, T]
        return {"loss": jnp.sum(cross_entropy * counted) / jnp.maximum(jnp.sum(counted), 1)}, state

    @nn.nowrap
    def candidates(self, params: dict, features: jax.Array, valid: jax.Array) -> dict:
        """Every step: segments f32 [B, T, 2] in feature steps, scores f32 [B, T, K], valid bool [B, T]."""
        batch, length, _ = features.shape
        start = jnp.arange(length, dtype=jnp.float32)
        segments = jnp.broadcast_to(jnp.stack([start, start + 1], axis=-1), (batch, length, 2))
        return {
            "segments": segments,
            "scores": jax.nn.softmax(self.apply({"params": params}, features)),
            "valid": valid,
        }


def step_labels(targets: dict, valid: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(i32 [B, T]: the label of the shortest true segment that holds a step's middle, bool [B, T]: is there one)."""
    middle = jnp.arange(valid.shape[1], dtype=jnp.float32)[:, None] + 0.5  # [T, 1]
    start, end = targets["segments"][:, None, :, 0], targets["segments"][:, None, :, 1]  # [B, 1, M]
    holds = (middle >= start) & (middle < end) & targets["segment_valid"][:, None]  # [B, T, M]
    shortest = jnp.argmin(jnp.where(holds, end - start, jnp.inf), axis=-1)
    label = jnp.take_along_axis(targets["labels"], shortest, axis=1)
    return label, jnp.any(holds, axis=-1) & valid
