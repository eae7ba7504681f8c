"""From a command to its first effect."""

import pathlib
import subprocess
import sys
import tempfile
import time

from tests.benchmarks import ENVIRONMENT
from tests.conftest import make_small_data

ROUNDS = 3
FLAGSHIP = "configs/thumos_vitg.py"


def main() -> None:
    """Wall seconds; the best of three, but for the run, which is the flagship's tiny twin for one step, evaluated."""
    print(f"{seconds('-c', 'import tadjax'):8.2f}  import tadjax")
    print(f"{seconds('-m', 'tadjax.main', '--help'):8.2f}  --help")
    wrong = ("-m", "tadjax.main", f"--config={FLAGSHIP}", "--workdir=/nowhere", "--config.optim.hed_lr=1")
    print(f"{seconds(*wrong):8.2f}  a misspelt field of a config")
    with tempfile.TemporaryDirectory() as folder:
        data = make_small_data(pathlib.Path(folder))
        given = {
            "data.annotations": data / "annotations.json",
            "data.classes": data / "classes.txt",
            "data.videos": data / "videos",
            "window.stride": 2,
            "optim.batch_size": 5,
            "optim.epochs": 1,
        }
        flags = [f"--config.{name}={value}" for name, value in given.items()]
        environment = {"JAX_COMPILATION_CACHE_DIR": str(data / "cache")}
        for number, what in enumerate(("nothing compiled before", "from the compilation cache")):
            run = (f"--config={FLAGSHIP}:tiny", f"--workdir={data / f'run{number}'}", *flags)
            print(f"{once('-m', 'tadjax.main', *run, **environment):8.2f}  training for a step and evaluating, {what}")


def seconds(*arguments: str) -> float:
    return min(once(*arguments) for _ in range(ROUNDS))


def once(*arguments: str, **environment: str) -> float:
    begin = time.perf_counter()
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, env={**ENVIRONMENT, **environment}
    )
    taken = time.perf_counter() - begin
    if done.returncode not in (0, 1, 2) or "Traceback" in done.stderr:
        raise RuntimeError(done.stderr)
    return taken
