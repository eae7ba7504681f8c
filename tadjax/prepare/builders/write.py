"""Writes a data set of annotated videos as TFDS data sets in ArrayRecord files, without TensorFlow.

    OUTPUT/NAME/videos/1.0.0     one record a video: its annotations and its file's name
    OUTPUT/NAME/pieces/1.0.0     with --embed: one record a piece of some seconds of a video, as an MP4 of its own

Embedded videos are first re-encoded (reencode.py), unless the folder of videos already is, and then cut at key frames
without touching a bit: a piece decodes to exactly the frames that the re-encoded file has there. So a window needs a
few records, wherever it lies, and training on pieces gives the batches that training on the re-encoded files gives.

TFDS's own writer shuffles through TensorFlow beyond 1000 MiB a split; here the shards are written directly, each by one
process, video by video. A shard gets its name when it is whole, and the metadata, without which no reader takes the
folder for a data set, come last: a run that was killed goes on with the shards that are missing.
"""

import contextlib
import dataclasses
import hashlib
import io
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from tensorflow_datasets.core.dataset_info import DatasetIdentity
from tensorflow_datasets.core.example_serializer import ExampleSerializer
from tensorflow_datasets.core.naming import ShardedFileTemplate
from tensorflow_datasets.core.splits import SplitDict, SplitInfo

from tadjax.errors import DataError, DiskError, first_line
from tadjax.files import write_whole
from tadjax.prepare.builders.catalogue import Entry
from tadjax.prepare.jobs import keep_settings, run_all
from tadjax.prepare.reencode import Encoding, reencode
from tadjax.video.demux import open_video
from tadjax.video.frame_index import FrameIndex, frame_index

VERSION = "1.0.0"
SHARD_SECONDS = 1800  # of video in a shard of pieces: some 200 MB at a short side of 256
RECORDS = "group_size:1,uncompressed"  # random access to every record; H.264 does not compress further
DONE = "dataset_info.json"


@dataclasses.dataclass(frozen=True)
class Source:
    """A data set to be written."""

    name: str
    database: Mapping[str, dict]  # ActivityNet-style, only the subsets that are wanted
    classes: tuple[str, ...]
    videos: Path  # folder
    files: Mapping[str, Path]  # in it, of every video but the blocked ones
    about: Entry
    blocked: frozenset[str] = frozenset()  # videos to leave out

    def splits(self) -> dict[str, list[str]]:
        """The names of the videos of each subset, in order."""
        subsets: dict[str, list[str]] = {}
        for name, entry in self.database.items():
            subsets.setdefault(entry["subset"], []).append(name)
        return subsets


@dataclasses.dataclass(frozen=True)
class Cutting:
    """How videos become pieces."""

    encoding: Encoding
    encoded: bool  # whether the files are like this already
    seconds: float  # of a piece; rounded up to whole groups of pictures


def video_features(classes: Sequence[str], packed: bool) -> tfds.features.FeaturesDict:
    """Of a video's record. Numbers are float32, as TFDS stores all; `entry` holds them as the annotation file does."""
    features = tfds.features
    where = {
        "info": features.Text(doc="the re-encoded video's frames, fps, size, ...; JSON"),
        "first_piece": features.Scalar(np.int64, doc="number of its first record in the split of pieces"),
        "piece_starts": features.Sequence(np.int64, doc="number of each piece's first frame"),
    }
    return features.FeaturesDict(
        {
            "video": features.Text(doc="its name in the annotations"),
            "entry": features.Text(doc="all that the annotations say of it: ActivityNet-style JSON"),
            "duration": features.Scalar(np.float32, doc="seconds"),
            "segments": features.Tensor(shape=(None, 2), dtype=np.float32, doc="start and end in seconds"),
            "labels": features.Sequence(features.ClassLabel(names=list(classes)), doc="of the segments"),
            **(where if packed else {"path": features.Text(doc="file name in the folder of videos")}),
        }
    )


def piece_features() -> tfds.features.FeaturesDict:
    """Of a piece's record."""
    features = tfds.features
    return features.FeaturesDict(
        {
            "video": features.Text(doc="name in the annotations"),
            "first_frame": features.Scalar(np.int64, doc="number in the re-encoded video"),
            "frames": features.Scalar(np.int64),
            "content": features.Scalar(np.object_, doc="an MP4 file"),
        }
    )


