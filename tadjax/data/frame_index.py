"""Which frames a video file has, and when each one is shown.

A frame is counted from 0 in display order. Container headers cannot be trusted to say how many there are or when they
are shown (Matroska stores no count, a truncated file keeps the header of the whole one, and MP4 decoding times may be
regular where presentation times are not), so the packets' presentation times are read once by demuxing the file
without decoding it: about 8 microseconds a packet and one pass over the file's bytes. The result is kept in memory for
the latest files and, where a cache directory is given, on disk for all processes.
"""

import contextlib
import hashlib
import io
import logging
import os
import zipfile
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property, lru_cache
from numbers import Rational
from pathlib import Path

import av
import numpy as np
from av.stream import Discard, Disposition

from tadjax.data.nal_units import intra_test
from tadjax.errors import DataError

# Only containers of video. FFmpeg would also open play lists, which name further files to open, and pictures.
CONTAINERS = "mov,matroska,avi,mpegts,mpeg,mpegvideo,flv,asf,ogg,h264,hevc,m4v,ivf,mxf,nut,rm,dv"
CACHE_VERSION = 2
# A title that is not UTF-8 must not keep a video out: PyAV 18 has to be told so, 19 reads any and knows no such word.
ANY_METADATA = {"metadata_errors": "ignore"} if int(av.__version__.split(".")[0]) < 19 else {}
DISTINCT = 0.9  # share of the frames with a time of their own, below which stored times mean nothing
_log = logging.getLogger(__name__)
_ARRAYS = ("pts", "key_pts", "key_seek")
_NUMBERS = ("stream", "width", "height", "rotation", "timed", "constant_rate")
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


@dataclass(frozen=True, eq=False)
class FrameIndex:
    """Presentation times of the frames of one video file, and the key frames where decoding can start.

    Second 0 is the presentation of frame 0, whatever offset the container carries; `start` is that offset, on browsers'
    clock.
    """

    path: str
    codec: str
    stream: int  # number of the stream in its container
    width: int  # as displayed
    height: int
    rotation: int
    time_base: Fraction  # seconds a tick of `pts`
    rate: Fraction  # frames a second; for variable frame rate the mean
    constant_rate: bool
    timed: bool  # False: times are not stored (AVI with B-frames; pts are then 0, 1, 2, ...), or some of them twice
    pts: np.ndarray  # int64 [frames], ascending: display order
    key_pts: np.ndarray  # int64 [key frames], ascending
    key_seek: np.ndarray  # int64 [key frames]: the time to seek to for each key frame (its decoding time if it has one)
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
        )

    @property
    def start(self) -> float:
        """Seconds on the container's clock at which frame 0 is presented: not 0 where a file was cut out of another."""
        return max(0.0, float(self.pts[0] * self.time_base))

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

    A file that has changed (size or modification time) is indexed anew. Raises DataError for a file that is missing,
    cannot be opened, is no video, or of which no frame can be decoded.
    """
    path = os.path.abspath(path)
    try:
        stat = os.stat(path)
    except OSError as error:
        raise DataError(f"{path}: the video cannot be read ({error.strerror})") from error
    if stat.st_size == 0:
        raise DataError(f"{path}: the video file is empty (0 bytes)")
    return _frame_index(path, stat.st_size, stat.st_mtime_ns, None if cache_dir is None else os.fspath(cache_dir))


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


def open_video(
    path: str, content: bytes | None = None
) -> tuple[av.container.InputContainer, av.video.stream.VideoStream]:
    """Opens a file (or its `content`) and picks the video stream that `ffmpeg` would. One decoding thread.

    Raises DataError where there is no video stream or no decoder for it. The caller closes the container.
    """
    try:
        options = {"format_whitelist": CONTAINERS, "protocol_whitelist": "file"}
        source = path if content is None else io.BytesIO(content)
        container = av.open(source, options=options, **ANY_METADATA)
    except (av.error.FFmpegError, OSError) as error:
        raise DataError(f"{path}: not a video file that FFmpeg can open ({error.strerror})") from error
    # Cover pictures of sound files are streams of video, too.
    streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic and s.codec_context]
    if not streams:
        container.close()
        raise DataError(f"{path}: the file has no video stream that can be decoded")
    stream = max(streams, key=_preference)
    for other in container.streams:
        if other.index != stream.index:
            other.discard = Discard.all
    # Threads inside a decoder cost more CPU than they save; the loader runs many processes instead.
    stream.codec_context.thread_count = 1
    return container, stream


def _preference(stream: av.video.stream.VideoStream) -> int:
    """The largest picture, but rather the stream marked as default: `ffmpeg`'s automatic stream selection."""
    return stream.width * stream.height + 5_000_000 * bool(stream.disposition & Disposition.default)


