"""What a person needs to choose a recipe for a data set: its lengths, and window, stride and levels that fit them.

The rules reproduce what the published recipes chose by hand. A feature step is short enough that nine of ten actions
span four of them (THUMOS14: 4 frames at 30 a second); a window holds the longest actions twice over; levels double
from 4 steps on until the last one, which is open, begins below the longest actions (ActionFormer, arXiv:2202.07925).
How long to train follows from the number of windows: as often as THUMOS14's 200 are seen, but for enough steps.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from tadjax.data.annotations import Video

LENGTHS = (64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2304)  # feature steps of a window that divide well
LONGEST_STRIDE = 64
BACKBONE_SPACING = 4 / 30  # seconds between two sampled frames: what VideoMAE was pre-trained on
LEVELS = (3, 8)  # fewest and most
RATES_DIFFER = 1.05  # 29.97 and 30 are one frame rate
EPOCHS = 60  # THUMOS14's
FEWEST_STEPS, MOST_STEPS, FEWEST_EPOCHS = 1000, 12000, 15
RATE_TIMES_STEPS = 0.9  # 1.5e-4 x 6000 on THUMOS14: Adam moves a weight by about the learning rate a step
LEARNING_RATES = (1e-4, 1e-3)  # lowest and highest
MEMORY_OF_AVERAGE = 12  # a run is that many times as long as what the average of weights looks back on


@dataclasses.dataclass(frozen=True)
class Suggestion:
    """Sizes in the words of `config.window` and `config.head`."""

    feature_length: int  # feature steps
    frames_per_feature: int
    stride: int  # video frames
    levels: int

    @property
    def regression_ranges(self) -> tuple[tuple[int, int], ...]:
        """Feature steps, one pair a level."""
        edges = [0, *(2 ** (level + 2) for level in range(self.levels - 1)), 10000]
        return tuple(zip(edges[:-1], edges[1:], strict=True))


def suggest(lengths: np.ndarray, longest_video: float, fps: float) -> Suggestion:
    """A recipe's sizes from the lengths of all instances [n] and of the longest video in seconds."""
    short, long = np.quantile(lengths, (0.1, 0.99))
    stride = 2 ** int(np.clip(math.floor(math.log2(max(short * fps / 4, 1))), 0, math.log2(LONGEST_STRIDE)))
    per_second = fps / stride
    needed = min(2 * long, longest_video) * per_second
    length = next((steps for steps in LENGTHS if steps >= needed), LENGTHS[-1])
    levels = math.floor(math.log2(max(long * per_second / 4, 1))) + 1
    deepest = next(n for n in range(LEVELS[1], 0, -1) if length % 2 ** (n - 1) == 0 and length // 2 ** (n - 1) >= 2)
    spacing = max(1, 2 ** math.floor(math.log2(max(fps * BACKBONE_SPACING, 1))))
    return Suggestion(
        length, max(1, stride // spacing), stride, int(np.clip(levels, LEVELS[0], min(LEVELS[1], deepest)))
    )


@dataclasses.dataclass(frozen=True)
class Schedule:
    """How long to train, in the words of `config.optim` and `config.train`."""

    steps: int
    epochs: int
    warmup_epochs: int
    learning_rate: float
    ema_decay: float
    eval_from_epoch: int
    eval_every_epochs: int


def schedule(windows: int, batch_size: int) -> Schedule:
    """A schedule for that many training windows an epoch.

    A small set is seen more often, at a higher learning rate: what a weight moves in all stays about the same. The
    average of weights looks back on a twelfth of the run, so that nothing of the initial ones is left in it.
    """
    epoch = -(-windows // batch_size)
    epochs = max(EPOCHS, -(-FEWEST_STEPS // epoch))
    epochs = min(epochs, max(FEWEST_EPOCHS, MOST_STEPS // epoch))
    steps = epochs * epoch
    rate = float(np.clip(RATE_TIMES_STEPS / steps, *LEARNING_RATES))
    return Schedule(
        steps=steps,
        epochs=epochs,
        warmup_epochs=max(1, round(epochs / 15)),
        learning_rate=float(f"{rate:.1e}"),
        ema_decay=float(f"{min(0.999, 1 - MEMORY_OF_AVERAGE / steps):.4f}"),
        eval_from_epoch=-(-epochs // 2),
        eval_every_epochs=-(-epochs // 6),
    )


def describe(videos: Sequence[Video], classes: Sequence[str]) -> list[str]:
    """Lines about the annotated videos of one subset: counts and lengths."""
    counts = np.array([len(video.labels) for video in videos])
    if not counts.sum():
        return [f"{len(videos)} videos, none with an instance"]
    per_class = np.bincount(np.concatenate([video.labels for video in videos]), minlength=len(classes))
    rarest = int(per_class.argmin())
    return [
        f"{len(videos)} videos, {counts.sum()} instances of {len(classes)} classes "
        f"({counts.mean():.1f} a video, {counts.max()} at most; rarest class {classes[rarest]!r}: {per_class[rarest]})",
        _spread("videos last", np.array([video.duration for video in videos])),
        _spread("instances last", instance_lengths(videos)),
    ]


def advise(videos: Sequence[Video], fps: float) -> list[str]:
    """Lines that suggest the sizes of a config for all annotated videos; none without an instance."""
    lengths = instance_lengths(videos)
    if not len(lengths):
        return []
    found = suggest(lengths, max(video.duration for video in videos), fps)
    lines = [
        f"suggested at {fps:g} frames a second: window.stride = {found.stride}, window.feature_length = "
        f"{found.feature_length} ({found.feature_length * found.stride / fps:.0f} s), window.frames = "
        f"{found.feature_length * found.frames_per_feature}, head.convs = (2, 2, {found.levels - 1}), "
        f"head.regression_ranges = {found.regression_ranges}",
    ]
    covered = np.median(np.concatenate([_lengths_inside(video) / video.duration for video in videos]))
    if covered > 0.25:
        lines.append(
            f"instances cover {100 * covered:.0f} % of their video (median): window.sampling = "
            'window.eval_sampling = "resize", the whole video as one window, may do better (as on ActivityNet)'
        )
    return lines


def rates(fps: Sequence[float]) -> list[str]:
    """A line where videos [n] have different frame rates: strides count frames, so actions differ in pace."""
    if not len(fps) or max(fps) <= RATES_DIFFER * min(fps):
        return []
    return [
        f"frame rates differ, from {min(fps):.4g} to {max(fps):.4g} a second: windows count frames, so the same action "
        f"looks faster or slower; --reencode FOLDER --fps {usual_rate(fps):.4g} writes all videos at one rate"
    ]


def usual_rate(fps: Sequence[float]) -> float:
    """The frame rate of the middle one of videos [n]; 30 of none."""
    return float(np.quantile(fps, 0.5, method="higher")) if len(fps) else 30.0


def instance_lengths(videos: Sequence[Video]) -> np.ndarray:
    """Lengths in seconds of all instances that have one inside their video, float64 [n]."""
    lengths = np.concatenate([_lengths_inside(video) for video in videos])
    return lengths[lengths > 0]


def _lengths_inside(video: Video) -> np.ndarray:
    """What of each instance lies inside its video, seconds, float64 [n]."""
    return np.diff(np.clip(video.segments, video.start or 0.0, video.end), axis=1)[:, 0]


def _spread(what: str, seconds: np.ndarray) -> str:
    low, middle, high, most = (*np.quantile(seconds, (0.1, 0.5, 0.9)), seconds.max())
    return f"{what} {middle:.1f} s (median), {low:.1f} to {high:.1f} s for most (10 to 90 %), {most:.1f} s at most"
