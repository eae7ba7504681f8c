"""From a command to its first effect."""

import pathlib
import tempfile
import time

from tests.benchmarks import run
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
            command = ("-m", "tadjax.main", f"--config={FLAGSHIP}:tiny", f"--workdir={data / f'run{number}'}", *flags)
            print(f"{once(*command, **environment):8.2f}  training for a step and evaluating, {what}")


def seconds(*arguments: str) -> float:
    return min(once(*arguments) for _ in range(ROUNDS))


def once(*arguments: str, **environment: str) -> float:
    begin = time.perf_counter()
    run(*arguments, statuses=(0, 1, 2), **environment)
    return time.perf_counter() - begin
