"""Several processes as one program: one a host, each with its devices and its share of the data (JAX multi-controller).

connect    joins them; nothing for a single process
in_order   process 0 goes first, where the others find what it wrote; files and messages are process 0's alone
gather     what every process found, on every process
Sigterm    at which moment all of them save and stop
together   an error that ends one process ends all of them, with its message, within seconds

A process that dies without a word (killed, its machine lost) breaks the collective operations of the others, or is
missed by JAX's heartbeat. Either way they end within the heartbeat's timeout, and do not wait for it forever.
"""

import atexit
import contextlib
import io
import os
import re
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from typing import NoReturn

import jax
import numpy as np
from jax.experimental import multihost_utils

from tadjax import ending
from tadjax.errors import ConfigError, TadjaxError, first_line
from tadjax.parallel import cluster

try:  # no public name leads to the coordinator's key-value store, nor to a process's number before devices are touched
    from jax._src.distributed import global_state as _job
except ImportError:  # a single process does without
    _job = None

POLL = 1.0  # seconds between two looks for the last words of another process
LAST_WORDS = "tadjax/last_words/"  # where they stand in the coordinator's store
LOST = re.compile(r"gloo|nccl|connection|socket|heartbeat|unavailable|barrier", re.IGNORECASE)  # in JAX's errors

_leaving = threading.Event()
_asked = threading.Event()  # by SIGTERM, which may come between two stages of a job
_stopped = threading.Event()
_restored = 0  # blocks of `signals_restored` that are open


def connect(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    *,
    heartbeat_timeout: int = 100,
    saves_on_sigterm: bool = True,
) -> None:
    """Joins the processes of this job; to be called before anything touches a device. Nothing for a single process.

    coordinator: HOST:PORT of process 0; given with the two others, or all told by the environment (cluster.py).
    heartbeat_timeout: seconds after which a silent process counts as dead. saves_on_sigterm: a `Sigterm` will be
    asked; otherwise SIGTERM ends a process at once, as usual. ConfigError if the arguments make no job, TadjaxError if
    the others do not come.
    """
    given = (coordinator, num_processes, process_id)
    if all(value is None for value in given):
        options = cluster.detect(os.environ)
    elif any(value is None for value in given):
        raise ConfigError("--coordinator, --num_processes and --process_id belong together: give all three or none")
    else:
        options = cluster.explicit(coordinator, num_processes, process_id)
    if options is None or options.get("num_processes") == 1:
        return
    if not all(hasattr(_job, name) for name in ("process_id", "num_processes", "client")):
        raise TadjaxError(
            f"several processes talk through a store of JAX's own, which jax {jax.__version__} no longer has where it "
            "was: pip install -r requirements.txt brings a version that has it; a single process does without"
        )
    jax.config.update("jax_enable_preemption_service", saves_on_sigterm)
    try:
        jax.distributed.initialize(**options, heartbeat_timeout_seconds=heartbeat_timeout)
    except (RuntimeError, ValueError) as error:
        raise TadjaxError(f"this process could not join the others ({options}): {first_line(error)}") from error
    if several():
        listener = threading.Thread(target=_listen, daemon=True)
        listener.start()
        atexit.register(lambda: (_leaving.set(), listener.join()))


def index() -> int:
    return jax.process_index() if _job is None else _job.process_id


def count() -> int:
    return jax.process_count() if _job is None else _job.num_processes


def several() -> bool:
    return count() > 1


def is_first() -> bool:
    """Whether this is process 0 (or the only one), which writes the files and talks for all."""
    return index() == 0


