"""Annotations as a table: CSV or TSV, the first line names the columns video, start, end, label in any order.

    video,start,end,label
    camA/clip1.mp4,12.5,14,jump         seconds; or times: 0:12.5, 00:00:12.500
    clip2.mp4;12,5;14;jump              spreadsheets with decimal commas part columns with semicolons or tabs

A column may name its unit: start_s, end (sec), start_ms. Frame numbers are refused: which frame is the first one, and
whether the last one counts, differs from tool to tool.
"""

import csv
import io
import re
from collections.abc import Iterator, Sequence

from tadjax.errors import DataError
from tadjax.prepare.segments import Segment
from tadjax.video.names import clean_name

COLUMNS = ("video", "start", "end", "label")
UNITS = {"": 1.0, "s": 1.0, "sec": 1.0, "secs": 1.0, "second": 1.0, "seconds": 1.0, "time": 1.0, "ms": 0.001}
UNITS |= {"msec": 0.001, "milliseconds": 0.001, "hh:mm:ss": 1.0, "hh:mm:ss.mmm": 1.0, "h:mm:ss": 1.0, "mm:ss": 1.0}
FRAMES = ("frame", "frames", "f", "frame number", "frame_number")
NUMBER = re.compile(r"[+-]?([0-9]+([.,][0-9]*)?|[.,][0-9]+)([eE][+-]?[0-9]+)?")
CLOCK = re.compile(r"(?:([0-9]+):)?([0-9]+):([0-5]?[0-9](?:[.,][0-9]*)?)")


def read_table(file: str, text: str) -> Iterator[Segment]:
    """The rows of a table. Raises DataError that names file and line."""
    first, lines = 1, io.StringIO(text, newline="")
    delimiter = _delimiter(text)
    if re.match(r'"?sep=.', text):  # Excel's own way to name the delimiter
        lines.readline()
        first = 2
    rows = csv.reader(lines, delimiter=delimiter, skipinitialspace=True)
    places: dict[str, int] = {}
    units: dict[str, float] = {}
    marks: set[str] = set()
    for row in rows:
        where = f"{file}, line {rows.line_num + first - 1}"
        if not any(cell.strip() for cell in row):  # a spreadsheet's rows that were emptied
            continue
        if not places:
            places, units = _header(where, row)
            width = len(row)
            continue
        if any(cell.strip() for cell in row[width:]):
            raise DataError(
                f"{where}: has {len(row)} columns, the first line {width}; decimal commas or commas in names need "
                "semicolons between the columns, or quotes"
            )
        video, start, end, label = (row[places[name]].strip() if places[name] < len(row) else "" for name in COLUMNS)
        comma = delimiter != ","
        times = _seconds(start, units["start"], comma), _seconds(end, units["end"], comma)
        problem = f"start {start!r} and end {end!r} must be seconds, such as 12.5, or times, such as 0:12.5"
        if ":" in start + end and None in times:
            problem += "; with frames in them (0:00:12:15) they say nothing without a frame rate"
        elif "," in start + end and None in times:
            problem += "; decimal commas need semicolons between the columns"
        marks |= {mark for mark in ",." if mark in start + end}
        if len(marks) > 1:
            problem, times = (
                f"start {start!r} and end {end!r}: some times hold commas and some points; use one",
                (None, None),
            )
        yield Segment(where, (clean_name(video),), *times, label, problem=problem if None in times else "")


def _delimiter(text: str) -> str:
    named = re.match(r'"?sep=(.)', text)
    if named:
        return named[1]
    header = next((line for line in text.splitlines() if line.strip(" ,;\t")), "")
    return max("\t;,", key=header.count) if len(header) < 100_000 else ","


def _header(where: str, row: Sequence[str]) -> tuple[dict[str, int], dict[str, float]]:
    """The places of the columns, and seconds in one unit of the columns of times."""
    places: dict[str, int] = {}
    units = {}
    for place, cell in enumerate(row):
        name = " ".join(cell.strip("\ufeff \t").lower().split())
        stem, unit = name, ""
        found = re.fullmatch(r"(start|end)(?:[ _-]+|(?=[(\[]))[(\[]?([a-z:. _]+?)[)\]]?", name)
        if found and (found[2] in UNITS or found[2] in FRAMES):
            stem, unit = found[1], found[2]
        frames = re.fullmatch(r"(frame[ _-]?)(start|end)|(start|end)frame", name)
        if unit in FRAMES or frames:
            raise DataError(
                f"{where}: the column {cell.strip()!r} counts frames; give seconds: (frame - first frame) / frame rate"
            )
        if stem in COLUMNS:
            if stem in places:
                raise DataError(f"{where}: the first line names two columns {stem!r}; keep one")
            places[stem] = place
            if stem in ("start", "end"):
                units[stem] = UNITS[unit]
    missing = [column for column in COLUMNS if column not in places]
    if missing:
        raise DataError(f"{where}: the first line must name the columns {','.join(COLUMNS)}; {missing[0]!r} is missing")
    return places, units


def _seconds(text: str, unit: float, comma: bool) -> float | None:
    """Of "12.5", "0:12.5" or "1:02:03.4", with decimal commas where they part no columns; None for anything else."""
    if "," in text and not comma:
        return None
    found = CLOCK.fullmatch(text)
    if found and unit == 1.0:
        hours, minutes = int(found[1] or 0), int(found[2])
        return None if found[1] and minutes > 59 else 3600 * hours + 60 * minutes + float(found[3].replace(",", "."))
    return float(text.replace(",", ".")) * unit if NUMBER.fullmatch(text) else None
