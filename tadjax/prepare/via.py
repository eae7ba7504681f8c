"""VIA 3 (VGG Image Annotator): its project, and its exports "as CSV" and "only temporal segments as CSV".

All three name a segment's values by attribute; menus, check boxes and radio buttons by the numbers of their options,
which the project and the first export spell out. Each attribute is a track of its own.
"""

import csv
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from tadjax.errors import DataError
from tadjax.files import read_json
from tadjax.prepare.segments import Segment
from tadjax.video.names import clean_name

WRONG = (KeyError, IndexError, TypeError, ValueError, AttributeError, RecursionError)
COMMENT = re.compile(r'"?#')


def is_via_csv(text: str) -> bool:
    return COMMENT.match(text.lstrip()) is not None and "CSV_HEADER" in text


def read_csv(file: str, text: str) -> Iterator[Segment]:
    """The segments of either export."""
    columns: list[str] = []
    attributes: Mapping[str, Any] | None = None
    for number, line in enumerate(text.replace("\r\n", "\n").split("\n"), start=1):
        where = f"{file}, line {number}"
        if not line.strip(" ,;\t"):
            continue
        row = next(csv.reader([line]))
        if COMMENT.match(line):
            told = ",".join(row) if line.startswith('"') else line  # a spreadsheet puts such lines in quotes
            name, _, content = told.lstrip("# ").partition("=")
            if name.strip() == "CSV_HEADER":
                columns = [column.strip() for column in content.split(",") if column.strip()]
            elif name.strip() == "ATTRIBUTE":
                attributes = _attributes(where, content.rstrip(" ,"))
            continue
        entry = dict(zip(columns, row, strict=False))
        try:
            videos = json.loads(entry["file_list"])
            if "temporal_coordinates" in columns:
                times = json.loads(entry["temporal_coordinates"])
            else:
                times = [entry["temporal_segment_start"], entry["temporal_segment_end"]]
            values = json.loads(entry["metadata"])
            yield from _segments(where, videos, times, values, attributes)
        except WRONG as error:
            raise DataError(f"{where}: not as VIA exports it ({error!r})") from error


def _attributes(where: str, content: str) -> Mapping[str, Any]:
    try:
        found = json.loads(content)
        return {str(key): dict(value) for key, value in found.items()}
    except WRONG as error:
        raise DataError(f"{where}: the line of attributes is not as VIA exports it ({error!r})") from error


def read_project(file: str) -> Iterator[Segment]:
    """The segments of a project. DataError for any other JSON."""
    content = read_json(file)
    if not isinstance(content, dict) or not {"file", "view", "metadata"} <= set(content):
        raise DataError(f'{file}: neither ActivityNet-style ("database") nor a VIA 3 project ("file", "metadata")')
    where = file
    try:
        attributes = {str(key): dict(value) for key, value in content.get("attribute", {}).items()}
        for name, entry in content["metadata"].items():
            where = f"{file}: metadata {name!r}"
            shown = content["view"][str(entry["vid"])]["fid_list"]
            videos = [content["file"][str(fid)]["fname"] for fid in shown]
            yield from _segments(where, videos, entry["z"], entry["av"], attributes)
    except WRONG as error:
        raise DataError(f"{where}: not as VIA 3 saves it ({error!r})") from error


def _segments(
    where: str, videos: list, times: list, values: Mapping[str, Any], attributes: Mapping[str, Any] | None
) -> Iterator[Segment]:
    """One segment for every value.

    attributes: by id, None where the file does not say.
    """
    if not isinstance(videos, list) or not isinstance(values, Mapping) or not isinstance(times, list):
        raise TypeError("a list of files, a list of times and values by attribute are expected")
    if len(times) != 2:
        yield Segment(where, (), None, None, None, problem="marked frames and regions, which last no time")
        return
    names = tuple(clean_name(name) for name in videos if isinstance(name, str))
    try:
        start, end = (float(time) for time in times if not isinstance(time, bool))
        problem = ""
    except (TypeError, ValueError, OverflowError):
        start, end, problem = None, None, f"start {times[0]!r} and end {times[1]!r} must be seconds, such as 12.5"
    values = {key: value for key, value in values.items() if value not in (None, "")}
    if not values:
        yield Segment(where, names, start, end, None, problem="segments without a label")
    for key, value in values.items():
        if not isinstance(value, str):
            raise TypeError(f"the value {value!r} of attribute {key!r} is no text")
        known = (attributes or {}).get(key, {})
        options = known.get("options") or {}
        if not isinstance(options, Mapping):
            raise TypeError(f"the options of attribute {key!r} are {options!r:.80}")
        track = _track(key, attributes or {})
        if attributes is None and key.isdigit() and re.fullmatch(r"[0-9]+(,[0-9]+)*", value):
            text = (
                f"its label {value!r} is the number of an option, which this export does not name; take VIA's project"
            )
            yield Segment(where, names, start, end, value, track, f"{text} (.json), or its export of all as CSV")
            continue
        for one in value.split(",") if options else [value]:  # of check boxes, those that are ticked
            if options and one not in options:
                text = f"option {one!r} of attribute {track!r} is none of {', '.join(options)}; choose it anew in VIA"
                yield Segment(where, names, start, end, one, track, text)
            else:
                yield Segment(where, names, start, end, str(options.get(one, one)), track, problem)


def _track(key: str, attributes: Mapping[str, Any]) -> str:
    """An attribute's name, with its number where another one is called so."""
    name = str(attributes.get(key, {}).get("aname") or key).strip()
    namesakes = sum(str(other.get("aname") or "").strip() == name for other in attributes.values())
    return f"{name} ({key})" if namesakes > 1 else name
