"""Which videos of your own are kept out of training, to be evaluated on, and what their mAP is worth."""

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence, Set

from tadjax.data.annotations import Video
from tadjax.video.folder import some_of

SHARE = 0.2
FEWEST = 3  # videos, where there are three times as many
MANY_VIDEOS, MANY_INSTANCES = 5, 50  # below either, a mAP moves by chance more than by what is tried


def draw(classes: Mapping[str, Set[str]]) -> set[str]:
    """The videos to hold out, given the classes of each: one in five, up to one in three where more classes need it.

    A class stays in training in any case; none are held out where every video is the only one of some class. The same
    videos on every machine, in no order of recording.
    """
    if len(classes) < 2:
        return set()
    ordered = sorted(classes, key=number_of)
    most = max(1, len(ordered) // 3)
    wanted = max(round(SHARE * len(ordered)), min(FEWEST, most))
    left = Counter(label for labels in classes.values() for label in labels)
    held: set[str] = set()
    covered: set[str] = set()

    def can_go(name: str) -> bool:
        return name not in held and all(left[label] > 1 for label in classes[name])

    def take(name: str) -> None:
        held.add(name)
        covered.update(classes[name])
        left.subtract(classes[name])

    while len(held) < most:
        best = max(filter(can_go, ordered), key=lambda name: len(classes[name] - covered), default=None)
        if best is None or classes[best] <= covered:
            break
        take(best)
    for name in ordered:
        if len(held) < wanted and can_go(name):
            take(name)
    return held


def by_name(name: str) -> str:
    """The subset of a video that names none, where others do: one in five is held out, whatever the others are."""
    return "validation" if int(number_of(name), 16) % round(1 / SHARE) == 0 else "training"


def number_of(name: str) -> str:
    """A number that is drawn by a name, as hexadecimal digits of one length."""
    return hashlib.sha256(unicodedata.normalize("NFC", name).encode("utf-8", "replace")).hexdigest()


def worth(videos: Sequence[Video], classes: Sequence[str]) -> list[str]:
    """A line where the mAP of these videos says little: they are few, or hold few instances, or not every class."""
    counts = Counter(int(label) for video in videos for label in video.labels)
    missing = [name for label, name in enumerate(classes) if not counts[label]]
    instances = counts.total()
    if len(videos) >= MANY_VIDEOS and instances >= MANY_INSTANCES and not missing:
        return []
    moved = float(f"{100 / max(instances, 1):.2g}")
    line = (
        f"mAP will be that of {len(videos)} videos with {instances} instances of {len(classes) - len(missing)} of "
        f"{len(classes)} classes: one action found or missed moves it by about {moved:g} points"
    )
    return [line + (f"; it says nothing of {some_of(list(map(repr, missing)))}" if missing else "")]
