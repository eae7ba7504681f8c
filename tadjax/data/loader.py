"""Batches from worker processes onto the devices, by Grain.

Global batch s holds records s * B ... s * B + B - 1 of the stream (records.py). A process loads a contiguous share of
each: Share(p, P) has rows p * B / P up to (p + 1) * B / P. Neither the number of workers nor that of processes or
devices changes what a batch holds, and a run starts at any step at no cost: resume needs the step number only.

A worker process decodes whole records and hands the frames over through shared memory (/dev/shm): see `shared_records`.
"""

import gc
import multiprocessing
import os
import re
import signal
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import grain
import jax
import numpy as np
from absl import flags
from jax.sharding import Sharding

from tadjax import ending
from tadjax.adaptation.host_frames import HostFrames, pack
from tadjax.data.records import EvaluationSet, Record, TrainSet
from tadjax.errors import ConfigError, DataError

Batch = dict[str, Any]  # numpy arrays, or jax arrays after `to_device`


class Share(NamedTuple):
    """Which part of every global batch a process loads: number `index` of `count` equal, contiguous parts."""

    index: int = 0
    count: int = 1

    def rows(self, batch_size: int) -> range:
        """The rows of a global batch; ConfigError if it cannot be shared out evenly."""
        if batch_size % self.count:
            raise ConfigError(
                f"a batch of {batch_size} cannot be shared out evenly to {self.count} loading processes; "
                f"set config.optim.batch_size and config.evaluation.batch_size to multiples of {self.count}"
            )
        size = batch_size // self.count
        return range(self.index * size, (self.index + 1) * size)


WHOLE = Share()


