"""One pass over the packets of a video file: all that its frame index (frame_index.py) is made of."""

import contextlib
import io
import itertools
import logging
import math
from collections.abc import Iterator
from fractions import Fraction
from numbers import Rational
from typing import Any, NamedTuple

import av
import numpy as np
from av.format import Flags
from av.sidedata.sidedata import Type as SideData
from av.stream import Discard, Disposition

from tadjax.errors import DataError
from tadjax.video.frame_times import apart, following, frame_rate, jumps_within, mixed_up, shifts
from tadjax.video.joined import JOIN, second_beginning
from tadjax.video.nal_units import Fields, intra_test

# Only containers of video. FFmpeg would also open play lists, which name further files to open, and pictures.
CONTAINERS = "mov,matroska,avi,mpegts,mpeg,mpegvideo,flv,asf,ogg,h264,hevc,m4v,ivf,mxf,nut,rm,dv"
# A title that is not UTF-8 must not keep a video out: PyAV 18 has to be told so, 19 reads any and knows no such word.
ANY_METADATA = {"metadata_errors": "ignore"} if int(av.__version__.split(".")[0]) < 19 else {}
OWN_ZERO = ("mov", "matroska")  # whose clocks begin at 0; elsewhere players count from the start of the first stream
DISTINCT = 0.9  # share of the frames with a time of their own, below which stored times mean nothing
UNDECODED = 0.05  # share of the packets that may be one part which does not decode
TRIAL = 64  # packets that are decoded to see whether their times rise in the order of display
# (a, b, c, d) of a display matrix, which moves (x, y) to (a x + c y, b x + d y), y downwards; (degrees, mirrored) each.
ORIENTATIONS = {
    (1, 0, 0, 1): (0, False),
    (0, -1, 1, 0): (90, False),
    (-1, 0, 0, -1): (180, False),
    (0, 1, -1, 0): (270, False),
    (-1, 0, 0, 1): (0, True),
    (0, 1, 1, 0): (90, True),
    (1, 0, 0, -1): (180, True),
    (0, -1, -1, 0): (270, True),
}
_log = logging.getLogger(__name__)


class Key(NamedTuple):
    """A packet at which decoding can start."""

    pts: int
    seek: int  # the earlier of its two times
    place: int  # in the file
    packet: int  # how many shown packets came before it
    shown: bool  # not one that an edit list leaves out


class Packets(NamedTuple):
    """Of a stream, in the order of the file."""

    pts: list[int | None]  # of all that are shown
    dts: list[int | None]
    keys: list[Key]
    first: av.VideoFrame  # that decodes: the display matrix and the true picture size come with it


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


def demuxed(container: av.container.InputContainer, stream: av.video.stream.VideoStream) -> Iterator[av.Packet]:
    """The packets of a stream, with an empty one at the end.

    PyAV then looks for streams that only appeared while it read, as the sound of a later part, and does not find them.
    """
    with contextlib.suppress(IndexError):
        yield from container.demux(stream)


def _preference(stream: av.video.stream.VideoStream) -> int:
    """The largest picture, but rather the stream marked as default: `ffmpeg`'s automatic stream selection."""
    return stream.width * stream.height + 5_000_000 * bool(stream.disposition & Disposition.default)


def examine(path: str, content: bytes | None = None) -> dict[str, Any]:
    """The fields of a FrameIndex but for `path` and `content`. Raises DataError for what holds no decodable video."""
    container, stream = open_video(path, content)
    with container:
        packets = _scan(path, container, stream)
        jumps = bool(container.format.flags & Flags.ts_discont.value)
        is_avi = "avi" in container.format.name
        # AVI stores no presentation times: FFmpeg guesses them from the decoding order, wrongly where B-frames are.
        if None in packets.pts or (is_avi and stream.codec_context.has_b_frames):
            times = _counted(packets, stream, is_avi)
        else:
            times = _times(path, content, packets, stream, jumps)
        if second_beginning(path, content, container, not times["timed"] or bool(np.any(times["key_shift"]))):
            raise DataError(
                f"{path}: another file begins inside this one, as after cat, and players show the first alone; {JOIN}"
            )
        start = float(int(times["pts"][0]) * times["time_base"])
        if None in packets.pts and packets.first.pts is not None:  # counted: program streams give few packets a time
            start = float(packets.first.pts * _fraction(stream.time_base))
        if is_avi and len(packets.dts) > 1:  # FFmpeg takes what comes first to be decoded at 0 and shown after a delay
            start = float(((packets.dts[1] or 1) - 1) * _fraction(stream.time_base))
        own_zero = container.format.name.startswith(OWN_ZERO)
        origin = 0.0 if own_zero else (container.start_time or 0) / av.time_base
        rotation, mirrored = _orientation(packets.first)
        width, height = (packets.first.width, packets.first.height)[:: -1 if rotation % 180 else 1]
        return {
            "codec": stream.codec_context.name,
            "stream": stream.index,
            "width": width,
            "height": height,
            "rotation": rotation,
            "mirrored": mirrored,
            "start": max(0.0, round(start - origin, 5)),
            **times,
        }


