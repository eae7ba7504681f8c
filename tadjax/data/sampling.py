"""Which frames of a video go through the model at once, and what ground truth stands on that window's time axis.

Three ways, as published with AdaTAD (arXiv:2311.17241) and its code base OpenTAD:

    sliding       windows of feature_length feature steps, overlapping; evaluation and prediction
    random_trunc  one such window a video and epoch, at a random place that holds an action; training
    resize        the whole video, however long, sampled to feature_length feature steps (ActivityNet, HACS)

A feature step stands for `stride` video frames, of which `frames_per_feature` are sampled:

    video frames    0 . . . . . . . 8 . . . . . . . 16         stride 8, frames_per_feature 2
    sampled         0       1       2       3       4
    feature steps   0               1               2

In the snippet representation it stands for its own snippet instead: `snippet_frames` frames, `snippet_stride` apart,
centred on the step's place. Snippets that overlap share their frames, which come once.

Units: seconds are float64; frames and feature steps may be fractions. A segment is [start, end).
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from tadjax.data.annotations import Video
from tadjax.data.timeline import Grid, Timeline
from tadjax.errors import ConfigError, DataError

METHODS = ("sliding", "random_trunc", "resize")
COVERAGES = ("full", "reference")
MAX_TRIALS = 200  # places that random truncation tries for one that holds an action


@dataclass(frozen=True)
class Sampling:
    """How windows are taken; plain numbers, checked when built (ConfigError)."""

    method: str  # "sliding", "random_trunc" or "resize"
    feature_length: int  # feature steps in a window
    frames_per_feature: int = 1  # sampled frames a feature step
    stride: int = 1  # video frames between two feature steps; unused by resize
    offset_frames: int = 0  # video frames from the place of a feature step to the first frame it covers
    overlap: float = 0.5  # sliding: of two successive windows, as a share of the window
    coverage: str = "full"  # sliding: every frame in a window, or "reference": as OpenTAD lists windows
    ioa_threshold: float = 0.75  # sliding, training: segments of which more than this share lies in a window are kept
    keep_ratio: float = 0.75  # random_trunc: segments of which at least this share lies in the window are kept
    crop_ratio: tuple[float, ...] = ()  # training: (low, high) share kept of a video no longer than the window
    whole_frames: bool = True  # ground truth is cut to whole frames (THUMOS, EPIC, Ego4D; not ActivityNet, Charades)
    filter_gt: bool = False  # leave segments out that are empty or, with resize, no longer than `min_length`
    min_length: float = 0.01  # resize: share of the video
    class_agnostic: bool = False  # all labels are 0
    snippet_frames: int = 0  # of the snippet that a feature step stands for; 0: frame representation
    snippet_stride: int = 1  # video frames between two frames of a snippet

    def __post_init__(self) -> None:
        def require(holds: bool, name: str, rule: str) -> None:
            if not holds:
                raise ConfigError(f"sampling: {name} is {getattr(self, name)!r}; it must be {rule}")

        require(self.method in METHODS, "method", f"one of {METHODS}")
        require(self.coverage in COVERAGES, "coverage", f"one of {COVERAGES}")
        for name in ("feature_length", "frames_per_feature", "stride"):
            value = getattr(self, name)
            require(isinstance(value, int) and value >= 1, name, "a whole number of at least 1")
        require(isinstance(self.offset_frames, int), "offset_frames", "a whole number")
        require(self.snippet_frames >= 0, "snippet_frames", "at least 0")
        require(self.snippet_stride >= 1, "snippet_stride", "at least 1")
        if self.snippet_frames:
            require(self.frames_per_feature == 1, "frames_per_feature", "1, as each feature step is its own snippet")
        require(0 <= self.overlap < 1, "overlap", "at least 0 and below 1")
        require(0 <= self.ioa_threshold <= 1, "ioa_threshold", "between 0 and 1")
        require(0 < self.keep_ratio <= 1, "keep_ratio", "above 0 and at most 1")
        require(0 <= self.min_length < 1, "min_length", "at least 0 and below 1")
        if self.crop_ratio:
            shares = len(self.crop_ratio) == 2 and 0 < self.crop_ratio[0] <= self.crop_ratio[1] <= 1
            require(shares, "crop_ratio", "() or two shares (low, high) with 0 < low <= high <= 1")
        if self.method != "resize":
            multiple = f"a multiple of frames_per_feature, which is {self.frames_per_feature}: the frames of a feature "
            require(self.stride % self.frames_per_feature == 0, "stride", multiple + "step are evenly spaced")
        if self.method == "sliding":
            rule = f"such that windows of {self.feature_length} steps advance by one step or more"
            require(self.window_stride >= 1, "overlap", rule)

    @property
    def frames(self) -> int:
        """Sampled frames in a window."""
        if self.snippet_frames:
            return (self.feature_length - 1) * self.snippet_hop + self.snippet_frames
        return self.places

    @property
    def places(self) -> int:
        """Where a window is sampled: one frame, or one snippet, each."""
        return self.feature_length * self.frames_per_feature

    @property
    def snippet_hop(self) -> int:
        """Sampled frames from one snippet's first to the next one's: fewer than a snippet has if they share some."""
        if self.method == "resize" or self.stride % self.snippet_stride:
            return self.snippet_frames
        return min(self.stride // self.snippet_stride, self.snippet_frames)

    @property
    def frame_stride(self) -> int:
        """Video frames between two sampled frames (not for resize)."""
        return self.stride // self.frames_per_feature

    @property
    def window_stride(self) -> int:
        """Feature steps from one sliding window to the next."""
        return int(self.feature_length * (1 - self.overlap))


@dataclass(frozen=True)
class Window:
    """Feature steps [start, start + steps) of a video; fewer than feature_length only if the video is shorter."""

    start: int
    steps: int


@dataclass(frozen=True, eq=False)
class GroundTruth:
    """A video's segments after `ground_truth`: in video frames, for resize in seconds."""

    segments: np.ndarray  # float32 [n, 2]
    labels: np.ndarray  # int32 [n]


