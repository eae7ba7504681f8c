"""Results files: the JSON that ActivityNet's server takes and every public evaluator reads.

{"results": {video: [{"segment": [start s, end s], "label": name, "score": s}, ...]}, ...}
"""

import dataclasses
import itertools
import json
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from tadjax.detections.decode import Detections
from tadjax.errors import DataError
from tadjax.files import read_json, write_whole


@dataclasses.dataclass(frozen=True)
class Results:
    """Detections of each video, in the order of the file; labels are indices into `classes`."""

    videos: dict[str, Detections]
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return sum(len(found) for found in self.videos.values())


def write_results(path: str | pathlib.Path, videos: Mapping[str, Detections], classes: Sequence[str]) -> None:
    """Writes a results file, with every digit the detections have; the file appears whole or not at all."""
    content = {
        "version": "tadjax",
        "external_data": {"used": False, "details": ""},
        "results": {
            video: [
                {"segment": segment, "label": classes[label], "score": score}
                for segment, label, score in zip(
                    found.segments.tolist(), found.labels.tolist(), found.scores.tolist(), strict=True
                )
            ]
            for video, found in videos.items()
        },
    }
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(content))


def read_results(path: str | pathlib.Path, field: str = "label", problems: list[str] | None = None) -> Results:
    """Reads a results file; scores and segments float64, in the file's order.

    field: where an entry holds its class: "label", or EPIC-Kitchens' "verb", "noun", "action".
    problems: if given, entries whose score or times are not finite are left out and a sentence about them is appended;
    otherwise the first is an error. Raises DataError, naming file, video and entry, for whatever is no results file.
    """
    content = read_json(path)
    if not isinstance(content, dict) or not isinstance(content.get("results"), dict):
        raise DataError(
            f'{path}: no results file; it needs {{"results": {{video: [{{"segment", "label", "score"}}]}}}}'
        )
    return parse_results(content["results"], field, str(path), problems)


def parse_results(
    entries: Mapping[str, Sequence[Mapping]],
    field: str = "label",
    source: str = "results",
    problems: list | None = None,
) -> Results:
    """The value of "results" in a results file; arguments and errors as for `read_results`, named after `source`."""
    numbers: dict[str, int] = {}
    videos, left_out = {}, []
    for video, found in entries.items():
        try:
            detections = _to_arrays(found, field, numbers)
        except (KeyError, TypeError, ValueError, OverflowError):
            raise DataError(f"{source}: video {video}, {_first_defect(found, field)}") from None
        finite = np.isfinite(detections.scores) & np.isfinite(detections.segments).all(axis=1)
        if not finite.all():
            left_out += [f"video {video}, entry {entry}" for entry in np.flatnonzero(~finite)]
            detections = detections[finite]
        videos[video] = detections
    if left_out:
        sentence = (
            f"{source}: {len(left_out)} entries whose score or times are not finite (first: {left_out[0]}); "
            "scores and times must be finite numbers"
        )
        if problems is None:
            raise DataError(sentence)
        problems.append(f"{sentence}; left out")
    return Results(videos, tuple(numbers))


def _to_arrays(found: Sequence[Mapping], field: str, numbers: dict[str, int]) -> Detections:
    """Entries as arrays; `numbers` gives each class its number and is extended. Raises on any defect."""
    count = len(found)
    segments = [entry["segment"] for entry in found]
    if any(len(segment) != 2 or isinstance(segment, (str, dict)) for segment in segments):
        raise ValueError("a segment is not [start, end]")
    scores = [entry["score"] for entry in found]
    kinds = set(map(type, scores)).union(*(map(type, segment) for segment in segments))
    numbers_or_null = (int, float, np.number, type(None))  # null is not finite, which the caller decides about
    if not all(issubclass(kind, numbers_or_null) and kind is not bool for kind in kinds):
        raise TypeError("a score or a time is no number")
    times = np.fromiter(itertools.chain.from_iterable(segments), np.float64, 2 * count)
    labels = (numbers.setdefault(str(entry[field]), len(numbers)) for entry in found)
    return Detections(times.reshape(-1, 2), np.array(scores, np.float64), np.fromiter(labels, np.int64, count))


def _first_defect(found: object, field: str) -> str:
    """What is wrong with the first defective entry of a video, in words."""
    if not isinstance(found, list):
        return "whose value is not a list of detections"
    for index, entry in enumerate(found):
        if not isinstance(entry, dict):
            return f"entry {index} is not an object"
        for key in ("segment", field, "score"):
            if key not in entry:
                return f'entry {index} has no "{key}"'
        try:
            _to_arrays([entry], field, {})
        except (TypeError, ValueError, OverflowError):
            given = f"segment {entry['segment']!r}, score {entry['score']!r}"
            return f"entry {index}: {given}; [start, end] and a number expected"
    return "an entry is malformed"