def _scan(path: str, container: av.container.InputContainer, stream: av.video.stream.VideoStream) -> Packets:
    """All packets. What decodes first of the file, and of each part after a step back of the clock, is decoded."""
    pts, dts, keys, first = [], [], [], None
    highest, opening = None, 0  # opening: the number of the packet that begins a part of which none was decoded yet
    is_intra, fields = intra_test(stream.codec_context), Fields(stream.codec_context)
    vp8 = stream.codec_context.name == "vp8"
    try:
        for packet in demuxed(container, stream):
            # Never shown: what an edit list cuts off, and alternative references of VP8 (RFC 6386, 9.1). A second
            # field is shown with the first.
            second = packet.size and fields.is_second(packet)
            shown = packet.size and not (packet.is_discard or second or (vp8 and not memoryview(packet)[0] & 0x10))
            timed = packet.size and packet.is_keyframe and packet.pts is not None
            is_key = timed and not second and is_intra(packet)
            if is_key and shown and highest is not None and packet.pts < highest:
                if first is None:  # what came before never decodes
                    pts, dts, keys = [], [], []
                _check_part(path, opening, len(pts))
                stream.codec_context.flush_buffers()
                highest, opening = None, len(pts)
            if opening is not None:
                found = _try_decode(stream.codec_context, packet)
                opening, first = (opening, first) if found is None else (None, first or found)
            if is_key:
                seek = packet.pts if packet.dts is None else min(packet.pts, packet.dts)
                keys.append(Key(packet.pts, seek, packet.pos or 0, len(pts), bool(shown)))
            if shown:
                pts.append(packet.pts)
                dts.append(packet.dts)
                if packet.pts is not None and (highest is None or packet.pts > highest):
                    highest = packet.pts
    except av.error.FFmpegError as error:
        # The damaged rest of a file; what lies before it counts.
        _log.warning("%s: reading stops after %d frames (%s)", path, len(pts), error.strerror)
    if first is None:
        raise DataError(f"{path}: no frame of the video can be decoded")
    _check_part(path, opening, len(pts))
    return Packets(pts, dts, keys, first)


def _check_part(path: str, opening: int | None, packets: int) -> None:
    """Raises DataError where a part ends of which nothing decodes."""
    if opening:
        _check_decoded(path, packets - opening, packets)


def _check_decoded(path: str, failed: int, packets: int) -> None:
    if failed > UNDECODED * packets:
        raise DataError(
            f"{path}: {failed} of {packets} frames cannot be decoded, where times start again, as in MP4 files put "
            f"together with cat; {JOIN}"
        )


def _try_decode(decoder: av.VideoCodecContext, packet: av.Packet) -> av.VideoFrame | None:
    try:
        frames = decoder.decode(packet)
    except av.error.FFmpegError:
        return None
    return frames[0] if frames else None


def _times(
    path: str, content: bytes | None, packets: Packets, stream: av.video.stream.VideoStream, jumps: bool
) -> dict[str, Any]:
    """The fields of times and key frames. jumps: whether clocks may jump in files of this kind."""
    nominal, second = _nominal(stream), float(1 / _fraction(stream.time_base))
    stored = np.array(packets.pts, np.int64)
    places = np.array([key.packet for key in packets.keys], np.int64)
    groups = np.searchsorted(places, np.arange(len(stored)), side="right")
    moved = shifts(stored, groups, second, jumps)
    pts = stored + moved
    distinct = len(np.unique(pts))
    if (
        distinct < DISTINCT * len(pts)
        or mixed_up(pts)
        or (jumps and jumps_within(pts, second))
        or _out_of_order(path, content, packets, stream)
    ):
        shown, failed = _decoded(path, content)
        _check_decoded(path, failed, len(pts))
        _log.warning(
            "%s: its times do not follow the order of its pictures; it is decoded from its start for each window, "
            "which is slow: write it anew (python -m tadjax.prepare ... --reencode FOLDER)",
            path,
        )
        pts = following(shown, second, jumps)
        rate, constant_rate = frame_rate(pts, _fraction(stream.time_base), nominal)
        return _fields(pts, _fraction(stream.time_base), rate, constant_rate, timed=False)
    timed = distinct == len(pts)
    pts, parts = apart(np.sort(pts))
    if packets.first.pts is not None:  # what a cut stream starts with never decodes: its references are missing
        pts = pts[pts >= packets.first.pts * parts]
    time_base = _fraction(stream.time_base) / parts
    rate, constant_rate = frame_rate(pts, time_base, nominal)
    seeks = jumps and bool(moved.any())
    keys = _keys(packets.keys, moved, seeks) if timed else None
    return _fields(pts, time_base, rate, constant_rate, timed, seeks, keys)


