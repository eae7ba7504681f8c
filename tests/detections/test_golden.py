import pathlib
import subprocess
import sys

from tests.golden.compare import HERE, failures


def test_postprocess():
    assert failures(HERE / "postprocess.npz") == []


def test_detections_and_metrics_need_numpy_only():
    names = [f"tadjax.{folder}.{path.stem}" for folder in ("detections", "metrics")
             for path in (pathlib.Path(__file__).parents[2] / "tadjax" / folder).glob("*.py") if path.stem != "__main__"]  # fmt: skip
    code = f"import sys, importlib; [importlib.import_module(n) for n in {names}]; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"jax", "flax", "torch", "matplotlib", "scipy", "pandas"} & set(loaded)
