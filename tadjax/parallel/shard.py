"""A localizer on a mesh: the same arithmetic, each device with its own videos and its own clips of their windows.

The backbone and its adapters run inside `shard_map`, because neither fused kernels nor loops over clips can be split up
automatically. There, devices meet in three places only:

    halo     the temporal convolution of an adapter needs a step or so of the neighbours' clips: collective-permute
    gather   what is pooled over space is small, so every device gets the whole window's: heads, LoSA's attention, the
             fusion of taps and the resizing in time work on that
    whole    weights that are sharded over `fsdp` are gathered a layer at a time

No device ever holds the activations of another's clips. Gradients of what is replicated are summed over the devices
where JAX transposes the shard_map.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from tadjax.adaptation.petl import ShiftedAttention
from tadjax.adaptation.side import Side
from tadjax.adaptation.tia import Tia
from tadjax.backbones.vit import Stage
from tadjax.errors import ConfigError
from tadjax.localizer import Localizer
from tadjax.parallel.mesh import BRANCH_SCALES, FRAMES, VIDEOS, specs


def spread(localizer: Localizer, mesh: Mesh) -> Localizer:
    """The localizer with its features computed by all devices of a mesh; itself, if that is a single one."""
    if mesh.size == 1:
        return localizer
    fields = {field.name: getattr(localizer, field.name) for field in dataclasses.fields(localizer)}
    return _Spread(**fields, mesh=mesh)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Spread(Localizer):
    mesh: Mesh

    def window_features(
        self, params: dict, frames: jax.Array, scales: list | None, valid: jax.Array | None
    ) -> jax.Array:
        """See Localizer. ConfigError if the window cannot be split evenly over the mesh's `clip` axis."""
        if not self.backbone.depth:  # features from disk stand in its place
            return super().window_features(params, frames, scales, valid)
        backbone = {"backbone": params["backbone"], "adapter": params.get("adapter")}
        shards = self.mesh.shape["clip"]
        check_window(self, backbone["backbone"], frames, shards)
        local = _on_shard(self, self.mesh, backbone["backbone"])

        def of_shard(*arguments: Any) -> jax.Array:
            features = local.window_features(*arguments)
            return features if shards == 1 or hasattr(local.beside, "gather") else gather(features, 1)

        spec_of_scales = jax.tree.map(lambda a: BRANCH_SCALES if a.shape[3] > 1 else P(*BRANCH_SCALES[:3]), scales)
        return jax.shard_map(
            of_shard,
            mesh=self.mesh,
            in_specs=(specs(backbone), FRAMES, spec_of_scales, VIDEOS),
            out_specs=VIDEOS,
            check_vma=False,
        )(backbone, frames, scales, valid)


def check_window(localizer: Localizer, params: Any, frames: jax.Array, shards: int) -> None:
    """ConfigError, with what would do, if `shards` devices cannot share the clips of a window evenly."""
    if shards == 1:
        return
    backbone, wanted = localizer.backbone, f"config.mesh.clip = {shards}"
    clip_steps = {stage.clip_steps for stage in backbone.stages(params)}
    if 0 in clip_steps:
        raise ConfigError(f"{wanted}: this backbone's layers see the whole window, which cannot be split; set it to 1")
    steps = jax.eval_shape(backbone.embed, params, frames).shape[1]
    clips = steps // max(clip_steps)
    if clips % shards:
        raise ConfigError(
            f"{wanted}: the {clips} clips of a window of {frames.shape[1]} frames cannot be shared out evenly; "
            f"{_divisors(clips)} would do"
        )
    held, group = clips // shards, localizer.memory.clips_per_group
    if group and held % group:
        raise ConfigError(
            f"config.memory.clips_per_group = {group}: with {wanted} a device has {held} clips of a window, which is "
            f"no whole number of groups; {_divisors(held)} would do"
        )
    if isinstance(localizer.adapter, ShiftedAttention):
        group = min(localizer.adapter.group_steps, steps)
        if steps // shards % group:
            raise ConfigError(
                f"config.adaptation.group_steps = {group}: with {wanted} a device has {steps // shards} steps of a "
                "window, which is no whole number of groups"
            )


def _divisors(n: int) -> str:
    return ", ".join(str(i) for i in range(1, n + 1) if n % i == 0)


