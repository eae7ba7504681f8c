"""From a config to the localizer that it describes."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from tadjax.adaptation import inside
from tadjax.adaptation.losa import Losa
from tadjax.adaptation.petl import Aim, ShiftedAttention, StAdapter
from tadjax.adaptation.side import Side
from tadjax.adaptation.snippets import Snippets
from tadjax.adaptation.tia import Tia
from tadjax.adaptation.unipt import Unipt
from tadjax.backbones import make_backbone
from tadjax.backbones.attention import resolve
from tadjax.backbones.precomputed import Precomputed
from tadjax.backbones.vit import CLIP_STEPS
from tadjax.config.backbones import clip_frames
from tadjax.data.features import feature_folder
from tadjax.errors import ConfigError
from tadjax.heads import make_head
from tadjax.localizer import Localizer


def build(config: Any, classes: int, platform: str | None = None, *, feature_width: int | None = None) -> Localizer:
    """The localizer that a config describes (docs/config.md), for a number of classes.

    platform: what it will run on ("cpu", "gpu", "tpu"), which picks the attention kernel; the default device's if None.
    feature_width: channels of the features that take the place of videos; None looks them up where the config has any.
    """
    dtype = jnp.dtype(config.dtype)
    if config.features.path and feature_width is None:
        feature_width = feature_folder(config).width
    of_snippets = config.window.representation == "snippet" and feature_width is None
    if feature_width is not None:
        backbone = Precomputed(feature_width)
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
