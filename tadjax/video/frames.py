"""Exact frames of a video file, decoding only what they need.

Frames are found by presentation time, never by counting from a seek: for every wanted frame decoding starts at the
last key frame shown before it, and stops when the packets of all wanted frames are in. Packets that no other frame
refers to (most B-frames of H.264) are dropped before the decoder unless they are wanted, and libswscale
touches wanted frames only: every fourth frame of 1280x720 costs about a quarter of what decord takes.

A file whose container stores no presentation times (AVI with B-frames, elementary streams), some of them twice, or
mixed up, is decoded from its start. In a file that is made of parts, packets' times are moved as the frame index says.
What random access gives is bit for bit what decoding everything gives, also where the decoder notices damage; damage
that it does not notice (seen with H.265, VP8, MJPEG, and lost packets of H.264) may show differently from one window to
another.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter

from tadjax.errors import DataError
from tadjax.video.demux import demuxed, open_video
from tadjax.video.frame_index import FrameIndex, VideoInfo, frame_index, probe, times
from tadjax.video.nal_units import Fields, disposable_test

__all__ = [
    "FrameIndex",
    "Frames",
    "VideoInfo",
    "collect_frames",
    "decode_range",
    "displayed_size",
    "draw_frames",
    "frame_index",
    "probe",
    "read_frames",
    "times",
]


@dataclass(frozen=True)
class Frames:
    """What `read_frames` returns."""

    frames: np.ndarray  # uint8 RGB [n, height, width, 3]
    substituted: int  # how many of the n stand in for frames that cannot be decoded


def read_frames(
    path: str | os.PathLike,
    indices: np.ndarray | list[int],
    *,
    short_side: int | None = None,
    center_crop: int | None = None,
    max_missing: float = 0.05,
    out: np.ndarray | None = None,
    cache_dir: str | os.PathLike | None = None,
) -> Frames:
    """Frames of a video by index, counted from 0 in display order.

    `indices` [n] may repeat and need not be sorted. Pictures are turned upright as the file's metadata says, scaled by
    libswscale (bilinear) so that the shorter side has `short_side` pixels, and cut to `center_crop` x `center_crop`.
    Pixels count as square whatever the file says, as in the published pipelines. `out` [n, H, W, 3] uint8 is written in
    its top left corner and returned whole; the rest is left as it is.

    A frame that is missing (damaged, or beyond the end of a truncated file) is replaced by the nearest earlier one of
    `indices`, by the nearest later one where there is none; if more than `max_missing` (a share) of the different
    frames are missing, or all, DataError names file and frame. Other errors as in `frame_index`.
    """
    index = frame_index(path, cache_dir)

    def draw(frames: np.ndarray, pictures: Sequence[np.ndarray]) -> Iterator[int]:
        return draw_frames(index, frames, pictures, short_side)

    return collect_frames(
        index.path, index.info, indices, draw, short_side, center_crop=center_crop, max_missing=max_missing, out=out
    )


def collect_frames(
    name: str,
    info: VideoInfo,
    indices: np.ndarray | list[int],
    draw: Callable[[np.ndarray, Sequence[np.ndarray]], Iterator[int]],
    short_side: int | None = None,
    *,
    center_crop: int | None = None,
    max_missing: float = 0.05,
    out: np.ndarray | None = None,
) -> Frames:
    """`read_frames` of any source of frames, called `name` in messages.

    `draw(frames [u] ascending, pictures)` writes what can be decoded of the frames into their pictures [h, w, 3], and
    yields the position in `frames` of each.
    """
    indices = np.asarray(indices)
    if indices.ndim != 1 or not len(indices) or not np.issubdtype(indices.dtype, np.integer) or indices.min() < 0:
        raise ValueError(f"frame indices must be a list of integers from 0 on, got {indices!r}")
    height, width = displayed_size(info, short_side, center_crop)
    if out is None:
        out = np.empty((len(indices), height, width, 3), np.uint8)
    elif len(out) != len(indices) or out.shape[1] < height or out.shape[2] < width:
        raise ValueError(f"{name}: {len(indices)} frames of {height}x{width} do not fit into {out.shape}")

    wanted, row, inverse = np.unique(indices, return_index=True, return_inverse=True)  # [u], [u], [n]
    inside = np.searchsorted(wanted, info.frames)  # what lies beyond the end is missing
    decoded = np.zeros(len(wanted), bool)
    if inside:
        for u in draw(wanted[:inside], [out[r, :height, :width] for r in row[:inside]]):
            decoded[u] = True

    missing = int(np.count_nonzero(~decoded))
    if missing > max_missing * len(wanted) or not decoded.any():
        raise DataError(
            f"{name}: frame {wanted[np.argmin(decoded)]} cannot be decoded; {missing} of {len(wanted)} "
            f"wanted frames are missing, at most {max_missing:.0%} may be (the file holds {info.frames} frames)"
        )
    # Nearest earlier decoded frame, else the first decoded one.
    source = np.maximum.accumulate(np.where(decoded, np.arange(len(wanted)), np.argmax(decoded)))
    source = row[source[inverse]]  # [n] rows of `out`
    for target in np.flatnonzero(source != np.arange(len(indices))):
        out[target, :height, :width] = out[source[target], :height, :width]
    return Frames(out, int(np.count_nonzero(~decoded[inverse])))


def draw_frames(
    index: FrameIndex, frames: np.ndarray, pictures: Sequence[np.ndarray], short_side: int | None = None
) -> Iterator[int]:
    """Decodes `frames` (int64 [u], ascending) of a file, scales and crops them into their pictures (uint8 [h, w, 3]).

    Yields the position in `frames` of each that could be decoded; the same may come twice, and is right the last time.
    """
    position = {int(index.stamps[frame]): u for u, frame in enumerate(frames)}
    draw = _drawer(index, short_side, *pictures[0].shape[:2])
    for pts, frame in _decode(index, np.array(list(position), np.int64)):
        draw(frame, pictures[position[pts]])
        yield position[pts]


def decode_range(index: FrameIndex, first: int, last: int) -> Iterator[tuple[int, av.VideoFrame]]:
    """(number, picture as stored) of the frames `first` to `last` that decode, in order: one pass over that part."""
    numbers = {int(index.stamps[number]): number for number in range(first, last + 1)}
    key = int(np.searchsorted(index.key_pts, index.pts[first], side="right")) - 1 if first else -1
    with _Reader(index, careful=True) as reader:
        for time, frame in reader.decode(key, set(numbers)):
            yield numbers[time], frame


def displayed_size(info: VideoInfo, short_side: int | None = None, center_crop: int | None = None) -> tuple[int, int]:
    """(height, width) of the pictures that `read_frames` makes of a video."""
    height, width = _scaled(info.height, info.width, short_side)
    if center_crop is None:
        return height, width
    if center_crop > min(height, width):
        raise ValueError(f"cannot cut {center_crop}x{center_crop} out of frames of {height}x{width} pixels")
    return center_crop, center_crop


def _scaled(height: int, width: int, short_side: int | None) -> tuple[int, int]:
    """The shorter side becomes `short_side`, the other one keeps the shape, rounded half up."""
    if short_side is None:
        return height, width
    scale = short_side / min(height, width)
    return int(height * scale + 0.5), int(width * scale + 0.5)


def _drawer(
    index: FrameIndex, short_side: int | None, height: int, width: int
) -> Callable[[av.VideoFrame, np.ndarray], None]:
    """A function that scales a decoded frame, turns it upright, crops it and writes it into a picture's corner."""
    reformatter = VideoReformatter()  # keeps libswscale's tables from frame to frame
    upright = _scaled(index.height, index.width, short_side)
    stored_height, stored_width = upright if index.rotation % 180 == 0 else upright[::-1]
    top, left = (upright[0] - height) // 2, (upright[1] - width) // 2

    def draw(frame: av.VideoFrame, picture: np.ndarray) -> None:
        scaled = reformatter.reformat(
            frame, stored_width, stored_height, "rgb24", interpolation=Interpolation.BILINEAR, threads=1
        )
        plane = scaled.planes[0]  # its lines are padded
        shape, strides = (stored_height, stored_width, 3), (plane.line_size, 3, 1)
        pixels = index.upright(np.ndarray(shape, np.uint8, buffer=plane, strides=strides))
        picture[:height, :width] = pixels[top : top + height, left : left + width]

    return draw


