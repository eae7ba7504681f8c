"""A backbone with adapters inside (AdaTAD): each adapted block's output goes through its adapter before the next block.

Written once over the backbone's contract (tadjax/backbones/vit.py): any backbone, any adapter, any subset of layers.

The scan runs in *rolled* order: one step is the adapter of layer i-1, then block i. A block's output is then a step's
very result, which the backward pass of a rematerialised step does not need, so that a second checkpoint inside (clip
groups) does not recompute the block twice. Blocks up to and including the first adapted one have nothing trained before
them: autodiff keeps no residuals of theirs and sends no gradient into them.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from tadjax.adaptation import stacks
from tadjax.backbones.vit import Stage, add, feature_map


@dataclasses.dataclass(frozen=True)
class Memory:
    """How activations are kept for the backward pass.

    remat (adapters inside): "none" keeps all; "block" keeps the input of each block and recomputes the rest; "nested"
    keeps the input of about every sqrt(layers)-th block only; "offload" keeps the inputs of the blocks in the host's
    memory, "nested_offload" those that "nested" keeps. kept_inputs: how many inputs of blocks these two hold on the
    device at once at most. The more, the fewer blocks are computed again (nested) or the fewer lie on the host
    (nested_offload); 0 = the fewest, or sqrt(layers). clips_per_group: clips of a window that go through a block at
    once (through the whole backbone, where nothing is trained inside), which bounds what one block holds; 0 = all. taps
    (methods beside the backbone): how the layers' outputs come back, tadjax/adaptation/taps.py.
    """

    remat: str = "block"
    clips_per_group: int = 0
    taps: str = "recompute"
    kept_inputs: int = 0


def run(
    backbone: Any,
    params: Any,
    frames: jax.Array,
    *,
    adapter: nn.Module | None = None,
    adapter_params: Any = None,
    layers: tuple[int, ...] = (),
    branch_scales: list[jax.Array] | None = None,
    memory: Memory,
    frozen: bool = True,
) -> jax.Array:
    """Frames [B, T, H, W, 3] in 0..255 -> features, float32 [B, T', D].

    layers: the adapted layers, ascending, counted from 0 over all stages; `adapter_params`: see stacks.py.
    branch_scales: the draws of stochastic depth (`backbone.drop_path`); None for none. frozen: no gradient is wanted of
    the backbone's own parameters; if one is asked for nevertheless, it is right, but slow.
    """
    x, stages = backbone.embed(params, frames), backbone.stages(params)
    adapted = stacks.places(stacks.depths(stages), layers)
    adapters = stacks.split(adapter_params, len(stages)) if adapted else {}
    for index, stage in enumerate(stages):
        scales = None if branch_scales is None else branch_scales[index]
        x = _run_stage(stage, x, adapter, adapters.get(index), adapted.get(index, []), scales, memory, frozen)
    return backbone.pool(x)


def _run_stage(
    stage: Stage,
    x: Any,
    adapter: nn.Module | None,
    adapter_params: Any,
    layers: list[int],
    scales: jax.Array | None,
    memory: Memory,
    frozen: bool,
) -> Any:
    block = in_clip_groups(stage, memory.clips_per_group)

    def adapt(params: Any, x: Any) -> Any:
        if params is None:
            return x
        adapted = add(feature_map(x), adapter.apply({"params": params}, feature_map(x)))
        return (adapted, *x[1:]) if isinstance(x, tuple) else adapted

    def step(x: Any, layer: tuple[Any, Any, jax.Array | None]) -> tuple[Any, None]:
        adapter_before, params, scale = layer
        params = stage.whole(pick_layer(stage.params, params) if frozen else params)
        return block(params, adapt(adapter_before, x), scale), None

    used = 0
    for begin, count, has_adapter in _rolled_runs(stacks.depth(stage.params), layers):
        adapters = part(adapter_params, used, count) if has_adapter else None
        used += count if has_adapter else 0
        # A slice of the stacked weights is a copy of them, so that frozen layers are picked by index.
        blocks = jnp.arange(begin, begin + count) if frozen else part(stage.params, begin, count)
        x = scan_layers(step, x, (adapters, blocks, part(scales, begin, count)), memory)
    if used < len(layers):  # the last layer's own adapter has no block after it
        last = jax.tree.map(lambda a: a[-1], adapter_params)
        # In the backward pass its gradients come before those of the blocks, and what they need is let go of.
        x = jax.checkpoint(adapt)(*jax.lax.optimization_barrier((last, x)))
    return x


def _rolled_runs(depth: int, layers: list[int]) -> Iterator[tuple[int, int, bool]]:
    """(first layer, count, is there an adapter before each) of the maximal runs of layers that one scan can do."""
    for has_adapter, run_ in itertools.groupby(range(depth), key=lambda i: i - 1 in layers):
        members = list(run_)
        yield members[0], len(members), has_adapter


def clip_groups(clips: int, clips_per_group: int) -> int:
    """How many groups the clips of a window make. ValueError if their number is not a multiple of clips_per_group."""
    if clips % clips_per_group:
        raise ValueError(f"{clips} clips a window are no whole number of groups of {clips_per_group}")
    return clips // clips_per_group


def in_clip_groups(stage: Stage, clips_per_group: int) -> Callable:
    """The stage's block over groups of clips, one group after the other, each recomputed alone in the backward pass.

    Raises ValueError if the number of the window's clips is not a multiple of clips_per_group.
    """
    if not clips_per_group or not stage.clip_steps:
        return stage.block

    def grouped(params: Any, x: Any, scale: jax.Array | None) -> Any:
        groups = clip_groups(feature_map(x).shape[1] // stage.clip_steps, clips_per_group)
        of_clips = jax.tree.map(lambda a: split_groups(a, 1, groups), x)  # the map, and class tokens
        parts = (of_clips, None if scale is None else split_groups(scale, 2, groups))
        block = jax.checkpoint(lambda part: stage.block(params, *part))
        return jax.tree.map(lambda a: join_groups(a, 1), jax.lax.map(block, parts))

    return grouped


def split_groups(x: jax.Array, axis: int, groups: int) -> jax.Array:
    """[..., n, ...] -> [groups, ..., n / groups, ...]."""
    shape = (*x.shape[:axis], groups, x.shape[axis] // groups, *x.shape[axis + 1 :])
    return jnp.moveaxis(x.reshape(shape), axis, 0)


def join_groups(x: jax.Array, axis: int) -> jax.Array:
    """[groups, ..., n, ...] -> [..., groups * n, ...], the groups along `axis` of the result."""
    x = jnp.moveaxis(x, 0, axis)
    return x.reshape(*x.shape[:axis], -1, *x.shape[axis + 2 :])


def scan_layers(step: Callable, x: jax.Array, stacked: Any, memory: Memory) -> jax.Array:
    """Scans `step` over layers stacked on a leading axis, keeping activations as `memory.remat` says."""
    depth = stacks.depth(stacked)
    if depth == 1:  # it may change x's shape, which no scan can carry
        once = {"none": step, "offload": _offloaded(step)}.get(memory.remat) or jax.checkpoint(step)
        return once(x, jax.tree.map(lambda a: a[0], stacked))[0]
    if memory.remat == "none":
        return jax.lax.scan(step, x, stacked)[0]
    if memory.remat == "offload":
        return jax.lax.scan(_offloaded(step), x, stacked)[0]
    body = jax.checkpoint(step, prevent_cse=False)
    outer, inner = 0, 0
    if memory.remat == "nested":
        outer, inner = nested_layers(depth, memory.kept_inputs)
    elif memory.remat == "nested_offload":
        inner = min(memory.kept_inputs, depth) or math.isqrt(depth)
        outer = depth // inner if inner > 1 else 0
    if outer:

        def many(x: jax.Array, layers: Any) -> tuple[jax.Array, None]:
            return jax.lax.scan(body, x, layers)[0], None

        many = jax.checkpoint(many, prevent_cse=False) if memory.remat == "nested" else _offloaded(many)
        nested = jax.tree.map(lambda a: a[: outer * inner].reshape(outer, inner, *a.shape[1:]), stacked)
        x = jax.lax.scan(many, x, nested)[0]
        stacked = jax.tree.map(lambda a: a[outer * inner :], stacked)  # not nested: the last ones are freed first
    return jax.lax.scan(body, x, stacked)[0] if stacks.depth(stacked) else x


def nested_layers(depth: int, kept: int = 0) -> tuple[int, int]:
    """(n, k): of so many layers the first n * k are nested, k by k, and the others are not.

    Each nested layer is computed once more. So they are the fewest with which no more than `kept` inputs of layers are
    held at once; 0, or a number that is too small: those with which the fewest inputs are.
    """

    def held(n: int, k: int) -> int:
        """The backward pass takes the layers that are not nested first, then nest after nest from the last on."""
        return max(n + depth - n * k, n - 1 + k if n else 0)

    ways = [(n, k) for k in range(2, depth + 1) for n in range(1, depth // k + 1)]
    fitting = [way for way in [(0, 0), *ways] if held(*way) <= kept]
    if fitting:
        return min(fitting, key=lambda way: (way[0] * way[1], held(*way)))
    return min(ways, key=lambda way: (held(*way), way[0] * way[1]), default=(0, 0))


def _offloaded(step: Callable) -> Callable:
    """`step`, of which only the input is kept for the backward pass, and that in the host's memory."""

    def named(x: jax.Array, layer: Any) -> tuple[jax.Array, None]:
        return step(jax.tree.map(lambda a: checkpoint_name(a, "block_input"), x), layer)

    policy = jax.checkpoint_policies.save_and_offload_only_these_names(
        names_which_can_be_saved=[],
        names_which_can_be_offloaded=["block_input"],
        offload_src="device",
        offload_dst="pinned_host",
    )
    return jax.checkpoint(named, policy=policy, prevent_cse=False)


def pick_layer(stacked: Any, index: jax.Array) -> Any:
    """One layer of what is stacked on a leading layer axis."""
    return jax.tree.map(lambda a: jax.lax.dynamic_index_in_dim(a, index, keepdims=False), stacked)


def part(stacked: Any, begin: int, count: int) -> Any:
    """Some layers of what is stacked on a leading layer axis."""
    return jax.tree.map(lambda a: a[begin : begin + count], stacked)
