"""What an H.264 packet is to the packets around it, read off its first bytes without decoding it.

ITU-T H.264 sections 7.3.1, 7.3.2.1, 7.3.3 and 7.4.1 (NAL unit, sequence and slice headers, nal_ref_idc); ISO/IEC
14496-15 (avcC: how the NAL units of a packet are told apart).
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import av

Test = Callable[[av.Packet], bool]
WITH_FORMAT = (100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135)  # profiles that say their chroma format


def disposable_test(decoder: av.VideoCodecContext) -> Test:
    """A test whether a packet's picture is one that no other refers to; never, for codecs other than H.264."""
    if decoder.name != "h264":
        return lambda packet: False
    length_size = _length_size(decoder)
    return lambda packet: {unit[0] & 0x60 for unit in _slices(packet, length_size)} == {0}


def intra_test(decoder: av.VideoCodecContext) -> Test:
    """A test whether decoding can start at a packet that its container calls a key frame: always, but for H.264.

    There some mark where a gradual refresh begins, which mends pictures over many frames and not exactly. Of a picture
    in two fields the second may refer to the first.
    """
    if decoder.name != "h264":
        return lambda packet: True
    length_size, coding = _length_size(decoder), _field_coding(decoder)

    def test(packet: av.Packet) -> bool:
        headers = [_slice_header(unit, coding) for unit in _slices(packet, length_size)]
        return all(header.kind in (2, 4, 7, 9) for header in headers if header.field == headers[0].field)

    return test


class Fields:
    """Which packets are the second fields of pictures that the packet before began.

    Camcorders code the two fields of an interlaced picture one after the other (AVCHD), and containers may give each a
    packet; a decoder makes one frame of both, with the time of the first.
    """

    def __init__(self, decoder: av.VideoCodecContext) -> None:
        self._length_size = _length_size(decoder)
        self._coding = _field_coding(decoder) if decoder.name == "h264" else None
        self.open: Field | None = None  # the last packet's, where the other one may come yet

    def is_second(self, packet: av.Packet) -> bool:
        """To be asked of each packet, in the order of the file."""
        if self._coding is None:
            return False
        fields = {_slice_header(unit, self._coding).field for unit in _slices(packet, self._length_size)}
        before, self.open = self.open, None
        if len(fields) != 1 or None in fields:  # both fields, or a picture in one
            return False
        (field,) = fields
        if before == Field(field.frame, not field.bottom):
            return True
        self.open = field
        return False


def _length_size(decoder: av.VideoCodecContext) -> int:
    """Bytes of the length before every unit; 0: start codes stand between them (Annex B)."""
    extradata = decoder.extradata or b""
    return (extradata[4] & 3) + 1 if len(extradata) > 4 and extradata[0] == 1 else 0


def _units(packet: av.Packet, length_size: int) -> Iterator[bytes]:
    """The first 16 bytes of every NAL unit."""
    if length_size:
        data = memoryview(packet)
        start = length_size
        while start + 1 < len(data):
            yield bytes(data[start : start + 16])
            start += int.from_bytes(data[start - length_size : start]) + length_size
    else:
        data = bytes(packet)
        start = data.find(b"\0\0\1") + 3
        while start > 2 and start + 1 < len(data):
            yield data[start : start + 16]
            start = data.find(b"\0\0\1", start) + 3


def _slices(packet: av.Packet, length_size: int) -> Iterator[bytes]:
    return (unit for unit in _units(packet, length_size) if unit[0] & 0x1F in (1, 2, 5))


class Field(NamedTuple):
    """Which one of two: frame_num, bottom_field_flag."""

    frame: int
    bottom: bool


class SliceHeader(NamedTuple):
    kind: int  # 0 P, 1 B, 2 I, 3 SP, 4 SI; 5 more if all slices of the picture are of that type
    field: Field | None  # None: of a whole frame


class FieldCoding(NamedTuple):
    """What of a sequence header says how slice headers of fields are read."""

    number_bits: int  # of frame_num
    planes_apart: bool


class _Bits:
    """Bits of a NAL unit, most significant first; 0 beyond its end."""

    def __init__(self, unit: bytes) -> None:
        # Without the bytes that keep start codes from appearing inside.
        self._bits = "".join(f"{byte:08b}" for byte in unit.replace(b"\0\0\3", b"\0\0"))

    def take(self, count: int) -> int:
        """u(n)."""
        taken, self._bits = self._bits[:count], self._bits[count:]
        return int(taken or "0", 2)

    def number(self) -> int:
        """ue(v) of section 9.1."""
        zeros = len(self._bits) - len(self._bits.lstrip("0"))
        return max(0, self.take(2 * zeros + 1) - 1)

    def signed(self) -> int:
        """se(v)."""
        number = self.number()
        return (number + 1) // 2 if number % 2 else -(number // 2)


def _slice_header(unit: bytes, coding: FieldCoding | None) -> SliceHeader:
    bits = _Bits(unit[1:])
    _first_macroblock, kind, _parameters = bits.number(), bits.number(), bits.number()
    if coding is None:
        return SliceHeader(kind, None)
    if coding.planes_apart:
        bits.take(2)
    frame, in_field, bottom = bits.take(coding.number_bits), bits.take(1), bits.take(1)
    return SliceHeader(kind, Field(frame, bool(bottom)) if in_field else None)


def _field_coding(decoder: av.VideoCodecContext) -> FieldCoding | None:
    """None where all pictures are coded as frames, or nothing says that they are not."""
    extradata = decoder.extradata or b""
    if _length_size(decoder):
        size = int.from_bytes(extradata[6:8])
        unit = extradata[8 : 8 + size] if extradata[5:6] and extradata[5] & 0x1F else b""
    else:
        units = extradata.split(b"\0\0\1")[1:]
        unit = next((unit for unit in units if unit and unit[0] & 0x1F == 7), b"")
    if len(unit) < 5:
        return None
    profile, bits = unit[1], _Bits(unit[4:])
    bits.number()  # its id
    planes_apart = False
    if profile in WITH_FORMAT:
        colours = bits.number()
        planes_apart = colours == 3 and bool(bits.take(1))
        bits.number(), bits.number(), bits.take(1)  # bits of luma and chroma, transform bypass
        if bits.take(1):
            for number in range(12 if colours == 3 else 8):
                if bits.take(1):
                    _pass_scaling_list(bits, 16 if number < 6 else 64)
    number_bits = bits.number() + 4
    order = bits.number()
    if order == 0:
        bits.number()
    elif order == 1:
        bits.take(1), bits.signed(), bits.signed()
        for _ in range(min(bits.number(), 255)):
            bits.signed()
    bits.number(), bits.take(1), bits.number(), bits.number()  # references, gaps, width, height
    return None if bits.take(1) else FieldCoding(number_bits, planes_apart)


def _pass_scaling_list(bits: _Bits, size: int) -> None:
    latest = following = 8
    for _ in range(size):
        if following:
            following = (latest + bits.signed()) % 256
        latest = following or latest
