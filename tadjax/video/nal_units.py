"""What an H.264 packet is to the packets around it, read off its first bytes without decoding it.

ITU-T H.264 sections 7.3.1, 7.3.3 and 7.4.1 (NAL unit and slice headers, nal_ref_idc); ISO/IEC 14496-15 (avcC: how the
NAL units of a packet are told apart).
"""

from collections.abc import Callable, Iterator

import av

Test = Callable[[av.Packet], bool]


def disposable_test(decoder: av.VideoCodecContext) -> Test:
    """A test whether a packet's picture is one that no other refers to; never, for codecs other than H.264."""
    if decoder.name != "h264":
        return lambda packet: False
    length_size = _length_size(decoder)
    return lambda packet: {unit[0] & 0x60 for unit in _slices(packet, length_size)} == {0}


def intra_test(decoder: av.VideoCodecContext) -> Test:
    """A test whether decoding can start at a packet that its container calls a key frame: always, but for H.264.

    There some mark where a gradual refresh begins, which mends pictures over many frames and not exactly.
    """
    if decoder.name != "h264":
        return lambda packet: True
    length_size = _length_size(decoder)
    return lambda packet: all(_slice_type(unit) in (2, 4, 7, 9) for unit in _slices(packet, length_size))


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


def _slice_type(unit: bytes) -> int:
    """0 P, 1 B, 2 I, 3 SP, 4 SI; 5 more if all slices of the picture are of that type."""
    header = unit[1:].replace(b"\0\0\3", b"\0\0")  # without the bytes that keep start codes from appearing inside
    bits = "".join(f"{byte:08b}" for byte in header)
    _first_macroblock, rest = _exp_golomb(bits)
    return _exp_golomb(rest)[0]


def _exp_golomb(bits: str) -> tuple[int, str]:
    """ue(v) of section 9.1, and the bits after it."""
    zeros = len(bits) - len(bits.lstrip("0"))
    end = 2 * zeros + 1
    return int(bits[zeros:end] or "1", 2) - 1, bits[end:]
