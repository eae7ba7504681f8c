"""Keeps the libraries of devices that are not here from starting with JAX.

`pip install libtpu` or `jax[cuda13]`, which compile for chips that are elsewhere (--mode=profile --topology), are taken
by JAX as a wish to use such a chip: without one every program loads them, waits, prints their errors and goes on on the
CPU. So without any sign of the chip JAX is given a stand-in that starts nothing. A sign is a device file, a PCI device,
or an environment variable that names it; JAX_PLATFORMS=cuda or tpu lets JAX try in any case.
"""

import contextlib
import glob
import importlib
import importlib.util
import os
import pathlib
import sys
import types
from collections.abc import Mapping

# JAX itself asks for nvidia0, nvidiactl and dxg (WSL); the others are drivers of containers and of Jetson boards.
NVIDIA = ("nvidia*", "dxg", "nvhost*", "nvmap", "nvgpu*")
TPU = ("accel*", "vfio/[0-9]*")
GOOGLE = "0x1ae0"  # vendor of TPUs on PCI, and of the disks (class 0x01) and network cards (0x02) of Google's machines
CUDA_PLUGINS = ("jax_plugins.xla_cuda13", "jax_plugins.xla_cuda12")
# Set by JAX where it finds no TPU, and by topologies.py; all others that begin with TPU_ tell of one.
NO_SIGN = ("TPU_SKIP_MDS_QUERY",)
TPU_VARIABLES = ("JAX_FORCE_TPU_INIT", "COLAB_TPU_ADDR", "CLOUD_TPU_TASK_ID", "MEGASCALE_COORDINATOR_ADDRESS")
_stand_ins: set[str] = set()


def leave_out_absent() -> None:
    """Puts stand-ins in the place of the libraries of absent devices; without effect once JAX has started them."""
    if sys.platform != "linux":
        return
    environment = dict(os.environ)
    if "libtpu" in sys.modules:  # by JAX; it has written into the environment where it lies, which is no sign of a TPU
        library = getattr(sys.modules["libtpu"], "__file__", None)
        if library and os.path.dirname(environment.get("TPU_LIBRARY_PATH", "")) == os.path.dirname(library):
            del environment["TPU_LIBRARY_PATH"]
    for name in absent(pathlib.Path("/"), environment):
        _stand_in(name)


def absent(root: pathlib.Path, environment: Mapping[str, str]) -> tuple[str, ...]:
    """The libraries of devices of which nothing is seen below root and in the environment."""
    asked = {name.strip() for name in environment.get("JAX_PLATFORMS", "").split(",")}
    nvidia = asked & {"cuda", "gpu"} or _any_file(root, NVIDIA)
    told = any(name in TPU_VARIABLES or name.startswith("TPU_") and name not in NO_SIGN for name in environment)
    tpu = told or "tpu" in asked or _any_file(root, TPU) or _on_pci(root)
    return (() if nvidia else CUDA_PLUGINS) + (() if tpu else ("libtpu",))


def bring_back(name: str) -> None:
    """Puts the library in its stand-in's place, as a compiler: JAX has settled by then on devices without it."""
    if name not in _stand_ins:
        return
    import jax

    jax.devices()
    _stand_ins.discard(name)
    del sys.modules[name]
    if name in CUDA_PLUGINS:
        os.environ["JAX_SKIP_CUDA_CONSTRAINTS_CHECK"] = "1"  # of libraries that need a card to tell their version
        importlib.import_module(name).initialize()


def _stand_in(name: str) -> None:
    with contextlib.suppress(ModuleNotFoundError):  # of the parent
        spec = importlib.util.find_spec(name)
        if spec is None or (name in sys.modules and name != "libtpu"):
            return
        module = types.ModuleType(name, __doc__)
        module.__spec__ = spec  # whether it is installed can still be asked
        module.initialize = module.get_library_path = lambda: None  # what JAX calls of CUDA's, and of libtpu
        sys.modules[name] = module
        if name == "libtpu":
            os.environ.pop("TPU_LIBRARY_PATH", None)  # which JAX would follow
        _stand_ins.add(name)


def _any_file(root: pathlib.Path, patterns: tuple[str, ...]) -> bool:
    return any(glob.glob(str(root / "dev" / pattern)) for pattern in patterns)


def _on_pci(root: pathlib.Path) -> bool:
    """Whether a device of Google's that is neither a disk nor a network card is there, or might be."""
    for device in (root / "sys/bus/pci/devices").glob("*"):
        try:
            if (device / "vendor").read_text().strip() != GOOGLE:
                continue
            if not (device / "class").read_text().startswith(("0x01", "0x02")):
                return True
        except OSError:
            return True
    return False
