"""Which device holds what: one mesh, and one table from parameter paths and activations to its axes.

Axes: data (videos), clip (the clips of one window), fsdp (weights of the backbone; each of its devices has its own
videos too, so that none repeats another's work). A window's neighbouring clips lie on neighbouring devices: the mesh
takes them in JAX's order, in which those of one host follow one another.
"""

import math
import re
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from tadjax.errors import ConfigError

AXES = ("data", "clip", "fsdp")

# Parameters, and all that has their paths within a state (EMA, optimizer): the first pattern that matches the end of a
# path names the axes of the array's last dimensions. Adapters and heads are small: every device has all of them.
RULES = (
    (
        r"backbone/((\w+_)?blocks|stage\d+|layer\d+)/.*kernel",
        ("fsdp",),
    ),  # [..., inputs, outputs], gathered layer by layer
    (r"backbone/.*", ()),  # embedding, norms, biases
    (r"adapter/.*", ()),
    (r"head/.*", ()),
    (r"head_state/.*", ()),
    (r"step|skipped|count", ()),
)

# Activations and entries of a batch.
VIDEOS = P(("data", "fsdp"))  # [B, ...]: features, labels, masks, sizes, seeds
FRAMES = P(("data", "fsdp"), "clip")  # [B, T, ...]
BRANCH_SCALES = P(None, None, ("data", "fsdp"), "clip")  # [layers, branches, B, clips]: stochastic depth


def make_mesh(sizes: Any, devices: list | None = None) -> Mesh:
    """The mesh for `sizes` (config.mesh; -1 = what is left of the devices). ConfigError if they do not fit."""
    devices = list(jax.devices() if devices is None else devices)
    shape = [sizes.data, sizes.clip, sizes.fsdp]
    fixed = int(np.prod([n for n in shape if n != -1]))
    wanted = f"config.mesh.data = {sizes.data}, clip = {sizes.clip}, fsdp = {sizes.fsdp}"
    if -1 in shape and len(devices) % fixed:
        raise ConfigError(f"{wanted}: {len(devices)} devices are no multiple of {fixed}")
    if -1 not in shape and fixed != len(devices):
        raise ConfigError(f"{wanted}: that is {fixed} devices, but there are {len(devices)}; set one axis to -1")
    shape = [len(devices) // fixed if n == -1 else n for n in shape]
    return Mesh(np.array(devices).reshape(shape), AXES, axis_types=(AxisType.Auto,) * 3)


def specs(tree: Any) -> Any:
    """The axes of every leaf of a state or of params (arrays or ShapeDtypeStructs), by RULES. ValueError names what no
    rule covers."""
    return jax.tree_util.tree_map_with_path(lambda path, leaf: _spec(_name(path), len(leaf.shape)), tree)


def shardings(tree: Any, mesh: Mesh) -> Any:
    """The sharding of every leaf of a state or of params, by RULES. ConfigError if an axis of the mesh does not divide
    a dimension."""

    def of(path: tuple, leaf: Any, spec: P) -> NamedSharding:
        for size, axis in zip(leaf.shape, spec, strict=True):
            if axis and size % mesh.shape[axis]:
                fitting = [n for n in range(1, size + 1) if size % n == 0 and n <= 2 * mesh.shape[axis]]
                raise ConfigError(
                    f"config.mesh.{axis} = {mesh.shape[axis]}: {_name(path)} has {size} columns, which cannot be split "
                    f"evenly over so many devices; {', '.join(map(str, fitting))} would do"
                )
        return NamedSharding(mesh, spec)

    return jax.tree_util.tree_map_with_path(of, tree, specs(tree))


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Of every entry of a batch but its frames: by the leading axis."""
    return NamedSharding(mesh, VIDEOS)


def batch_shardings(mesh: Mesh, frames: str = "device") -> Mapping[str, NamedSharding]:
    """Of every entry of a batch, by its name.

    frames: where they wait (config.memory.frames), "device" or "host"; the device where a platform has no other memory.
    """
    on_device = NamedSharding(mesh, FRAMES)
    return defaultdict(lambda: batch_sharding(mesh), frames=_on_host(on_device) if frames == "host" else on_device)


def _on_host(sharding: NamedSharding) -> NamedSharding:
    try:
        return sharding.with_memory_kind("pinned_host")
    except ValueError:  # the platform has no such memory
        return sharding


def check_batch(optim: Any, mesh: Mesh) -> None:
    """ConfigError if the (micro-)batches of config.optim cannot be split evenly over the mesh."""
    parts = videos_at_once(mesh)
    if optim.batch_size % (parts * optim.accumulate):
        raise ConfigError(
            f"config.optim.batch_size = {optim.batch_size} with config.optim.accumulate = {optim.accumulate} cannot be "
            f"split evenly over config.mesh.data * config.mesh.fsdp = {parts} parts of the devices; take a multiple of "
            f"{parts * optim.accumulate}"
        )


def videos_at_once(mesh: Mesh) -> int:
    """A batch must be a multiple of it."""
    return math.prod(mesh.shape[axis] for axis in VIDEOS[0])


def rounded_up(batch_size: int, mesh: Mesh) -> int:
    """The size of a batch that is not trained on (config.evaluation.batch_size), made to split evenly over the mesh."""
    parts = videos_at_once(mesh)
    return -(-batch_size // parts) * parts


def _name(path: tuple) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _spec(name: str, rank: int) -> P:
    for pattern, axes in RULES:
        if re.fullmatch(f"(.*/)?({pattern})", name):
            return P(*[None] * (rank - len(axes)), *axes)
    raise ValueError(f"no rule of tadjax/parallel/mesh.py covers {name}")
