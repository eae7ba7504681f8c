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

from tadjax.errors import ConfigError
from tadjax.parallel import hosts


class MetricsLog:
    """Writes numbers to WORKDIR/metrics.jsonl (a line a step), to TensorBoard, and to W&B if `project` is given.

    A resumed run first drops the lines beyond the step it resumes from: they will be written again. Of several
    processes only process 0 writes.
    """

    def __init__(self, workdir: pathlib.Path, resumed_at: int, project: str = "", config: dict | None = None):
        self._writes = hosts.is_first()
        if not self._writes:
            return
        path = workdir / "metrics.jsonl"
        if path.exists():
            kept = [line for line in path.read_text().splitlines(True) if _step(line) <= resumed_at]
            partial = path.with_suffix(".partial")
            partial.write_text("".join(kept))
            partial.replace(path)
        self._file = path.open("a")
        self._events = _tensorboard(workdir / "tensorboard", purge_step=resumed_at + 1)
        self._wandb = _start_wandb(project, workdir, config) if project else None

    def write(self, step: int, numbers: dict[str, float]) -> None:
        if not self._writes:
            return
        self._file.write(json.dumps({"step": step, **numbers}) + "\n")
        self._file.flush()
        for name, value in numbers.items():
            self._events.add_scalar(name, value, step)
        if self._wandb is not None:
            self._wandb.log(numbers, step=step)

    def close(self) -> None:
        if not self._writes:
            return
        self._file.close()
        self._events.close()
        if self._wandb is not None:
            self._wandb.finish()


def _step(line: str) -> float:
    """The step of a line; a line that a killed process left unfinished belongs to no step that is kept."""
    try:
        return json.loads(line)["step"]
    except (json.JSONDecodeError, KeyError, TypeError):
        return float("inf")


def _tensorboard(folder: pathlib.Path, purge_step: int) -> Any:
    """TensorBoard's writer. Where PyTorch is installed, tensorboardX would load it, for seconds and to no use."""
    hidden = "torch" not in sys.modules
    if hidden:
        sys.modules["torch"] = None  # an ImportError, which tensorboardX is ready for
    try:
        from tensorboardX import SummaryWriter
    finally:
        if hidden:
            del sys.modules["torch"]
    return SummaryWriter(str(folder), purge_step=purge_step)


def _start_wandb(project: str, workdir: pathlib.Path, config: dict | None):
    try:
        import wandb
    except ImportError:
        raise ConfigError(f"config.train.wandb = {project!r} needs `pip install wandb`") from None
    return wandb.init(project=project, dir=str(workdir), config=config, resume="allow", id=workdir.resolve().name)


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
            jax.profiler.stop_trace()
            self._on = False


@contextlib.contextmanager
def progress(title: str, total: int | None, done: int = 0) -> Iterator[Callable[..., None]]:
    """A progress bar: call what it yields after each step, with text to show. Prints only on process 0's terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    silent = not (sys.stderr.isatty() and hosts.is_first())
    bar = Progress(*columns, TextColumn("{task.fields[text]}"), console=console, disable=silent)
    with bar:
        task = bar.add_task(title, total=total, completed=done, text="")

        def advance(text: str | None = None) -> None:
            bar.advance(task)
            if text is not None:
                bar.update(task, text=text)

        yield advance
