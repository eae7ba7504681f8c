"""Annotation files: ActivityNet-style JSON, the format in which every public TAL data set is shipped.

    {"database": {video: {"subset": ..., "duration": seconds, "frame" and/or "fps": ...,
                          "annotations": [{"segment": [start s, end s], "label": ...}, ...]}}}

"first_picture" is our own: the second of a player's clock at which the first picture is shown (timeline.py).

What cannot be read raises one DataError. What can be read but looks wrong becomes one `Defect`: counted, named by file,
video and index, with what was done about it. Segments are never altered: sampling cuts them to its windows.
"""

import difflib
import re
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np

from tadjax.errors import DataError
from tadjax.files import read_json, read_text
from tadjax.video.extensions import without_extension

AMBIGUOUS = "Ambiguous"  # THUMOS14 marks with this label what is neither an action nor certainly none
THUMOS_VIDEO = re.compile(r"video_(test|validation)_\d{7}")
MAX_FPS = 1000.0  # beyond it, "duration" or "frame" is in another unit
SMALLEST, LARGEST = 1e-6, 1e9  # of what may stand for seconds or frames: far enough, and no arithmetic overflows
NO_LETTERS = ("Cc", "Cs", "Zl", "Zp")  # Unicode's control characters, surrogates and line breaks
FPS_TOLERANCE = 0.01  # "frame" / "duration" and "fps" may differ by this share: durations are rounded


@dataclass(frozen=True)
class Defect:
    """One annotation (or, with index None, one video) that looks wrong, and what was done about it."""

    file: str
    video: str
    index: int | None  # into the video's "annotations"
    kind: str
    detail: str

    @property
    def place(self) -> str:
        return f"{self.file}: video {self.video!r}" + ("" if self.index is None else f", annotation {self.index}")

    def __str__(self) -> str:
        return f"{self.place}: {self.kind} ({self.detail})"


# Kinds of defect, each with what is done.
REVERSED = "ends before it starts: dropped"
EMPTY = "ends where it starts: kept, but no feature step lies inside it"
OUTSIDE = "lies outside the video: dropped"
NEGATIVE_START = "starts before the first picture: kept, windows cut it"
PAST_END = "ends after the video: kept, windows cut it"
DUPLICATE = "repeats an earlier annotation: dropped"
UNLABELLED = "no annotations: not used in training"
UNKNOWN_BLOCKED = "no video of the annotations: blocks nothing"
FPS_MISMATCH = '"fps" disagrees with "frame" / "duration": "frame" counts'


@dataclass(frozen=True, eq=False)
class Video:
    """One annotated video."""

    name: str
    subset: str
    duration: float  # seconds
    frames: int  # as annotated; 0 if the file does not say
    fps: float  # frames / duration, or as annotated; 0 if the file says neither
    segments: np.ndarray  # float64 [n, 2], seconds, in the order of the file
    labels: np.ndarray  # int32 [n], indices into the classes
    start: float | None = None  # "first_picture"; None: not said, seconds count from the first picture

    @property
    def end(self) -> float:
        """The second at which the video ends."""
        return (self.start or 0.0) + self.duration


@dataclass(frozen=True)
class Annotations:
    """The videos of the requested subsets, in the order of the file."""

    videos: tuple[Video, ...]
    classes: tuple[str, ...]
    warnings: tuple[Defect, ...]

    def summary(self) -> list[str]:
        """One line for every kind of defect: how many, and the first as an example."""
        by_kind: dict[str, list[Defect]] = {}
        for defect in self.warnings:
            by_kind.setdefault(defect.kind, []).append(defect)
        return [
            f"{len(found)} x {kind}; first: {found[0].place} ({found[0].detail})" for kind, found in by_kind.items()
        ]


def load_annotations(
    path: str | PathLike[str],
    subsets: str | Sequence[str],
    classes: str | PathLike[str] | Sequence[str] | None = None,
) -> Annotations:
    """Reads an annotation file.

    Args:
      path: the JSON file.
      subsets: the subset or subsets whose videos are wanted, spelt as in the file.
      classes: the class names in the order of the labels, or a text file with one a line; None derives them, sorted,
        from the labels of all subsets of the file (so that training and evaluation agree).

    Raises:
      DataError: not a readable file of this format, no such subset, or a label that is not among the classes.
    """
    database = read_database(path)
    return parse_database(database, subsets, classes, str(path))


def read_database(path: str | PathLike[str]) -> dict[str, Any]:
    """The "database" of an ActivityNet-style JSON file; DataError if the file is not one."""
    content = read_json(path)
    if not isinstance(content, dict) or not isinstance(content.get("database"), dict):
        raise DataError(f'{path}: not ActivityNet-style annotations: there is no "database" object at the top level')
    return content["database"]


