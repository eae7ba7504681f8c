"""Reads the TFDS data sets that tadjax/prepare/builders writes: annotations, and videos as files or as embedded pieces.

`config.data.tfds` names the folder of one, OUTPUT/NAME. What is read equals what the annotation file and the
(re-encoded) video files would give, to the last bit.
"""

import dataclasses
import functools
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from tadjax.data.annotations import Annotations, Video, parse_database
from tadjax.errors import DataError
from tadjax.video.frame_index import VideoInfo, index_content
from tadjax.video.frames import Frames, collect_frames, draw_frames

# What damaged files look like to TFDS and ArrayRecord, which check sums.
DAMAGE = (RuntimeError, OSError, LookupError, ValueError, TypeError, AttributeError)


@dataclasses.dataclass(frozen=True, eq=False)
class PackedVideo:
    """A video that lies in pieces in the records of a split."""

    name: str
    info: VideoInfo
    folder: str  # of the data set of pieces
    split: str
    first_piece: int  # number of its first record
    starts: np.ndarray  # int64 [pieces], frame numbers

    def __str__(self) -> str:
        return f"{self.folder}: video {self.name!r}"

    def read_frames(
        self,
        indices: np.ndarray,
        *,
        short_side: int | None = None,
        center_crop: int | None = None,
        max_missing: float = 0.05,
        out: np.ndarray | None = None,
    ) -> Frames:
        """As `tadjax.video.frames.read_frames` of the re-encoded file that the pieces were cut from."""

        def draw(frames: np.ndarray, pictures: Sequence[np.ndarray]) -> Iterator[int]:
            piece = np.searchsorted(self.starts, frames, side="right") - 1
            for number in np.unique(piece):
                begin, end = np.searchsorted(piece, (number, number + 1))
                index = index_content(self._piece(int(number)), f"{self}, piece {number}")
                for u in draw_frames(index, frames[begin:end] - self.starts[number], pictures[begin:end], short_side):
                    yield begin + u

        return collect_frames(
            str(self), self.info, indices, draw, short_side, center_crop=center_crop, max_missing=max_missing, out=out
        )

    def _piece(self, number: int) -> bytes:
        try:
            return _records(self.folder, self.split)[self.first_piece + number]["content"]
        except DAMAGE as error:
            raise DataError(f"{self}: piece {number} cannot be read ({error}); pack the data set again") from error


@dataclasses.dataclass(frozen=True, eq=False)
class Built:
    """A data set as it was written."""

    folder: str
    database: Mapping[str, dict]  # ActivityNet-style
    classes: tuple[str, ...]
    files: Mapping[str, str | PackedVideo]  # of every video: the name of its file, or itself

    def annotations(self, subset: str, classes: Sequence[str] | None = None) -> Annotations:
        """Of one subset, as from the annotation file; `classes` as for `load_annotations`, None for its own."""
        return parse_database(self.database, subset, classes or self.classes, self.folder)

    def find(self, videos: Sequence[Video], folder: str | os.PathLike[str]) -> list[Path | PackedVideo]:
        """The files of videos, in order: embedded, or in `folder`. DataError for those that are not there."""
        found = [self.files[video.name] for video in videos]
        if any(isinstance(file, str) for file in found) and not Path(folder).is_dir():
            raise DataError(
                f"{self.folder} holds names of video files, and {os.fspath(folder)!r} is no folder: set "
                "config.data.videos to their folder, or embed them (python -m tadjax.prepare.builders --embed)"
            )
        return [Path(folder, file) if isinstance(file, str) else file for file in found]


@functools.lru_cache(maxsize=4)
def read_built(folder: str) -> Built:
    """Reads the records of all videos of a data set; those of pieces are read when they are needed."""
    database, files, classes = {}, {}, ()
    videos, pieces = (os.path.join(folder, part, "1.0.0") for part in ("videos", "pieces"))
    builder = _open(videos)
    try:
        classes = tuple(builder.info.features["labels"].feature.names)
        for split in builder.info.splits:
            for record in builder.as_data_source(split):
                name, entry = record["video"].decode(), json.loads(record["entry"])
                database[name] = entry
                files[name] = _packed(record, name, pieces, split) if "info" in record else _file(record, name, videos)
    except DAMAGE as error:
        raise DataError(f"{videos}: not a data set of python -m tadjax.prepare.builders ({error!r})") from error
    return Built(folder, database, classes, files)


def _packed(record: Mapping[str, Any], name: str, pieces: str, split: str) -> PackedVideo:
    starts = np.array(record["piece_starts"], np.int64)
    return PackedVideo(name, VideoInfo(**json.loads(record["info"])), pieces, split, int(record["first_piece"]), starts)


def _file(record: Mapping[str, Any], name: str, videos: str) -> str:
    path = record["path"].decode()
    if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
        raise DataError(f"{videos}: video {name!r}: its file {path!r} would lie outside the folder of videos")
    return path


def _open(folder: str) -> Any:
    import tensorflow_datasets as tfds  # takes a second, and few need it
    from google.protobuf.json_format import ParseError

    if not os.path.exists(os.path.join(folder, "dataset_info.json")):
        raise DataError(
            f"{folder}: holds no finished TFDS data set; config.data.tfds is a folder OUTPUT/NAME that "
            "python -m tadjax.prepare.builders has written to the end"
        )
    try:
        return tfds.builder_from_directory(folder)
    except (ParseError, *DAMAGE) as error:
        raise DataError(f"{folder}: its metadata are damaged ({error}); write the data set again") from error


@functools.lru_cache(maxsize=8)
def _records(folder: str, split: str) -> Any:
    """Random access to the records of a split, opened once a process."""
    return _open(folder).as_data_source(split)
