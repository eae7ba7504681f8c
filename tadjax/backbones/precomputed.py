"""No backbone: features that were computed before stand in its place. For heads that are trained on features alone."""

import dataclasses

import jax
import jax.numpy as jnp

from tadjax.backbones.vit import Stage


@dataclasses.dataclass(frozen=True)
class Precomputed:
    """The project's contract (tadjax/backbones/vit.py) without parameters or layers: frames are features [B, T, D]."""

    width: int
    depth: int = 0

    def init(self, key: jax.Array) -> dict:
        return {}

    def embed(self, params: dict, features: jax.Array) -> jax.Array:
        return features

    def stages(self, params: dict) -> list[Stage]:
        return []

    def pool(self, features: jax.Array) -> jax.Array:
        return features.astype(jnp.float32)

    def steps(self, frames: int) -> int:
        return frames

    def drop_path(self, key: jax.Array, batch: int, frames: int) -> list[None]:
        return []