def parse_database(
    database: Mapping[str, Any],
    subsets: str | Sequence[str],
    classes: str | PathLike[str] | Sequence[str] | None = None,
    file: str = "annotations",
) -> Annotations:
    """`load_annotations` for a "database" already in memory; `file` is what messages call it."""
    subsets = (subsets,) if isinstance(subsets, str) else tuple(subsets)
    for name, entry in database.items():
        _check_name(file, name)
        if not isinstance(entry, dict):
            raise DataError(f"{file}: video {name!r}: is {entry!r}, not an object")
    found = {name: _text(entry, "subset", f"{file}: video {name!r}") for name, entry in database.items()}
    for subset in subsets:
        if subset not in found.values():
            raise DataError(f"{file}: no video is in subset {subset!r}; there are {sorted(set(found.values()))}")
    classes = derive_classes(database, file) if classes is None else read_classes(classes)
    if not classes:
        raise DataError(f"{file}: no annotation has a label, so no classes can be derived; name a file of classes")

    label_of = {name: label for label, name in enumerate(classes)}
    videos, warnings = [], []
    for name, entry in database.items():
        if found[name] in subsets:
            video, defects = _parse_video(file, name, entry, label_of)
            videos.append(video)
            warnings.extend(defects)
    return Annotations(tuple(videos), classes, tuple(warnings))


def derive_classes(database: Mapping[str, Any], file: str = "annotations") -> tuple[str, ...]:
    """The labels of all videos of all subsets, sorted, without THUMOS14's `Ambiguous`."""
    labels = {label for name, entry in database.items() for _, _, label in _parse_segments(file, name, entry)}
    return tuple(sorted(labels))


def is_ambiguous(video: str, label: str) -> bool:
    """Whether a label is no class: `Ambiguous` of THUMOS14's videos. In any other data set it is one like any other."""
    return label == AMBIGUOUS and THUMOS_VIDEO.fullmatch(video) is not None


def read_classes(classes: str | PathLike[str] | Sequence[str]) -> tuple[str, ...]:
    """Class names from a text file, one a line in the order of the labels, or from a sequence of names."""
    if isinstance(classes, (str, PathLike)):
        source = str(classes)
        names = tuple(line.strip() for line in read_text(classes, "file of classes").splitlines())
        while names and not names[-1]:  # at the end; a blank line between two would shift labels
            names = names[:-1]
    else:
        source, names = "classes", tuple(classes)
    for label, name in enumerate(names):
        if not isinstance(name, str) or not name:
            raise DataError(f"{source}: class {label} has no name; give one name a line")
        if name in names[:label]:
            raise DataError(f"{source}: class {name!r} stands at {names.index(name)} and again at {label}")
    if not names:
        raise DataError(f"{source}: names no class; give one name a line")
    return names


def read_names(path: str | PathLike[str]) -> frozenset[str]:
    """Names of videos: one a line; or, in a .json file, a list, as OpenTAD takes those that are blocked.

    Spaces around a name are none of it. `known_names` finds the videos that they mean.
    """
    if str(path).endswith(".json"):
        names = read_json(path)
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise DataError(f"{path}: not a JSON list of names of videos")
    else:
        names = read_text(path, "file of videos").splitlines()
    return frozenset(name.strip() for name in names) - {""}


def known_names(names: Iterable[str], known: Collection[str]) -> tuple[frozenset[str], tuple[str, ...]]:
    """The `known` videos that names mean, and the names that mean none, sorted.

    A name may differ by an extension, its Unicode form or, where that leaves one video, by case.
    """
    found, unknown = set(), []
    forms: dict[str, set[str]] = {}
    for name in known:
        for form in (_form(name), _form(name).casefold()):
            forms.setdefault(form, set()).add(name)
    for name in sorted(names):
        exact, bare = _form(name), _form(without_extension(name))
        tried = ({name} & set(known), *(forms.get(form, ()) for form in (exact, bare, bare.casefold())))
        meant = next((videos for videos in tried if videos), ())
        if len(meant) == 1:
            found.update(meant)
        else:
            unknown.append(name)
    return frozenset(found), tuple(unknown)


