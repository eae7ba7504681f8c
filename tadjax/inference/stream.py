"""The windows of one long video, one after the other, each of its frames decoded once.

Evaluation decodes every window by itself: workers take them in any order, and with the usual overlap of a half they
decode every frame twice. Prediction goes through a video in order, so a window keeps the frames it shares with the one
before and only the rest is decoded, ahead of its use, by threads (FFmpeg works outside Python's lock). What is held at
once is a few windows, however long the video is.
"""

import itertools
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from tadjax.data import sampling as windows
from tadjax.data.sampling import Sample, Sampling, Window
from tadjax.data.timeline import Grid, Timeline
from tadjax.errors import DataError
from tadjax.video.frame_index import FrameIndex
from tadjax.video.frames import read_frames

Item = TypeVar("Item")
Started = TypeVar("Started")


@dataclass(frozen=True, eq=False)
class WindowFrames:
    """One window of a video, as `EvaluationSet.record` gives it."""

    frames: np.ndarray  # uint8 [T, size, size, 3]
    valid: np.ndarray  # bool [feature_length]
    grid: Grid
    substituted: int  # frames that cannot be decoded, for which a neighbour stands in


def file_timeline(index: FrameIndex) -> Timeline:
    """The timeline of a video of which nothing is known but its file."""
    info = index.info
    return Timeline(info.duration, info.frames, info.fps, None if info.constant_rate else index.times, info.start)


def stream_windows(
    index: FrameIndex,
    sampling: Sampling,
    *,
    size: int,
    max_missing: float = 0.05,
    threads: int = 2,
    cuts: Sequence[Window] | None = None,
) -> Iterator[WindowFrames]:
    """All evaluation windows of a video, in order; or those that `cuts` lists.

    A window in which frames are missing is decoded by itself, so that the same frames stand in for them as in
    evaluation. Raises DataError where more than `max_missing` of a window's frames are.
    """
    samples = list(_samples(index, sampling, cuts))

    def read(indices: np.ndarray, missing: float) -> tuple[np.ndarray, int]:
        found = read_frames(index.path, indices, short_side=size, center_crop=size, max_missing=missing)
        return found.frames, found.substituted

    def read_part(part: np.ndarray) -> np.ndarray | None:
        try:
            return read(part, 0.0)[0] if len(part) else np.empty((0, size, size, 3), np.uint8)
        except DataError:
            return None

    parts = iter(_parts(samples))
    ahead: deque[tuple[np.ndarray, Future]] = deque()
    indices, pictures = np.empty(0, np.int64), np.empty((0, size, size, 3), np.uint8)  # what is held
    pool = ThreadPoolExecutor(threads)
    try:
        for sample in samples:
            while len(ahead) <= threads and (part := next(parts, None)) is not None:
                ahead.append((part, pool.submit(read_part, part)))
            part, future = ahead.popleft()
            fresh = future.result()
            shared = indices >= sample.frame_indices[0]
            if fresh is not None:
                indices = np.concatenate([indices[shared], part])
                pictures = np.concatenate([pictures[shared], fresh])
            if fresh is not None and np.isin(sample.frame_indices, indices).all():
                order = np.argsort(indices)  # snippets may interleave: what is new is not always later
                places = np.searchsorted(indices, sample.frame_indices, sorter=order)
                frames, substituted = pictures[order[places]], 0
            else:
                frames, substituted = read(sample.frame_indices, max_missing)
                if substituted:
                    indices, pictures = indices[:0], pictures[:0]  # the next window must not take stand-ins for frames
                else:
                    indices, first = np.unique(sample.frame_indices, return_index=True)
                    pictures = frames[first]
            yield WindowFrames(frames, sample.valid, sample.grid, substituted)
    finally:
        pool.shutdown(cancel_futures=True)


def one_ahead(items: Iterable[Item], start: Callable[[Item], Started]) -> Iterator[tuple[Item, Started]]:
    """Each item with what `start`, which does not wait for the device, gave for it: the device is at work on the next
    one while the caller looks at this one."""
    running = None
    for item in items:
        started = item, start(item)
        if running is not None:
            yield running
        running = started
    if running is not None:
        yield running


def one_by_one(items: Iterable[Item], start: Callable[[Item], Started]) -> Iterator[tuple[Item, Started]]:
    """`one_ahead`, but that the next one is not begun before the caller is done with this one."""
    return ((item, start(item)) for item in items)


def one_batch_ahead(
    windows: Iterator[Item], size: int, start: Callable[[list[Item]], Started]
) -> Iterator[tuple[list[Item], Started]]:
    """`one_ahead` of batches of up to `size` windows. start: is given exactly `size`, the last of a short batch again
    and again."""
    batches = iter(lambda: list(itertools.islice(windows, size)), [])
    return one_ahead(batches, lambda batch: start(batch + [batch[-1]] * (size - len(batch))))


def decoding_threads(wanted: int) -> int:
    """At most `wanted` (at least one), one a core, and eight: each holds frames of a window."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(wanted, cores, 8))


def _samples(index: FrameIndex, sampling: Sampling, cuts: Sequence[Window] | None) -> Iterator[Sample]:
    timeline, frames = file_timeline(index), len(index)
    for window in windows.list_windows(sampling, frames) if cuts is None else cuts:
        yield windows.sample(sampling, timeline, frames, window=window)


def _parts(samples: list[Sample]) -> Iterator[np.ndarray]:
    """The frames of each window that the one before does not have, int64, ascending."""
    before = np.empty(0, np.int64)
    for sample in samples:
        yield np.setdiff1d(sample.frame_indices, before)
        before = sample.frame_indices