def share_of(sharding: Sharding, batch_size: int) -> Share:
    """The share that this process must load, so that its devices get their rows of a batch under `sharding`.

    Processes whose devices hold the same rows (the clips of one window spread over hosts) get the same share.
    ConfigError if the rows cannot be split evenly over the devices, or the devices' parts do not make equal shares.
    """
    try:
        parts = sharding.addressable_devices_indices_map((batch_size,)).values()
    except ValueError as error:
        raise ConfigError(
            f"a batch of {batch_size} cannot be split evenly over the mesh's data and fsdp axes; set config.optim."
            "batch_size and config.evaluation.batch_size to multiples of config.mesh.data * config.mesh.fsdp"
        ) from error
    held = sorted({row for (part,) in parts for row in range(*part.indices(batch_size))})
    start, size = held[0], len(held)
    if held != list(range(start, start + size)) or start % size or batch_size % size:
        raise ConfigError(
            f"a batch of {batch_size} is not shared out evenly to the processes: number {jax.process_index()} has rows "
            f"{held}; choose config.mesh.data such that each process has as many"
        )
    return Share(start // size, batch_size // size)


class Batches(Iterator[Batch]):
    """An iterator over batches that ends its worker processes when it is closed, collected, or the program ends.

    Raises:
      DataError: a video that cannot be used (as the worker that met it says), or a worker that died.
    """

    waited = 0.0  # seconds that the last batch kept its caller waiting

    def __init__(self, dataset: grain.IterDataset, batch_size: int, length: int | None, ahead: int = 0):
        self.dataset = dataset
        self.batch_size = batch_size  # rows of the global batch
        self.length = length  # batches; None: endless
        self._ahead = ahead  # batches that a thread holds ready
        self._open: list[grain.DatasetIterator] = []  # the iterator, while there is one
        self._finalizer: weakref.finalize | None = None

    def start(self) -> None:
        """Starts the workers, so that they decode while the model still compiles. The first `next` does it too."""
        if self._finalizer is not None:
            return
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()  # Grain reads absl flags, which only `app.run` parses
        with ending.shield():
            iterator = iter(self.dataset)
            iterator.get_state()  # makes the iterators of all workers; `start_prefetch` would pass over them otherwise
            iterator.start_prefetch()
        if self._ahead:
            iterator = grain.experimental.ThreadPrefetchDatasetIterator(iterator, self._ahead)
            iterator.start_prefetch()
        self._open.append(iterator)
        self._finalizer = weakref.finalize(self, _close, self._open)

    def __next__(self) -> Batch:
        self.start()
        if not self._open:
            raise ValueError("these batches are closed")
        begin = time.perf_counter()
        try:
            return next(self._open[0])
        except RuntimeError as error:
            self.close()
            status = re.search(r"terminated unexpectedly with exit code (-?\d+)", str(error))
            if status is None:
                raise
            raise DataError(_death(int(status[1]))) from error
        except DataError:
            self.close()
            raise
        finally:
            self.waited = time.perf_counter() - begin

    def close(self) -> None:
        """Ends the workers. May be called more than once."""
        if self._finalizer is not None:
            self._finalizer()

    def __enter__(self) -> "Batches":
        return self

    def __exit__(self, *exception) -> None:
        self.close()


def _close(open_iterators: list[grain.DatasetIterator]) -> None:
    """Lets go of the iterator too: Grain's would otherwise be collected after the modules that it needs for it.

    Collects at once because Grain's end of iteration is a reference cycle that holds the last records' shared memory.
    """
    while open_iterators:
        open_iterators.pop().close()
    gc.collect()


def train_batches(
    records: TrainSet,
    batch_size: int,
    *,
    start_step: int = 0,
    stop_step: int | None = None,
    share: Share = WHOLE,
    workers: int = 0,
    prefetch: int = 2,
) -> Batches:
    """This process's share of global batches start_step, start_step + 1, ... (to stop_step, exclusive; None: no end).

    Entries as in `TrainSet.record`, with a leading axis of batch_size / share.count rows. workers: processes that
    decode; 0 decodes where the batches are asked for. prefetch: records that a worker prepares ahead.
    """
    return _batches(records, batch_size, start_step, stop_step, share, workers, prefetch)


def evaluation_batches(
    records: EvaluationSet, batch_size: int, *, share: Share = WHOLE, workers: int = 0, prefetch: int = 2
) -> Batches:
    """This process's share of all evaluation windows, entries as in `EvaluationSet.record`; arguments as above.

    The last global batch is filled up with rows whose `real` is false, so every process gets as many batches as any.
    """
    return _batches(records, batch_size, 0, -(-len(records) // batch_size), share, workers, prefetch)


def shared_records(workers: int, prefetch: int, rows: int) -> int:
    """How many records lie in shared memory at once, at most; rows: of a batch, in this process. As measured."""
    return (2 * prefetch + 2) * workers + rows if workers else 0


def steps_per_epoch(records: TrainSet, batch_size: int) -> int:
    """Steps that count as an epoch in schedules: R / batch_size, rounded up, as in the published training code.

    Where it does not divide, the stream runs ahead of this count: it never repeats a record to fill a batch.
    """
    return -(-len(records) // batch_size)


class DeviceBatches(Iterator[Batch]):
    """Batches as global device arrays, put there by the thread that asks for them, so that every process gives its
    devices the same programs in the same order. What they are put from is made ahead of time, on the host.

    ahead: batches on the devices besides the one in use. Up to that many have been put there when one is handed out,
    which then counts as in use. 0 is as 1, for a caller that lets go of a batch before it asks for the next.
    """

    waited = 0.0  # seconds that the last batch kept its caller waiting
    moving = 0.0  # seconds that it then took to tell the devices what to do; the first time they include compiling

    def __init__(self, batches: Batches, arrive: Callable[[Batch], Batch], ahead: int):
        self.length = batches.length
        self._batches, self._arrive, self._ahead = batches, arrive, max(ahead, 1)
        self._waiting: deque[Batch] = deque()

    def __next__(self) -> Batch:
        self.waited = self.moving = 0.0
        while len(self._waiting) < self._ahead:
            try:
                batch = next(self._batches)
            except StopIteration:
                break
            finally:
                self.waited += self._batches.waited
            begin = time.perf_counter()
            self._waiting.append(self._arrive(batch))
            self.moving += time.perf_counter() - begin
        if not self._waiting:
            raise StopIteration
        return self._waiting.popleft()

    def close(self) -> None:
        """Ends the workers. May be called more than once."""
        self._waiting.clear()
        self._batches.close()

    def __enter__(self) -> "DeviceBatches":
        return self

    def __exit__(self, *exception) -> None:
        self.close()


def to_device(
    batches: Batches,
    sharding: Sharding | Mapping[str, Sharding],
    ahead: int = 1,
    arrive: Callable[[Batch, int], Batch] | None = None,
    packed: bool = False,
) -> DeviceBatches:
    """The same batches as global device arrays; decoded ahead of time from now on.

    batches: not yet begun. sharding: of every entry, or one for each. With several processes each gives its share of
    the rows (`share_of`). ahead: see DeviceBatches. arrive: what puts a batch, with the size of the global one, in
    another way than entry by entry.
    """

    def put_all(batch: Batch) -> Batch:
        if arrive is not None:
            return arrive(batch, batches.batch_size)
        return {
            name: put(
                pack(rows) if packed and name == "frames" else rows,
                batches.batch_size,
                sharding[name] if isinstance(sharding, Mapping) else sharding,
            )
            for name, rows in batch.items()
        }

    decoded = Batches(batches.dataset, batches.batch_size, batches.length, ahead=1)
    decoded.start()
    return DeviceBatches(decoded, put_all, ahead)


def put(rows: np.ndarray | HostFrames, batch_size: int, sharding: Sharding) -> jax.Array | HostFrames:
    """This process's rows as an array of the whole mesh."""
    if isinstance(rows, HostFrames):
        return rows.replace(words=put(rows.words, batch_size, sharding))
    if sharding.is_fully_addressable:
        return jax.device_put(rows, sharding)
    # The global shape tells JAX that only rows are shared out: every process has all frames of a window, even where the
    # devices of several hold its clips.
    with jax.transfer_guard_host_to_device("allow"):  # a transfer that is meant, though the function is not explicit
        return jax.make_array_from_process_local_data(sharding, rows, (batch_size, *rows.shape[1:]))


class _Numbered(Protocol):
    def record(self, n: int) -> Record: ...


class _Rows:
    """What Grain indexes: the rows of this process, batch after batch. Travels to the workers by pickle."""

    def __init__(self, records: _Numbered, batch_size: int, rows: range, start_step: int, stop_step: int | None):
        self._records = records
        self._batch_size = batch_size
        self._rows = rows
        self._start_step = start_step
        self._length = sys.maxsize if stop_step is None else (stop_step - start_step) * len(rows)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, i: int) -> Record:
        step, row = divmod(int(i), len(self._rows))
        return self._records.record((self._start_step + step) * self._batch_size + self._rows[row])

    def __repr__(self) -> str:
        return f"{type(self._records).__name__}, rows {self._rows} of batches of {self._batch_size}"


def _batches(
    records: _Numbered,
    batch_size: int,
    start_step: int,
    stop_step: int | None,
    share: Share,
    workers: int,
    prefetch: int,
) -> Batches:
    rows = share.rows(batch_size)
    source = _Rows(records, batch_size, rows, start_step, stop_step)
    # A worker decodes one record at a time, in its only thread: parallel work is what the processes are for.
    dataset = grain.MapDataset.source(source).to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=0))
    if workers:
        # Grain passes every array through shared memory (min_shm_size 0, its default), and it must: what is left goes
        # through a pipe at once, so that a worker that is killed leaves no half message to wait for.
        options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=prefetch)
        dataset = dataset.mp_prefetch(options, worker_init_fn=_start_worker)
    dataset = dataset.batch(len(rows), drop_remainder=True, batch_fn=_stack)
    return Batches(dataset, batch_size, None if stop_step is None else stop_step - start_step)


