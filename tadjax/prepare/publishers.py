"""Annotations as their publishers write them, as ActivityNet-style databases: one function a data set.

Each takes the folder of the publisher's files and that of the videos, and returns (database, classes); classes are in
the order in which published results count them. What is not as published is a DataError that names file and line.
"""

import contextlib
import csv
import io
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tadjax.data.annotations import AMBIGUOUS
from tadjax.errors import DataError
from tadjax.files import read_json
from tadjax.video.folder import probe_all, video_files

Converted = tuple[dict[str, dict], tuple[str, ...]]

# Left out by all published results on THUMOS14 since G-TAD: the first is annotated wrongly, the second not at all.
THUMOS_FAULTY = ("video_test_0000270", "video_test_0001292")
EGO4D_FPS = (10, 100)  # clips beyond have broken frame numbers; published conversions leave them out


def thumos(folder: Path, videos: Path) -> Converted:
    """THUMOS14: BaseballPitch_val.txt, BaseballPitch_test.txt, ... anywhere in `folder`, with lines "video start end".

    Published results train on its validation videos and test on its test videos, calling them training and
    validation. Lengths are those of the video files.
    """
    files = {path: path.stem.rpartition("_")[0] for path in _found(folder, r".+_(val|test)\.txt")}
    lines = ((*line, label) for path, label in sorted(files.items()) for line in _lines(path) if label != AMBIGUOUS)
    return _thumos_database(lines, videos, leave_out=THUMOS_FAULTY), tuple(sorted({*files.values()} - {AMBIGUOUS}))


def multithumos(folder: Path, videos: Path) -> Converted:
    """MultiTHUMOS: class_list.txt with lines "number class", and a file for each class as THUMOS14's."""
    listed = _one(folder, r"class_list\.txt")
    classes = tuple(line.split()[-1] for line in _text(listed).splitlines() if line.strip())
    files = [(_one(folder, rf"{re.escape(label)}\.txt"), label) for label in classes]
    lines = ((*line, label) for path, label in files for line in _lines(path))
    return _thumos_database(lines, videos), classes


def epic(folder: Path, task: str) -> Converted:
    """EPIC-Kitchens-100: EPIC_100_{train,validation,video_info}.csv; task "verb" or "noun".

    Labels are "id_007": the class number, three digits, as published conversions spell it; classes are in its order.
    """
    durations = {}
    for where, row in _rows(folder / "EPIC_100_video_info.csv", "video_id", "duration"):
        with _published(where, "EPIC-Kitchens"):
            durations[row["video_id"]] = _number(row["duration"])
    database: dict[str, dict] = {}
    columns = ("video_id", "start_timestamp", "stop_timestamp", f"{task}_class")
    for subset, file in (("train", "EPIC_100_train.csv"), ("val", "EPIC_100_validation.csv")):
        for where, row in _rows(folder / file, *columns):
            video = row["video_id"]
            if video not in durations:
                raise DataError(f"{where}: video {video!r} is not in EPIC_100_video_info.csv")
            entry = database.setdefault(video, {"subset": subset, "duration": durations[video], "annotations": []})
            with _published(where, "EPIC-Kitchens"):
                times = [round(_seconds(row[name]), 2) for name in ("start_timestamp", "stop_timestamp")]
                entry["annotations"].append({"segment": times, "label": f"id_{int(row[f'{task}_class']):03d}"})
    return database, _sorted_labels(database)


def charades(folder: Path, _videos: Path) -> Converted:
    """Charades: Charades_v1_{train,test}.csv; labels are the class codes, c000 to c156."""
    database: dict[str, dict] = {}
    for subset, file in (("training", "Charades_v1_train.csv"), ("testing", "Charades_v1_test.csv")):
        for where, row in _rows(folder / file, "id", "actions", "length"):
            with _published(where, "Charades"):
                actions = [action.split() for action in row["actions"].split(";") if action]
                found = [{"segment": [_number(start), _number(end)], "label": label} for label, start, end in actions]
                database[row["id"]] = {"subset": subset, "duration": _number(row["length"]), "annotations": found}
    return database, _sorted_labels(database)