@lru_cache(maxsize=256)
def _frame_index(path: str, size: int, mtime_ns: int, cache_dir: str | None) -> FrameIndex:
    if cache_dir is None:
        return _demux(path)
    name = hashlib.sha256(f"{CACHE_VERSION} {path} {size} {mtime_ns}".encode()).hexdigest()[:40]
    file = Path(cache_dir) / f"{name}.npz"
    index = _load(file, path)
    if index is None:
        index = _demux(path)
        _save(file, index)
    return index


def _demux(path: str, content: bytes | None = None) -> FrameIndex:
    container, stream = open_video(path, content)
    with container:
        codec, number = stream.codec_context.name, stream.index  # of a closed container PyAV 19 tells neither
        pts, keys, first = _scan(path, container, stream)
        rotation = round(first.rotation / 90) * 90 % 360
        nominal = _fraction(stream.average_rate or stream.guessed_rate or Fraction(25))
        # AVI stores no presentation times: FFmpeg guesses them from the decoding order, wrongly where B-frames are.
        guessed = "avi" in container.format.name and stream.codec_context.has_b_frames
        stored = not (guessed or None in pts) and len(set(pts)) >= DISTINCT * len(pts)
        timed = stored and len(set(pts)) == len(pts)
        if stored:
            pts = np.sort(np.array(pts, np.int64))
            pts = pts[pts >= first.pts]  # what a cut stream starts with never decodes: its references are missing
            pts, parts = _apart(pts)
            time_base = _fraction(stream.time_base) / parts
            rate, constant_rate = _rate(pts, time_base, nominal)
        else:
            pts = np.arange(len(pts))
            time_base, rate, constant_rate = 1 / nominal, nominal, True
        keys = np.array(sorted(keys) if timed else [], np.int64).reshape(-1, 2)
    width, height = (first.width, first.height) if rotation % 180 == 0 else (first.height, first.width)
    arrays = (pts, *keys.T.copy())
    for array in arrays:
        array.setflags(write=False)  # all callers share the cached index
    return FrameIndex(
        path=path,
        codec=codec,
        stream=number,
        width=width,
        height=height,
        rotation=rotation,
        time_base=time_base,
        rate=rate,
        constant_rate=constant_rate,
        timed=timed,
        **dict(zip(_ARRAYS, arrays, strict=True)),
        content=content,
    )


def _fraction(number: Rational) -> Fraction:
    """A rate or clock as PyAV gives it: since 19 in a class of its own, which rounds to 32 bits and lacks methods."""
    return Fraction(number.numerator, number.denominator)


