"""The whole model: backbone -> adaptation -> head. Parameters in, arrays out; a Localizer knows no files, configs,
meshes or data sets, `build` makes one of a config.

params = {"backbone": ..., "adapter": ..., "head": ...}. What is frozen is decided by the caller, who differentiates
with respect to the collections that are trained and to nothing else.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from tadjax.adaptation import inside, stacks
from tadjax.adaptation.host_frames import HostFrames
from tadjax.adaptation.losa import Losa
from tadjax.adaptation.petl import Aim, ShiftedAttention, StAdapter
from tadjax.adaptation.side import Side
from tadjax.adaptation.snippets import Snippets
from tadjax.adaptation.tia import Tia
from tadjax.adaptation.unipt import Unipt
from tadjax.backbones import make_backbone
from tadjax.backbones.attention import resolve
from tadjax.backbones.layers import resize_in_time
from tadjax.backbones.precomputed import Precomputed
from tadjax.backbones.vit import CLIP_STEPS
from tadjax.data.features import feature_folder
from tadjax.errors import ConfigError
from tadjax.field_rules import clip_frames
from tadjax.heads import make_head

Batch = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class Localizer:
    """A backbone (tadjax/backbones), adapters inside or beside it on some of its layers, and a head (tadjax/heads).

    adapter: a module inside the blocks; beside: a method that computes the features its own way (side.Side, losa.Losa,
    petl.Aim ...). One of them at most. trains_backbone: the backbone's own parameters get gradients. snippets: each
    feature step is a snippet of the frames that the backbone sees alone; None for the frame representation.
    """

    backbone: Any
    head: Any
    feature_length: int
    adapter: nn.Module | None = None
    layers: tuple[int, ...] = ()
    memory: inside.Memory = inside.Memory()
    beside: Any = None
    trains_backbone: bool = False
    snippets: Snippets | None = None

    def init(self, key: jax.Array) -> dict:
        """Random float32 parameters of all three collections."""
        backbone_key, adapter_key, head_key = jax.random.split(key, 3)
        params = {
            "backbone": self.backbone.init(backbone_key),
            "head": self.head.init_params(head_key, self.backbone.width),
        }
        if self.beside is not None:
            params["adapter"] = self.beside.init(adapter_key, self.backbone, self.layers)
        if self.adapter is not None:
            params["adapter"] = stacks.init(
                adapter_key, self.backbone, self.layers, lambda k, x: self.adapter.init(k, x)["params"]
            )
        return params

    def features(
        self,
        params: dict,
        frames: jax.Array | HostFrames,
        rng: jax.Array | None = None,
        valid: jax.Array | None = None,
    ) -> jax.Array:
        """Frames [B, T, H, W, 3] in 0..255 -> features, float32 [B, feature_length, D].

        frames: may wait in the host's memory; with features on disk in the backbone's place these, float32
        [B, feature_length, D].
        rng: draws the stochastic depth of a backbone with adapters inside (on in training, also where the backbone is
        frozen); None for none. valid: bool [B, feature_length], what attention over the window may see; None for all.
        """
        return resize_in_time(self.steps(params, frames, rng, valid), self.feature_length)

    def steps(
        self,
        params: dict,
        frames: jax.Array | HostFrames,
        rng: jax.Array | None = None,
        valid: jax.Array | None = None,
    ) -> jax.Array:
        """Frames -> features at the backbone's own steps, float32 [B, T', D]; of snippets, one each."""
        scales = None
        if self.beside is None:
            valid = None  # what is padded reaches its neighbours only
            scales = None if rng is None else self._branch_scales(rng, *frames.shape[:2])
        elif valid is not None:
            valid = valid_steps(valid, self.backbone.steps(frames.shape[1]))
        return self.window_features(params, frames, scales, valid)

    def _branch_scales(self, rng: jax.Array, batch: int, frames: int) -> list:
        """The backbone's draws of stochastic depth; of snippets [layers, branches, B, feature_length, clips]."""
        if self.snippets is None:
            return self.backbone.drop_path(rng, batch, frames)
        drawn = self.backbone.drop_path(rng, batch * self.feature_length, self.snippets.frames)
        return jax.tree.map(lambda a: a.reshape(*a.shape[:2], batch, self.feature_length, *a.shape[3:]), drawn)

    def window_features(
        self, params: dict, frames: jax.Array | HostFrames, scales: list | None, valid: jax.Array | None
    ) -> jax.Array:
        """`steps`, of draws of stochastic depth that are made (None: none), and of valid steps [B, T'] (None: all)."""
        if self.beside is not None:
            return self.beside.features(
                self.backbone,
                params["backbone"],
                params["adapter"],
                frames,
                layers=self.layers,
                memory=self.memory,
                valid=valid,
            )

        def run(frames: jax.Array, scales: list | None) -> jax.Array:
            return inside.run(
                self.backbone,
                params["backbone"],
                frames,
                adapter=self.adapter,
                adapter_params=params.get("adapter"),
                layers=self.layers,
                branch_scales=scales,
                memory=self.memory,
                frozen=not self.trains_backbone,
            )

        if self.snippets is None:
            return run(frames, scales)
        return self.snippets.features(run, frames, self.feature_length, scales)

    def losses(
        self, params: dict, state: dict, batch: Batch, *, rng: jax.Array | None = None, train: bool = True
    ) -> tuple[dict[str, jax.Array], dict]:
        """The head's losses ("loss" is their sum) on a batch, and the head's next state (its loss normaliser).

        batch: frames [B, T, H, W, 3], valid bool [B, L], segments float32 [B, M, 2] in feature steps, labels int32
        [B, M], segment_valid bool [B, M].
        """
        backbone_rng, head_rng = (None, None) if rng is None else jax.random.split(rng)
        features = self.features(params, batch["frames"], backbone_rng, batch["valid"])
        targets = {name: batch[name] for name in ("segments", "labels", "segment_valid")}
        return self.head.losses(params["head"], state, features, batch["valid"], targets, rng=head_rng, train=train)

    def candidates(self, params: dict, batch: Batch) -> dict[str, jax.Array]:
        """Segments in feature steps [B, P, 2], scores [B, P, K] and valid [B, P], before any suppression."""
        features = self.features(params, batch["frames"], valid=batch["valid"])
        return self.head.candidates(params["head"], features, batch["valid"])


