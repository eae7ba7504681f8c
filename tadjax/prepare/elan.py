"""ELAN (.eaf): annotations of tiers, in milliseconds of a timeline on which each media file begins at its TIME_ORIGIN.

Annotations of "symbolic" tiers have the times of their parents; several of one parent share it evenly. So do those of a
"time subdivision" whose slots have no time of their own, between the slots that do (EAF's specification, 2.3 and 2.4).
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from xml.etree import ElementTree

from tadjax.errors import DataError
from tadjax.prepare.segments import Segment
from tadjax.video.extensions import EXTENSIONS
from tadjax.video.names import clean_name

Span = tuple[float, float]  # milliseconds


def read_eaf(file: str, closeness: Callable[[str], int]) -> Iterator[Segment]:
    """The annotations of all tiers; a tier is a track.

    closeness: of a name to a video that is there; of several media files of one session the closest one counts.
    """
    try:
        root = ElementTree.fromstring(Path(file).read_bytes())
    except OSError as error:
        raise DataError(f"{file}: the annotations cannot be read ({error.strerror})") from error
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise DataError(f"{file}: not an ELAN file ({error})") from error
    header = root.find("HEADER")
    units = "milliseconds" if header is None else header.get("TIME_UNITS", "milliseconds")
    if units != "milliseconds":
        raise DataError(f"{file}: its times are {units}, not milliseconds; save it anew in ELAN")
    videos, origin = _media(file, root, closeness)
    spans = _spans(file, root)
    for tier in root.iter("TIER"):
        track = tier.get("TIER_ID", "").strip()
        entries = [entry for entry in tier.iter() if entry.tag in ("ALIGNABLE_ANNOTATION", "REF_ANNOTATION")]
        labels = [(entry.findtext("ANNOTATION_VALUE") or "").strip() for entry in entries]
        if not any(labels):  # a tier for each class
            labels = [track] * len(labels)
        for entry, label in zip(entries, labels, strict=True):
            name = entry.get("ANNOTATION_ID", "")
            times = spans.get(name)
            start, end = (None, None) if times is None else ((time + origin) / 1000 for time in times)
            problem = "has no time; align it to the video in ELAN" if times is None else ""
            yield Segment(f"{file}: annotation {name}", videos, start, end, label, track, problem)


def _media(file: str, root: ElementTree.Element, closeness: Callable[[str], int]) -> tuple[tuple[str, ...], float]:
    """Names of the video, and its origin in milliseconds; of a file that names no media its own name."""
    found = []
    for entry in root.iter("MEDIA_DESCRIPTOR"):
        urls = [entry.get(key, "") for key in ("MEDIA_URL", "RELATIVE_MEDIA_URL", "EXTRACTED_FROM")]
        names = [clean_name(url) for url in urls if url.strip()]
        pictures = entry.get("MIME_TYPE", "").startswith("video/")
        known = [name for name in names if Path(name).suffix.lower() in EXTENSIONS]
        names = known or ([name.removesuffix(Path(name).suffix) for name in names] if pictures else [])
        origin = entry.get("TIME_ORIGIN", "0")
        if not re.fullmatch(r"[+-]?[0-9]{1,12}", origin):
            raise DataError(f"{file}: TIME_ORIGIN {origin!r} of a media file is no number of milliseconds")
        if names:
            found.append((tuple(names), float(origin)))
    if found:
        return max(found, key=lambda entry: max(map(closeness, entry[0])))
    if next(root.iter("MEDIA_DESCRIPTOR"), None) is not None:
        raise DataError(f"{file}: none of its media files is a video; link the video in ELAN (Edit, Linked Files)")
    header = root.find("HEADER")
    named = "" if header is None else header.get("MEDIA_FILE", "")
    return (clean_name(named) or clean_name(Path(file).stem),), 0.0


def _spans(file: str, root: ElementTree.Element) -> dict[str, Span]:
    """Start and end of every annotation that has them or gets them from others, by id."""
    slots: dict[str, float | None] = {}
    for slot in root.iter("TIME_SLOT"):
        value = slot.get("TIME_VALUE")
        if value is not None and not re.fullmatch(r"[+-]?[0-9]{1,12}", value):
            raise DataError(f"{file}: time slot {slot.get('TIME_SLOT_ID')}: {value!r} is no number of milliseconds")
        slots[slot.get("TIME_SLOT_ID", "")] = None if value is None else float(value)
    evenly = _spread(list(slots), slots)  # in the order of the file, for slots that no chain of annotations places
    spans: dict[str, Span] = {}
    for tier in root.iter("TIER"):
        ends = {
            entry.get("ANNOTATION_ID", ""): (entry.get("TIME_SLOT_REF1", ""), entry.get("TIME_SLOT_REF2", ""))
            for entry in tier.iter("ALIGNABLE_ANNOTATION")
        }
        times = {**evenly, **_along_chains(list(ends.values()), slots)}
        for name, (first, last) in ends.items():
            start, end = times.get(first), times.get(last)
            if start is not None and end is not None:
                spans[name] = start, end
    _add_symbolic(root, spans)
    return spans


def _along_chains(ends: Sequence[tuple[str, str]], slots: Mapping[str, float | None]) -> dict[str, float | None]:
    """Times of the slots of a tier's annotations, which hang together where one ends at the slot of the next."""
    following = dict(ends)
    inner = set(following.values())
    times: dict[str, float | None] = {}
    for first in (slot for slot in following if slot not in inner):
        chain, seen = [first], {first}
        while (after := following.get(chain[-1])) is not None and after not in seen:
            chain.append(after)
            seen.add(after)
        times |= {slot: time for slot, time in _spread(chain, slots).items() if time is not None}
    return times


