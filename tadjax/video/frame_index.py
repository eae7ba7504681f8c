"""Which frames a video file has, and when each one is shown.

A frame is counted from 0 in the order in which decoding the whole file gives them. Container headers cannot be trusted
to say how many there are or when they are shown (Matroska stores no count, a truncated file keeps the header of the
whole one, and MP4 decoding times may be regular where presentation times are not), so the packets' presentation times
are read once by demuxing the file without decoding it: about 8 microseconds a packet and one pass over the file's
bytes. The times of files that are made of parts are put behind each other (frame_times.py); where times say nothing of
the order, the file is decoded once to see it. The result is kept in memory for the latest files and, where a cache
directory is given, on disk for all processes.
"""

import contextlib
import hashlib
import json
import os
import sys
import zipfile
from collections import Counter
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np

from tadjax.errors import DataError
from tadjax.files import mark_of
from tadjax.video.demux import examine

CACHE_VERSION = 5
_ARRAYS = ("pts", "key_pts", "key_seek", "key_pos", "key_shift", "joins")
_PLAIN = ("codec", "stream", "width", "height", "rotation", "mirrored", "start", "constant_rate", "timed", "seek_bytes")
_FRACTIONS = ("time_base", "rate")


@dataclass(frozen=True)
class VideoInfo:
    """What `probe` says of a file: of the stream that `ffmpeg` itself would pick, as it is displayed."""

    frames: int  # frames in display order that the file holds, whatever its header says
    fps: float  # the frame rate; for variable frame rate the mean, frames / duration
    duration: float  # seconds from the first frame's presentation to the end of the last
    width: int  # pixels as displayed, after rotation; non-square pixels are left as stored
    height: int
    rotation: int  # degrees counter-clockwise that turn a decoded picture into the displayed one: 0, 90, 180, 270
    constant_rate: bool  # every frame within one tick of the stream's clock of `index / fps`
    codec: str
    mirrored: bool = False  # left and right are exchanged before the picture is turned
    start: float = 0.0  # second of a player's clock at which frame 0 is shown: not 0 where the sound begins earlier


