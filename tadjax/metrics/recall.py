"""Two recalls of the field: top-kx recall (Ego4D moment queries), and average recall against the average number of
proposals a video (ActivityNet's proposal task), both class by class or class-agnostic as the originals are.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from tadjax.errors import DataError
from tadjax.metrics.instances import GroundTruth, Predictions
from tadjax.metrics.matching import segment_tiou


def top_kx_recall(
    truth: GroundTruth, predictions: Predictions, tiou: Sequence[float], ks: Sequence[int] = (1, 5)
) -> np.ndarray:
    """Share of instances found by the best k * x predictions of their class in their video; [thresholds, ks, classes].

    x is the number of instances of that class in that video. An instance is found if any of these predictions reaches
    the threshold; one prediction may find several.
    """
    thresholds = np.asarray(tiou, np.float64)
    classes = len(truth.classes)
    found = np.zeros((len(thresholds), len(ks), classes))
    groups = _groups(predictions.video * classes + predictions.labels)
    for key, instances in _groups(truth.video * classes + truth.labels).items():
        if key not in groups:
            continue
        members, x = groups[key], len(instances)
        best = members[np.argsort(predictions.scores[members])[::-1]][: max(ks) * x]
        overlap = segment_tiou(
            predictions.segments[best, None], truth.segments[instances], truth.rules.empty_matches_empty
        )
        reached = np.maximum.accumulate(overlap, axis=0)  # [predictions, instances], the best tIoU so far
        for i, k in enumerate(ks):
            found[:, i, key % classes] += (reached[min(k * x, len(best)) - 1] >= thresholds[:, None]).sum(axis=1)
    return found / truth.per_class()


@dataclasses.dataclass(frozen=True)
class AverageRecall:
    """recall [thresholds, n] at 1 ... n proposals a video on average (proposals_per_video [n]); all in [0, 1]."""

    tiou: np.ndarray
    proposals_per_video: np.ndarray
    recall: np.ndarray

    @property
    def average(self) -> np.ndarray:
        """AR: mean over thresholds, [n]."""
        return self.recall.mean(axis=0)

    @property
    def auc(self) -> float:
        """Area under AR against the number of proposals, divided by their largest number."""
        return float(np.trapezoid(self.average, self.proposals_per_video) / self.proposals_per_video[-1])

    def at(self, proposals: int) -> float:
        """AR@AN for AN = proposals."""
        return float(self.average[proposals - 1])


def average_recall(
    truth: GroundTruth, predictions: Predictions, tiou: Sequence[float], max_proposals: int = 100
) -> AverageRecall:
    """Average recall at 1 ... max_proposals proposals a video on average, labels ignored (ActivityNet's proposal task).

    A video gets proposals in proportion to how many it has: the budget of n a video is a share of all predictions.
    `predictions` are those of `align(..., every_class=True)`. Raises DataError where there are none.
    """
    if not len(predictions):
        raise DataError("average recall needs at least one prediction")
    thresholds = np.asarray(tiou, np.float64)
    instances_of, proposals_of = _groups(truth.video), _groups(predictions.video)
    share = max_proposals * len(instances_of) / len(predictions)
    firsts, counts = [], []  # per video: rank of the first proposal to find each instance [thresholds, x]; proposals
    for video, instances in instances_of.items():
        members = proposals_of.get(video, np.zeros(0, np.int64))
        members = members[np.argsort(predictions.scores[members])[::-1]]
        members = members[: min(int(len(members) * share), len(members))]
        overlap = segment_tiou(
            predictions.segments[members, None], truth.segments[instances], truth.rules.empty_matches_empty
        )
        hit = overlap >= thresholds[:, None, None]  # [thresholds, proposals, instances]
        never = np.full((len(thresholds), 1, len(instances)), True)
        firsts.append(np.argmax(np.concatenate([hit, never], axis=1), axis=1))
        counts.append(len(members))
    kept = np.array(counts)
    if not kept.sum():
        raise DataError("average recall: no prediction is in a video with ground truth")
    budgets = np.arange(1, max_proposals + 1) / max_proposals * (max_proposals * len(kept) / kept.sum())
    allowed = np.minimum((kept[:, None] * budgets).astype(np.int64), kept[:, None])  # [videos, n]
    found = sum((first[..., None] < allow).sum(axis=1) for first, allow in zip(firsts, allowed, strict=True))
    return AverageRecall(thresholds, budgets * (kept.sum() / len(kept)), found / len(truth))


def _groups(key: np.ndarray) -> dict[int, np.ndarray]:
    """Indices of the entries with each key, in their order."""
    order = np.argsort(key, kind="stable")
    names, firsts = np.unique(key[order], return_index=True)
    return dict(zip(names.tolist(), np.split(order, firsts[1:]), strict=True)) if len(key) else {}
