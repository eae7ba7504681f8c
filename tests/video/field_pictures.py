"""H.264 as camcorders write it (AVCHD): the two fields of an interlaced picture coded one after the other.

No encoder of FFmpeg does that, so the bits are written here, after ITU-T H.264 sections 7.3.1 to 7.3.5: macroblocks are
stored as they are (I_PCM); the second field of a picture at which decoding can start repeats the first one (P_Skip).
"""

from fractions import Fraction
from pathlib import Path

import av

from tests.video.numbered_videos import picture

WIDTH, HEIGHT = 160, 96  # macroblocks of 16 in each field: heights are multiples of 32
MACROBLOCKS = WIDTH // 16 * (HEIGHT // 32)
FRAME, HALF = 3600, 1800  # ticks of 1/90000 s: 25 frames a second


class Bits:
    def __init__(self) -> None:
        self._bits = ""

    def u(self, count: int, *values: int) -> "Bits":
        self._bits += "".join(f"{value:0{count}b}" for value in values)
        return self

    def ue(self, *values: int) -> "Bits":
        for value in values:
            self.u(2 * (value + 1).bit_length() - 1, value + 1)
        return self

    def data(self, stop: bool = True) -> bytes:
        """The bytes, filled up with zeros; after a 1 where the unit ends here."""
        bits = self._bits + "1" * stop
        bits += "0" * (-len(bits) % 8)
        return bytes(int(bits[place : place + 8], 2) for place in range(0, len(bits), 8))


def unit(head: int, content: bytes) -> bytes:
    """A NAL unit after its start code, without start codes inside."""
    kept, zeros = bytearray(), 0
    for byte in content:
        if zeros >= 2 and byte <= 3:
            kept.append(3)
            zeros = 0
        kept.append(byte)
        zeros = zeros + 1 if byte == 0 else 0
    return b"\0\0\0\1" + bytes([head]) + bytes(kept)


def headers(high: bool) -> bytes:
    """Sequence and picture parameters; high: of that profile, with a scaling list."""
    bits = Bits().u(8, 100 if high else 77, 0, 30).ue(0)
    if high:
        bits.ue(1, 0, 0).u(1, 0, 1, 1).ue(*[0] * 16).u(1, *[0] * 7)  # 4:2:0; the first list, sixteen deltas of 0
    bits.ue(0, 0, 4, 1).u(1, 0).ue(WIDTH // 16 - 1, HEIGHT // 32 - 1)  # 4 bits of frame_num, 8 of order, 1 reference
    bits.u(1, 0, 0, 1, 0, 1).u(1, 0, 0, 0, 0, 1).u(32, 1, 50).u(1, 1, 0, 0, 0, 1, 1).ue(0, 0, 10, 10, 0, 1)
    parameters = Bits().ue(0, 0).u(1, 0, 0).ue(0, 0, 0).u(1, 0).u(2, 0).ue(0, 0, 0).u(1, 1, 0, 0)
    return unit(0x67, bits.data()) + unit(0x68, parameters.data())


def fields(number: int, place: int, group: int) -> list[bytes]:
    """The two fields of a picture, the `place`-th of its group."""
    shown = av.VideoFrame.from_ndarray(picture(number, WIDTH, HEIGHT), format="rgb24").reformat(format="yuv420p")
    planes = shown.to_ndarray()
    luma, colours = planes[:HEIGHT], planes[HEIGHT:].reshape(2, HEIGHT // 2, WIDTH // 2)
    found = []
    for bottom in (0, 1):
        first, skipped = place == 0 and not bottom, place == 0 and bottom
        bits = Bits().ue(0, 5 if skipped else 7, 0).u(4, place % 16).u(1, 1, bottom)
        if first:
            bits.ue(group % 2)
        bits.u(8, 2 * place + bottom)
        if skipped:
            bits.u(1, 0, 0)
        bits.u(*(2, 0) if first else (1, 0)).ue(0, 1)
        if skipped:
            found.append(unit(0x61, bits.ue(MACROBLOCKS).data()))
            continue
        content = b""
        for row in range(HEIGHT // 32):
            for column in range(WIDTH // 16):
                content += bits.ue(25).data(stop=False)
                bits = Bits()
                for plane, size in ((luma, 16), *((colour, 8) for colour in colours)):
                    block = plane[bottom::2][size * row : size * (row + 1), size * column : size * (column + 1)]
                    content += block.tobytes()
        found.append(unit(0x65 if first else 0x61, content + b"\x80"))
    return found


def camcorder(path: Path, frames: int, *, format=None, together=True, group=10, high=False) -> str:
    """A file of `frames` pictures at 25 a second. together: both fields are given to the container as one packet."""
    pictures = []
    for number in range(frames):
        begin = headers(high) if number % group == 0 else b""
        top, bottom = fields(number, number % group, number // group)
        access = unit(9, b"\x10")
        pictures.append((access + begin + top, access + bottom))
    stream_file = path.with_name(path.name + ".h264")
    stream_file.write_bytes(b"".join(top + bottom for top, bottom in pictures))
    if format == "h264":
        stream_file.replace(path)
        return str(path)
    tick = Fraction(1, 90000)
    with av.open(str(stream_file)) as old, av.open(str(path), "w", format=format) as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        stream.time_base = tick
        for number, (top, bottom) in enumerate(pictures):
            for second, data in enumerate([top + bottom] if together else [top, bottom]):
                packet = av.Packet(data)
                packet.stream, packet.time_base = stream, tick
                packet.pts = packet.dts = FRAME * number + HALF * second
                packet.is_keyframe = number % group == 0 and not second
                new.mux(packet)
    stream_file.unlink()
    return str(path)
