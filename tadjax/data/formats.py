"""What annotation tools write, as ActivityNet-style annotations: CSV, ELAN (.eaf), VIA (project or CSV), JSON.

    video,start,end,label          CSV or TSV, seconds, any order of columns
    *.eaf                          ELAN: every aligned annotation of every tier; the media file names the video
    *.json                         VIA 3 projects: every temporal segment; or ActivityNet-style, which stays as it is
    *.csv with "# CSV_HEADER"      VIA 3's own export

A folder stands for all the files of these kinds in it. Errors name file and line, annotation or entry.
"""

import csv
import json
import math
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from tadjax.data.video_folder import EXTENSIONS
from tadjax.errors import DataError
from tadjax.files import read_json

COLUMNS = ("video", "start", "end", "label")


class Instance(NamedTuple):
    """One annotated action."""

    video: str  # file name without folder and extension
    start: float  # seconds
    end: float
    label: str


def read_instances(path: Path) -> list[Instance]:
    """The instances of a file, or of all such files of a folder, in their order. Raises DataError for anything else."""
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix.lower() in _READERS)
        if not files:
            raise DataError(f"{path}: the folder holds no annotation file ({', '.join(sorted(_READERS))})")
        return [instance for file in files for instance in read_instances(file)]
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(f"{path}: no known kind of annotation file; there are {', '.join(sorted(_READERS))}")
    try:
        text = path.read_text(encoding="utf-8-sig")  # spreadsheets put a byte order mark in front
    except OSError as error:
        raise DataError(f"{path}: the annotations cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text; save the annotations as UTF-8") from error
    try:
        found = list(reader(str(path), text))
    except csv.Error as error:
        raise DataError(f"{path}: not a CSV file: {error}") from error
    if not found:
        raise DataError(f"{path}: holds no annotated segment")
    return found


def is_activitynet(path: Path) -> bool:
    """Whether a file is ActivityNet-style JSON already."""
    content = read_json(path) if path.suffix.lower() == ".json" else None
    return isinstance(content, dict) and "database" in content


def video_stem(name: str) -> str:
    """Name of a video as annotation files spell it, "C:\\\\films\\\\a b.mp4" or "file:///x/a%20b.mp4", without both."""
    if "://" in name:
        name = unquote(urlsplit(name).path)
    name = PurePosixPath(PureWindowsPath(name).as_posix()).name
    return name[: -len(Path(name).suffix)] if Path(name).suffix.lower() in EXTENSIONS else name


def _csv(file: str, text: str) -> Iterator[Instance]:
    if text.lstrip().startswith("#") and "CSV_HEADER" in text:
        yield from _via_csv(file, text)
        return
    lines = text.splitlines()
    delimiter = "\t" if lines and "\t" in lines[0] else ";" if lines and lines[0].count(";") >= 3 else ","
    rows = csv.DictReader(lines, delimiter=delimiter, skipinitialspace=True)
    names = {(name or "").strip().lower(): name for name in rows.fieldnames or ()}
    missing = [column for column in COLUMNS if column not in names]
    if missing:
        raise DataError(f"{file}: the first line must name the columns {','.join(COLUMNS)}; {missing[0]!r} is missing")
    for row in rows:
        where = f"{file}, line {rows.line_num}"
        video, start, end, label = ((row[names[column]] or "").strip() for column in COLUMNS)
        yield _instance(where, video, start, end, label)


def _via_csv(file: str, text: str) -> Iterator[Instance]:
    header = next(line for line in text.splitlines() if "CSV_HEADER" in line)
    columns = [column.strip() for column in header.partition("=")[2].split(",")]
    rows = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    for number, row in enumerate(csv.reader(rows), start=1):
        where = f"{file}, entry {number}"
        entry = dict(zip(columns, row, strict=False))
        try:
            videos, times = json.loads(entry["file_list"]), json.loads(entry["temporal_coordinates"])
            labels = [value for value in json.loads(entry["metadata"]).values() if value]
        except (KeyError, ValueError, AttributeError) as error:
            raise DataError(f"{where}: not as VIA exports it ({error})") from error
        for label in labels if len(times) == 2 else ():
            yield _instance(where, videos[0], *times, label)


def _eaf(file: str, text: str) -> Iterator[Instance]:
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise DataError(f"{file}: not an ELAN file ({error})") from error
    media = [entry.get("RELATIVE_MEDIA_URL") or entry.get("MEDIA_URL", "") for entry in root.iter("MEDIA_DESCRIPTOR")]
    video = next((name for name in media if Path(name).suffix.lower() in EXTENSIONS), Path(file).stem)
    slots = {slot.get("TIME_SLOT_ID"): slot.get("TIME_VALUE") for slot in root.iter("TIME_SLOT")}
    for tier in root.iter("TIER"):
        for annotation in tier.iter("ALIGNABLE_ANNOTATION"):
            where = f"{file}: annotation {annotation.get('ANNOTATION_ID')}"
            times = [slots.get(annotation.get(f"TIME_SLOT_REF{end}")) for end in (1, 2)]
            if None in times:
                raise DataError(f"{where}: has no time; align it to the video in ELAN")
            label = (annotation.findtext("ANNOTATION_VALUE") or "").strip() or tier.get("TIER_ID", "")
            try:
                seconds = [int(time) / 1000 for time in times]  # ELAN counts milliseconds
            except ValueError as error:
                raise DataError(f"{where}: its times {times} are not milliseconds") from error
            yield _instance(where, video, *seconds, label)


def _via_json(file: str, text: str) -> Iterator[Instance]:
    content = read_json(file)
    if not isinstance(content, dict) or not {"file", "view", "metadata"} <= set(content):
        raise DataError(f'{file}: neither ActivityNet-style ("database") nor a VIA 3 project ("file", "metadata")')
    attributes = content.get("attribute", {})
    for name, entry in content["metadata"].items():
        where = f"{file}: metadata {name!r}"
        try:
            times = entry["z"]
            video = content["file"][str(content["view"][str(entry["vid"])]["fid_list"][0])]["fname"]
            values = {key: value for key, value in entry["av"].items() if value}
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            raise DataError(f"{where}: not as VIA 3 saves it ({error!r})") from error
        for key, value in values.items() if len(times) == 2 else ():
            options = attributes.get(key, {}).get("options", {})
            chosen = value.split(",") if options else [value]  # menus store the numbers of the options that are ticked
            for one in chosen:
                yield _instance(where, video, *times, options.get(one, one))


_READERS = {".csv": _csv, ".tsv": _csv, ".eaf": _eaf, ".json": _via_json}


def _instance(where: str, video: Any, start: Any, end: Any, label: Any) -> Instance:
    try:
        times = float(start), float(end)
    except (TypeError, ValueError):
        raise DataError(f"{where}: start {start!r} and end {end!r} must be seconds, such as 12.5") from None
    if not all(map(math.isfinite, times)) or times[1] <= times[0]:
        raise DataError(f"{where}: the segment from {times[0]:g} s to {times[1]:g} s must end after it starts")
    if not str(label).strip():
        raise DataError(f"{where}: the label is empty")
    if not str(video).strip():
        raise DataError(f"{where}: the video is empty")
    return Instance(video_stem(str(video)), *times, str(label).strip())