def _form(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _parse_video(
    file: str, name: str, entry: Mapping[str, Any], label_of: dict[str, int]
) -> tuple[Video, list[Defect]]:
    """One video of the database, and what looks wrong about it."""
    where = f"{file}: video {name!r}"
    duration = _positive(entry, "duration", where)
    frames = _positive(entry, "frame", where) if "frame" in entry else 0
    if frames != int(frames):
        raise DataError(f'{where}: "frame" is {frames}; it is the number of frames, a whole number')
    fps = _positive(entry, "fps", where) if "fps" in entry else 0.0
    start = _seconds(entry, "first_picture", where) if "first_picture" in entry else None
    first, last = start or 0.0, (start or 0.0) + duration
    defects = []
    if frames:
        counted = frames / duration
        if fps and abs(fps - counted) > FPS_TOLERANCE * fps:
            defects.append(Defect(file, name, None, FPS_MISMATCH, f"{fps:g} and {counted:g}"))
        fps = counted
    if fps > MAX_FPS:
        raise DataError(f'{where}: {fps:g} frames a second; "duration" is in seconds, "frame" the number of frames')

    segments: list[tuple[float, float]] = []
    labels: list[int] = []
    seen = set()
    for index, (begin, end), text in _parse_segments(file, name, entry):
        if text not in label_of:
            if text == AMBIGUOUS:  # of a list of classes that leaves it out, as THUMOS14's does
                continue
            close = difflib.get_close_matches(text, label_of, 1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise DataError(
                f"{where}, annotation {index}: label {text!r} is not among the {len(label_of)} classes{hint}"
            )
        label = label_of[text]
        kind = DUPLICATE if (begin, end, label) in seen else _defect_of(begin - first, end - first, duration)
        seen.add((begin, end, label))
        if kind:
            defects.append(Defect(file, name, index, kind, f"{begin:g} s to {end:g} s of {last:g} s, {text!r}"))
        if kind not in (REVERSED, OUTSIDE, DUPLICATE):
            segments.append((begin, end))
            labels.append(label)
    if not entry.get("annotations"):
        defects.append(Defect(file, name, None, UNLABELLED, f"subset {entry['subset']!r}"))
    video = Video(
        name=name,
        subset=entry["subset"],
        duration=duration,
        frames=int(frames),
        fps=fps,
        segments=np.array(segments, np.float64).reshape(-1, 2),
        labels=np.array(labels, np.int32),
        start=start,
    )
    return video, defects


def _defect_of(start: float, end: float, duration: float) -> str | None:
    if end < start:
        return REVERSED
    if end == start:
        return EMPTY
    if start >= duration or end <= 0:
        return OUTSIDE
    if end > duration:
        return PAST_END
    return NEGATIVE_START if start < 0 else None


def _parse_segments(file: str, name: str, entry: Mapping[str, Any]) -> Iterator[tuple[int, tuple[float, float], str]]:
    """(index, (start s, end s), label) of the annotations in order, without THUMOS14's `Ambiguous`; test videos have
    none."""
    annotations = entry.get("annotations", [])
    if not isinstance(annotations, list):
        raise DataError(f'{file}: video {name!r}: "annotations" is {annotations!r:.80}, not a list')
    for index, annotation in enumerate(annotations):
        where = f"{file}: video {name!r}, annotation {index}"
        if not isinstance(annotation, dict):
            raise DataError(f"{where}: is {annotation!r:.80}, not an object")
        label = _text(annotation, "label", where)
        if is_ambiguous(name, label):
            continue
        if "segment" not in annotation:
            raise DataError(f'{where}: "segment" is missing; it is [start, end] in seconds')
        segment = annotation["segment"]
        if not isinstance(segment, list) or len(segment) != 2 or not all(map(_is_number, segment)):
            raise DataError(f'{where}: "segment" is {segment!r:.80}, not [start, end] in seconds')
        yield index, (float(segment[0]), float(segment[1])), label


def _check_name(file: str, name: str) -> None:
    """The name becomes part of a path: one that leads out of the data folder is refused, on any operating system."""
    windows = PureWindowsPath(name)
    leads_out = PurePosixPath(name).is_absolute() or windows.drive or windows.root or ".." in windows.parts
    if not name or leads_out or any(unicodedata.category(letter) in NO_LETTERS for letter in name):
        raise DataError(
            f"{file}: video {name!r}: the name must be a file name without extension, inside the data folder, and "
            "without line breaks and control characters"
        )


def _text(entry: Mapping[str, Any], key: str, where: str) -> str:
    if key not in entry:
        raise DataError(f'{where}: "{key}" is missing')
    if not isinstance(entry[key], str) or not entry[key]:
        raise DataError(f'{where}: "{key}" is {entry[key]!r:.80}, not a text')
    return entry[key]


def _positive(entry: Mapping[str, Any], key: str, where: str) -> float:
    if key not in entry:
        raise DataError(f'{where}: "{key}" is missing')
    if not _is_number(entry[key]) or entry[key] < SMALLEST:
        raise DataError(f'{where}: "{key}" is {entry[key]!r:.80}, not a positive number')
    return float(entry[key])


def _seconds(entry: Mapping[str, Any], key: str, where: str) -> float:
    if not _is_number(entry[key]) or entry[key] < 0:
        raise DataError(f'{where}: "{key}" is {entry[key]!r:.80}, not a number of seconds')
    return float(entry[key])


def _is_number(value: Any) -> bool:
    """JSON lets true, NaN, Infinity and numbers beyond any use through."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < LARGEST
