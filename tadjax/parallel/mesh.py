"""Which device holds what: one mesh, and one table from parameter paths and batch entries to its axes.

Axes: data (videos), clip (the clips of one window), fsdp (frozen weights).
"""

import re
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from tadjax.errors import ConfigError

AXES = ("data", "clip", "fsdp")

# The first pattern that matches a state's path names its axes. What is trained is small: replicated, as its optimizer
# state is.
RULES = ((r".*", P()),)
BATCH = P("data")  # every entry of a batch, by its leading axis


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


def shardings(tree: Any, mesh: Mesh) -> Any:
    """The sharding of every leaf of a state (arrays or ShapeDtypeStructs), by RULES."""

    def of(path: tuple, _: Any) -> NamedSharding:
        name = jax.tree_util.keystr(path)
        return NamedSharding(mesh, next(spec for pattern, spec in RULES if re.fullmatch(pattern, name)))

    return jax.tree_util.tree_map_with_path(of, tree)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, BATCH)