def write(
    source: Source, output: Path, cutting: Cutting | None = None, processes: int | None = None
) -> list[DataError]:
    """Writes OUTPUT/NAME; with `cutting` the pieces, too. Returns what failed: the metadata are missing then.

    Raises DataError for an output that was begun with other videos or settings, or cannot be written.
    """
    folder = output / source.name
    for what in (source.name, *source.splits()):  # they become parts of file names, which TFDS takes apart again
        if not re.fullmatch(r"[A-Za-z]\w*", what, re.ASCII) or what == "all":
            raise DataError(f"{what!r} cannot name a TFDS data set or split: use letters, digits and underscores")
    keep_settings(folder / "settings.json", _settings(source, cutting))
    if (folder / "videos" / VERSION / DONE).exists():
        return []
    try:
        places: dict[str, dict] = {}
        if cutting is not None:
            places, errors = _write_pieces(source, folder / "pieces" / VERSION, cutting, processes)
            if errors:
                return errors
        _write_videos(source, folder / "videos" / VERSION, places)
    except OSError as error:
        raise DataError(f"{folder}: cannot be written ({error.strerror})") from error
    return []


def _settings(source: Source, cutting: Cutting | None) -> dict[str, Any]:
    """What must stay the same when a run goes on; more videos may be blocked then, which failed."""
    contents = json.dumps([source.classes, dict(source.database)]).encode()
    settings = {"videos": len(source.database), "annotations": hashlib.sha256(contents).hexdigest()[:16]}
    if cutting is not None:
        settings |= {"seconds": cutting.seconds, **dataclasses.asdict(cutting.encoding)}
    return settings


def _write_videos(source: Source, folder: Path, places: Mapping[str, dict]) -> None:
    """The records of the videos, a shard a split, and their metadata."""
    features = video_features(source.classes, bool(places))
    numbers = {label: number for number, label in enumerate(source.classes)}

    def record(name: str) -> dict[str, Any]:
        entry = source.database[name]
        known = [a for a in entry.get("annotations", []) if a["label"] in numbers]  # all but THUMOS14's `Ambiguous`
        return {
            "video": name,
            "entry": json.dumps(entry),
            "duration": entry["duration"],
            "segments": np.array([a["segment"] for a in known], np.float32).reshape(-1, 2),
            "labels": [numbers[a["label"]] for a in known],
            **(places[name] if places else {"path": source.files[name].relative_to(source.videos).as_posix()}),
        }

    folder.mkdir(parents=True, exist_ok=True)
    splits = []
    for subset, names in source.splits().items():
        names = [name for name in names if name not in source.blocked]
        template = _template(source.name, subset, folder)
        size = _write_shard(_shard(template, 0, 1), features, map(record, names))
        splits.append(SplitInfo(subset, [len(names)], size, template))
    _write_metadata(source, folder, features, splits)


def _write_pieces(
    source: Source, folder: Path, cutting: Cutting, processes: int | None
) -> tuple[dict[str, dict], list[DataError]]:
    """The pieces of all videos and their metadata: what the videos' records say of them, and what failed."""
    progress = folder / "progress"  # one file a whole shard, about its videos
    progress.mkdir(parents=True, exist_ok=True)
    jobs, shards = {}, {}
    for subset, names in source.splits().items():
        template, groups = _template(source.name, subset, folder), _groups(source.database, names)
        for number, group in enumerate(groups):
            shard = _shard(template, number, len(groups))
            shards[shard.name] = subset
            names = [name for name in group if name not in source.blocked]
            done = progress / f"{shard.name}.json"
            if not done.exists() or [video["name"] for video in _read(done)] != names:
                jobs[shard.name] = ([(name, source.files[name]) for name in names], shard, done, cutting)
    _, errors = run_all(write_pieces, jobs, "packing videos", processes)
    if errors:
        return {}, list(errors.values())

    places: dict[str, dict] = {}
    lengths: dict[str, list[int]] = {subset: [] for subset in source.splits()}
    for shard, subset in shards.items():
        pieces = 0
        for video in _read(progress / f"{shard}.json"):
            places[video["name"]] = {
                "info": json.dumps(video["info"]),
                "first_piece": sum(lengths[subset]) + pieces,
                "piece_starts": video["starts"],
            }
            pieces += len(video["starts"])
        lengths[subset].append(pieces)
    splits = []
    for subset in lengths:
        size = sum((folder / shard).stat().st_size for shard, its in shards.items() if its == subset)
        splits.append(SplitInfo(subset, lengths[subset], size, _template(source.name, subset, folder)))
    _write_metadata(source, folder, piece_features(), splits)
    return places, []


def write_pieces(files: Sequence[tuple[str, Path]], shard: Path, done: Path, cutting: Cutting) -> None:
    """One shard: the pieces of some videos, one in memory at a time; then `done`, which says that it is whole.

    Raises one DataError for all videos that cannot be read.
    """
    videos: list[dict] = []
    failures: list[str] = []
    copy = shard.with_name(f"{shard.name}.mp4")

    def records() -> Iterator[dict[str, Any]]:
        for name, path in files:
            try:
                if not cutting.encoded:
                    reencode(path, copy, cutting.encoding)
                index = frame_index(path if cutting.encoded else copy)
                starts = piece_starts(index, cutting.seconds)
                videos.append({"name": name, "info": dataclasses.asdict(index.info), "starts": starts.tolist()})
                ends = [*starts[1:], len(index)]
                for start, end, content in zip(starts, ends, cut(index, starts), strict=True):
                    yield {"video": name, "first_frame": start, "frames": end - start, "content": content}
            except DataError as error:
                failures.append(str(error))

    try:
        _write_shard(shard, piece_features(), records(), failures)
    except OSError as error:
        raise DataError(f"{shard}: cannot be written ({error.strerror})") from error
    finally:
        with contextlib.suppress(OSError):
            copy.unlink()
    if failures:
        raise DataError("; ".join(failures))
    write_whole(done, json.dumps(videos))