def _keys(keys: list[Key], moved: np.ndarray, seek_bytes: bool) -> dict[str, np.ndarray]:
    """The arrays of key frames; moved: what is added to the times of the shown packets, int64 [packets]."""
    in_parts = bool(moved.any())
    found, joins, latest = [], [], 0
    for key, after in zip(keys, [*(key.packet for key in keys[1:]), len(moved)], strict=False):
        if key.packet == after:
            continue  # nothing of its group is shown
        shift = int(moved[key.packet])
        if key.shown:
            place = key.place if in_parts else 0
            found.append((key.pts + shift, key.place if seek_bytes else key.seek, place, shift))
        elif shift != latest:
            joins.append((key.pts, key.place, shift))
        latest = shift
    columns = np.array(sorted(found), np.int64).reshape(-1, 4).T.copy()
    if seek_bytes:  # a packet that does not begin a packet of its container has no place: from the last that has one
        columns[1] = np.maximum.accumulate(columns[1])
    names = ("key_pts", "key_seek", "key_pos", "key_shift")
    return dict(zip(names, columns, strict=True)) | {"joins": np.array(joins, np.int64).reshape(-1, 3)}


def _fields(
    pts: np.ndarray,
    time_base: Fraction,
    rate: Fraction,
    constant_rate: bool,
    timed: bool,
    seek_bytes: bool = False,
    keys: dict[str, np.ndarray] | None = None,
) -> dict[str, Any]:
    return {
        "time_base": time_base,
        "rate": rate,
        "constant_rate": constant_rate,
        "timed": timed,
        "seek_bytes": seek_bytes,
        "pts": pts,
        **(keys or _keys([], np.zeros(0, np.int64), False)),
    }


def _counted(packets: Packets, stream: av.video.stream.VideoStream, is_avi: bool) -> dict[str, Any]:
    """The fields of a file that stores no times of presentation: its frames lie evenly, but for what AVI leaves out."""
    nominal, frames = _nominal(stream), len(packets.pts)
    if is_avi and frames > 1 and None not in packets.dts:
        places = np.array([packets.dts[1] - 1, *packets.dts[1:]], np.int64)
        if np.all(np.diff(places) > 0) and np.any(np.diff(places) > 1):
            rate, constant_rate = frame_rate(places, _fraction(stream.time_base), nominal)
            return _fields(places, _fraction(stream.time_base), rate, constant_rate, timed=False)
    return _fields(np.arange(frames), 1 / nominal, nominal, True, timed=False)


def _fraction(number: Rational) -> Fraction:
    """A rate or clock as PyAV gives it: since 19 in a class of its own, which rounds to 32 bits and lacks methods."""
    return Fraction(number.numerator, number.denominator)


def _nominal(stream: av.video.stream.VideoStream) -> Fraction:
    return _fraction(stream.average_rate or stream.guessed_rate or Fraction(25))


def _out_of_order(path: str, content: bytes | None, packets: Packets, stream: av.video.stream.VideoStream) -> bool:
    """Whether times rise with the packets though frames are reordered: some programs write decoding times alone."""
    if not stream.codec_context.has_b_frames or np.any(np.diff(packets.pts[:TRIAL]) < 0):
        return False
    times = [time for time in _decoded(path, content, TRIAL)[0] if time is not None]
    return bool(np.any(np.diff(times) < 0))


def _decoded(path: str, content: bytes | None, packets: int | None = None) -> tuple[list[int | None], int]:
    """The times of all frames in the order in which they are decoded, and how many packets fail; of the first `packets`
    where that is given."""
    container, stream = open_video(path, content)
    times, failed = [], 0
    with container:
        try:
            for packet in itertools.islice(demuxed(container, stream), packets):
                try:
                    times += [frame.pts for frame in stream.codec_context.decode(packet)]
                except av.error.FFmpegError:
                    failed += 1
        except av.error.FFmpegError:
            pass  # the damaged rest of a file
    return times, failed


def _orientation(frame: av.VideoFrame) -> tuple[int, bool]:
    """(degrees counter-clockwise, whether mirrored before) that make a picture upright: the nearest of all eight."""
    data = frame.side_data.get(SideData.DISPLAYMATRIX)
    if data is None:
        return 0, False
    a, b, _, c, d, *_ = np.frombuffer(bytes(data), np.int32).astype(float)
    wide, high = math.hypot(a, c) or 1.0, math.hypot(b, d) or 1.0
    found = (a / wide, b / high, c / wide, d / high)
    fits = {turn: sum(x * y for x, y in zip(found, matrix, strict=True)) for matrix, turn in ORIENTATIONS.items()}
    return max(fits, key=lambda turn: round(fits[turn], 3))