def valid_steps(valid: jax.Array, steps: int) -> jax.Array:
    """Bool [B, feature_length] -> [B, T'], the backbone's steps: those that any valid feature step lies on."""
    length = valid.shape[1]
    edges = np.arange(steps + 1) * length / steps
    first, last = np.floor(edges[:-1]).astype(int), np.ceil(edges[1:]).astype(int)
    covers = (np.arange(length) >= first[:, None]) & (np.arange(length) < last[:, None])  # [T', feature_length]
    return jnp.any(valid[:, None, :] & covers, axis=-1)


def build(config: Any, classes: int, platform: str | None = None) -> Localizer:
    """The localizer that a config describes (configs/common.py has the fields), for a number of classes.

    platform: what it will run on ("cpu", "gpu", "tpu"), which picks the attention kernel; the default device's if None.
    """
    dtype = jnp.dtype(config.dtype)
    stored = feature_folder(config)
    of_snippets = config.window.representation == "snippet" and stored is None
    if stored is not None:
        backbone = Precomputed(stored.width)
    else:
        backbone = make_backbone(
            config.backbone.name,
            config.backbone.size,
            dtype,
            image=config.backbone.image,
            clip_frames=clip_frames(config),
            position_frames=config.backbone.position_frames,
            gelu=config.backbone.gelu,
            layer=config.backbone.layer,
            drop_path_rate=config.backbone.drop_path,
            stream=jnp.dtype(config.memory.stream),
            attention=resolve(
                config.memory.attention, platform or jax.default_backend(), dtype, config.backbone.name == "videoprism"
            ),
            feature_length=0 if of_snippets else config.window.feature_length,
        )
        _check_pictures(config, getattr(backbone, "patch", 1), getattr(backbone, "levels", ()))
    head = make_head(_tuples(config.head.to_dict()), classes, dtype)
    options, adapter, beside = config.adaptation, None, None
    if options.method in ("tia", "full_tia", "longlora"):
        adapter = _inside(options, backbone)
    elif options.method not in ("none", "full"):
        beside = _beside(options, backbone, config.backbone.image, config.window.frames)
    layers = () if adapter is None and beside is None else _layers(options, backbone)
    memory, snippets = inside.Memory(**{f.name: config.memory[f.name] for f in dataclasses.fields(inside.Memory)}), None
    if of_snippets:  # groups of snippets take the place of groups of clips
        snippets = Snippets(config.window.snippet_frames, memory.clips_per_group)
        memory = dataclasses.replace(memory, clips_per_group=0)
    trains_backbone = options.method in ("full", "full_tia")
    length = config.window.feature_length
    return Localizer(backbone, head, length, adapter, layers, memory, beside, trains_backbone, snippets)


def _check_pictures(config: Any, patch: int, levels: tuple[int, ...]) -> None:
    """ConfigError where a picture has not a single patch or, of V-JEPA 2.1, which has levels, a single row of them."""
    for field, side in (("window.size", config.window.size), ("backbone.image", config.backbone.image)):
        if side < patch:
            raise ConfigError(
                f"config.{field} = {side}: smaller than the backbone's patches of {patch} x {patch} pixels"
            )
        if levels and side < 2 * patch:
            raise ConfigError(f"config.{field} = {side}: vjepa21 needs two rows of patches of {patch} pixels or more")


def _tia(options: Any, dtype: Any) -> Tia:
    return Tia(ratio=options.ratio, kernel=tuple(options.kernel), residual=options.residual, dtype=dtype)


def _inside(options: Any, backbone: Any) -> nn.Module:
    """The module that follows each adapted block, for config.adaptation."""
    if options.method == "longlora":
        return ShiftedAttention(backbone.heads, options.group_steps, backbone.dtype)
    return _tia(options, backbone.dtype)


def _beside(options: Any, backbone: Any, image: int, frames: int) -> Any:
    """The method with its own way to the features, for config.adaptation."""
    if options.method == "side":
        return Side(_tia(options, backbone.dtype), options.base)
    if options.method == "losa":
        steps = getattr(backbone, "clip_steps", CLIP_STEPS)
        given = dict(image=image, frames=frames, clip_steps=steps, dtype=backbone.dtype)
        return Losa(**given, **_tuples(options.losa.to_dict()))
    if options.method == "unipt":
        return Unipt(options.ratio, backbone.dtype)
    if options.method == "aim":
        return Aim(options.ratio)
    return StAdapter(options.st_width, tuple(options.kernel))


def _layers(options: Any, backbone: Any) -> tuple[int, ...]:
    """The adapted layers, for config.adaptation: below layer N where N is attended to."""
    if options.method == "losa" and not options.layers and hasattr(backbone, "depths"):
        return tuple(int(end) - 1 for end in np.cumsum(backbone.depths[:-1]))  # F_i are the outputs of the stages
    return adapted_layers(tuple(options.layers), backbone.depth - (options.method in ("losa", "unipt")))


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
