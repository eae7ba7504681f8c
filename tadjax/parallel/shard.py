"""A localizer on a mesh: the same arithmetic, each device with its own videos and its own share of their windows.

The backbone and its adapters run inside `shard_map`, because neither fused kernels nor loops over clips can be split up
automatically. There, devices meet in three places only:

    halo     a convolution over time needs a step or so of the neighbours' shares: collective-permute (halo.py)
    gather   what is pooled over space is small, so every device gets the whole window's: heads, LoSA's attention, the
             fusion of taps and the resizing in time work on that
    whole    weights that are sharded over `fsdp` are gathered a layer at a time

No device ever holds the activations of another's share. Gradients of what is replicated are summed over the devices
where JAX transposes the shard_map.
"""

import dataclasses
import functools
from typing import Any

import jax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from tadjax.adaptation import stacks
from tadjax.adaptation.petl import ShiftedAttention
from tadjax.adaptation.side import Side
from tadjax.adaptation.tia import Tia
from tadjax.backbones.swin import Share, Swin
from tadjax.backbones.vit import Stage
from tadjax.errors import ConfigError
from tadjax.localizer import Localizer
from tadjax.parallel.halo import exchange_halo, gather, halo_convolutions, own_share, roll
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
        if shards > 1:
            check_window(self, backbone["backbone"], frames, shards)
        local = _on_device(self, self.mesh, backbone["backbone"])

        def of_device(*arguments: Any) -> jax.Array:
            features = local.window_features(*arguments)
            return features if shards == 1 or hasattr(local.beside, "gather") else gather(features, 1)

        spec_of_scales = jax.tree.map(lambda a: BRANCH_SCALES if a.shape[3] > 1 else P(*BRANCH_SCALES[:3]), scales)
        return jax.shard_map(
            of_device,
            mesh=self.mesh,
            in_specs=(specs(backbone), FRAMES, spec_of_scales, VIDEOS),
            out_specs=VIDEOS,
            check_vma=False,
        )(backbone, frames, scales, valid)


def check_window(localizer: Localizer, params: Any, frames: jax.Array, shards: int) -> None:
    """ConfigError, with what would do, if `shards` devices cannot share windows like `frames` evenly."""
    backbone, wanted = localizer.backbone, f"config.mesh.clip = {shards}"
    steps = backbone.steps(frames.shape[1])
    if isinstance(backbone, Swin) and steps % (shards * backbone.window[0]):
        raise ConfigError(
            f"{wanted}: the {steps} steps of a window of {frames.shape[1]} frames cannot be shared out evenly in whole "
            f"windows of attention, of {backbone.window[0]} steps"
        )
    clip_steps = _clip_steps(backbone, params)
    if not clip_steps:
        shape = (1, *frames.shape[1:])
        lengths = {frames.shape[1], steps, *(stage.shape[1] for stage in stacks.outline(backbone, shape))}
        if uneven := [length for length in sorted(lengths) if length % shards]:
            raise ConfigError(
                f"{wanted}: a window has {', '.join(map(str, uneven))} steps in some of the backbone's layers, which "
                "cannot be shared out evenly"
            )
        return
    clips = steps // clip_steps
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


def _clip_steps(backbone: Any, params: Any) -> int:
    """Steps of a clip; 0 for a backbone whose layers see the whole window."""
    return min(stage.clip_steps for stage in backbone.stages(params))


def _divisors(n: int) -> str:
    return ", ".join(str(i) for i in range(1, n + 1) if n % i == 0)


def _on_device(localizer: Localizer, mesh: Mesh, params: Any) -> Localizer:
    """The plain localizer as it runs inside shard_map, where it sees one device's frames and weights."""
    fields = {field.name: getattr(localizer, field.name) for field in dataclasses.fields(Localizer)}
    shards = mesh.shape["clip"]
    if shards > 1 and isinstance(localizer.backbone, Swin):
        fields["backbone"] = dataclasses.replace(localizer.backbone, share=Share(shards, roll, own_share))
    if mesh.shape["fsdp"] > 1:
        fields["backbone"] = _Gathering(fields["backbone"], params)
    if shards == 1:
        return Localizer(**fields)
    if not _clip_steps(localizer.backbone, params):
        fields["backbone"] = _WholeWindow(fields["backbone"])
    adapter, beside = localizer.adapter, localizer.beside
    if isinstance(adapter, Tia):
        fields["adapter"] = adapter.clone(halo=exchange_halo)
    if isinstance(adapter, ShiftedAttention):
        fields["adapter"] = adapter.clone(roll=roll)
    if hasattr(beside, "gather"):
        fields["beside"] = beside = dataclasses.replace(beside, gather=gather)
    if isinstance(beside, Side) and not beside.pooled:  # its convolution runs on the share, not on what is gathered
        fields["beside"] = dataclasses.replace(beside, tia=beside.tia.clone(halo=exchange_halo))
    return Localizer(**fields)


class _Wrapped:
    """A backbone, but for what a subclass does its own way."""

    def __init__(self, backbone: Any):
        self._backbone = backbone

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backbone, name)


class _Gathering(_Wrapped):
    """A backbone whose layers' weights lie in pieces along `fsdp`: its stages put them together, layer by layer.

    The pieces go together along every axis that is shorter here than in `params`, the whole ones.
    """

    def __init__(self, backbone: Any, params: Any):
        super().__init__(backbone)
        self._stacked = jax.eval_shape(lambda params: [stage.params for stage in backbone.stages(params)], params)

    def stages(self, params: Any) -> list[Stage]:
        stages = zip(self._backbone.stages(params), self._stacked, strict=True)
        return [dataclasses.replace(s, whole=functools.partial(_put_together, stacked=like)) for s, like in stages]


def _put_together(layer: Any, stacked: Any) -> Any:
    """One layer's weights, of which this device has a piece; `stacked` has the shapes of whole ones, layers first."""

    def of(piece: jax.Array, whole: jax.ShapeDtypeStruct) -> jax.Array:
        for axis, size in enumerate(whole.shape[1:]):
            if piece.shape[axis] != size:
                piece = jax.lax.all_gather(piece, "fsdp", axis=axis, tiled=True)
        return piece

    return jax.tree.map(of, layer, stacked)


class _WholeWindow(_Wrapped):
    """A backbone without clips, whose convolutions over time see the whole window, on a share of it."""

    def embed(self, params: Any, frames: jax.Array) -> Any:
        return halo_convolutions(self._backbone.embed)(params, frames)

    def stages(self, params: Any) -> list[Stage]:
        return [dataclasses.replace(s, block=halo_convolutions(s.block)) for s in self._backbone.stages(params)]

    def pool(self, x: Any) -> jax.Array:
        """Resizes in time, as SlowFast's pathways need it, on the whole window's spatial means."""
        means = jax.tree.map(lambda a: gather(a.astype("float32").mean((2, 3), keepdims=True), 1), x)
        return own_share(self._backbone.pool(means), 1)
