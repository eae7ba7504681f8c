"""Files as people have them: joined parts, edit lists, mirrored pictures, sound that begins before the pictures."""

import struct
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from tests.video.numbered_videos import make, picture

X264 = {"bf": 2, "g": 30, "rate": 30, "x264_params": "scenecut=0:keyint=30:min-keyint=30"}
IDENTITY = (1, 0, 0, 1)


def join(path: Path, *parts) -> str:
    """What `cat PARTS > PATH` gives."""
    path.write_bytes(b"".join(Path(part).read_bytes() for part in parts))
    return str(path)


def ts_part(path: Path, first: int, frames: int, start: float) -> str:
    """A transport stream at 30 frames a second whose decoding times begin near second `start`."""
    container = {"output_ts_offset": str(start), "muxdelay": "0"}
    return make(path, frames, first=first, format="mpegts", container=container, **X264)


def remux(source, path, change) -> str:
    """A copy of all packets; `change(number, packet)` may alter each."""
    with av.open(str(source)) as old, av.open(str(path), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for number, packet in enumerate(packet for packet in old.demux(video=0) if packet.size):
            change(number, packet)
            packet.stream = stream
            new.mux(packet)
    return str(path)


def box(data: bytes, *names: bytes) -> tuple[int, int]:
    """(start, end) of the content of an MP4 file's box inside other boxes."""
    start, end = 0, len(data)
    for name in names:
        while True:
            size, found = struct.unpack(">I4s", data[start : start + 8])
            if found == name:
                start, end = start + 8, start + size
                break
            start += size
    return start, end


def edit(source, path, pieces: Iterable[tuple[int, int]]) -> str:
    """A copy of an MP4 file whose edit list has these pieces: (milliseconds, first frame; -1: nothing is shown).

    The frames are 512 ticks apart and the first is shown at tick 1024, as libx264 with two B-frames makes them.
    """
    data = bytearray(Path(source).read_bytes())
    entries = [(length, -1 if frame < 0 else 1024 + 512 * frame, 1, 0) for length, frame in pieces]
    body = struct.pack(">II", 0, len(entries)) + b"".join(struct.pack(">Iihh", *entry) for entry in entries)
    start, end = box(data, b"moov", b"trak", b"edts", b"elst")
    holders = [box(data, *names)[0] for names in ((b"moov",), (b"moov", b"trak"), (b"moov", b"trak", b"edts"))]
    for place in (*holders, start):
        (size,) = struct.unpack(">I", data[place - 8 : place - 4])
        data[place - 8 : place - 4] = struct.pack(">I", size + len(body) - (end - start))
    data[start:end] = body
    Path(path).write_bytes(data)
    return str(path)


def turned(source, path, matrix: tuple[float, float, float, float]) -> str:
    """A copy of an MP4 file with a display matrix (a, b, c, d)."""
    data = bytearray(Path(source).read_bytes())
    place = box(data, b"moov", b"trak", b"tkhd")[0] + 40
    a, b, c, d = (round(x * 2**16) for x in matrix)
    data[place : place + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 2**30)
    Path(path).write_bytes(data)
    return str(path)


def with_sound(path: Path, late: float, *, frames=90, sound_from=0.0, format=None, container=None, **options) -> str:
    """Pictures 0, 1, ... at 30 a second from second `late` on, and silence of five seconds from `sound_from` on."""
    tick = Fraction(1, 30 if path.suffix == ".avi" else 30000)  # AVI has a chunk a tick
    with av.open(str(path), "w", format=format, options=container or {}) as output:
        stream = output.add_stream("libx264", rate=30, options={"g": "30", "bf": "2", **options})
        stream.width, stream.height, stream.pix_fmt = 160, 96, "yuv420p"
        stream.codec_context.time_base = tick
        sound = output.add_stream("mp2", rate=16000)
        for number in range(70):
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 1152), np.int16), format="s16", layout="mono")
            silence.sample_rate, silence.time_base = 16000, Fraction(1, 16000)
            silence.pts = round(16000 * sound_from) + 1152 * number
            output.mux(sound.encode(silence))
        output.mux(sound.encode(None))
        for number in range(frames):
            shown = av.VideoFrame.from_ndarray(picture(number, 160, 96), format="rgb24")
            shown.pts, shown.time_base = round((late + number / 30) / tick), tick
            output.mux(stream.encode(shown))
        output.mux(stream.encode(None))
    return str(path)