@dataclass(frozen=True, eq=False)
class Sample:
    """What the loader decodes and the model is given for one window."""

    frame_indices: np.ndarray  # int64 [frames], display order, in [0, frames of the file); padding repeats the last one
    valid: np.ndarray  # bool [feature_length]
    grid: Grid
    segments: np.ndarray  # float32 [m, 2], feature steps
    labels: np.ndarray  # int32 [m]
    first: int = 0  # resize: step of the whole video that stands first, after a random crop; `grid` is the video's


class Draws(Protocol):
    """Where random truncation takes its numbers from: a numpy.random.Generator, or a script."""

    def integers(self, low: int, high: int, *, endpoint: bool) -> int: ...


def ground_truth(sampling: Sampling, timeline: Timeline, video: Video) -> GroundTruth:
    """A video's annotations in the units in which windows are cut: filtered, and without repetitions."""
    segments, labels = video.segments, video.labels
    start, end = segments.T
    # Seconds from the first picture; decimals, whose difference must not fall short of a whole frame.
    from_first = np.round(segments - timeline.start, 6) if timeline.start else segments
    if sampling.method == "resize":
        keep = (end - start) / video.duration > sampling.min_length
    elif sampling.whole_frames and timeline.frame_times is None:
        if timeline.declared_fps is None:  # not seconds * fps: rounding differs, and so would whole frames
            segments = np.trunc(from_first / timeline.duration * timeline.frames)
        else:
            segments = np.trunc(from_first * timeline.declared_fps)
        keep = segments[:, 1] > segments[:, 0]
    else:
        segments = timeline.to_frames(segments)
        start, end = segments.T - sampling.offset_frames
        keep = (end > start) & (end > 0) & (start <= timeline.to_frames(np.float64(timeline.end)))
    if sampling.filter_gt:
        segments, labels = segments[keep], labels[keep]
    if sampling.class_agnostic:
        labels = np.zeros_like(labels)
    return without_repetitions(segments.astype(np.float32), labels.astype(np.int32))


