"""What a run tells: a metrics file, TensorBoard events, W&B where asked for, and a progress bar."""

import contextlib
import json
import pathlib
import statistics
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import jax
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tadjax.errors import first_line
from tadjax.files import write_whole
from tadjax.parallel import hosts
from tadjax.report.exports import clock
from tadjax.training.writers import Events, Lines, Writer, start_wandb

MINUTE = 60.0
CLOSING = 20.0  # seconds that the end of a run waits for a writer


class MetricsLog:
    """Writes numbers to WORKDIR/metrics.jsonl (a line a step), to TensorBoard, and to W&B if `project` is given.

    A resumed run first drops the lines beyond the step it resumes from: they will be written again. Of several
    processes only process 0 writes. A thread writes to each, so that none of them can hold a step up.
    """

    def __init__(self, workdir: pathlib.Path, resumed_at: int, project: str = "", config: dict | None = None):
        self._writers: list[Writer] = []
        self._spikes: Writer | None = None
        if not hosts.is_first():
            return
        path = workdir / "metrics.jsonl"
        if path.exists():
            write_whole(path, "".join(line for line in path.read_text().splitlines(True) if _step(line) <= resumed_at))
        self._writers.append(Writer(str(path), Lines(path)))
        events = Events(workdir / "tensorboard", purge_step=resumed_at + 1)
        self._writers.append(Writer("TensorBoard", events))
        if project:
            self._writers.append(Writer("W&B", start_wandb(project, workdir, config)))
        path = workdir / "spikes.jsonl"
        self._spikes = Writer(str(path), Lines(path))

    def write(self, step: int, numbers: dict[str, float]) -> None:
        for writer in self._writers:
            writer.put({"step": step, **numbers})

    def spike(self, entry: dict[str, Any]) -> None:
        """An entry of WORKDIR/spikes.jsonl."""
        if self._spikes is not None:
            self._spikes.put(entry)

    def close(self) -> None:
        """Waits for the writers, though not forever."""
        writers = [*self._writers, *([self._spikes] if self._spikes else [])]
        deadline = time.monotonic() + CLOSING
        for writer in writers:
            writer.close(deadline)


def _step(line: str) -> float:
    """The step of a line; a line that a killed process left unfinished belongs to no step that is kept."""
    try:
        return json.loads(line)["step"]
    except (json.JSONDecodeError, KeyError, TypeError):
        return float("inf")


class Clock:
    """Where the seconds go: `with clock("evaluation"): ...` adds to that name; `seconds` since the last `lap`."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._begin = time.monotonic()

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        begin = time.monotonic()
        try:
            yield
        finally:
            self.add(name, time.monotonic() - begin)

    def add(self, name: str, seconds: float) -> None:
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds

    def lap(self) -> dict[str, float]:
        """{"seconds/NAME": ..., "seconds/all": ...} since the last lap, and starts the next."""
        now = time.monotonic()
        lap = {f"seconds/{name}": value for name, value in sorted(self.seconds.items())}
        lap["seconds/all"] = now - self._begin
        self.seconds, self._begin = {}, now
        return lap


class Spikes:
    """Which losses stand out: those above `factor` times the median of the last 100, once there are 20. 0: none."""

    def __init__(self, factor: float):
        self._factor = factor
        self._losses: deque[float] = deque(maxlen=100)

    def __call__(self, loss: float) -> float | None:
        """Takes note of a finite loss; the median if it stands out. It counts from then on: a new level is no spike."""
        median = statistics.median(self._losses) if self._factor and len(self._losses) >= 20 else float("inf")
        self._losses.append(loss)
        return median if loss > self._factor * median else None


class Trace:
    """Traces steps first to last (both included) with JAX's profiler, into WORKDIR/profile for TensorBoard and XProf.

    `with trace(step): ...` stands around a step's dispatch, `after` behind it. Process 0 traces its host and devices.
    """

    def __init__(self, workdir: pathlib.Path, steps: tuple[int, int] | None):
        self._folder = workdir / "profile"
        self._first, self._last = steps if steps and hosts.is_first() else (1, 0)
        self._on = False

    @contextlib.contextmanager
    def __call__(self, step: int) -> Iterator[None]:
        if not self._on and self._first <= step <= self._last:
            jax.profiler.start_trace(str(self._folder))
            self._on = True
        with jax.profiler.StepTraceAnnotation("train", step_num=step):
            yield

    def after(self, step: int, metrics: dict) -> None:
        if self._on and step >= self._last:
            jax.block_until_ready(metrics)  # the trace is to hold the whole of the step
            self.close()

    def close(self) -> None:
        if self._on:
            self._on = False
            try:
                jax.profiler.stop_trace()
            except (OSError, RuntimeError) as error:
                hosts.say(f"{self._folder} cannot be written ({first_line(error)}); training goes on without a trace")


@contextlib.contextmanager
def progress(title: str, total: int | None, done: int = 0) -> Iterator[Callable[..., None]]:
    """A progress bar: call what it yields after each step, with text to show. Process 0 alone prints.

    Where stderr is no terminal it is a line a minute, with the time that is left.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    terminal = sys.stderr.isatty()
    silent = not (terminal and hosts.is_first())
    begin = told = time.monotonic()
    steps = 0
    bar = Progress(*columns, TextColumn("{task.fields[text]}"), console=console, disable=silent)
    with bar:
        task = bar.add_task(title, total=total, completed=done, text="")

        def advance(text: str | None = None) -> None:
            nonlocal steps, told
            steps += 1
            now = time.monotonic()
            if not terminal and now - told >= MINUTE:
                told = now
                left = f", {clock((now - begin) / steps * (total - done - steps))} left" if total else ""
                hosts.say(f"{title}: {done + steps} of {total or '?'}{left}" + (f"; {text}" if text else ""))
            bar.advance(task)
            if text is not None:
                bar.update(task, text=text)

        yield advance
