"""Libraries of devices that are not here do not start; those of devices that might be here are left alone."""

import importlib.util
import os
import pathlib
import subprocess
import sys

import pytest

from tadjax import devices
from tests.conftest import ROOT

LIBTPU, CUDA = "libtpu", "jax_plugins.xla_cuda13"
GVNIC, TPU_V5E = ("0x1ae0", "0x020000"), ("0x1ae0", "0x088000")
# What tells of a device: (name, files below /, environment, the libraries that may be left out)
SIGNS = [
    ("nothing", {}, {}, {LIBTPU, CUDA}),
    ("a CPU is asked for", {}, {"JAX_PLATFORMS": "cpu"}, {LIBTPU, CUDA}),
    ("what JAX sets without a TPU", {}, {"TPU_SKIP_MDS_QUERY": "1"}, {LIBTPU, CUDA}),
    ("a VM's module without a device", {"dev/vfio/vfio": ""}, {}, {LIBTPU, CUDA}),
    ("a card", {"dev/nvidia0": ""}, {}, {LIBTPU}),
    ("a container with one card of many", {"dev/nvidiactl": "", "dev/nvidia3": ""}, {}, {LIBTPU}),
    ("Windows' Linux", {"dev/dxg": ""}, {}, {LIBTPU}),
    ("a Jetson", {"dev/nvhost-gpu": "", "dev/nvmap": ""}, {}, {LIBTPU}),
    ("a card is asked for", {}, {"JAX_PLATFORMS": "cuda,cpu"}, {LIBTPU}),
    ("a TPU v4", {"dev/accel0": ""}, {}, {CUDA}),
    ("a TPU v5e", {"dev/vfio/vfio": "", "dev/vfio/0": ""}, {}, {CUDA}),
    ("a TPU on PCI alone", {"pci": TPU_V5E}, {}, {CUDA}),
    ("a network card of Google's", {"pci": GVNIC}, {}, {LIBTPU, CUDA}),
    ("a pod of GKE", {}, {"TPU_WORKER_ID": "0"}, {CUDA}),
    ("a TPU is asked for", {}, {"JAX_PLATFORMS": "tpu"}, {CUDA}),
    ("both", {"dev/nvidia0": "", "dev/accel0": ""}, {}, set()),
]


@pytest.mark.parametrize("files, environment, left_out", [row[1:] for row in SIGNS], ids=[row[0] for row in SIGNS])
def test_a_library_is_left_out_without_any_sign_of_its_device(tmp_path, files, environment, left_out):
    root = tmp_path / "root"
    for name, content in files.items():
        file = root / name
        if name == "pci":
            file = root / "sys/bus/pci/devices/0000:00:05.0/vendor"
            file.parent.mkdir(parents=True)
            (file.parent / "class").write_text(f"{content[1]}\n")
            content = f"{content[0]}\n"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    assert {name for name in devices.absent(root, environment) if name in (LIBTPU, CUDA)} == left_out


def program(code: str, *folders: os.PathLike) -> str:
    """Runs it where JAX may choose its devices; returns all that it prints."""
    environment = {k: v for k, v in os.environ.items() if k != "JAX_PLATFORMS" and not k.startswith("TPU_")}
    environment["PYTHONPATH"] = os.pathsep.join([*map(str, folders), str(ROOT)])
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


no_device = pytest.mark.skipif(
    not {LIBTPU, CUDA} <= set(devices.absent(pathlib.Path("/"), {})), reason="this machine has, or may have, the device"
)
USE = "import jax; assert jax.devices()[0].platform == 'cpu'"


@no_device
def test_a_left_out_library_starts_only_when_it_is_brought_back(tmp_path):
    """Two libraries that say when JAX starts them; without tadjax it starts both."""
    for name, function in ((LIBTPU, "get_library_path"), (CUDA, "initialize")):
        folder = tmp_path.joinpath(*name.split("."))
        folder.mkdir(parents=True)
        (folder / "__init__.py").write_text(f"def {function}():\n    print('started {name}')\n")
    assert {line for line in program(USE, tmp_path).splitlines() if line.startswith("started")} == {
        f"started {LIBTPU}",
        f"started {CUDA}",
    }
    assert program(f"import tadjax; {USE}", tmp_path) == ""
    late = program(f"import jax; print('imported'); import tadjax; {USE}", tmp_path)
    assert late.partition("imported\n")[2] == ""
    back = f"import tadjax; from tadjax import devices; devices.bring_back({CUDA!r}); {USE}"
    assert program(back, tmp_path) == f"started {CUDA}\n"


@no_device
@pytest.mark.skipif(
    not (importlib.util.find_spec(LIBTPU) or importlib.util.find_spec("jax_cuda13_plugin")),
    reason="neither libtpu nor jax[cuda13] is installed",
)
@pytest.mark.parametrize("imports", ["tadjax", "jax, tadjax"])
def test_a_program_prints_nothing_where_compilers_for_other_devices_are_installed(imports):
    assert program(f"import {imports}; {USE}") == ""
