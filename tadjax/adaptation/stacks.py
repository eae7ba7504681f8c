"""Adapters' parameters over the layers of a backbone.

Layers that are alike are a stage (tadjax/backbones/vit.py), and the adapters of a stage are stacked on a leading layer
axis. For a backbone of a single stage that is all; for one of several, whose widths differ, there is {"stage0": stack,
"stage2": stack, ...}, with an entry for each stage that has adapted layers.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from tadjax.backbones.vit import feature_map

PICTURE = (32, 32, 3)  # small enough to trace, but every backbone has a place or more
FRAMES = 16  # of a window of which every backbone makes a step or more; where clips are longer, a clip


def depth(stacked: Any) -> int:
    """How many layers are stacked."""
    return jax.tree.leaves(stacked)[0].shape[0]


def depths(stages: Sequence[Any]) -> list[int]:
    """Layers of each stage."""
    return [depth(stage.params) for stage in stages]


def places(depths: Sequence[int], layers: tuple[int, ...]) -> dict[int, list[int]]:
    """{stage: its adapted layers, counted within it}, without stages that have none.

    layers: ascending, counted from 0 over all stages.
    """
    found, first = {}, 0
    for stage, depth in enumerate(depths):
        within = [layer - first for layer in layers if first <= layer < first + depth]
        if within:
            found[stage] = within
        first += depth
    return found


def join(stacks: dict[int, Any], stages: int) -> Any:
    """{stage: stack} -> the parameters, for a backbone of so many stages."""
    return stacks[0] if stages == 1 else {f"stage{stage}": stack for stage, stack in stacks.items()}


def split(params: Any, stages: int) -> dict[int, Any]:
    """The inverse of `join`, ascending by stage."""
    if stages == 1:
        return {0: params}
    return {stage: params[f"stage{stage}"] for stage in range(stages) if f"stage{stage}" in params}


class Outline(NamedTuple):
    """A stage: its layers, and the shape [B, T_i, h_i, w_i, C_i] of the feature map after each."""

    depth: int
    shape: tuple[int, ...]


def outline(backbone: Any, frames: tuple[int, ...] = ()) -> list[Outline]:
    """The stages of a backbone, for frames of a shape, () some; traced, nothing is computed."""
    frames = frames or (1, max(FRAMES, getattr(backbone, "clip_frames", FRAMES)), *PICTURE)

    def run(frames: jax.Array) -> list[jax.Array]:
        params = backbone.init(jax.random.key(0))
        x, found = backbone.embed(params, frames), []
        for stage in backbone.stages(params):
            x = stage.block(jax.tree.map(lambda a: a[0], stage.params), x, None)
            found.append(jnp.broadcast_to(feature_map(x), (*depths([stage]), *feature_map(x).shape)))
        return found

    return [Outline(x.shape[0], x.shape[1:]) for x in jax.eval_shape(run, jax.ShapeDtypeStruct(frames, jnp.uint8))]


def init(key: jax.Array, backbone: Any, layers: tuple[int, ...], init_layer: Callable) -> Any:
    """Random parameters of the adapters of `layers`. init_layer: (key, a small feature map) -> one layer's."""
    stages, keys, stacks = outline(backbone), iter(jax.random.split(key, len(layers))), {}
    for stage, within in places([of.depth for of in stages], layers).items():
        x = jnp.zeros((1, 1, 1, 1, stages[stage].shape[-1]))
        of_stage = jnp.stack([next(keys) for _ in within])
        stacks[stage] = jax.vmap(lambda k, x=x: init_layer(k, x))(of_stage)
    return join(stacks, len(stages))
