"""Jobs: real training processes of the tiny flagship in one workdir, and the undisturbed run they are compared with."""

import os
import pathlib
import shutil
import subprocess
import time
from collections.abc import Callable
from typing import Any

from tadjax.training.loop import train
from tests.conftest import ROOT, make_small_config
from tests.training.test_loop import arrays, assert_same_bits, command, lines

NAMESPACE = ("unshare", "--user", "--map-root-user", "--mount")
PATIENCE = 600  # seconds for a process to get somewhere, on a busy machine


def faults_config(data: pathlib.Path, epochs: int = 12) -> Any:
    """3 steps an epoch; checkpoints every 3 steps, evaluation every 6; one worker process."""
    config = make_small_config(data)
    config.optim.epochs, config.data.workers = epochs, 1
    config.train.eval_from_epoch, config.train.eval_every_epochs, config.train.checkpoint_every = 2, 2, 3
    return config


def namespaces() -> bool:
    """Whether this machine lets its users mount a disk of their own."""
    if not shutil.which(NAMESPACE[0]):
        return False
    tried = [*NAMESPACE, "sh", "-c", "mount -t tmpfs tmpfs /tmp"]
    return subprocess.run(tried, capture_output=True, check=False).returncode == 0


class Undisturbed:
    """A run that nothing happens to: what all others are compared with."""

    def __init__(self, config: Any, workdir: pathlib.Path):
        self.config = config
        train(config, workdir)
        self.arrays = arrays(workdir, config)
        self.lines = {(line["step"], "loss" in line): line for line in lines(workdir) if len(line) > 1}
        self.size = disk_use(workdir)


class Job:
    """One workdir, its processes one after the other, and what they said."""

    def __init__(self, expected: Undisturbed, folder: pathlib.Path):
        self.expected, self.config = expected, expected.config
        self.workdir, self.log = folder / "run", folder / "log"
        folder.mkdir(parents=True)
        self.done = False
        self._began = 0.0

    def start(
        self, *options: str, prefix: tuple[str, ...] = (), launcher: bool = False, **variables: str
    ) -> subprocess.Popen:
        """The next process; `said` is what it says from now on."""
        self._began = time.time()
        with self.log.open("w") as log:
            line = command(self.config, self.workdir)  # python -m tadjax.main ...
            if launcher:
                line[1:3] = ["launch/local.py", "--processes=1"]
            line = [*prefix, *line, *options]
            return subprocess.Popen(line, cwd=ROOT, stdout=log, stderr=log, env={**os.environ, **variables})

    def said(self) -> str:
        return self.log.read_text()

    def ends(self, process: subprocess.Popen, status: int, *words: str) -> None:
        """Waits for the end, which must have this status, and one line of error with these words."""
        found, said = process.wait(timeout=PATIENCE), self.said()
        assert found == status, f"status {found}, not {status}: {said[-2000:]}"
        errors = [line for line in said.splitlines() if line.startswith("error: ")]
        assert "Traceback" not in said, said[-2000:]
        assert len(errors) == bool(words) and all(word in errors[0] for word in words), f"no {words} in {errors}"

    def reaches(self, process: subprocess.Popen, moment: Callable[[], bool]) -> bool:
        """Waits for a moment; False where the run ended before."""
        deadline = time.monotonic() + PATIENCE
        while not moment():
            if process.poll() is not None:
                assert process.returncode == 0, self.said()[-2000:]
                self.done = True
                return False
            assert time.monotonic() < deadline, "the moment never came"
            time.sleep(0.002)
        return True

    def step(self) -> int:
        """The newest in the log."""
        return max((line["step"] for line in lines(self.workdir)), default=0)

    def checkpoints(self) -> list[pathlib.Path]:
        """The whole ones, oldest first."""
        found = [path for path in (self.workdir / "checkpoints").glob("*") if path.name.isdigit()]
        return sorted(found, key=lambda path: int(path.name))

    def is_saving(self) -> bool:
        for path in (self.workdir / "checkpoints").glob("*.orbax-checkpoint-tmp*"):
            try:
                if path.stat().st_ctime > self._began:
                    return True
            except FileNotFoundError:  # renamed meanwhile: it is saved
                continue
        return False

    def check(self) -> None:
        """What is logged so far is what the undisturbed run logged."""
        for line in lines(self.workdir):
            if len(line) > 1:
                assert line == self.expected.lines[line["step"], "loss" in line], f"step {line['step']} differs"

    def finish(self) -> None:
        """Runs to the end: the parameters are those of the undisturbed run."""
        if not self.done:
            self.ends(self.start(), 0)
        self.check()
        assert_same_bits(arrays(self.workdir, self.config), self.expected.arrays)


def disk_use(folder: pathlib.Path) -> int:
    """Bytes, in whole blocks."""
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())


def workers_of(process: subprocess.Popen | int) -> list[int]:
    """The processes that decode for it (given as it is, or by its number)."""
    found = []
    pid = process if isinstance(process, int) else process.pid
    for task in pathlib.Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            pids = task.read_text().split()
            found += [int(p) for p in pids if b"spawn_main" in pathlib.Path(f"/proc/{p}/cmdline").read_bytes()]
        except (FileNotFoundError, ProcessLookupError):  # ended while we looked
            continue
    return found
