"""Jobs of several real processes on this machine, started as users start them: by launch/local.py."""

import os
import pathlib
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tests.conftest import ROOT
from tests.training.test_loop import command, lines

PATIENCE = 300  # seconds; what takes longer hangs


class Job:
    """`processes` processes of the run that `config` describes."""

    def __init__(self, config, workdir: pathlib.Path, processes: int, *flags: str):
        self.workdir = workdir
        self.log = workdir.parent / f"{workdir.name}.log"
        launcher = [sys.executable, str(ROOT / "launch" / "local.py"), f"--processes={processes}"]
        with self.log.open("w") as log:
            self._launcher = subprocess.Popen(
                [*launcher, *command(config, workdir)[3:], *flags], cwd=ROOT, stdout=log, stderr=log
            )

    @property
    def text(self) -> str:
        return self.log.read_text()

    def wait(self, seconds: float = PATIENCE) -> int:
        return self._launcher.wait(timeout=seconds)

    def pids(self) -> list[int]:
        return [int(pid) for pid in re.findall(r"^\[\d+\] process (\d+)$", self.text, re.MULTILINE)]

    def send(self, process: int, number: int) -> None:
        os.kill(self.pids()[process], number)

    def interrupt(self) -> None:
        """Ctrl-C: a terminal sends it to the launcher alone, as the processes have sessions of their own."""
        self._launcher.send_signal(signal.SIGINT)

    def alive(self, process: int) -> bool:
        return f"[{process}] ended with status" not in self.text

    def wait_for_step(self, step: int) -> None:
        deadline = time.monotonic() + PATIENCE
        while not any(line["step"] >= step for line in lines(self.workdir)):
            assert self._launcher.poll() is None, self.text
            assert time.monotonic() < deadline, f"step {step} was not reached:\n{self.text}"
            time.sleep(0.05)

    def end(self) -> None:
        """Whatever happened, nothing is left running."""
        if self._launcher.poll() is None:
            for pid in self.pids():
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            self._launcher.wait(timeout=60)


@contextmanager
def job(config, workdir: pathlib.Path, processes: int, *flags: str) -> Iterator[Job]:
    running = Job(config, workdir, processes, *flags)
    try:
        yield running
    finally:
        running.end()