def _decode(index: FrameIndex, pts: np.ndarray) -> Iterator[tuple[int, av.VideoFrame]]:
    """(presentation time, frame) for the presentation times `pts` (int64, ascending), as far as they decode.

    The same time may come twice: the later frame is the right one.
    """
    keys = np.searchsorted(index.key_pts, pts, side="right") - 1  # -1: no key frame is known before it
    with _Reader(index) as reader:
        for key in np.unique(keys).tolist():
            wanted, found = set(pts[keys == key].tolist()), set()
            for time, frame in reader.decode(key, wanted):
                found.add(time)
                yield time, frame
            if reader.damaged or found != wanted:
                yield from _decode_damaged(index, key, wanted)


def _decode_damaged(index: FrameIndex, key: int, wanted: set[int]) -> Iterator[tuple[int, av.VideoFrame]]:
    """As `_Reader.decode`, where something is damaged.

    What a decoder makes up in place of damaged parts depends on all that it has seen, and a frame must not depend on
    which others were asked for: so a new decoder gets every packet from the key frame on. If frames are missing then,
    because the key frame itself is damaged, from the key frame before.
    """
    missing = set(wanted)
    for start in (key, key - 1) if key > 0 else (key,):
        with _Reader(index, careful=True) as reader:
            for time, frame in reader.decode(start, missing):
                missing.discard(time)
                yield time, frame
        if not missing:
            break


