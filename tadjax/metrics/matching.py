"""Which prediction finds which instance, for all videos, classes and thresholds at once.

The evaluators walk through the predictions of a class by descending score; each takes the instance of highest tIoU
in its video that reaches the threshold and is not taken yet. That is serial dictatorship, and since all instances
prefer the better-scored prediction, deferred acceptance (Gale and Shapley 1962) ends in the very same matching: all
predictions propose to their best instance at once, each instance keeps the best-ranked one, those it refuses go on to
their next. A few rounds over whole arrays replace the walk.
"""

import dataclasses

import numpy as np

from tadjax.metrics.instances import GroundTruth, Predictions

_CHUNK = 4_000_000  # pairs of prediction and instance looked at at once


def segment_tiou(first: np.ndarray, second: np.ndarray, empty_matches_empty: bool = False) -> np.ndarray:
    """Temporal intersection over union of segments [..., 2] and [..., 2], which broadcast; float64 [...].

    Where both have no length (0/0, wherever they lie) the tIoU is 0, or infinite if `empty_matches_empty`.
    """
    shared = np.minimum(first[..., 1], second[..., 1]) - np.maximum(first[..., 0], second[..., 0])
    shared = np.maximum(shared, 0)
    union = (second[..., 1] - second[..., 0]) + (first[..., 1] - first[..., 0]) - shared
    if empty_matches_empty:
        with np.errstate(divide="ignore", invalid="ignore"):
            tiou = shared / union
        return np.where(np.isnan(tiou), np.inf, tiou)
    return shared / np.maximum(union, 1e-8)


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Predictions and the instances they overlap: by prediction, then by descending tIoU; each array [pairs]."""

    prediction: np.ndarray
    instance: np.ndarray
    tiou: np.ndarray


def overlapping_pairs(truth: GroundTruth, predictions: Predictions, floor: float, same_class: bool = True) -> Pairs:
    """All pairs within a video (and of one class) whose tIoU is at least `floor` > 0."""
    groups = len(truth.classes) if same_class else 1
    truth_group = truth.video * groups + (truth.labels if same_class else 0)
    group = predictions.video * groups + (predictions.labels if same_class else 0)
    # All groups lie one after the other on one line, `span` apart; on it two searches bound the instances that a
    # prediction can touch. Rounding on that long line is outweighed by the margin; the tIoU itself is exact.
    low = truth.segments.min() - 1
    span = truth.segments.max() + 2 - low
    margin = 1e-3 + 1e-15 * span * groups * (len(truth.videos) + 1)
    by_start = np.lexsort((truth.segments[:, 0], truth_group))
    starts, ends = (truth_group[:, None] * span + truth.segments - low)[by_start].T
    line = group[:, None] * span + np.clip(predictions.segments - low, 0.5, span - 0.5)
    if truth.rules.empty_matches_empty:
        empty = predictions.segments[:, 0] == predictions.segments[:, 1]
        line[empty] = group[empty, None] * span + (0.5, span - 0.5)  # these look at the whole group
    first = np.searchsorted(np.maximum.accumulate(ends), line[:, 0] - margin)
    count = np.maximum(np.searchsorted(starts, line[:, 1] + margin) - first, 0)
    total = np.cumsum(count)
    found = []
    begin = 0
    while begin < len(total):
        stop = max(begin + 1, int(np.searchsorted(total, (total[begin - 1] if begin else 0) + _CHUNK)))
        part = np.arange(begin, stop)
        prediction = np.repeat(part, count[part])
        shift = first[part] - (total[part] - count[part])
        instance = by_start[np.repeat(shift, count[part]) + np.arange(total[begin] - count[begin], total[stop - 1])]
        begin = stop
        tiou = segment_tiou(predictions.segments[prediction], truth.segments[instance], truth.rules.empty_matches_empty)
        near = np.flatnonzero(tiou >= floor)
        prediction, instance, tiou = prediction[near], instance[near], tiou[near]
        # of equal tIoU the later instance first, as a reversed ascending sort leaves them
        order = np.lexsort((-instance, -tiou, prediction))
        found.append((prediction[order], instance[order], tiou[order]))
    if not found:
        return Pairs(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))
    return Pairs(*(np.concatenate(arrays) for arrays in zip(*found, strict=True)))


def match(truth: GroundTruth, predictions: Predictions, tiou: np.ndarray, ranks: np.ndarray) -> np.ndarray:
    """The instance each prediction finds, or -1: int [thresholds, P].

    ranks int [P]: place of each prediction in its class (`predictions.ranks()`); tiou: thresholds, ascending or not.
    """
    tiou = np.asarray(tiou, np.float64)
    pairs = overlapping_pairs(truth, predictions, tiou.min())
    matched = np.full((len(tiou), len(predictions)), -1, np.int64)
    for row, threshold in zip(matched, tiou, strict=True):
        enough = pairs.tiou >= threshold
        prediction, instance = pairs.prediction[enough], pairs.instance[enough]
        taken = _deferred_acceptance(prediction, instance, ranks, len(truth))
        row[prediction[taken]] = instance[taken]
    return matched


def _deferred_acceptance(prediction: np.ndarray, instance: np.ndarray, ranks: np.ndarray, instances: int) -> np.ndarray:
    """Indices of the pairs that end matched; pairs are sorted by prediction, the preferred instance first."""
    if not len(prediction):
        return np.zeros(0, np.int64)
    offer = np.flatnonzero(np.r_[True, prediction[1:] != prediction[:-1]])  # each prediction's current pair
    end = np.r_[offer[1:], len(prediction)]
    best = np.full(instances, np.iinfo(np.int64).max)
    while True:
        proposed, rank = instance[offer], ranks[prediction[offer]]
        np.minimum.at(best, proposed, rank)
        refused = best[proposed] != rank
        if not refused.any():
            return offer
        offer = offer + refused
        hopeful = offer < end
        offer, end = offer[hopeful], end[hopeful]