def _on_shard(localizer: Localizer, mesh: Mesh, params: Any) -> Localizer:
    """The plain localizer as it runs inside shard_map, where it sees one device's frames and weights."""
    fields = {field.name: getattr(localizer, field.name) for field in dataclasses.fields(Localizer)}
    if mesh.shape["fsdp"] > 1:
        shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), params)
        fields["backbone"] = _Gathering(localizer.backbone, shapes)
    adapter, beside = localizer.adapter, localizer.beside
    if mesh.shape["clip"] > 1:
        if isinstance(adapter, Tia):
            fields["adapter"] = adapter.clone(halo=exchange_halo)
        if isinstance(adapter, ShiftedAttention):
            fields["adapter"] = adapter.clone(roll=roll)
        if hasattr(beside, "gather"):
            fields["beside"] = beside = dataclasses.replace(beside, gather=gather)
        if isinstance(beside, Side) and not beside.pooled:  # its convolution runs on the shard, not on what is gathered
            fields["beside"] = dataclasses.replace(beside, tia=beside.tia.clone(halo=exchange_halo))
    return Localizer(**fields)


class _Gathering:
    """A backbone whose layers' weights lie in pieces along `fsdp`: its stages put them together, layer by layer.

    The pieces go together along every axis that is shorter here than in `shapes`, those of all parameters.
    """

    def __init__(self, backbone: Any, shapes: Any):
        self._backbone = backbone
        self._shapes = jax.eval_shape(lambda params: [stage.params for stage in backbone.stages(params)], shapes)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backbone, name)

    def stages(self, params: Any) -> list[Stage]:
        stages = zip(self._backbone.stages(params), self._shapes, strict=True)
        return [dataclasses.replace(s, whole=functools.partial(_put_together, stacked=shapes)) for s, shapes in stages]


def _put_together(layer: Any, stacked: Any) -> Any:
    """One layer's weights, of which this device has a piece; `stacked` has the shapes of whole ones, layers first."""

    def of(piece: jax.Array, whole: jax.ShapeDtypeStruct) -> jax.Array:
        for axis, size in enumerate(whole.shape[1:]):
            if piece.shape[axis] != size:
                piece = jax.lax.all_gather(piece, "fsdp", axis=axis, tiled=True)
        return piece

    return jax.tree.map(of, layer, stacked)


def gather(x: jax.Array, axis: int) -> jax.Array:
    """A shard of what is pooled over space -> the whole window's, on every device."""
    return jax.lax.all_gather(x, "clip", axis=axis, tiled=True)


def exchange_halo(x: jax.Array, reach: int) -> jax.Array:
    """[B, T, ...] -> [B, T + 2 reach, ...]: with the neighbours' nearest steps, and zeros beyond the window's ends."""
    shards, steps = jax.lax.axis_size("clip"), x.shape[1]
    before, after = [], []
    for distance in range(1, -(-reach // steps) + 1):  # more than one only where the kernel is longer than a shard
        count = min(steps, reach - (distance - 1) * steps)
        before.insert(0, _from_shard(x[:, steps - count :], -distance, shards))
        after.append(_from_shard(x[:, :count], distance, shards))
    return jnp.concatenate([*before, x, *after], axis=1)


def _from_shard(x: jax.Array, distance: int, shards: int) -> jax.Array:
    """The x of the shard that lies so far ahead (or back, below 0) in the window; zeros where there is none."""
    pairs = [(i + distance, i) for i in range(shards) if 0 <= i + distance < shards]
    return jax.lax.ppermute(x, "clip", pairs) if pairs else jnp.zeros_like(x)


def roll(x: jax.Array, shift: int, axis: int) -> jax.Array:
    """jnp.roll of the whole window along its time axis, for |shift| up to a shard's length."""
    shards, steps = jax.lax.axis_size("clip"), x.shape[axis]
    here = functools.partial(jax.lax.slice_in_dim, x, axis=axis)
    if shift < 0:  # the next shard's first steps come in at the end
        moved = jax.lax.ppermute(here(0, -shift), "clip", [((i + 1) % shards, i) for i in range(shards)])
        return jnp.concatenate([here(-shift, steps), moved], axis)
    moved = jax.lax.ppermute(here(steps - shift, steps), "clip", [(i, (i + 1) % shards) for i in range(shards)])
    return jnp.concatenate([moved, here(0, steps - shift)], axis)
