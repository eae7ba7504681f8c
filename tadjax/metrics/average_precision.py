"""Mean average precision over tIoU thresholds: ActivityNet's detection metric, interpolated as VOC 2011 does."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from tadjax.metrics.instances import GroundTruth, Predictions
from tadjax.metrics.matching import match


@dataclasses.dataclass(frozen=True)
class AveragePrecision:
    """ap float64 [thresholds, classes] in [0, 1]; tiou [thresholds]; class names in the order of the columns."""

    tiou: np.ndarray
    classes: tuple[str, ...]
    ap: np.ndarray

    @property
    def mAP(self) -> np.ndarray:
        """Mean over classes, [thresholds]."""
        return self.ap.mean(axis=1)

    @property
    def average_mAP(self) -> float:
        """Mean over classes and thresholds."""
        return float(self.mAP.mean())


def average_precision(truth: GroundTruth, predictions: Predictions, tiou: Sequence[float]) -> AveragePrecision:
    """AP of every class at every threshold, by the rules the ground truth was read with.

    Every class of the ground truth counts, and so do its instances in videos without predictions.
    """
    ranks = predictions.ranks()
    matched = match(truth, predictions, np.asarray(tiou, np.float64), ranks)
    positives = truth.per_class()
    order = np.lexsort((ranks, predictions.labels))  # class by class, each by descending score
    correct = matched[:, order] >= 0
    bounds = np.cumsum(np.r_[0, np.bincount(predictions.labels, minlength=len(positives))])
    ap = [interpolated_ap(correct[:, bounds[k] : bounds[k + 1]], positives[k]) for k in range(len(positives))]
    return AveragePrecision(np.asarray(tiou, np.float64), truth.classes, np.stack(ap, axis=1))


def interpolated_ap(correct: np.ndarray, positives: int, weight: float | None = None) -> np.ndarray:
    """Area under the precision-recall curve, precision made monotone from the right; [..., n] by descending score.

    Recall R moves by 1/positives at each correct prediction, so the area is a sum over those alone. With `weight` N
    precision is DETAD's normalised R N / (R N + false positives), so that rare and frequent classes compare.
    """
    precision = precision_curve(correct, positives, positives if weight is None else weight)
    envelope = np.maximum.accumulate(precision[..., ::-1], axis=-1)[..., ::-1]
    return (envelope * correct).sum(axis=-1) / positives


def precision_curve(correct: np.ndarray, positives: int, weight: float) -> np.ndarray:
    """R N / (R N + false positives) after each prediction, [..., n]; N = weight, R = share of the positives found."""
    hits = np.cumsum(correct, axis=-1)
    found = hits * (weight / positives)
    return found / (found + np.arange(1, correct.shape[-1] + 1) - hits)
