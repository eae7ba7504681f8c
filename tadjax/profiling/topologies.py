"""Chips to compile for that need not be there: Cloud TPUs through libtpu, NVIDIA GPUs through jax[cuda13]'s compiler.

v5e:1  v5e:8  v5e:4x4  v5p:2x2x2  v6e:16x16      TPU chips, as a number or as the grid of a slice
a100:1  h100:8  h200:4x8  rtx4090:1              GPUs, as a number or as hosts x GPUs
"""

import contextlib
import dataclasses
import importlib.util
import math
import os
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import jax

from tadjax import devices
from tadjax.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Tpu:
    """kinds: what JAX calls the chip. memory: bytes that a program may use. peak_flops: bfloat16 operations a second.
    bandwidth: bytes a second of the memory; network: of all links to other chips together, one way. grids: slices,
    small to large. Figures of https://docs.cloud.google.com/tpu/docs/v5e (v5p, v6e)."""

    kinds: tuple[str, ...]
    memory: int
    peak_flops: float
    bandwidth: float
    network: float
    grids: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Gpu:
    """title: what CUDA calls the card. memory: bytes. peak_flops: bfloat16 operations a second, dense. bandwidth: bytes
    a second of the memory; network: to the other cards of a host, one way (NVLink; without it PCIe 4.0 x16). The other
    numbers as CUDA reports them, shared memory in KiB."""

    title: str
    memory: int
    peak_flops: float
    bandwidth: int
    network: float
    cores: int
    fpus: int
    clock_ghz: float
    l2_cache: int
    shared_per_core: int
    shared_per_block: int
    capability: tuple[int, int]


_FLAT = ("2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_CUBES = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8")
TPUS = {
    "v5e": Tpu(("TPU v5 lite", "TPU v5e"), int(15.75 * 2**30), 197e12, 819e9, 200e9, _FLAT),
    "v5p": Tpu(("TPU v5", "TPU v5p"), int(95 * 2**30), 459e12, 2765e9, 600e9, _CUBES),
    "v6e": Tpu(("TPU v6 lite", "TPU v6e"), int(31.25 * 2**30), 918e12, 1640e9, 400e9, _FLAT),
}
GPUS = {
    "a100": Gpu(
        "NVIDIA A100-SXM4-80GB", 85100068864, 312e12, 2039040000000, 300e9, 108, 64, 1.41, 41943040, 164, 163, (8, 0)
    ),
    "h100": Gpu(
        "NVIDIA H100 80GB HBM3", 84978434048, 989e12, 3352320000000, 450e9, 132, 128, 1.98, 52428800, 228, 227, (9, 0)
    ),
    "h200": Gpu("NVIDIA H200", 151397597184, 989e12, 4800000000000, 450e9, 132, 128, 1.98, 52428800, 228, 227, (9, 0)),
    "rtx4090": Gpu(
        "NVIDIA GeForce RTX 4090", 25250000000, 165e12, 1008000000000, 32e9, 128, 128, 2.52, 75497472, 100, 99, (8, 9)
    ),
}
BETWEEN_HOSTS = 50e9  # bytes a second of a GPU's network port, one way: 400 Gbit/s, as in hosts of eight H100


@dataclasses.dataclass(frozen=True)
class Chips:
    """devices: real or described. memory: bytes a chip, None if not known. peak_flops, bandwidth, network: operations
    and bytes a second of a chip (see Tpu, Gpu), 0 if not known. compiler: entered to compile for them."""

    name: str
    platform: str  # "cpu", "gpu", "tpu"
    devices: list[Any]
    memory: int | None = None
    peak_flops: float = 0.0
    bandwidth: float = 0.0
    network: float = 0.0
    compiler: Callable[[], AbstractContextManager] = contextlib.nullcontext


def at_hand() -> Chips:
    """The devices of this machine."""
    devices = jax.devices()
    memory = (devices[0].memory_stats() or {}).get("bytes_limit")
    return Chips(devices[0].device_kind, devices[0].platform, devices, memory, *_speeds(devices[0].device_kind))


def _speeds(kind: str) -> tuple[float, float, float]:
    """(peak_flops, bandwidth, network) of a device by what JAX calls it; zeros where the tables have it not."""
    chips = [chip for chip in TPUS.values() if kind in chip.kinds] + [
        card for card in GPUS.values() if kind == card.title
    ]
    return (chips[0].peak_flops, chips[0].bandwidth, chips[0].network) if chips else (0.0, 0.0, 0.0)


def describe(topology: str) -> Chips:
    """The chips that a text such as "v5e:4x4" names. ConfigError if it names none, or if their compiler is missing."""
    kind, _, size = topology.partition(":")
    if kind not in TPUS and kind not in GPUS:
        raise ConfigError(f"--topology={topology}: {kind!r} is none of {', '.join([*TPUS, *GPUS])}")
    if not re.fullmatch(r"\d+(x\d+)*", size) or 0 in (sides := [int(n) for n in size.split("x")]):
        raise ConfigError(f"--topology={topology}: after the colon stands a number of chips or a grid, as in v5e:4x4")
    return _tpus(kind, sides, topology) if kind in TPUS else _gpus(kind, sides, topology)


