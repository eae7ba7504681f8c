import pathlib
import subprocess
import sys

import tadjax
from tests.golden.compare import HERE, failures


def test_postprocess():
    assert failures(HERE / "postprocess.npz") == []


def test_detections_and_metrics_need_numpy_only():
    folders = [pathlib.Path(tadjax.__file__).parent / name for name in ("detections", "metrics")]
    names = [f"tadjax.{folder.name}.{path.stem}" for folder in folders for path in folder.glob("[!_]*.py")]
    names.remove("tadjax.metrics.diagnosis_figure")  # the one that draws
    code = f"import sys, importlib; [importlib.import_module(n) for n in {names}]; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"jax", "flax", "torch", "matplotlib", "scipy", "pandas"} & set(loaded)