def without_repetitions(segments: np.ndarray, labels: np.ndarray) -> GroundTruth:
    """The first of each (segment, label), in order; cutting to whole frames makes some that were not the same equal."""
    rows = np.column_stack([segments.astype(np.float64), labels])
    first = np.sort(np.unique(rows, axis=0, return_index=True)[1])
    return GroundTruth(segments[first], labels[first])


def completeness(segments: np.ndarray, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
    """(share of each segment that lies in [first, last], float64 [n]; the segments cut to it, float64 [n, 2]).

    Without overlap the share is 0. Lengths below 1e-6 count as 1e-6.
    """
    anchor = np.array([first, last], np.float64)
    cut = np.stack([np.maximum(segments[:, 0], anchor[0]), np.minimum(segments[:, 1], anchor[1])], axis=1)
    length = np.maximum(segments[:, 1] - segments[:, 0], 1e-6)
    overlaps = (segments[:, 0] < anchor[1]) & (segments[:, 1] > anchor[0])
    return np.where(overlaps, (cut[:, 1] - cut[:, 0]) / length, 0.0), cut


def list_windows(sampling: Sampling, frames: int, truth: GroundTruth | None = None) -> tuple[Window, ...]:
    """The windows of a video of `frames` frames, in order.

    Coverage "reference" reproduces OpenTAD, which leaves the tails of some videos in no window and gives others their
    last window twice; `frames` is the annotated count there (`Timeline.frames`). "full" lists what that should have
    been: windows `window_stride` apart, the last one moved back to end with the video; the same wherever the reference
    is complete. Give it the frame count of the file, so that no frame is missed.

    With `truth` (training on sliding windows) only windows that hold a segment are listed. Random truncation and resize
    take the whole video: one window.
    """
    if frames < 1:
        raise DataError(f"a video of {frames} frames has no window")
    if sampling.method == "resize":
        return (Window(0, sampling.feature_length),)
    steps, length, stride = -(-frames // sampling.stride), sampling.feature_length, sampling.window_stride
    if sampling.method == "random_trunc":
        return (Window(0, steps),)

    last = max(steps - length, 0)
    if sampling.coverage == "full":
        starts = [*range(0, last, stride), last]
    else:
        starts = []
        for start in range(0, max(1, steps // stride) * stride, stride):
            starts.append(min(start, last))
            if start + length > steps:
                break
    windows = tuple(Window(start, min(length, steps)) for start in starts)
    if truth is None:
        return windows
    return tuple(window for window in windows if len(_inside(sampling, window, truth)[0]))


def sample(
    sampling: Sampling,
    timeline: Timeline,
    file_frames: int,
    *,
    window: Window | None = None,
    truth: GroundTruth | None = None,
    draws: Draws | None = None,
) -> Sample:
    """Frames, mask, time axis and ground truth of one window.

    Args:
      sampling: how.
      timeline: of the video.
      file_frames: how many frames the decoder finds; may differ from the annotated count.
      window: sliding: which one, from `list_windows`.
      truth: the video's, from `ground_truth`; None gives a sample without segments.
      draws: random_trunc, and resize with a crop_ratio: where random numbers come from, a numpy.random.Generator.

    Raises:
      DataError: no frame, or the window starts after the last one.
    """
    if file_frames < 1:
        raise DataError("the video has no frame that can be decoded")
    if truth is None:
        truth = GroundTruth(np.zeros((0, 2), np.float32), np.zeros(0, np.int32))
    if sampling.method == "resize":
        return _resized(sampling, timeline, file_frames, truth, draws)
    if sampling.method == "random_trunc":
        return _random_truncation(sampling, timeline, file_frames, truth, draws)
    return _sliding(sampling, timeline, file_frames, truth, window)


def max_segments(sampling: Sampling, file_frames: int, truth: GroundTruth) -> int:
    """The most segments that any window of this video can hold; their maximum over a data set is the static shape M."""
    if sampling.method == "sliding":
        windows = list_windows(sampling, file_frames)
        return max(len(_inside(sampling, window, truth)[0]) for window in windows)
    if sampling.method == "resize" or -(-file_frames // sampling.frame_stride) <= sampling.places:
        return len(truth.labels)
    # A window [x, x + length) keeps a segment [s, e) if x lies in [s + kept - length, e - kept]: count the most that
    # share one x. A hundredth of a step on both sides makes up for float32.
    start, end = truth.segments.astype(np.float64).T / sampling.stride
    kept = sampling.keep_ratio * (end - start)
    fits = (end > start) & (kept <= sampling.feature_length + 0.01)
    opens, closes = (start + kept - sampling.feature_length - 0.01)[fits], (end - kept + 0.01)[fits]
    places = np.concatenate([opens, closes])
    order = np.lexsort((np.repeat([0, 1], len(opens)), places))  # at equal places, opening counts first
    return int(np.max(np.cumsum(np.repeat([1, -1], len(opens))[order]), initial=0))


def _inside(sampling: Sampling, window: Window, truth: GroundTruth) -> tuple[np.ndarray, np.ndarray]:
    """(segments in frames, labels) that a sliding window keeps, cut to its first and last feature step."""
    if not sampling.ioa_threshold:
        return truth.segments, truth.labels
    first = window.start * sampling.stride
    share, cut = completeness(truth.segments, first, first + (window.steps - 1) * sampling.stride)
    keep = share > sampling.ioa_threshold
    return cut[keep], truth.labels[keep]


def _sliding(
    sampling: Sampling, timeline: Timeline, file_frames: int, truth: GroundTruth, window: Window | None
) -> Sample:
    if window is None:
        raise ValueError("sliding sampling needs a window of list_windows")
    first = window.start * sampling.frames_per_feature
    frame_indices, valid = _frames(sampling, first, window.steps * sampling.frames_per_feature, file_frames)
    segments, labels = _inside(sampling, window, truth)
    grid = Grid(
        timeline, sampling.feature_length, sampling.stride, window.start * sampling.stride, sampling.offset_frames
    )
    return Sample(frame_indices, valid, grid, grid.frames_to_steps(segments).astype(np.float32), labels)


def _frames(sampling: Sampling, first: int, count: int, file_frames: int) -> tuple[np.ndarray, np.ndarray]:
    """(frame indices int64 [frames], valid bool [feature_length]) of up to `count` sampled frames from `first` on.

    A feature step is valid if all its sampled frames exist. A file that ends within the first step keeps that step, as
    a window without any valid step has no output; not so with coverage "reference", which keeps none.
    """
    in_file = -(-file_frames // sampling.frame_stride)
    available = min(first + count, in_file) - first
    if available < 1:
        start = first * sampling.frame_stride
        raise DataError(f"a window starts at frame {start}, but the video has only {file_frames} frames")
    sampled = first + np.minimum(np.arange(sampling.places), available - 1)
    steps = available // sampling.frames_per_feature
    if sampling.coverage == "full":
        steps = max(steps, 1)
    frame_indices = sampled * sampling.frame_stride
    if sampling.snippet_frames:
        frame_indices = _snippets(sampling, frame_indices + sampling.offset_frames, file_frames)
    return frame_indices, np.arange(sampling.feature_length) < steps


def _snippets(sampling: Sampling, centres: np.ndarray, file_frames: int) -> np.ndarray:
    """Frames of the snippets centred on `centres` [feature_length] (ascending, fractions of frames), int64 [frames].

    Those outside the video are its first or last frame. A snippet's centre is that of the time it covers: 16 successive
    frames around centre c are [c - 8, c + 8).
    """
    inside = sampling.snippet_stride * (np.arange(sampling.snippet_frames) - sampling.snippet_frames // 2)
    frames = centres[:, None] + inside  # [feature_length, snippet_frames]
    last = max(min(file_frames - 1, frames[-1, -1]), 0)
    if sampling.snippet_hop < sampling.snippet_frames:  # they overlap: each frame once
        frames = frames[0, 0] + sampling.snippet_stride * np.arange(sampling.frames)
    return np.clip(frames, 0, last).round().astype(np.int64).reshape(-1)


def _random_truncation(
    sampling: Sampling, timeline: Timeline, file_frames: int, truth: GroundTruth, draws: Draws | None
) -> Sample:
    """A window at a place that is drawn. Unit of the drawing: sampled frames."""
    if draws is None:
        raise ValueError("random_trunc needs a numpy.random.Generator to draw from")
    whole = Grid(timeline, sampling.feature_length, sampling.stride, 0, sampling.offset_frames)
    segments = whole.frames_to_steps(truth.segments) * sampling.frames_per_feature
    in_file = -(-file_frames // sampling.frame_stride)
    start, length, segments, labels = _truncate(
        sampling, GroundTruth(segments, truth.labels), in_file, sampling.places, draws
    )
    frame_indices, valid = _frames(sampling, start, length, file_frames)
    grid = Grid(
        timeline, sampling.feature_length, sampling.stride, start * sampling.frame_stride, sampling.offset_frames
    )
    return Sample(frame_indices, valid, grid, segments / np.float32(sampling.frames_per_feature), labels)


def _truncate(
    sampling: Sampling, truth: GroundTruth, available: int, length: int, draws: Draws
) -> tuple[int, int, np.ndarray, np.ndarray]:
    """(start, length, segments, labels) of `length` of `available` units, or of a share of what is no longer than that.

    Places are drawn, at most `MAX_TRIALS`, until one holds a segment; the last is used.
    """
    start, segments, labels = 0, truth.segments, truth.labels
    if available <= length:
        length = available
        if sampling.crop_ratio:
            low, high = (round(share * available) for share in sampling.crop_ratio)
            length = int(draws.integers(max(low, 1), min(high, available), endpoint=True))
    if available > length:
        for _ in range(MAX_TRIALS):
            start = int(draws.integers(0, available - length, endpoint=True))
            kept, cut = _kept(segments, start, length, sampling.keep_ratio)
            if kept.any() or not len(segments):
                break
        segments, labels = cut[kept] - np.float32(start), labels[kept]
    return start, length, segments, labels


def _kept(segments: np.ndarray, start: int, length: int, keep_ratio: float) -> tuple[np.ndarray, np.ndarray]:
    """(bool [n]: at least keep_ratio of the segment lies in [start, start + length); the segments cut to it)."""
    left = np.maximum(segments[:, 0], np.float32(start))
    right = np.minimum(segments[:, 1], np.float32(start + length))
    inside, whole = np.maximum(right - left, 0), np.abs(segments[:, 1] - segments[:, 0])
    share = np.divide(inside, whole, out=np.zeros_like(whole), where=whole > 0)  # an empty segment is never kept
    return share >= keep_ratio, np.stack([left, right], axis=1)


def _resized(
    sampling: Sampling, timeline: Timeline, file_frames: int, truth: GroundTruth, draws: Draws | None
) -> Sample:
    """The middles of `frames` equal parts of the video, rounded half to even; in training a `crop_ratio` of them."""
    number = sampling.places
    step = file_frames / number
    first = step / 2 - 0.5
    # A running sum on purpose, not first + i * step: the two round differently at exact halves. It may end one too far.
    middles = np.arange(first, file_frames + first, step)[:number]
    if sampling.snippet_frames:
        frame_indices = _snippets(sampling, middles, file_frames)
    else:
        frame_indices = np.clip(middles, 0, file_frames - 1).round().astype(np.int64)
    grid = Grid(timeline, sampling.feature_length, 0)
    segments = np.clip(grid.to_steps(truth.segments), 0, sampling.feature_length).astype(np.float32)
    steps = np.arange(sampling.feature_length)
    if draws is None or not sampling.crop_ratio:
        return Sample(frame_indices, steps >= 0, grid, segments, truth.labels)
    first, length, segments, labels = _truncate(
        sampling, GroundTruth(segments, truth.labels), len(steps), len(steps), draws
    )
    frame_indices = frame_indices.reshape(len(steps), -1)[first + np.minimum(steps, length - 1)].reshape(-1)
    return Sample(frame_indices, steps < length, grid, segments, labels, first)