def ego4d(folder: Path, _videos: Path) -> Converted:
    """Ego4D's moment queries: moments_{train,val}.json; a clip is a video here, cut out of a longer one.

    Labels of the primary categories count, of every annotator; times become those of the clip.
    """
    database: dict[str, dict] = {}
    for where, video in _ego4d_videos(folder):
        with _published(where, "Ego4D"):
            entries = {clip["clip_uid"]: _moments(video["split"], clip) for clip in video["clips"]}
            database |= {uid: entry for uid, entry in entries.items() if entry is not None}
    return database, _sorted_labels(database)


def ego4d_clips(folder: Path) -> dict[str, tuple[str, float, float]]:
    """Of every clip of Ego4D's moment queries the video that it is cut out of, and from which second to which."""
    clips: dict[str, tuple[str, float, float]] = {}
    for where, video in _ego4d_videos(folder):
        with _published(where, "Ego4D"):
            for clip in video["clips"]:
                clips[_name(clip["clip_uid"])] = (_name(video["video_uid"]), *_clip_seconds(clip))
    return clips


def _ego4d_videos(folder: Path) -> Iterator[tuple[str, Any]]:
    """(file and number for messages, entry)."""
    for name in ("moments_train.json", "moments_val.json"):
        content = read_json(folder / name)
        videos = content.get("videos") if isinstance(content, dict) else None
        if not isinstance(videos, list):
            raise DataError(f'{folder / name}: has no list "videos"; is it Ego4D\'s file of moment queries?')
        yield from ((f"{folder / name}: video {number}", video) for number, video in enumerate(videos))


def _clip_seconds(clip: Mapping[str, Any]) -> tuple[float, float]:
    return max(_number(clip["video_start_sec"]), 0.0), _number(clip["video_end_sec"])


def _moments(subset: str, clip: Mapping[str, Any]) -> dict | None:
    start, end = _clip_seconds(clip)
    frames = int(clip["video_end_frame"]) - max(int(clip["video_start_frame"]), 0)
    duration = round(end - start, 4)
    annotations = [
        {
            "segment": [round(_number(label[time]) - start, 4) for time in ("video_start_time", "video_end_time")],
            "label": _name(label["label"]),
        }
        for annotator in clip["annotations"]
        for label in annotator["labels"]
        if label["primary"]
    ]
    if not annotations or duration <= 0 or not EGO4D_FPS[0] <= frames / duration <= EGO4D_FPS[1]:
        return None
    return {"subset": subset, "duration": duration, "frame": frames, "annotations": annotations}


def activitynet(folder: Path, pattern: str) -> Converted:
    """ActivityNet-1.3 and HACS segments: one ActivityNet-style file, without the test videos, which have no labels."""
    path = _one(folder, pattern)
    content = read_json(path)
    videos = content.get("database") if isinstance(content, dict) else None
    if not isinstance(videos, dict):
        raise DataError(f'{path}: has no "database" of videos')
    database = {}
    for name, entry in videos.items():
        with _published(f"{path}: video {name!r}", "the data set"):
            if entry["subset"] in ("training", "validation"):
                found = [
                    {"segment": [_number(s) for s in a["segment"]], "label": _name(a["label"])}
                    for a in entry["annotations"]
                ]
                database[name] = {
                    "subset": entry["subset"],
                    "duration": _number(entry["duration"]),
                    "annotations": found,
                }
    return database, _sorted_labels(database)


CONVERTERS: dict[str, Callable[[Path, Path], Converted]] = {
    "thumos": thumos,
    "multithumos": multithumos,
    "anet": lambda folder, _videos: activitynet(folder, r"activity_net\.v1-3(\.min)?\.json"),
    "hacs": lambda folder, _videos: activitynet(folder, r"HACS_segments_v1\.1(\.1)?\.json"),
    "epic_verb": lambda folder, _videos: epic(folder, "verb"),
    "epic_noun": lambda folder, _videos: epic(folder, "noun"),
    "ego4d": ego4d,
    "charades": charades,
}