def say(text: str) -> None:
    """A message of the job, once."""
    if is_first():
        with contextlib.suppress(OSError):  # where stderr is a file on a full disk
            print(text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def in_order() -> Iterator[None]:
    """Process 0 goes through the block before the others do, who so find its files."""
    if not is_first():
        multihost_utils.sync_global_devices("process 0 is through")
    yield
    if several() and is_first():
        multihost_utils.sync_global_devices("process 0 is through")


def rows_here(batch: Mapping[str, jax.Array]) -> dict[str, np.ndarray]:
    """The rows that lie on this process's devices, in order, of arrays that are sharded by rows at most."""
    parts = {name: {s.index[0].start or 0: s.data for s in array.addressable_shards} for name, array in batch.items()}
    fetched = jax.device_get(parts)
    return {name: np.concatenate([rows for _, rows in sorted(by_start.items())]) for name, by_start in fetched.items()}


def all_rows(array: jax.Array) -> np.ndarray:
    """All rows, also those on the other processes' devices. Every process must ask for them."""
    return multihost_utils.process_allgather(array, tiled=True) if several() else jax.device_get(array)


def gather(arrays: Mapping[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
    """The arrays of every process, bit by bit, in the order of the processes; their shapes may differ."""
    if not several():
        return [dict(arrays)]
    file = io.BytesIO()
    np.savez(file, **arrays)
    data = np.frombuffer(file.getvalue(), np.uint8)
    sizes = multihost_utils.process_allgather(np.int32(len(data)))
    padded = multihost_utils.process_allgather(np.pad(data, (0, int(sizes.max()) - len(data))))  # [processes, bytes]
    return [_unpack(row[:size].tobytes()) for row, size in zip(padded, sizes, strict=True)]


def _unpack(data: bytes) -> dict[str, np.ndarray]:
    with np.load(io.BytesIO(data), allow_pickle=False) as file:
        return dict(file)


class Sigterm:
    """SIGTERM as a wish to save and stop; `now` tells when, and it is the same moment on all processes.

    With several processes JAX's coordinator spreads the signal, whichever of them got it, and names the next moment
    that none has come to. From its making on, SIGTERM no longer ends the process, until the end of the outermost
    `signals_restored` around it.
    """

    def __init__(self) -> None:
        self._moment = 0
        if not several() and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, lambda *_: _asked.set())

    def now(self) -> bool:
        """Whether to save and stop. Every process must ask equally often, at the same places of the program."""
        self._moment += 1
        stop = multihost_utils.reached_preemption_sync_point(self._moment) if several() else _asked.is_set()
        if stop:
            _stopped.set()
        return stop


def ask_to_stop() -> None:
    """As SIGTERM does: to save and stop."""
    if several():
        os.kill(os.getpid(), signal.SIGTERM)  # it is JAX that listens
    else:
        _asked.set()


@contextlib.contextmanager
def signals_restored() -> Iterator[None]:
    """At the end of the outermost of such blocks SIGTERM does what it did at its beginning, whatever ended it.

    Each outermost block begins without a wish to stop of a block before. Also a decorator. With several processes it is
    JAX's coordinator that listens, for as long as the process lives.
    """
    global _restored
    outermost, before = _restored == 0, signal.getsignal(signal.SIGTERM)
    if outermost:
        _asked.clear()
        _stopped.clear()
    _restored += 1
    try:
        yield
    finally:
        _restored -= 1
        if outermost and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before or signal.SIG_DFL)  # None is a handler that Python cannot name


def stopped_by_sigterm() -> bool:
    """Whether a `Sigterm` has told to stop, in this `signals_restored` or the last one."""
    return _stopped.is_set()


@contextlib.contextmanager
def together() -> Iterator[None]:
    """An error that leaves this block ends all processes, since the others could only wait for this one.

    With several processes it does not return then: closing what is open (checkpoints, JAX itself) would wait for the
    others. A single process sees its error raised, as ever.
    """
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        if not several():
            raise
        _end(error)


def lost_another(error: BaseException) -> bool:
    """Whether an error is that of a collective operation, which breaks when another process leaves."""
    of_jax = isinstance(error, (jax.errors.JaxRuntimeError, ValueError))
    return several() and of_jax and bool(LOST.search(first_line(error)))


def _end(error: BaseException) -> NoReturn:
    """Says what happened, here and to the other processes, and leaves."""
    broken = lost_another(error)
    if broken:  # if the other one says why, it counts
        time.sleep(2 * POLL)
    for status, text in _last_words():
        _leave(status, text)
    status, text = 1, first_line(error)
    if sentence := ending.sentence(error):
        status, text = 2, sentence
    elif broken:
        text = f"another process died ({text}). Its messages may say why; the same command resumes"
    else:
        if not isinstance(error, KeyboardInterrupt):
            traceback.print_exception(error)
    text = f"process {index()} of {count()}: {text}"
    with contextlib.suppress(RuntimeError):  # the coordinator may be what died
        _job.client.key_value_set(f"{LAST_WORDS}{index()}", f"{status} {text}")
    _leave(status, text)


def _last_words() -> list[tuple[int, str]]:
    """(exit status, message) of every other process that ended with an error, as far as known."""
    try:
        entries = _job.client.key_value_dir_get(LAST_WORDS)
    except RuntimeError:  # the coordinator is gone, which JAX's own watch ends this process for
        return []
    words = [value.partition(" ") for key, value in sorted(entries) if not key.endswith(f"/{index()}")]
    return [(int(status), text) for status, _, text in words]


def _listen() -> None:
    """Runs in a thread: ends this process once another has ended with an error."""
    while not _leaving.wait(POLL):
        for status, text in _last_words():
            _leave(status, text)


def _leave(status: int, text: str) -> NoReturn:
    """Ends this process at once: an orderly exit would wait for the others."""
    _leaving.set()
    with contextlib.suppress(OSError):
        print(f"error: {text}", file=sys.stderr, flush=True)
    if is_first():
        time.sleep(2 * POLL)  # the others read from this process what happened
    ending.leave(status)
