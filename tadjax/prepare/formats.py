"""What annotation tools write, as instances of named videos: one list of a file, or of all files of a folder.

    .csv, .tsv    a table (table.py), or an export of VIA 3 (via.py)
    .eaf          ELAN (elan.py)
    .json         a project of VIA 3; or ActivityNet-style, which stays as it is (`read_databases`)

ELAN's tiers and VIA's attributes are kept apart: where there are several, one is asked for. Errors name file and line,
annotation or entry.
"""

import csv
import fnmatch
import os
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tadjax.data.annotations import read_database
from tadjax.errors import DataError
from tadjax.files import read_json, read_text
from tadjax.prepare import elan, table, via
from tadjax.prepare.segments import Instance, Reading, Segment, instance_of

__all__ = ["Instance", "Reading", "annotation_files", "is_activitynet", "read_databases", "read_instances"]

KINDS = (".csv", ".eaf", ".json", ".tsv")
NAMED = 4  # examples in a message
PLAIN = Reading()


def annotation_files(path: Path) -> list[Path]:
    """A file, or those of these kinds in a folder and its subfolders, by name. DataError where there is none."""
    if not path.is_dir():
        return [path]
    files = [
        Path(parent, name)
        for parent, folders, names in os.walk(path)
        for name in names
        if Path(name).suffix.lower() in KINDS and not name.startswith(".")
    ]
    if not files:
        raise DataError(f"{path}: the folder holds no annotation file ({', '.join(KINDS)})")
    return sorted(files)


def is_activitynet(path: Path) -> bool:
    """Whether a file is ActivityNet-style JSON already."""
    content = read_json(path) if path.suffix.lower() == ".json" else None
    return isinstance(content, dict) and "database" in content


def read_databases(files: Sequence[Path]) -> dict[str, Any]:
    """The "database" of ActivityNet-style files together; DataError for a video of two."""
    database: dict[str, Any] = {}
    source: dict[str, Path] = {}
    for path in files:
        for name, entry in read_database(path).items():
            if name in database and database[name] != entry:
                raise DataError(f"{path}: video {name!r} stands in {source[name]} as well, annotated otherwise")
            database[name], source[name] = entry, path
    return database


def read_instances(
    path: Path | Sequence[Path], reading: Reading = PLAIN, remarks: list[str] | None = None
) -> list[Instance]:
    """The instances of a file, of all such files of a folder, or of a list of files, in their order.

    remarks: gets a line for what was passed over. Raises DataError for what is no annotation file, and where there are
    several tiers or attributes of which `reading` names none.
    """
    files = annotation_files(path) if isinstance(path, Path) else path
    segments = []
    for file in files:
        try:
            found = list(_read(file, reading))
        except csv.Error as error:
            raise DataError(f"{file}: not a CSV file: {error}") from error
        if not found and len(files) == 1:
            raise DataError(f"{file}: holds no annotated segment")
        if not found and remarks is not None:
            remarks.append(f"{file}: holds no annotated segment: passed over")
        segments += found
    if not segments:
        raise DataError(f"{files[0].parent}: none of its {len(files)} annotation files holds an annotated segment")
    counting = [segment for segment in segments if segment.label is not None]
    if not counting:
        raise DataError(f"{files[0]}: holds no annotated segment, only {segments[0].problem}")
    chosen = _chosen(counting, reading.tracks, str(path if isinstance(path, Path) else files[0]))
    if remarks is not None:
        for kind, number in Counter(segment.problem for segment in segments if segment.label is None).items():
            remarks.append(f"{number} entries passed over: {kind}")
        left = {segment.track for segment in counting} - {segment.track for segment in chosen}
        if left:
            number = len(counting) - len(chosen)
            remarks.append(f"{number} annotations of other tiers or attributes passed over: {_few(sorted(left))}")
    return [instance_of(segment, reading) for segment in chosen]


def _read(path: Path, reading: Reading) -> Iterator[Segment]:
    kind = path.suffix.lower()
    if kind not in KINDS:
        raise DataError(f"{path}: no known kind of annotation file; there are {', '.join(KINDS)}")
    if kind == ".eaf":
        return elan.read_eaf(str(path), reading.closeness)
    if kind == ".json":
        return via.read_project(str(path))
    cure = "save it as UTF-8 (in spreadsheets: CSV UTF-8), or give --encoding, such as cp1252"
    text = read_text(path, "annotations", reading.encoding, cure)
    return via.read_csv(str(path), text) if via.is_via_csv(text) else table.read_table(str(path), text)


def _chosen(segments: Sequence[Segment], wanted: Sequence[str], source: str) -> list[Segment]:
    """The segments of the tracks that count."""
    tracks: dict[str, list[str]] = {}
    for segment in segments:
        tracks.setdefault(segment.track, []).append(segment.label)
    there = "; ".join(
        f"{track!r} ({len(labels)} annotations, such as {_few(dict.fromkeys(labels))})"
        for track, labels in tracks.items()
    )
    for pattern in wanted:
        if not any(_means(pattern, track) for track in tracks):
            raise DataError(f"{source}: no tier or attribute is called {pattern!r}; there are {there}")
    if not wanted and len(tracks) > 1:
        raise DataError(
            f"{source}: holds {len(tracks)} tiers or attributes, of which one alone may be meant: {there}; say which "
            "count with --tier NAME or --attribute NAME, which may be repeated"
        )
    return [s for s in segments if not wanted or any(_means(pattern, s.track) for pattern in wanted)]


def _means(pattern: str, track: str) -> bool:
    pattern, track = (unicodedata.normalize("NFC", text) for text in (pattern, track))
    return pattern == track or fnmatch.fnmatchcase(track, pattern)


def _few(names: Sequence[str] | dict[str, Any]) -> str:
    shown = ", ".join(repr(name) if name else "no label" for name in list(names)[:NAMED])
    return shown + (" ..." if len(names) > NAMED else "")