def _thumos_database(
    lines: Iterable[tuple[str, float, float, str]], folder: Path, leave_out: Iterable[str] = ()
) -> dict[str, dict]:
    """Of (video, start s, end s, label), with lengths from the files of `folder`; segments in the order of time."""
    segments: dict[str, list[tuple[float, float, str]]] = {}
    for video, start, end, label in lines:
        if video not in leave_out:
            segments.setdefault(video, []).append((start, end, label))
    files = video_files(folder)
    missing = sorted(set(segments) - set(files))
    if missing:
        raise DataError(
            f"{folder}: {len(missing)} of {len(segments)} annotated videos are not there (first: {missing[0]}); the "
            "annotations do not say how long a video is, so the files must be"
        )
    infos = probe_all({video: files[video] for video in sorted(segments)})
    database = {}
    for video, info in infos.items():
        if isinstance(info, DataError):
            raise info
        database[video] = {
            "subset": "validation" if video.startswith("video_test_") else "training",
            "duration": round(info.duration, 3),
            "frame": info.frames,
            "annotations": [{"segment": [s, e], "label": label} for s, e, label in sorted(segments[video])],
        }
    return database


def _lines(path: Path) -> Iterator[tuple[str, float, float]]:
    """Lines "video start end", seconds."""
    for number, line in enumerate(_text(path).splitlines(), start=1):
        if not line.strip():
            continue
        try:
            video, start, end = line.split()
            yield video, _number(start), _number(end)
        except ValueError as error:
            raise DataError(f'{path}, line {number}: {line!r:.80} is not "video start end", in seconds') from error


def _found(folder: Path, pattern: str) -> list[Path]:
    """Files in a folder and its subfolders whose whole name matches; DataError if there is none.

    Hidden ones do not count: archives packed on a Mac hold a "._NAME" of binary notes for every file.
    """
    named = (path for path in folder.rglob("*") if not path.name.startswith("."))
    found = sorted(path for path in named if re.fullmatch(pattern, path.name))
    if not found:
        raise DataError(f"{folder}: holds no file whose name is like {pattern}; is it the publisher's folder?")
    return found


def _one(folder: Path, pattern: str) -> Path:
    found = _found(folder, pattern)
    if len(found) > 1:
        raise DataError(f"{folder}: holds {len(found)} files of one kind, {found[0]} and {found[1]}; keep one")
    return found[0]


def _sorted_labels(database: dict) -> tuple[str, ...]:
    """Labels of all subsets; those that are numbers are all written with the same number of digits."""
    return tuple(sorted({a["label"] for entry in database.values() for a in entry["annotations"]}))


def _seconds(timestamp: str) -> float:
    """Of "00:01:02.50"."""
    hours, minutes, seconds = timestamp.split(":")
    return 3600 * int(hours) + 60 * int(minutes) + _number(seconds)


def _number(value: Any) -> float:
    """ValueError for one that is not finite: no publisher writes it."""
    if not math.isfinite(number := float(value)):
        raise ValueError(f"{value} is no finite number")
    return number


def _name(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"{value!r} is no label")
    return value


@contextlib.contextmanager
def _published(where: str, publisher: str) -> Iterator[None]:
    """Turns what goes wrong in reading an entry into one sentence about it."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise DataError(f"{where}: not as {publisher} publishes it ({error!r})") from error


def _rows(path: Path, *columns: str) -> Iterator[tuple[str, dict[str, str]]]:
    """(file and line for messages, row) of a CSV file, which has these columns."""
    reader = csv.DictReader(io.StringIO(_text(path), newline=""))
    try:
        for column in columns:
            if column not in (reader.fieldnames or ()):
                raise DataError(f"{path}: has no column {column!r}; is it the publisher's file?")
        for row in reader:  # a row that spans lines is named by its last
            where = f"{path}, line {reader.line_num}"
            if any(row[column] is None for column in columns):
                raise DataError(f"{where}: has fewer columns than the first line")
            yield where, row
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: not a CSV file: {error}") from error


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text; is it the publisher's file?") from error
