"""Writers of a run's log, each a thread: no disk and no server can hold a step up or end a training."""

import contextlib
import errno
import io
import itertools
import json
import os
import pathlib
import queue
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from tadjax.errors import ConfigError, first_line
from tadjax.parallel import hosts

WAITING = 1000  # entries that a writer may be behind


class Sink(Protocol):
    """Where entries go; any error of `write` means that it may be asked again with the next entry."""

    def write(self, entry: dict[str, Any]) -> None: ...

    def close(self) -> None: ...


class Writer:
    """A thread that writes entries to a sink. What goes wrong is said once, and training goes on without."""

    def __init__(self, name: str, sink: Sink):
        self._name, self._sink = name, sink
        self._waiting: queue.Queue[dict | None] = queue.Queue(WAITING)
        self._troubled = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def put(self, entry: dict[str, Any]) -> None:
        """Never waits: an entry is dropped where the sink is that far behind."""
        try:
            self._waiting.put_nowait(entry)
        except queue.Full:
            self._say("what is to be written waits too long, and is dropped")

    def close(self, deadline: float) -> None:
        """Waits until all is written, or until `deadline` on the monotonic clock."""
        with contextlib.suppress(queue.Full):
            self._waiting.put(None, timeout=max(0.0, deadline - time.monotonic()))
        self._thread.join(max(0.0, deadline - time.monotonic()))
        if self._thread.is_alive():
            self._say("it does not answer, and its end is not waited for")

    def _run(self) -> None:
        while (entry := self._waiting.get()) is not None:
            self._try(lambda entry=entry: self._sink.write(entry))
        self._try(self._sink.close)

    def _try(self, what: Callable[[], None]) -> None:
        try:
            what()
        except Exception as error:  # whatever a library raises: a log must not end a training
            self._say(getattr(error, "strerror", None) or first_line(error))

    def _say(self, reason: str) -> None:
        if not self._troubled:
            self._troubled = True
            hosts.say(f"{self._name} cannot be written ({reason}); training goes on, the log may lack entries")


class Lines:
    """A file of one JSON object a line; those that a full disk refused are written with the next one it takes."""

    def __init__(self, path: pathlib.Path):
        self._path = path
        self._file: io.FileIO | None = None
        self._waiting: deque[bytes] = deque(maxlen=WAITING)

    def write(self, entry: dict[str, Any]) -> None:
        self._waiting.append((json.dumps(entry) + "\n").encode())
        self._flush()

    def close(self) -> None:
        if self._waiting:
            self._flush()
        if self._file is not None:
            self._file.close()

    def _flush(self) -> None:
        if self._file is None:
            self._file = self._path.open("ab", buffering=0)
        content, size = b"".join(self._waiting), os.fstat(self._file.fileno()).st_size
        if self._file.write(content) != len(content):  # no half lines
            self._file.truncate(size)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._waiting.clear()


class Events:
    """TensorBoard's events. Without tensorboardX's own thread, which dies of a full disk and leaves its queue to fill.

    After an error they go on in a new file, since the old one may end in half an event.
    """

    def __init__(self, folder: pathlib.Path, purge_step: int):
        self._folder, self._files, self._writer = folder, itertools.count(), None
        self._library = _tensorboard()
        session = self._library.proto.event_pb2.SessionLog
        # What older files hold from this step on is void.
        self._first = [{"step": purge_step, "session_log": session(status=session.START)}]

    def write(self, entry: dict[str, Any]) -> None:
        values = self._library.proto.summary_pb2.Summary()
        for name, value in entry.items():
            if name != "step":
                values.value.add(tag=name, simple_value=value)
        event = self._library.proto.event_pb2.Event
        try:
            if self._writer is None:
                self._folder.mkdir(parents=True, exist_ok=True)
                suffix = f".{os.getpid()}.{next(self._files)}"
                self._writer = self._library.event_file_writer.EventsWriter(str(self._folder / "events"), suffix)
            for fields in (*self._first, {"step": entry["step"], "summary": values}):
                self._writer.write_event(event(wall_time=time.time(), **fields))
            self._writer.flush()
        except OSError:
            self._writer = None
            raise
        self._first = []

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


class Wandb:
    """A run of W&B."""

    def __init__(self, run: Any):
        self._run = run

    def write(self, entry: dict[str, Any]) -> None:
        self._run.log({name: value for name, value in entry.items() if name != "step"}, step=entry["step"])

    def close(self) -> None:
        self._run.finish()


def _tensorboard() -> Any:
    """tensorboardX. Where PyTorch is installed, it would load that, for seconds and to no use."""
    hidden = "torch" not in sys.modules
    if hidden:
        sys.modules["torch"] = None  # an ImportError, which tensorboardX is ready for
    try:
        import tensorboardX.event_file_writer
        import tensorboardX.proto.event_pb2
        import tensorboardX.proto.summary_pb2
    finally:
        if hidden:
            del sys.modules["torch"]
    return tensorboardX


def start_wandb(project: str, workdir: pathlib.Path, config: dict | None) -> Wandb:
    try:
        import wandb
    except ImportError:
        raise ConfigError(f"config.train.wandb = {project!r} needs `pip install wandb`") from None
    return Wandb(
        wandb.init(project=project, dir=str(workdir), config=config, resume="allow", id=workdir.resolve().name)
    )