class _Reader:
    """An open video file and its decoder; a context manager.

    The careful one leaves nothing out and goes on after errors; the other one stops there and says so.
    """

    def __init__(self, index: FrameIndex, careful: bool = False) -> None:
        self._index = index
        self._careful = careful
        self.damaged = False  # whether the last `decode` met damage, so that what it gave is in doubt
        self._open()

    def __enter__(self) -> "_Reader":
        return self

    def __exit__(self, *exception: object) -> None:
        self._container.close()

    def _open(self) -> None:
        self._container, self._stream = open_video(self._index.path, self._index.content)
        self._decoder = self._stream.codec_context
        self._is_disposable, self._fields = disposable_test(self._decoder), Fields(self._decoder)
        self._packets = self._demux()
        self._key = -1  # number of the key frame that the last packet is; -1: it is none
        self._passed: int | None = -1  # number of the last key frame that was demuxed; None: not known
        self._shift = 0  # of the times of this part of the file
        self._at_start = True

    def _reopen(self) -> None:
        self._container.close()
        self._open()

    def decode(self, key: int, wanted: set[int]) -> Iterator[tuple[int, av.VideoFrame]]:
        """(presentation time, frame) of the `wanted` times, decoding from key frame number `key` (-1: file start)."""
        wanted = frozenset(wanted)
        for number, frame in enumerate(self._frames(self._needed(key, wanted))):
            time = frame.pts if self._index.timed else number
            if time in wanted:
                yield time, frame
            if not self._index.timed and number >= max(wanted):
                return

    def _frames(self, packets: Iterator[av.Packet | None]) -> Iterator[av.VideoFrame]:
        """What comes out of an empty decoder, in display order."""
        self.damaged = False
        if self._decoder.is_open:
            self._decoder.flush_buffers()
        for packet in packets:
            try:
                frames = self._decoder.decode(packet)
            except av.error.FFmpegError:
                frames = []
                self.damaged = True
            for frame in frames:
                self.damaged |= frame.is_corrupt
                yield frame
            if self.damaged and not self._careful:
                return

    def _needed(self, key: int, wanted: frozenset[int]) -> Iterator[av.Packet | None]:
        """The packets to decode for the `wanted` times, then None: the decoder gives out what it holds back."""
        unsent, may_drop, sent = set(wanted), self._index.timed and not self._careful, True
        self._fields.open = None
        for packet in self._packets_from(key):
            if not self._fields.is_second(packet):  # which goes with the first
                sent = True
                if packet.pts in unsent and not packet.is_discard:
                    unsent.remove(packet.pts)
                elif may_drop and self._is_disposable(packet):
                    sent = False
            if sent:
                yield packet
            if self._index.timed and not unsent and self._fields.open is None:
                break
        yield None

    def _packets_from(self, key: int) -> Iterator[av.Packet]:
        if key < 0 and not self._at_start:
            self._reopen()
        if key >= 0:
            if self._passed is None or key != self._passed + 1:
                self._seek(int(self._index.key_seek[key]))
            packet = self._skip_to(key)
            if packet is None:  # the seek went too far: containers differ in what their indices mean
                self._reopen()
                packet = self._skip_to(key)
            if packet is None:
                return
            yield packet
        # Not `yield from`: who stops early would close the packets of the next key frame, too.
        for packet in self._packets:
            yield packet

    def _seek(self, place: int) -> None:
        try:
            if self._index.seek_bytes:
                self._container.seek(place, unsupported_byte_offset=True)
            else:
                self._container.seek(place, stream=self._stream)
        except av.error.FFmpegError:
            self._reopen()
        else:
            self._packets, self._passed = self._demux(), None

    def _skip_to(self, key: int) -> av.Packet | None:
        """The packet of a key frame, or None where a later one or the end comes first."""
        for packet in self._packets:
            # After a seek into the midst of a packet FFmpeg guesses wrong times for it (MPEG program streams): what has
            # the time of no key frame is passed over.
            if self._key >= key:
                return packet if self._key == key else None
        return None

    def _demux(self) -> Iterator[av.Packet]:
        """The packets from here on, their times moved as the index says."""
        try:
            for packet in demuxed(self._container, self._stream):
                self._at_start = False
                if packet.size == 0:
                    continue  # the end of the stream
                self._key = -1
                if self._index.timed and packet.is_keyframe and packet.pts is not None:
                    self._note_key(packet)
                if self._shift and packet.pts is not None:
                    packet.pts += self._shift
                yield packet
        except av.error.FFmpegError:
            return  # the damaged rest of a file, which the frame index does not count either

    def _note_key(self, packet: av.Packet) -> None:
        index = self._index
        place = packet.pts, (packet.pos or 0) if index.in_parts else 0
        if packet.is_discard:
            self._shift = index.join_shifts.get(place, self._shift)
            return
        # Places that several share are told apart by what came before.
        follows = index.key_places[self._passed + 1 : self._passed + 2] if self._passed is not None else []
        number = self._passed + 1 if follows == [place] else index.key_numbers.get(place)
        if number is not None:
            self._key = self._passed = number
            self._shift = int(index.key_shift[number])