@dataclass(frozen=True, eq=False)
class FrameIndex:
    """Presentation times of the frames of one video file, and the key frames where decoding can start.

    Second 0 is the presentation of frame 0, whatever offset the container carries; `start` is that (timeline.py).
    Where the file is made of parts, the packet of a frame carries another time than `pts` has; `joins` and `key_shift`
    say from where on how much is to be added to it.
    """

    path: str
    codec: str
    stream: int  # number of the stream in its container
    width: int  # as displayed
    height: int
    rotation: int  # as in `VideoInfo`
    mirrored: bool
    start: float
    time_base: Fraction  # seconds a tick of `pts`
    rate: Fraction  # frames a second; for variable frame rate the mean
    constant_rate: bool
    timed: bool  # False: frames cannot be told by times that are not stored (AVI with B-frames), doubled or mixed up
    seek_bytes: bool  # whether `key_seek` are places in the file; else times
    pts: np.ndarray  # int64 [frames], ascending: display order; 0, 1, 2, ... where no times are stored
    key_pts: np.ndarray  # int64 [key frames], ascending; without those that an edit list leaves out
    key_seek: np.ndarray  # int64 [key frames]: the time to seek to for each key frame (its decoding time if it has one)
    key_pos: np.ndarray  # int64 [key frames]: places in the file; 0 in a file that is in one part
    key_shift: np.ndarray  # int64 [key frames]: what their `pts` have more than the packets' times
    joins: (
        np.ndarray
    )  # int64 [n, 3]: time and place of key frames that an edit list leaves out, and the shift from there
    content: bytes | None = None  # the whole file, where it is in memory; `path` then is its name in messages

    def __len__(self) -> int:
        return len(self.pts)

    @property
    def info(self) -> VideoInfo:
        return VideoInfo(
            frames=len(self),
            fps=float(self.rate),
            duration=float(len(self) / self.rate),
            width=self.width,
            height=self.height,
            rotation=self.rotation,
            constant_rate=self.constant_rate,
            codec=self.codec,
            mirrored=self.mirrored,
            start=self.start,
        )

    def upright(self, pixels: np.ndarray) -> np.ndarray:
        """A view of a picture (or a plane of one) as stored, [height, width, ...], that is as a player shows it."""
        return np.rot90(pixels[:, ::-1] if self.mirrored else pixels, self.rotation // 90)

    @cached_property
    def in_parts(self) -> bool:
        return bool(np.any(self.key_shift) or len(self.joins))

    @cached_property
    def key_places(self) -> list[tuple[int, int]]:
        """What key frames are known by: the time that the packet carries, and `key_pos`."""
        return list(zip((self.key_pts - self.key_shift).tolist(), self.key_pos.tolist(), strict=True))

    @cached_property
    def key_numbers(self) -> dict[tuple[int, int], int]:
        """The number of each key frame by its place, where no other has the same."""
        counts = Counter(self.key_places)
        return {place: number for number, place in enumerate(self.key_places) if counts[place] == 1}

    @cached_property
    def join_shifts(self) -> dict[tuple[int, int], int]:
        """`joins` by time and place."""
        return {(time, place): shift for time, place, shift in self.joins.tolist()}

    @cached_property
    def stamps(self) -> np.ndarray:
        """int64 [frames]: what a decoded frame is known by, its presentation time or else its number."""
        return self.pts if self.timed else np.arange(len(self))

    @cached_property
    def times(self) -> np.ndarray:
        """float64 [frames]: presentation time of every frame, in seconds from that of frame 0."""
        return (self.pts - self.pts[0]) * float(self.time_base)

    def seconds_to_frame(self, seconds: np.ndarray | float) -> np.ndarray:
        """Where on the frame axis a time lies: float64, of the shape of `seconds`.

        Constant rate: `seconds * fps`. Variable rate: linear between the true presentation times of two neighbours, so
        that `floor` of it is the frame on display at that time; outside the file it goes on with the mean rate.
        """
        seconds = np.asarray(seconds, np.float64)
        if self.constant_rate:
            return seconds * float(self.rate)
        knots = self._knots
        beyond = np.minimum(seconds - knots[0], 0) + np.maximum(seconds - knots[-1], 0)
        return np.interp(seconds, knots, np.arange(len(self) + 1.0)) + beyond * float(self.rate)

    @cached_property
    def _knots(self) -> np.ndarray:
        return np.append(self.times, self.info.duration)  # [frames + 1]


def frame_index(path: str | os.PathLike, cache_dir: str | os.PathLike | None = None) -> FrameIndex:
    """The frame index of a video file: from memory, from `cache_dir`, or made by demuxing (and then kept in both).

    A file that has changed (`files.mark_of`) is indexed anew. Raises DataError for a file that is missing,
    cannot be opened, is no video, or of which no frame can be decoded.
    """
    path = os.path.abspath(path)
    try:
        mark = mark_of(path)
    except OSError as error:
        raise DataError(f"{path}: the video cannot be read ({error.strerror})") from error
    if mark.startswith("0-"):
        raise DataError(f"{path}: the video file is empty (0 bytes)")
    return _frame_index(path, mark, None if cache_dir is None else os.fspath(cache_dir))


def index_content(content: bytes, name: str) -> FrameIndex:
    """The frame index of a video file in memory, called `name` in messages; errors as in `frame_index`."""
    return _demux(name, content)


def probe(path: str | os.PathLike) -> VideoInfo:
    """Frame count, rate, duration and displayed size of a video file; errors as in `frame_index`."""
    return frame_index(path).info


def times(path: str | os.PathLike) -> np.ndarray:
    """float64 [frames]: presentation time of every frame, in seconds from the first; errors as in `frame_index`.

    The frame on display at second s is `searchsorted(times, s, "right") - 1`, which is the floor of the index's
    `seconds_to_frame(s)`; use that one for sampling at uniform times.
    """
    return frame_index(path).times


@lru_cache(maxsize=256)
def _frame_index(path: str, mark: str, cache_dir: str | None) -> FrameIndex:
    if cache_dir is None:
        return _demux(path)
    name = hashlib.sha256(f"{CACHE_VERSION} {path}".encode()).hexdigest()[:40]
    file = Path(cache_dir) / f"{name}.npz"
    index = _load(file, path, mark)
    if index is None:
        index = _demux(path)
        _save(file, index, mark)
    return index


def _demux(path: str, content: bytes | None = None) -> FrameIndex:
    fields = examine(path, content)
    for name in _ARRAYS:
        fields[name].setflags(write=False)  # all callers share the cached index
    return FrameIndex(path=path, content=content, **fields)


def _save(file: Path, index: FrameIndex, mark: str) -> None:
    """Atomic, so that processes that index the same file at once never read half of it."""
    about = {"mark": mark, **{name: getattr(index, name) for name in _PLAIN}}
    about |= {name: str(getattr(index, name)) for name in _FRACTIONS}
    part = file.with_suffix(f".{os.getpid()}.part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with open(part, "wb") as stored:
            np.savez(stored, about=np.array(json.dumps(about)), **{name: getattr(index, name) for name in _ARRAYS})
        os.replace(part, file)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink()
        raise DataError(f"{file.parent}: frame indices cannot be kept in this folder ({error.strerror})") from error


def _load(file: Path, path: str, mark: str) -> FrameIndex | None:
    """The cached index, or None where there is none, or it is damaged or of another file (then it is made anew)."""
    try:
        with np.load(file, allow_pickle=False) as stored:
            about = json.loads(stored["about"].item())
            arrays = {name: stored[name] for name in _ARRAYS}
        fractions = {name: Fraction(about[name]) for name in _FRACTIONS}
        plain = {name: about[name] for name in _PLAIN}
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        print(f"{file}: damaged frame index, making it anew ({error})", file=sys.stderr)
        return None
    if about.get("mark") != mark:
        print(f"{path}: the video changed since it was indexed; its index is made anew", file=sys.stderr)
        return None
    return FrameIndex(path=path, **plain, **fractions, **arrays)
