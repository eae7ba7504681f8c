"""Decoded windows kept on disk, for data sets that are small or evaluated often: reading is cheaper than decoding.

One ArrayRecord file a window, named by the video, the frames and their size. It holds the mark of the video's file as
it was then (files.mark_of): a window of a file that has changed is decoded anew. Only windows that come again are worth
keeping: those of evaluation, and of training where it does not draw them anew each epoch. A folder that is full stays
as it is: every window is wanted once an epoch, so replacing one gains nothing.
"""

import contextlib
import functools
import hashlib
import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from tadjax.video.frames import Frames

FRAMES = 16  # of a record


@dataclass(frozen=True)
class WindowCache:
    """A folder of decoded windows, which several processes may use at once."""

    folder: str
    limit: float  # bytes

    def frames(
        self,
        name: str,
        size: tuple[int, int],
        out: np.ndarray,
        decode: Callable[[np.ndarray], Frames],
        video: tuple[str, str] = ("", ""),
    ) -> Frames:
        """What `decode(out)` gives, from the folder if it is there. `size`: of the pictures in the corner of `out`.

        name: tells this window from every other one. video: path and mark (`files.mark_of`) of its file.
        """
        path = os.path.join(self.folder, hashlib.sha256(name.encode()).hexdigest()[:32] + ".array_record")
        pictures = out[:, : size[0], : size[1]]
        substituted = _load(path, pictures, *video)
        if substituted is None:
            substituted = decode(out).substituted
            self._keep(path, pictures, substituted, video[1])
        return Frames(out, substituted)

    def _keep(self, path: str, pictures: np.ndarray, substituted: int, mark: str) -> None:
        part = f"{path}.{os.getpid()}.part"
        try:
            os.makedirs(self.folder, exist_ok=True)
            if _size_of(self.folder) + pictures.nbytes > self.limit:
                return
            writer = ArrayRecordWriter(part, "group_size:1,uncompressed")
            writer.write(json.dumps({"shape": pictures.shape, "substituted": substituted, "mark": mark}).encode())
            for first in range(0, len(pictures), FRAMES):
                writer.write(np.ascontiguousarray(pictures[first : first + FRAMES]).tobytes())
            writer.close()
            os.replace(part, path)
        except (OSError, RuntimeError) as error:  # the batch is there all the same
            print(f"{self.folder}: a decoded window cannot be kept ({error})", file=sys.stderr)
            with contextlib.suppress(OSError):
                os.unlink(part)


def _size_of(folder: str) -> int:
    """Bytes of a folder's files, to which other processes add meanwhile."""
    size = 0
    with os.scandir(folder) as files:
        for file in files:
            with contextlib.suppress(FileNotFoundError):  # another process has given its window the final name
                size += file.stat().st_size
    return size


@functools.cache  # of a video's many windows one line
def _say_changed(video: str) -> None:
    print(f"{video}: the video changed since its windows were kept; they are decoded anew", file=sys.stderr)


def _load(path: str, pictures: np.ndarray, video: str, mark: str) -> int | None:
    """Fills the pictures; how many of them are stand-ins. None where there is no such file, or it is damaged or old."""
    if not os.path.exists(path):
        return None
    try:
        reader = ArrayRecordReader(path)
        head, *parts = reader.read_all()
        reader.close()
        head = json.loads(head)
        if head["mark"] != mark:
            _say_changed(video)
            os.unlink(path)  # its room is the new one's
            return None
        if tuple(head["shape"]) != pictures.shape:
            raise ValueError(f"holds pictures of {head['shape']}")
        for number, part in enumerate(parts):
            rows = pictures[number * FRAMES : (number + 1) * FRAMES]
            rows[...] = np.frombuffer(part, np.uint8).reshape(rows.shape)
        if len(parts) != -(-len(pictures) // FRAMES):
            raise ValueError("is cut off")
        return head["substituted"]
    except (OSError, RuntimeError, ValueError, IndexError, KeyError, TypeError) as error:
        print(f"{path}: a damaged window, decoded again ({error})", file=sys.stderr)
        return None