def _stack(records: Sequence[Record]) -> Batch:
    """Copies, so that a record's shared memory is free at once."""
    batch = {}
    for name, first in records[0].items():
        batch[name] = np.empty((len(records), *np.shape(first)), first.dtype)
        for row, record in enumerate(records):
            batch[name][row] = record[name]
    return batch


def _start_worker(index: int, count: int) -> None:
    """Runs first in a worker process, which lives exactly as long as its parent wants it."""
    # Ctrl-C and a scheduler's SIGTERM reach all processes of a job; it is the parent that saves and closes its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A parent that was killed closes nothing; its workers would wait for it forever and hold their memory."""
    multiprocessing.parent_process().join()
    os._exit(1)


def _death(status: int) -> str:
    """What to tell of a worker that ended with this exit status."""
    reasons = {
        -signal.SIGKILL: "it was killed, most often because memory ran out; fewer config.data.workers or a smaller "
        "config.data.prefetch need less",
        -signal.SIGBUS: "shared memory (/dev/shm) is full; make it larger (docker run --shm-size=16g), or lower "
        "config.data.workers or config.data.prefetch",
        -signal.SIGSEGV: "the decoder crashed on a file; config.data.workers=0 shows on which",
    }
    reason = reasons.get(status, "its messages stand above")
    return f"a worker process that decodes videos ended unexpectedly (exit status {status}): {reason}"