def _tpus(kind: str, sides: list[int], topology: str) -> Chips:
    if importlib.util.find_spec("libtpu") is None:
        raise ConfigError(f"--topology={topology} needs TPU's compiler: pip install libtpu")
    devices.bring_back("libtpu")
    from jax.experimental import topologies

    # libtpu looks for TPUs on this machine first, and lets one process at a time in: neither matters to a compiler.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    chip, count = TPUS[kind], math.prod(sides)
    grid = "x".join(str(n) for n in sides)
    if len(sides) == 1 or count < 4:  # the smallest slice that has as many, of which the first are used
        sizes = {g: math.prod(int(n) for n in g.split("x")) for g in chip.grids}
        grid = next((g for g, size in sizes.items() if size >= count), None)
        if grid is None:
            raise ConfigError(f"--topology={topology}: a slice of {kind} has at most {max(sizes.values())} chips")
    try:
        found = topologies.get_topology_desc(f"{kind}:{grid}", platform="tpu")
    except jax.errors.JaxRuntimeError as error:
        raise ConfigError(f"--topology={topology}: no such slice ({str(error).splitlines()[0]})") from None
    return Chips(
        f"TPU {kind}", "tpu", list(found.devices)[:count], chip.memory, chip.peak_flops, chip.bandwidth, chip.network
    )


def _gpus(kind: str, sides: list[int], topology: str) -> Chips:
    if importlib.util.find_spec("jax_cuda13_plugin") is None:
        raise ConfigError(f"--topology={topology} needs the GPU compiler: pip install 'jax[cuda13]'")
    devices.bring_back("jax_plugins.xla_cuda13")
    from jax.experimental import topologies

    if len(sides) > 2:
        raise ConfigError(f"--topology={topology}: GPUs are given as a number or as hosts x GPUs")
    card = GPUS[kind]
    hosts, each = (1, sides[0]) if len(sides) == 1 else sides
    # Without a card, kernels cannot be tried out, and Triton's products cannot be planned.
    flags = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = f"{flags} --xla_gpu_autotune_level=0 --xla_gpu_enable_triton_gemm=false"
    found = topologies.get_topology_desc(
        kind, platform="cuda", target_config=_target(card), topology=f"1x{hosts}x{each}"
    )
    network = card.network if hosts == 1 else min(card.network, BETWEEN_HOSTS)
    speeds = (card.peak_flops, card.bandwidth, network)
    return Chips(card.title, "gpu", list(found.devices), card.memory, *speeds, _lowering_for_cuda)


@contextlib.contextmanager
def _lowering_for_cuda() -> Iterator[None]:
    """While open, lowering for "gpu" means CUDA: JAX derives that from the cards it sees, and here it sees none."""
    try:  # no public name does this (https://github.com/jax-ml/jax/issues/23971)
        from jax._src import xla_bridge

        original = xla_bridge.canonicalize_platform
    except (ImportError, AttributeError):
        raise ConfigError(
            f"compiling for a GPU that is not here goes through a function of JAX's own, which jax {jax.__version__} "
            "no longer has: pip install -r requirements.txt brings a version that has it, or profile where the GPU is"
        ) from None
    xla_bridge.canonicalize_platform = lambda platform: "cuda" if platform == "gpu" else original(platform)
    try:
        yield
    finally:
        xla_bridge.canonicalize_platform = original


def _target(card: Gpu) -> str:
    """The card as XLA's GpuTargetConfigProto in text form."""
    major, minor = card.capability
    return f"""
gpu_device_info {{
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048
  shared_memory_per_block: 49152 shared_memory_per_core: {card.shared_per_core * 1024}
  shared_memory_per_block_optin: {card.shared_per_block * 1024}
  core_count: {card.cores} fpus_per_core: {card.fpus} clock_rate_ghz: {card.clock_ghz}
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  thread_dim_limit_x: 1024 thread_dim_limit_y: 1024 thread_dim_limit_z: 64
  memory_bandwidth: {card.bandwidth} l2_cache_size: {card.l2_cache} device_memory_size: {card.memory}
  cuda_compute_capability {{ major: {major} minor: {minor} }}
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 patch: 0 }}
runtime_version {{ major: 13 minor: 0 patch: 0 }}
device_description_str: "{card.title}"
"""


def needed_bytes(error: str) -> int | None:
    """What a program would have needed, from the compiler's refusal ("Used 22.3G of 15.75G hbm"); None if unsaid."""
    units = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
    found = re.search(r"Used ([\d.]+)([KMGT]) of", error)
    return round(float(found[1]) * units[found[2]]) if found else None
