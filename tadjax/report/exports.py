"""Detections for other programs: a table (CSV) and subtitles (SubRip, WebVTT). The JSON is detections/results.py's."""

import csv
import io
from collections.abc import Sequence

from tadjax.detections.decode import Detections


def to_csv(video: str, found: Detections, classes: Sequence[str]) -> str:
    """A line a detection, in their order: video, start and end in seconds, label, score."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(("video", "start", "end", "label", "score"))
    for (start, end), label, score in zip(found.segments, found.labels, found.scores, strict=True):
        table.writerow((video, f"{start:.3f}", f"{end:.3f}", classes[label], f"{score:.4f}"))
    return text.getvalue()


def to_srt(found: Detections, classes: Sequence[str]) -> str:
    """SubRip: a subtitle a detection, in order of time."""
    cues = [
        f"{number}\n{_stamp(start, ',')} --> {_stamp(end, ',')}\n{text}\n"
        for number, (start, end, text) in enumerate(_cues(found, classes), start=1)
    ]
    return "\n".join(cues)


def to_vtt(found: Detections, classes: Sequence[str]) -> str:
    """WebVTT, which HTML players read: a cue a detection, in order of time."""
    cues = ["WEBVTT\n"]
    for start, end, text in _cues(found, classes):
        text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        cues.append(f"{_stamp(start, '.')} --> {_stamp(end, '.')}\n{text}\n")
    return "\n".join(cues)


def _cues(found: Detections, classes: Sequence[str]) -> list[tuple[int, int, str]]:
    """(start, end, text) in milliseconds, by start. Players skip what lasts no time: one millisecond is the least."""
    cues = []
    for (start, end), label, score in zip(found.segments.tolist(), found.labels, found.scores, strict=True):
        first, last = round(1000 * start), round(1000 * end)
        cues.append((first, max(last, first + 1), f"{' '.join(classes[label].split())} {score:.2f}"))
    return sorted(cues)


def _stamp(milliseconds: int, mark: str) -> str:
    seconds, milliseconds = divmod(milliseconds, 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{seconds:02d}{mark}{milliseconds:03d}"


def clock(seconds: float) -> str:
    """Seconds as people write times: 0:07.3, 12:05.0, 1:02:03.4."""
    tenths = round(10 * seconds)
    minutes, tenths = divmod(tenths, 600)
    hours, minutes = divmod(minutes, 60)
    head = f"{hours}:{minutes:02d}" if hours else f"{minutes}"
    return f"{head}:{tenths // 10:02d}.{tenths % 10}"
