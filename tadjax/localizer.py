"""The whole model: backbone -> adaptation -> head. Parameters in, arrays out; no files, configs, meshes or data sets.

params = {"backbone": ..., "adapter": ..., "head": ...}. What is frozen is decided by the caller, who differentiates
with respect to the collections that are trained and to nothing else.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from tadjax.adaptation import inside
from tadjax.adaptation.tia import Tia
from tadjax.backbones.attention import resolve
from tadjax.backbones.vit import SIZES, Vit
from tadjax.errors import ConfigError
from tadjax.heads import HEADS

Batch = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class Localizer:
    """A backbone (tadjax/backbones), an adapter inside it or None, its layers, and a head (tadjax/heads)."""

    backbone: Any
    head: Any
    feature_length: int
    adapter: nn.Module | None = None
    layers: tuple[int, ...] = ()
    memory: inside.Memory = inside.Memory()

    def init(self, key: jax.Array) -> dict:
        """Random float32 parameters of all three collections."""
        backbone_key, adapter_key, head_key = jax.random.split(key, 3)
        params = {
            "backbone": self.backbone.init(backbone_key),
            "head": self.head.init_params(head_key, self.backbone.width),
        }
        if self.adapter is not None:
            x = jnp.zeros((1, 1, 1, 1, self.backbone.width))
            keys = jax.random.split(adapter_key, len(self.layers))
            params["adapter"] = jax.vmap(lambda k: self.adapter.init(k, x)["params"])(keys)
        return params

    def features(self, params: dict, frames: jax.Array, rng: jax.Array | None = None) -> jax.Array:
        """Frames [B, T, H, W, 3] in 0..255 -> features, float32 [B, feature_length, D].

        rng: draws the backbone's stochastic depth (on in training, also where the backbone is frozen); None for none.
        """
        scales = None if rng is None else self.backbone.drop_path(rng, *frames.shape[:2])
        features = inside.run(
            self.backbone,
            params["backbone"],
            frames,
            adapter=self.adapter,
            adapter_params=params.get("adapter"),
            layers=self.layers,
            branch_scales=scales,
            memory=self.memory,
        )  # [B, T', D]
        return resize_in_time(features, self.feature_length)

    def losses(
        self, params: dict, state: dict, batch: Batch, *, rng: jax.Array | None = None, train: bool = True
    ) -> tuple[dict[str, jax.Array], dict]:
        """The head's losses ("loss" is their sum) on a batch, and the head's next state (its loss normaliser).

        batch: frames [B, T, H, W, 3], valid bool [B, L], segments float32 [B, M, 2] in feature steps, labels int32
        [B, M], segment_valid bool [B, M].
        """
        backbone_rng, head_rng = (None, None) if rng is None else jax.random.split(rng)
        features = self.features(params, batch["frames"], backbone_rng)
        targets = {name: batch[name] for name in ("segments", "labels", "segment_valid")}
        return self.head.losses(params["head"], state, features, batch["valid"], targets, rng=head_rng, train=train)

    def candidates(self, params: dict, batch: Batch) -> dict[str, jax.Array]:
        """Segments in feature steps [B, P, 2], scores [B, P, K] and valid [B, P], before any suppression."""
        return self.head.candidates(params["head"], self.features(params, batch["frames"]), batch["valid"])


def resize_in_time(features: jax.Array, length: int) -> jax.Array:
    """Linear interpolation [B, T', D] -> [B, length, D]: half-pixel centres, no antialiasing, also when shrinking."""
    if features.shape[1] == length:
        return features
    return jax.image.resize(features, (features.shape[0], length, features.shape[2]), "linear", antialias=False)


def build(config: Any, classes: int, platform: str | None = None) -> Localizer:
    """The localizer that a config describes (configs/common.py has the fields), for a number of classes.

    platform: what it will run on ("cpu", "gpu", "tpu"), which picks the attention kernel; the default device's if None.
    """
    dtype = jnp.dtype(config.dtype)
    backbone = Vit(
        **SIZES[config.backbone.size],
        image=config.backbone.image,
        drop_path_rate=config.backbone.drop_path,
        attention=resolve(config.memory.attention, platform or jax.default_backend()),
        dtype=dtype,
    )
    options = config.head.to_dict()
    head = HEADS[options.pop("name")](classes=classes, dtype=dtype, **_tuples(options))
    adapter, layers = None, ()
    if config.adaptation.method == "tia":
        layers = adapted_layers(tuple(config.adaptation.layers), backbone.depth)
        adapter = Tia(
            hidden=int(backbone.width * config.adaptation.ratio),
            kernel=tuple(config.adaptation.kernel),
            residual=config.adaptation.residual,
            dtype=dtype,
        )
    memory = inside.Memory(config.memory.remat, config.memory.clips_per_group)
    return Localizer(backbone, head, config.window.feature_length, adapter, layers, memory)


def adapted_layers(layers: tuple[int, ...], depth: int) -> tuple[int, ...]:
    """() is all layers, (first, last) the range with both ends, three or more a list. ConfigError beyond the depth."""
    if len(layers) == 0:
        return tuple(range(depth))
    chosen = tuple(range(layers[0], layers[1] + 1)) if len(layers) == 2 else tuple(sorted(set(layers)))
    if not chosen or chosen[0] < 0 or chosen[-1] >= depth:
        raise ConfigError(f"config.adaptation.layers = {layers}: the backbone has layers 0 to {depth - 1}")
    return chosen


def _tuples(options: Any) -> Any:
    """Lists as tuples all the way down: modules must be hashable."""
    if isinstance(options, dict):
        return {name: _tuples(value) for name, value in options.items()}
    return tuple(_tuples(value) for value in options) if isinstance(options, (list, tuple)) else options
