"""Files put together with cat of which FFmpeg reads the first part alone, or a mixture: told by a second beginning.

Transport and program streams, Matroska, AVI and MXF files may be put together so (frame_times.py); of others no player
shows more than the first part, and what annotations say of the rest would be dropped.
"""

import io
import re
from collections.abc import Iterator
from typing import BinaryIO

import av

JOIN = (
    "join the parts anew (ffmpeg -f concat -i LIST.txt -c copy OUT.mp4, where LIST.txt has a line file 'PART' for each)"
)
CHUNK, LONGEST = 2**20, 32  # bytes: of a file that are searched at once; more than a beginning has
MOST = 2**50  # bytes of a box
BEGINNINGS = {  # by FFmpeg's name of the container
    "flv": rb"FLV\x01[\x00-\x05]\x00\x00\x00\x09\x00\x00\x00\x00",
    "asf": rb"\x30\x26\xB2\x75\x8E\x66\xCF\x11\xA6\xD9\x00\xAA\x00\x62\xCE\x6C",
    "ivf": rb"DKIF\x00\x00\x20\x00",
    "nut": rb"nut/multimedia container\x00",
    "rm": rb"\.RMF\x00\x00\x00[\x10-\x12]",
}


def second_beginning(path: str, content: bytes | None, container: av.container.InputContainer, in_parts: bool) -> bool:
    """Whether another file begins inside this one, which FFmpeg does not read, or reads as if it were of the first.

    in_parts: the clock falls back somewhere. In MP4 a header may stand again before each fragment, whose clock goes on.
    """
    name = container.format.name
    if name not in BEGINNINGS and not name.startswith("mov"):
        return False
    with open(path, "rb") if content is None else io.BytesIO(content) as file:
        if name in BEGINNINGS:
            return _holds(file, re.compile(BEGINNINGS[name], re.DOTALL))
        kinds = list(_boxes(file))
    return kinds.count(b"moov") > 1 and (in_parts or b"moof" not in kinds)


def _holds(file: BinaryIO, beginning: re.Pattern[bytes]) -> bool:
    """Whether a beginning stands anywhere but where the file begins."""
    file.seek(1)
    rest = b""
    while chunk := file.read(CHUNK):
        if beginning.search(rest + chunk):
            return True
        rest = chunk[-LONGEST:]
    return False


def _boxes(file: BinaryIO) -> Iterator[bytes]:
    """The kinds of the boxes of an MP4 file (ISO/IEC 14496-12, section 4.2), as far as they follow each other."""
    place = 0
    while len(head := file.read(16)) >= 8:
        size, kind = int.from_bytes(head[:4]), head[4:8]
        yield kind
        if size == 1:
            size = int.from_bytes(head[8:])
        if not 8 <= size < MOST:  # 0: to the end of the file
            return
        place += size
        file.seek(place)