def _spread(chain: Sequence[str], slots: Mapping[str, float | None]) -> dict[str, float | None]:
    """Times of slots in order: those without one evenly between the neighbours that have one, None beyond these."""
    times = {slot: slots.get(slot) for slot in chain}
    known = [place for place, slot in enumerate(chain) if times[slot] is not None]
    for left, right in zip(known[:-1], known[1:], strict=True):
        start, end = times[chain[left]], times[chain[right]]
        for place in range(left + 1, right):
            times[chain[place]] = start + (end - start) * (place - left) / (right - left)
    return times


def _add_symbolic(root: ElementTree.Element, spans: dict[str, Span]) -> None:
    """Gives annotations that refer to others their times: all of it, or an even share where several of a tier do."""
    waiting = []
    for tier in root.iter("TIER"):
        children: dict[str, list[ElementTree.Element]] = {}
        for entry in tier.iter("REF_ANNOTATION"):
            children.setdefault(entry.get("ANNOTATION_REF", ""), []).append(entry)
        waiting += [(parent, _in_order(entries)) for parent, entries in children.items()]
    while waiting:  # a parent may be symbolic itself, and stand later in the file
        left = []
        for parent, names in waiting:
            if parent not in spans:
                left.append((parent, names))
                continue
            start, end = spans[parent]
            step = (end - start) / len(names)
            for number, name in enumerate(names):
                spans.setdefault(name, (start + number * step, start + (number + 1) * step))
        if len(left) == len(waiting):
            return
        waiting = left


def _in_order(entries: Sequence[ElementTree.Element]) -> list[str]:
    """Ids of a parent's annotations as each names the one before it."""
    after = {entry.get("PREVIOUS_ANNOTATION", ""): entry.get("ANNOTATION_ID", "") for entry in entries}
    ordered, name = [], after.get("")
    while name is not None and name not in ordered:
        ordered.append(name)
        name = after.get(name)
    names = [entry.get("ANNOTATION_ID", "") for entry in entries]
    return ordered if sorted(ordered) == sorted(names) else names
