"""From the times that packets carry, in the order of the file, to the times at which its frames are shown.

Times mostly rise from each group of pictures (a key frame and what is decoded after it) to the next, and sorting them
gives the order of display. They do not where a file is made of parts: MPEG-TS segments put together with `cat`,
recordings with interruptions, pieces and loops of an MP4's edit list. There each part follows the one before, as it
does for a decoder, and something is added to its times.
"""

import math
from fractions import Fraction

import numpy as np

GLITCH = 0.1  # seconds that a group may overlap what came before without being a new part; FFmpeg's own rule
GAP = 10.0  # seconds without a picture that are a jump of the clock where clocks may jump (MPEG); FFmpeg's, too
CLOCKS = 4  # of parts whose frames may still come
DEPTH = 17  # places that a frame may be away from its packet: no codec holds more than 16 frames back


def shifts(pts: np.ndarray, groups: np.ndarray, second: float, jumps: bool) -> np.ndarray:
    """What to add to the times of packets so that each group of pictures follows the one before.

    pts: int64 [n], those of shown packets in the order of the file. groups: int64 [n], rising; the number of the group
    that each is of. second: in ticks. jumps: whether a gap of more than GAP is one of the clock. Returns int64 [n], the
    same throughout a group; all 0 for most files.
    """
    starts = np.flatnonzero(np.diff(groups, prepend=groups[0] - 1))
    lows, highs = np.minimum.reduceat(pts, starts), np.maximum.reduceat(pts, starts)
    ahead = lows[1:] - np.maximum.accumulate(highs)[:-1]
    if not (np.any(ahead < 0) or (jumps and np.any(ahead > GAP * second))):
        return np.zeros_like(pts)
    ordered = pts[np.lexsort((pts, groups))]
    step, most = _step(ordered, second), _gap(ordered, second)
    clock, latest, found = 0, int(lows[0]) - step, []
    for low, high in zip(lows.tolist(), highs.tolist(), strict=True):
        gap = low + clock - latest
        if gap < -GLITCH * second or (jumps and gap > most):
            clock += step - gap
            gap = step
        found.append(clock + (1 - gap if gap < 0 else 0))
        latest = max(latest, high + found[-1])
    return np.repeat(found, np.diff(np.append(starts, len(pts))))


def mixed_up(pts: np.ndarray) -> bool:
    """Whether no decoder could give frames in the order of the times `pts`, int64 [n], from packets in this order."""
    places = np.argsort(pts, kind="stable")
    return bool(np.abs(places - np.arange(len(pts))).max(initial=0) > DEPTH)


def jumps_within(pts: np.ndarray, second: float) -> bool:
    """Whether the clock jumps though no part begins: times, int64 [n], as `shifts` leaves them."""
    pts = np.sort(pts)
    return bool(np.any(np.diff(pts) > _gap(pts, second)))


def following(stored: list[int | None], second: float, jumps: bool) -> np.ndarray:
    """Rising times, int64 [n], of frames in the order of display: a step where the stored time jumps or is missing.

    Where all are there and merely stand beside each other's places, they are sorted. At a join the frames of two parts
    may alternate, each with a clock of its own.
    """
    if None not in stored and not mixed_up(np.array(stored)) and len(set(stored)) == len(stored):
        return np.sort(np.array(stored, np.int64))
    known = np.array([time for time in stored if time is not None], np.int64)
    step, most = _step(known, second), _gap(known, second) if jumps else math.inf
    times, clocks = [], []  # clocks: the latest time of each, in the order of use
    for time in stored:
        before = clocks[-1] if clocks else 0
        if time is None:
            time = before + step if clocks else 0
        clock = max((clock for clock in clocks if 0 < time - clock <= most), default=None)
        moved = time - before if clock == before else step
        clocks = [*(other for other in clocks if other != clock), time][-CLOCKS:]
        times.append(times[-1] + moved if times else time)
    return np.array(times, np.int64)


def _step(pts: np.ndarray, second: float) -> int:
    """Ticks from one frame to the next, of times mostly in the order of display."""
    steps = np.diff(pts)
    steps = steps[steps > 0]
    return int(np.median(steps)) if len(steps) else max(1, round(second / 25))


def _gap(pts: np.ndarray, second: float) -> float:
    """Ticks without a picture that are a jump of the clock; pictures may be shown for long."""
    return max(GAP * second, 4 * _step(pts, second))


def apart(pts: np.ndarray) -> tuple[np.ndarray, int]:
    """(rising times, in how many parts of a tick): frames stored with one time are spread up to the next time."""
    times, first, counts = np.unique(pts, return_index=True, return_counts=True)
    if len(times) == len(pts):
        return pts, 1
    after = times[-1] + np.median(np.diff(times)).astype(int)
    places = np.interp(np.arange(len(pts)), np.append(first, len(pts)), np.append(times, after))
    return np.round(places * counts.max()).astype(np.int64), int(counts.max())


def frame_rate(pts: np.ndarray, time_base: Fraction, nominal: Fraction) -> tuple[Fraction, bool]:
    """Frames a second, and whether that rate is constant: every frame within a tick (rounding) of a uniform grid."""
    n = len(pts)
    if n == 1:
        return nominal, True
    elapsed = int(pts[-1] - pts[0])
    for rate in (nominal, Fraction(n - 1, elapsed) / time_base):
        uniform = np.arange(n) * float(1 / (rate * time_base))
        if np.abs(pts - pts[0] - uniform).max() <= 1.001:
            return rate, True
    last = int(np.median(np.diff(pts)))  # how long the last frame stays is stored in no container
    return Fraction(n) / ((elapsed + last) * time_base), False