def _scan(
    path: str, container: av.container.InputContainer, stream: av.video.stream.VideoStream
) -> tuple[list[int | None], list[tuple[int, int]], av.VideoFrame]:
    """One pass over the packets, in decoding order.

    Returns the presentation times of all that are shown, (presentation time, time to seek to) of the key frames, and
    the first frame that decodes: the display matrix and the true picture size come with it. No other is decoded.
    """
    pts, keys, first = [], [], None
    is_intra = intra_test(stream.codec_context)
    vp8 = stream.codec_context.name == "vp8"
    try:
        for packet in container.demux(stream):
            if first is None:
                first = _try_decode(stream.codec_context, packet)
            if packet.size == 0:
                continue  # the end of the stream
            if packet.is_keyframe and packet.pts is not None and is_intra(packet):
                keys.append((packet.pts, packet.pts if packet.dts is None else min(packet.pts, packet.dts)))
            # Never shown: what an edit list cuts off, and VP8's alternative references (RFC 6386, section 9.1).
            if not (packet.is_discard or (vp8 and not memoryview(packet)[0] & 0x10)):
                pts.append(packet.pts)
    except av.error.FFmpegError as error:
        # The damaged rest of a file; what lies before it counts.
        _log.warning("%s: reading stops after %d frames (%s)", path, len(pts), error.strerror)
    if first is None:
        raise DataError(f"{path}: no frame of the video can be decoded")
    return pts, keys, first


def _try_decode(decoder: av.VideoCodecContext, packet: av.Packet) -> av.VideoFrame | None:
    try:
        frames = decoder.decode(packet)
    except av.error.FFmpegError:
        return None
    return frames[0] if frames else None


def _apart(pts: np.ndarray) -> tuple[np.ndarray, int]:
    """(rising times, in how many parts of a tick): frames stored with one time are spread up to the next time."""
    times, first, counts = np.unique(pts, return_index=True, return_counts=True)
    if len(times) == len(pts):
        return pts, 1
    after = times[-1] + np.median(np.diff(times)).astype(int)
    places = np.interp(np.arange(len(pts)), np.append(first, len(pts)), np.append(times, after))
    return np.round(places * counts.max()).astype(np.int64), int(counts.max())


def _rate(pts: np.ndarray, time_base: Fraction, nominal: Fraction) -> tuple[Fraction, bool]:
    """Frames a second, and whether that rate is constant: every frame within a tick (rounding) of a uniform grid."""
    n = len(pts)
    if n == 1:
        return nominal, True
    elapsed = int(pts[-1] - pts[0])
    for rate in (nominal, Fraction(n - 1, elapsed) / time_base):
        uniform = np.arange(n) * float(1 / (rate * time_base))
        if np.abs(pts - pts[0] - uniform).max() <= 1.001:
            return rate, True
    last = int(np.median(np.diff(pts)))  # how long the last frame stays is stored in no container
    return Fraction(n) / ((elapsed + last) * time_base), False


def _save(file: Path, index: FrameIndex) -> None:
    """Atomic, so that processes that index the same file at once never read half of it."""
    numbers = np.array([int(getattr(index, name)) for name in _NUMBERS], np.int64)
    fractions = np.array([getattr(index, name).as_integer_ratio() for name in _FRACTIONS], np.int64)
    arrays = {name: getattr(index, name) for name in _ARRAYS}
    part = file.with_suffix(f".{os.getpid()}.part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with open(part, "wb") as stored:
            np.savez(stored, codec=np.array(index.codec), numbers=numbers, fractions=fractions, **arrays)
        os.replace(part, file)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink()
        raise DataError(f"{file.parent}: frame indices cannot be kept in this folder ({error.strerror})") from error


def _load(file: Path, path: str) -> FrameIndex | None:
    """The cached index, or None where there is none or it is damaged (then it is made anew)."""
    try:
        with np.load(file, allow_pickle=False) as stored:
            numbers = dict(zip(_NUMBERS, stored["numbers"].tolist(), strict=True))
            fractions = {k: Fraction(*v) for k, v in zip(_FRACTIONS, stored["fractions"].tolist(), strict=True)}
            arrays = {name: stored[name] for name in _ARRAYS}
            codec = stored["codec"].item()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        _log.warning("%s: damaged frame index, making it anew (%s)", file, error)
        return None
    flags = {name: bool(numbers.pop(name)) for name in ("timed", "constant_rate")}
    return FrameIndex(path=path, codec=codec, **numbers, **flags, **fractions, **arrays)
