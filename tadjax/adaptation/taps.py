"""Taps: what a method beside a frozen backbone takes from its layers, at a memory that depth and length do not raise.

AdaTAD-dagger (Liu et al., CVPR 2024, section 3.4), LoSA (Gupta et al., WACV 2025) and UniPT never send a gradient into
the backbone. All they need of layer i is a small tap of its output x_i,

    taps[i] = tap(tap_params[i], x_i)      [B, T_i, k], pooled over space

and, once dL/dtaps[i] is known, the gradient of tap_params[i]: for that x_i is needed again, and nothing else of the
backbone. How x_i comes back is the `storage`:

    store       kept, in the dtype of the products: a tap rounds x_i to it before anything else
    store_int8  kept in 8 bits with a scale a channel: x_i is off by at most max|x_i| / 254, the maximum its channel's
    offload     kept in the host's memory
    recompute   not kept: a second frozen forward pass takes each layer's gradient on its way

The clips of a window do not see each other in the backbone, so that groups of them can go through all of it one after
the other (`clips_per_group`): what is not kept is then never larger than one group's. The frames may lie in the host's
memory, from where each group's are fetched when its turn comes: nothing on the device then grows with the window but
what is pooled.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from tadjax.adaptation import stacks
from tadjax.adaptation.host_frames import HostFrames, on_device
from tadjax.adaptation.inside import clip_groups, join_groups, part, pick_layer, split_groups
from tadjax.backbones.vit import Stage, feature_map

STORAGES = ("store", "store_int8", "recompute", "offload")

Tap = Callable[[Any, jax.Array], jax.Array]  # (one layer's tap parameters, its feature map) -> [B, T_i, k]
Gather = Callable[[jax.Array, int], jax.Array]  # (a shard of a window, its time axis) -> the whole window


def all_here(x: jax.Array, axis: int) -> jax.Array:
    """The window's other shards: there are none."""
    del axis
    return x