def piece_starts(index: FrameIndex, seconds: float) -> np.ndarray:
    """The first frames of a video's pieces, int64 [n]: key frames, at least `seconds` apart."""
    keys = np.searchsorted(index.pts, index.key_pts)
    starts = [0]
    for key in keys.tolist():
        if key > starts[-1] and key - starts[-1] >= seconds * float(index.rate) - 0.5:
            starts.append(key)
    return np.array(starts, np.int64)


def cut(index: FrameIndex, starts: np.ndarray) -> Iterator[bytes]:
    """The pieces of a video that begin at its frames `starts`, each an MP4 file; packets are copied as they are.

    Raises DataError where frames need others across a cut.
    """
    first = set(index.pts[starts].tolist())
    container, stream = open_video(index.path)
    with container:
        piece, target, latest = None, None, -1
        for packet in container.demux(stream):
            if not packet.size:
                continue  # the end of the stream
            if packet.is_keyframe and packet.pts in first:
                if piece is not None:
                    target.close()
                    yield piece.getvalue()
                piece, offset, before = io.BytesIO(), packet.pts, latest
                target = av.open(piece, "w", format="mp4")
                copied = target.add_stream_from_template(stream)
            if packet.dts is None or not before < offset <= packet.pts:
                raise DataError(
                    f"{index.path}: its groups of pictures are not closed, so it cannot be cut; pack the folder of "
                    "originals, which are re-encoded on the way"
                )
            latest = max(latest, packet.pts)
            packet.pts, packet.dts = packet.pts - offset, packet.dts - offset
            packet.stream = copied
            target.mux(packet)
        target.close()
        yield piece.getvalue()


def _groups(database: Mapping[str, dict], names: Iterable[str]) -> list[list[str]]:
    """Videos that share a shard, in order, about SHARD_SECONDS together."""
    groups: list[list[str]] = []
    filled = float("inf")
    for name in names:
        if filled >= SHARD_SECONDS:
            groups.append([])
            filled = 0.0
        groups[-1].append(name)
        filled += database[name]["duration"]
    return groups


def _write_shard(
    path: Path, features: tfds.features.FeaturesDict, records: Iterable[dict], failures: Sequence[str] = ()
) -> int:
    """Writes records one by one; the file appears when all are in, unless there are failures. Its size in bytes."""
    serializer = ExampleSerializer(features.get_serialized_info())
    part = path.with_name(f"{path.name}.part")
    writer = ArrayRecordWriter(os.fspath(part), RECORDS)
    try:
        for record in records:
            writer.write(serializer.serialize_example(features.encode_example(record)))
        writer.close()
        if failures:
            return 0
        os.replace(part, path)
        return path.stat().st_size
    except RuntimeError as error:  # what ArrayRecord raises when the disk is full
        kind = DiskError if "o space left" in str(error) else DataError
        raise kind(f"{path}: cannot be written ({first_line(error)})") from error
    finally:
        part.unlink(missing_ok=True)


def _write_metadata(
    source: Source, folder: Path, features: tfds.features.FeaturesDict, splits: Sequence[SplitInfo]
) -> None:
    """TFDS's files beside the shards; the one that makes the folder a data set comes last."""
    fresh = folder / "metadata"
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    info = tfds.core.DatasetInfo(
        builder=DatasetIdentity(source.name, tfds.core.Version(VERSION), os.fspath(folder), module_name=""),
        features=features,
        description=source.about.description,
        homepage=source.about.homepage,
        citation=source.about.citation,
    )
    info.set_file_format("array_record")
    info.set_splits(SplitDict(splits))
    info.write_to_directory(fresh)
    for path in sorted(fresh.iterdir(), key=lambda path: path.name == DONE):
        os.replace(path, folder / path.name)
    fresh.rmdir()


def _template(name: str, split: str, folder: Path) -> ShardedFileTemplate:
    return ShardedFileTemplate(data_dir=folder, dataset_name=name, split=split, filetype_suffix="array_record")


def _shard(template: ShardedFileTemplate, number: int, count: int) -> Path:
    return Path(template.sharded_filepath(shard_index=number, num_shards=count))


def _read(done: Path) -> list[dict]:
    return json.loads(done.read_text(encoding="utf-8"))
