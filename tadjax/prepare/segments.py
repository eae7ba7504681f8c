"""What every reader of annotation files gives: segments as they stand there, which become instances once they count."""

import math
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from tadjax.errors import DataError

INVISIBLE = re.compile("[\u200b\u200e\u200f\u202a-\u202e\u2060\u2066-\u2069\ufeff]")  # width or direction alone


class Instance(NamedTuple):
    """One annotated action."""

    video: str  # as `video_names.clean_name` leaves it: with its folders, and its extension if there is one
    start: float  # seconds
    end: float
    label: str
    where: str = ""  # file and line, for messages


@dataclass(frozen=True)
class Segment:
    """An entry of an annotation file, not looked at yet: what does not count may be wrong."""

    where: str
    videos: tuple[str, ...]  # names of the files that show it, the first before the others
    start: float | None  # seconds
    end: float | None
    label: str | None  # None: it is no labelled segment, and does not count
    track: str = ""  # ELAN's tier or VIA's attribute that the label is from
    problem: str = ""  # why it cannot be used


@dataclass(frozen=True)
class Reading:
    """How annotation files are to be read."""

    tracks: tuple[str, ...] = ()  # tiers or attributes that count, * and ? for any letters; () the only one there is
    encoding: str = ""  # of text files without a mark that are not UTF-8
    closeness: Callable[[str], int] = lambda name: 0  # to a video that is there; of several names the closest counts


def instance_of(segment: Segment, reading: Reading) -> Instance:
    """Raises DataError for an entry that is no action: times, label or video missing or impossible."""
    if segment.problem:
        raise DataError(f"{segment.where}: {segment.problem}")
    start, end = segment.start, segment.end
    if start is None or end is None or not math.isfinite(start) or not math.isfinite(end):
        raise DataError(f"{segment.where}: start {start!r} and end {end!r} must be seconds, such as 12.5")
    if end <= start:
        raise DataError(f"{segment.where}: the segment from {start:g} s to {end:g} s must end after it starts")
    try:
        label = clean_label(segment.label or "")
    except DataError as error:
        raise DataError(f"{segment.where}: {error}") from None
    videos = [video for video in segment.videos if video]
    if not videos:
        raise DataError(f"{segment.where}: the video is empty")
    return Instance(max(videos, key=reading.closeness), start, end, label, segment.where)


def clean_label(label: str) -> str:
    """A label on one line, single spaces, without letters that nobody sees, in Unicode's usual form (NFC).

    So that "jump" is one class, however it was typed. DataError for one that is empty or holds control characters.
    """
    label = " ".join(unicodedata.normalize("NFC", INVISIBLE.sub("", label)).split())
    if not label:
        raise DataError("the label is empty")
    if any(unicodedata.category(letter) in ("Cc", "Cs") for letter in label):
        raise DataError(f"the label {label!r} holds control characters; write it anew")
    return label
