"""Annotations as their publishers write them, as ActivityNet-style databases: EPIC-Kitchens-100 and Charades.

The other data sets' are ActivityNet-style already, or reach users through a conversion (THUMOS14, MultiTHUMOS, Ego4D).
"""

import csv
from collections.abc import Iterator
from pathlib import Path

from tadjax.errors import DataError


def epic(folder: Path, task: str) -> tuple[dict, tuple[str, ...]]:
    """(database, classes) from EPIC_100_{train,validation,video_info}.csv; task "verb" or "noun".

    Labels are "id_007": the class number, three digits, as published conversions spell it; classes are in its order.
    """
    durations = {row["video_id"]: row["duration"] for row in _rows(folder / "EPIC_100_video_info.csv", "duration")}
    database: dict[str, dict] = {}
    for subset, file in (("train", "EPIC_100_train.csv"), ("val", "EPIC_100_validation.csv")):
        path = folder / file
        for number, row in enumerate(_rows(path, "stop_timestamp"), start=2):
            video = row["video_id"]
            if video not in durations:
                raise DataError(f"{path}, line {number}: video {video!r} is not in EPIC_100_video_info.csv")
            entry = database.setdefault(
                video, {"subset": subset, "duration": float(durations[video]), "annotations": []}
            )
            try:
                times = [round(_seconds(row[name]), 2) for name in ("start_timestamp", "stop_timestamp")]
                label = f"id_{int(row[f'{task}_class']):03d}"
            except (KeyError, ValueError) as error:
                raise DataError(f"{path}, line {number}: not as EPIC-Kitchens publishes it ({error})") from error
            entry["annotations"].append({"segment": times, "label": label})
    return database, _numbered(database)


def charades(folder: Path) -> tuple[dict, tuple[str, ...]]:
    """(database, classes) from Charades_v1_{train,test}.csv; labels are the class codes, c000 to c156."""
    database: dict[str, dict] = {}
    for subset, file in (("training", "Charades_v1_train.csv"), ("testing", "Charades_v1_test.csv")):
        path = folder / file
        for number, row in enumerate(_rows(path, "actions"), start=2):
            try:
                actions = [action.split() for action in row["actions"].split(";") if action]
                found = [{"segment": [float(start), float(end)], "label": label} for label, start, end in actions]
                entry = {"subset": subset, "duration": float(row["length"]), "annotations": found}
            except (KeyError, ValueError) as error:
                raise DataError(f"{path}, line {number}: not as Charades publishes it ({error})") from error
            database[row["id"]] = entry
    return database, _numbered(database)


CONVERTERS = {
    "epic_verb": lambda folder: epic(folder, "verb"),
    "epic_noun": lambda folder: epic(folder, "noun"),
    "charades": charades,
}


def _numbered(database: dict) -> tuple[str, ...]:
    """Labels of all subsets in the order of their numbers, which are all written with the same number of digits."""
    return tuple(sorted({a["label"] for entry in database.values() for a in entry["annotations"]}))


def _seconds(timestamp: str) -> float:
    """Of "00:01:02.50"."""
    hours, minutes, seconds = timestamp.split(":")
    return 3600 * int(hours) + 60 * int(minutes) + float(seconds)


def _rows(path: Path, needed: str) -> Iterator[dict[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            if needed not in (reader.fieldnames or ()):
                raise DataError(f"{path}: has no column {needed!r}; is it the publisher's file?")
            yield from reader
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
