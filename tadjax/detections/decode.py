"""What a head yields for a window becomes candidates, then detections in seconds (OpenTAD's order of the steps).

top_candidates      score threshold, then the best top-k over all classes
postprocess         a window of a longer video: candidates in seconds; `fusion.merge_windows` suppresses later
postprocess_video   a window that is the whole video: suppression on the feature grid, then seconds
"""

import dataclasses
from typing import Protocol

import numpy as np

from tadjax.detections.nms import suppress
from tadjax.detections.settings import PostSettings
from tadjax.errors import TadjaxError


class Grid(Protocol):
    """What is needed of `tadjax.data.timeline.Grid`; this folder stands without the others."""

    def to_seconds(self, steps: np.ndarray) -> np.ndarray: ...


@dataclasses.dataclass(frozen=True)
class Detections:
    """The detections of one video or window: segments float [n, 2] seconds, scores float [n], labels int [n]."""

    segments: np.ndarray
    scores: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, index: np.ndarray | slice) -> "Detections":
        return Detections(self.segments[index], self.scores[index], self.labels[index])

    @staticmethod
    def concatenate(parts: "list[Detections]") -> "Detections":
        """All detections, part after part; none at all of no parts."""
        if not parts:
            return Detections(np.zeros((0, 2), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))
        return Detections(
            np.concatenate([part.segments for part in parts]),
            np.concatenate([part.scores for part in parts]),
            np.concatenate([part.labels for part in parts]),
        )

    def rounded(self) -> "Detections":
        """Seconds to 2 and scores to 4 decimals, float64: what OpenTAD writes, and merges windows from."""
        segments = np.round(np.asarray(self.segments, np.float64), 2)
        return Detections(segments, np.round(np.asarray(self.scores, np.float64), 4), self.labels)


def top_candidates(
    segments: np.ndarray, scores: np.ndarray, valid: np.ndarray | None, settings: PostSettings
) -> Detections:
    """The candidates of a window above the threshold, best first, at most `pre_nms_topk` over all classes.

    Args: segments [P, 2], or [P, K, 2] from heads that regress per class; scores [P, K] after the sigmoid; valid bool
    [P], None for all. With a single class neither threshold nor top-k applies and the order stays, as in OpenTAD.
    Raises TadjaxError where a valid score is NaN.
    """
    segments, scores = np.asarray(segments, np.float32), np.asarray(scores, np.float32)
    if valid is not None:
        segments, scores = segments[np.asarray(valid, bool)], scores[np.asarray(valid, bool)]
    if np.isnan(scores).any():
        raise TadjaxError(
            f"{int(np.isnan(scores).sum())} of {scores.size} scores are NaN; the model that gave them has diverged"
        )
    classes = scores.shape[1]
    if segments.ndim == 2:
        segments = np.broadcast_to(segments[:, None], (len(segments), classes, 2))
    if classes == 1:
        return Detections(segments[:, 0], scores[:, 0], np.zeros(len(scores), np.int64))
    flat = scores.reshape(-1)
    above = np.flatnonzero(flat > np.float32(settings.pre_nms_thresh))
    best = above[np.argsort(-flat[above], kind="stable")[: settings.pre_nms_topk]]
    point, label = np.divmod(best, classes)
    return Detections(segments[point, label], flat[best], label)


def postprocess(
    segments: np.ndarray, scores: np.ndarray, valid: np.ndarray | None, grid: Grid, settings: PostSettings
) -> Detections:
    """Candidates of one of several windows of a video, in seconds within the video, not yet suppressed.

    Args: segments [P, 2] or [P, K, 2] feature steps, scores [P, K], valid bool [P]; grid maps steps to seconds
    and cuts them to the video.
    """
    found = top_candidates(segments, scores, valid, settings)
    found = dataclasses.replace(found, segments=grid.to_seconds(found.segments))
    return found.rounded() if settings.rounding else found


def postprocess_video(
    segments: np.ndarray, scores: np.ndarray, valid: np.ndarray | None, grid: Grid, settings: PostSettings
) -> Detections:
    """Detections of a video that is one window (resized, or padded): arguments as for `postprocess`.

    Suppression runs on the feature grid, where segments may still reach beyond the video; so the result is not quite
    that of merging a single window.
    """
    found = top_candidates(segments, scores, valid, settings)
    kept_segments, kept_scores, labels = suppress(found.segments, found.scores, found.labels, settings)
    found = Detections(grid.to_seconds(kept_segments), kept_scores, labels)
    return found.rounded() if settings.rounding else found