def run(
    backbone: Any,
    params: Any,
    frames: jax.Array | HostFrames,
    *,
    tap: Tap,
    tap_params: Sequence[Any],
    layers: tuple[int, ...],
    storage: str = "recompute",
    clips_per_group: int = 0,
    to_the_end: bool = True,
    gather: Gather = all_here,
) -> tuple[list[jax.Array], jax.Array]:
    """Frames [B, T, H, W, 3] in 0..255 -> (taps, the last layer's pooled features float32 [B, T', D]).

    layers: the tapped layers, ascending, counted from 0 over all stages. tap_params, and the taps that come back: one
    entry a stage that has tapped layers, stacked on a leading layer axis; a tap is [n, B, T_i, k]. to_the_end: run
    all layers; otherwise the last tapped layer is the last. gather: where `frames` are a shard of the window, joins
    what comes back (it is small: pooled) over all shards.

    Differentiable with respect to tap_params alone; the rest is frozen: its gradient is zero and never computed. There
    is no stochastic depth, or the two passes of `recompute` would disagree. ValueError if the window's clips are no
    whole number of groups, or if the backbone has no clips.
    """
    runs = _runs(stacks.depths(backbone.stages(params)), layers)
    while not to_the_end and not runs[-1].taps:
        runs.pop()
    groups = _groups(backbone, params, frames, clips_per_group)
    collect = _collector(backbone, runs, tap, storage, groups, frames.shape[1] // groups)
    tapped = [run_ for run_ in runs if run_.taps]
    taps, last = collect(
        [part(tap_params[run_.entry], run_.taps.start, len(run_.taps)) for run_ in tapped], params, frames
    )
    of_stages = [[t for t, run_ in zip(taps, tapped, strict=True) if run_.entry == i] for i in range(len(tap_params))]
    return [gather(jnp.concatenate(parts), 2) for parts in of_stages], gather(last, 1)


class _Run(NamedTuple):
    """Consecutive layers of a stage that one scan does, all of them tapped or none.

    taps: their places among the stage's tapped layers; empty if not tapped. entry: the stage's place among the stages
    that have tapped layers.
    """

    stage: int
    layers: range
    taps: range
    entry: int


def _runs(depths: list[int], tapped: tuple[int, ...]) -> list[_Run]:
    runs, first, entry = [], 0, 0
    for stage, depth in enumerate(depths):
        taps = 0
        for is_tapped, members in itertools.groupby(range(depth), key=lambda i, first=first: first + i in tapped):
            members = list(members)
            count = len(members) if is_tapped else 0
            runs.append(_Run(stage, range(members[0], members[-1] + 1), range(taps, taps + count), entry))
            taps += count
        first += depth
        entry += taps > 0
    return runs


def _groups(backbone: Any, params: Any, frames: jax.Array, clips_per_group: int) -> int:
    """Into how many groups of clips the window falls."""
    if not clips_per_group:
        return 1
    clip_steps = {stage.clip_steps for stage in backbone.stages(params)}
    if 0 in clip_steps:
        raise ValueError("clips_per_group: this backbone's layers see the whole window; it must be 0")
    x = jax.eval_shape(backbone.embed, params, jax.ShapeDtypeStruct(frames.shape, frames.dtype))
    return clip_groups(feature_map(x).shape[1] // max(clip_steps), clips_per_group)


def _collector(backbone: Any, runs: list[_Run], tap: Tap, storage: str, groups: int, held: int) -> Callable:
    """(tap parameters, backbone parameters, frames) -> (taps, last), where taps and their parameters go by tapped run.

    groups: of clips, each of `held` frames. This is where plain autodiff is replaced.
    """
    last_tapped = max((i for i, run_ in enumerate(runs) if run_.taps), default=-1)

    def pull(of_tap: Any, x: Any, cotangent: jax.Array) -> Any:
        """The gradient of one layer's tap parameters."""
        return jax.vjp(lambda p: tap(p, x), of_tap)[1](cotangent)[0]

    def forward(tap_params: list, params: Any, frames: jax.Array, keep: Callable) -> tuple[Any, list]:
        """((taps, last), what `keep` makes of every tapped layer's output)."""

        def of_layer(x: jax.Array, of_tap: Any) -> tuple[jax.Array, Any]:
            return tap(of_tap, x), keep(x.astype(backbone.dtype))

        def of_group(group: jax.Array) -> tuple[Any, Any]:
            x, out = _frozen_pass(backbone, params, on_device(frames, group * held, held), runs, tap_params, of_layer)
            return backbone.pool(x), ([taps for taps, _ in out], [kept for _, kept in out])

        last, (taps, kept) = jax.lax.map(of_group, jnp.arange(groups))
        return ([join_groups(t, 2) for t in taps], join_groups(last, 1)), kept

    @jax.custom_vjp
    def collect(tap_params: list, params: Any, frames: jax.Array) -> tuple[list, jax.Array]:
        return forward(tap_params, params, frames, lambda x: None)[0]

    def collect_forward(tap_params: list, params: Any, frames: jax.Array) -> tuple[Any, Any]:
        out, kept = forward(tap_params, params, frames, _KEEP[storage])
        return out, (tap_params, params, frames, kept)

    def collect_backward(residuals: tuple, cotangents: tuple) -> tuple:
        tap_params, params, frames, kept = residuals
        cotangents = [split_groups(c, 2, groups) for c in cotangents[0]]  # [groups, n, B, T' / groups, k]

        def of_group(total: list, group: tuple) -> tuple[list, None]:
            index, cotangents, kept = group
            if storage == "recompute":
                given = list(zip(tap_params, cotangents, strict=True))
                needed, of_group = runs[: last_tapped + 1], on_device(frames, index * held, held)
                _, grads = _frozen_pass(backbone, params, of_group, needed, given, lambda x, g: pull(g[0], x, g[1]))
            else:
                given = zip(tap_params, kept, cotangents, strict=True)
                grads = [jax.lax.map(lambda g: pull(g[0], _BRING_BACK[storage](g[1]), g[2]), g) for g in given]
            return jax.tree.map(jnp.add, total, grads), None

        zeros = jax.tree.map(jnp.zeros_like, tap_params)
        grads, _ = jax.lax.scan(of_group, zeros, (jnp.arange(groups), cotangents, kept))
        return grads, None, None

    collect.defvjp(collect_forward, collect_backward)
    return collect


def _frozen_pass(
    backbone: Any, params: Any, frames: jax.Array, runs: list[_Run], given: list, of_tapped: Callable
) -> tuple[Any, list]:
    """Frames -> (x after the last run, of_tapped(x_i, given_i) of every tapped layer, stacked by tapped run)."""
    stages, given = backbone.stages(params), iter(given)
    x, results = backbone.embed(params, frames), []
    for run_ in runs:
        if run_.taps:
            x, result = _scan(stages[run_.stage], run_.layers, x, next(given), of_tapped)
            results.append(result)
        else:
            x, _ = _scan(stages[run_.stage], run_.layers, x, None, lambda x, _: None)
    return x, results


def _scan(stage: Stage, layers: range, x: Any, given: Any, of_layer: Callable) -> tuple[Any, Any]:
    """x through some layers of a stage. They are picked by index: a slice of the stacked weights would be a copy."""

    def step(x: Any, layer: tuple) -> tuple[Any, Any]:
        index, given = layer
        params = stage.whole(pick_layer(stage.params, index))
        x = stage.block(params, x, None)
        seen = feature_map(x)
        return x, of_layer(seen if stage.seen is None else stage.seen(params, seen), given)

    if len(layers) == 1:  # it may change x's shape, which no scan can carry
        x, result = step(x, (layers.start, jax.tree.map(lambda a: a[0], given)))
        return x, jax.tree.map(lambda a: a[None], result)
    return jax.lax.scan(step, x, (jnp.arange(layers.start, layers.stop), given))


class _Quantised(NamedTuple):
    values: jax.Array  # int8, the shape of x
    scale: jax.Array  # x's dtype, one a video and channel


def _quantise(x: jax.Array) -> _Quantised:
    largest = jnp.max(jnp.abs(x), axis=tuple(range(1, x.ndim - 1)), keepdims=True)
    scale = jnp.where(largest > 0, largest / 127, 1).astype(x.dtype)
    values = jnp.round(x.astype(jnp.float32) / scale.astype(jnp.float32))
    return _Quantised(jnp.clip(values, -127, 127).astype(jnp.int8), scale)


def _dequantise(kept: Any) -> Any:
    def of(q: _Quantised) -> jax.Array:
        return q.values.astype(q.scale.dtype) * q.scale

    return jax.tree.map(of, kept, is_leaf=lambda node: isinstance(node, _Quantised))


_KEEP: dict[str, Callable] = {
    "store": lambda x: x,
    "store_int8": lambda x: jax.tree.map(_quantise, x),
    "recompute": lambda x: None,
    "offload": lambda x: jax.device_put(x, jax.memory.Space.Host),
}
_BRING_BACK: dict[str, Callable] = {
    "store": lambda kept: kept,
    "store_int8": _dequantise,
    "offload": lambda kept: jax.device_put(kept, jax.memory.Space.Device),
}
