"""Why a detector errs: the analyses of DETAD (Alwassel et al., "Diagnosing Error in Temporal Action Detectors", 2018).

    false positives   what each wrong prediction is, by rank (section 4.1), and the mAP that fixing it would gain
    false negatives   which instances nothing finds, by their characteristics (section 4.3)
    sensitivity       normalised mAP on the instances of each characteristic alone (section 4.2)

Precision is normalised throughout (section 3.2): R N / (R N + false positives), with R the recall and N the mean number
of instances a class, the same for all classes.
"""

import dataclasses
import itertools

import numpy as np

from tadjax.detections.results import Results
from tadjax.errors import DataError
from tadjax.metrics.average_precision import interpolated_ap, precision_curve
from tadjax.metrics.instances import GroundTruth, Predictions, align
from tadjax.metrics.matching import match, overlapping_pairs

ERROR_TYPES = (
    "True Positive",
    "Double Detection Err",  # right label, enough overlap, but the instance is taken
    "Wrong Label Err",  # enough overlap
    "Localization Err",  # right label, some overlap
    "Confusion Err",  # wrong label, some overlap
    "Background Err",
)
NEAR_TIOU = 0.1  # "some overlap"
FALSE_NEGATIVE_PRECISION = 0.05  # predictions at a normalised precision of at most this find nothing


@dataclasses.dataclass(frozen=True)
class Bins:
    """Left-open, right-closed intervals of one characteristic; the lowest edge belongs to the first."""

    edges: tuple[float, ...]
    names: tuple[str, ...]

    def of(self, values: np.ndarray) -> np.ndarray:
        """Index of the bin of each value, int."""
        return np.clip(np.searchsorted(self.edges, values, side="left") - 1, 0, len(self.names) - 1)


_FIVE, _FOUR = ("XS", "S", "M", "L", "XL"), ("XS", "S", "M", "L")
BINS = {
    "thumos": {
        "coverage": Bins((0, 0.02, 0.04, 0.06, 0.08, 1), _FIVE),
        "length": Bins((0, 3, 6, 12, 18, np.inf), _FIVE),
        "num-instances": Bins((-1, 1, 40, 80, np.inf), _FOUR),
    },
    "activitynet": {
        "coverage": Bins((0, 0.2, 0.4, 0.6, 0.8, 1), _FIVE),
        "length": Bins((0, 30, 60, 120, 180, np.inf), _FIVE),
        "num-instances": Bins((-1, 1, 4, 8, np.inf), _FOUR),
    },
}


@dataclasses.dataclass(frozen=True)
class FalsePositives:
    """Of the best `limit` * N_j predictions of each class j: counts [T, 6 types]; by_rank [T, limit, 6], where bin g
    holds the ranks (g - 1) N_j ... g N_j - 1 of every class; average mAP_N gained without each type, [5]."""

    kept: int
    ap_normalized: np.ndarray  # [T, K]
    recall: np.ndarray  # [T, K]
    counts: np.ndarray
    by_rank: np.ndarray
    map_without: np.ndarray  # mAP_N without the errors of each type, [5 types, T]

    @property
    def gain(self) -> np.ndarray:
        return self.map_without.mean(axis=1) - self.ap_normalized.mean()


@dataclasses.dataclass(frozen=True)
class FalseNegatives:
    """share [bins] of the instances, and rate [T, bins] of them that nothing finds (NaN where the bin is empty);
    pairs of characteristics likewise with [bins, bins]."""

    ap_normalized: np.ndarray  # [T, K]
    recall: np.ndarray  # [T, K]
    found: np.ndarray  # bool [T, N]
    share: dict[str, np.ndarray]
    rate: dict[str, np.ndarray]
    pair_share: dict[tuple[str, str], np.ndarray]
    pair_rate: dict[tuple[str, str], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Diagnosis:
    """Everything DETAD shows of one results file. T thresholds, K classes, P predictions, N instances."""

    tiou: np.ndarray
    truth: GroundTruth
    bins: dict[str, Bins]
    predictions: Predictions
    matched: np.ndarray  # int [T, P], the instance or -1
    error: np.ndarray  # int8 [T, P], index into ERROR_TYPES
    ap: np.ndarray  # [T, K]
    ap_normalized: np.ndarray  # [T, K]
    recall: np.ndarray  # [T, K], of all predictions
    precision: np.ndarray  # [T, K]
    false_positives: FalsePositives
    false_negatives: FalseNegatives
    sensitivity: dict[str, np.ndarray]  # average mAP_N in each bin, NaN where it is empty

    def to_dict(self) -> dict:
        """The numbers that the figures show, averaged over the thresholds, in percent; None where a bin is empty."""
        false_positives, false_negatives = self.false_positives, self.false_negatives
        counts = false_positives.by_rank.mean(axis=0)  # [G, 6]

        def named(name: str, values: np.ndarray) -> dict[str, float | None]:
            return {
                bin_name: None if np.isnan(value) else 100 * float(value)
                for bin_name, value in zip(self.bins[name].names, values, strict=True)
            }

        return {
            "average_mAP_N": 100 * float(self.ap_normalized.mean()),
            "false_positives": {
                f"{g}G": dict(zip(ERROR_TYPES, (100 * of_bin / max(of_bin.sum(), 1)).tolist(), strict=True))
                for g, of_bin in enumerate(counts, start=1)
            },
            "average_mAP_N_gain": dict(zip(ERROR_TYPES[1:], (100 * false_positives.gain).tolist(), strict=True)),
            "false_negative_rate": {n: named(n, rate.mean(axis=0)) for n, rate in false_negatives.rate.items()},
            "fraction_of_instances": {n: named(n, share) for n, share in false_negatives.share.items()},
            "sensitivity_average_mAP_N": {n: named(n, values) for n, values in self.sensitivity.items()},
        }


def diagnosable(truth: GroundTruth) -> GroundTruth:
    """The ground truth without instances that have no length or outlast their video, as DETAD leaves them out.

    Raises DataError if none is left.
    """
    keep = (truth.segments[:, 0] < truth.segments[:, 1]) & ~(truth.coverage > 1)
    if not keep.any():
        raise DataError(f"subset {truth.subset!r}: every instance has no length or outlasts its video")
    used, labels = np.unique(truth.labels[keep], return_inverse=True)
    return dataclasses.replace(
        truth,
        classes=tuple(truth.classes[k] for k in used),
        video=truth.video[keep],
        segments=truth.segments[keep],
        labels=labels,
        coverage=truth.coverage[keep],
    )


def diagnose(
    results: Results, truth: GroundTruth, tiou: tuple[float, ...] = (0.5,), bins: str | dict = "thumos", limit: int = 10
) -> Diagnosis:
    """All analyses at each threshold. bins: a key of BINS, or {characteristic: Bins}.

    Coverage is left out where the ground truth lacks it. Raises DataError for results of another data set.
    """
    truth = diagnosable(truth)
    predictions, _ = align(results, truth)
    bins = dict(BINS[bins] if isinstance(bins, str) else bins)
    if np.isnan(truth.coverage).any():
        bins.pop("coverage", None)
    thresholds = np.asarray(tiou, np.float64)
    ranks = predictions.ranks()
    matched = match(truth, predictions, thresholds, ranks)
    ranked = _Ranked(truth, predictions, ranks)
    found = matched >= 0
    error = error_types(truth, predictions, matched, thresholds)
    in_bin = instances_in_bins(truth, bins)
    count = np.bincount(predictions.labels, minlength=len(truth.classes))
    hits = ranked.recall(found) * ranked.positives
    return Diagnosis(
        thresholds,
        truth,
        bins,
        predictions,
        matched,
        error,
        ap=ranked.ap(found, normalized=False),
        ap_normalized=ranked.ap(found),
        recall=ranked.recall(found),
        precision=hits / np.maximum(count, 1),
        false_positives=_false_positives(ranked, found, error, limit),
        false_negatives=_false_negatives(ranked, matched, bins, in_bin, FALSE_NEGATIVE_PRECISION),
        sensitivity={name: _sensitivity(ranked, matched, in_bin[name], bins[name]) for name in bins},
    )


def false_negatives(diagnosis: Diagnosis, least: float) -> FalseNegatives:
    """The false negatives at another least normalised precision than the usual FALSE_NEGATIVE_PRECISION."""
    ranked = _Ranked(diagnosis.truth, diagnosis.predictions, diagnosis.predictions.ranks())
    in_bin = instances_in_bins(diagnosis.truth, diagnosis.bins)
    return _false_negatives(ranked, diagnosis.matched, diagnosis.bins, in_bin, least)


def instances_in_bins(truth: GroundTruth, bins: dict[str, Bins]) -> dict[str, np.ndarray]:
    """Which bin of each characteristic each instance falls into, int [N]; num-instances counts all of the video."""
    characteristics = {
        "coverage": truth.coverage,
        "length": truth.segments[:, 1] - truth.segments[:, 0],
        "num-instances": np.bincount(truth.video, minlength=len(truth.videos))[truth.video],
    }
    return {name: bins[name].of(characteristics[name]) for name in bins}


def error_types(truth: GroundTruth, predictions: Predictions, matched: np.ndarray, tiou: np.ndarray) -> np.ndarray:
    """Type of each prediction at each threshold, int8 [T, P]: index into ERROR_TYPES.

    A prediction without a match is compared with the instance of any class that it overlaps most (of several the
    first); one in a video without ground truth is background.
    """
    pairs = overlapping_pairs(truth, predictions, NEAR_TIOU, same_class=False)
    order = np.lexsort((pairs.instance, -pairs.tiou, pairs.prediction))
    best = order[np.unique(pairs.prediction[order], return_index=True)[1]]
    overlap = np.zeros(len(predictions))
    same_label = np.zeros(len(predictions), bool)
    overlap[pairs.prediction[best]] = pairs.tiou[best]
    same_label[pairs.prediction[best]] = (
        truth.labels[pairs.instance[best]] == predictions.labels[pairs.prediction[best]]
    )
    enough = overlap >= tiou[:, None]
    wrong = np.where(enough, np.where(same_label, 1, 2), np.where(same_label, 3, 4))
    wrong = np.where(overlap >= NEAR_TIOU, wrong, 5)
    return np.where(matched >= 0, 0, wrong).astype(np.int8)


class _Ranked:
    """Predictions class by class in descending score, and curves over any part of them."""

    def __init__(self, truth: GroundTruth, predictions: Predictions, ranks: np.ndarray) -> None:
        self.ranks, self.labels = ranks, predictions.labels
        self.truth = truth
        self.positives = truth.per_class()
        self.weight = len(truth) / len(truth.classes)  # N of the normalised precision
        order = np.lexsort((ranks, predictions.labels))
        bounds = np.cumsum(np.bincount(predictions.labels, minlength=len(truth.classes)))
        self.members = np.split(order, bounds[:-1])  # of each class

    def ap(
        self,
        found: np.ndarray,
        keep: np.ndarray | None = None,
        positives: np.ndarray | None = None,
        normalized: bool = True,
    ) -> np.ndarray:
        """AP [T, K] (NaN without positives) of the kept predictions; found and keep bool [T, P], positives [K]."""
        positives = self.positives if positives is None else positives
        ap = np.full((len(found), len(positives)), np.nan)
        for t, k in itertools.product(range(len(found)), np.flatnonzero(positives)):
            members = self.members[k] if keep is None else self.members[k][keep[t, self.members[k]]]
            ap[t, k] = interpolated_ap(found[t, members], positives[k], self.weight if normalized else None)
        return ap

    def recall(self, found: np.ndarray) -> np.ndarray:
        """Share of the instances of each class that are found, [T, K]."""
        return np.stack([found[:, members].sum(axis=1) for members in self.members], axis=1) / self.positives

    def precise(self, found: np.ndarray, least: float) -> np.ndarray:
        """`found` without the predictions at whose place the normalised precision is at most `least`, bool [T, P]."""
        found = found.copy()
        for k, members in enumerate(self.members):
            found[:, members] &= precision_curve(found[:, members], self.positives[k], self.weight) > least
        return found


def _false_positives(ranked: _Ranked, found: np.ndarray, error: np.ndarray, limit: int) -> FalsePositives:
    step = ranked.ranks // ranked.positives[ranked.labels]
    kept = np.broadcast_to(step < limit, found.shape)
    types = len(ERROR_TYPES)
    by_rank = np.stack(
        [
            np.bincount(step[kept[t]] * types + of_threshold[kept[t]], minlength=limit * types).reshape(limit, types)
            for t, of_threshold in enumerate(error)
        ]
    )
    without = [ranked.ap(found, kept & (error != kind)).mean(axis=1) for kind in range(1, types)]
    return FalsePositives(
        int(kept[0].sum()),
        ranked.ap(found, kept),
        ranked.recall(found & kept),
        by_rank.sum(axis=1),
        by_rank,
        np.stack(without),
    )


def _false_negatives(
    ranked: _Ranked, matched: np.ndarray, bins: dict[str, Bins], in_bin: dict[str, np.ndarray], least: float
) -> FalseNegatives:
    instances = len(ranked.truth)
    precise = ranked.precise(matched >= 0, least)
    found = np.zeros((len(matched), instances), bool)
    for t in range(len(matched)):
        found[t, matched[t, precise[t]]] = True

    def shares_and_rates(cell: np.ndarray, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        size = np.bincount(cell, minlength=int(np.prod(shape)))
        missed = np.stack([np.bincount(cell[~row], minlength=len(size)) for row in found])
        rate = np.divide(missed, size, out=np.full(missed.shape, np.nan), where=size > 0)
        return (size / instances).reshape(shape), rate.reshape(-1, *shape)

    sizes = {name: len(bins[name].names) for name in bins}
    single = {name: shares_and_rates(in_bin[name], (sizes[name],)) for name in bins}
    pairs = {
        (a, b): shares_and_rates(in_bin[a] * sizes[b] + in_bin[b], (sizes[a], sizes[b]))
        for a, b in itertools.combinations(bins, 2)
    }
    return FalseNegatives(
        ranked.ap(precise),
        ranked.recall(precise),
        found,
        {name: share for name, (share, _) in single.items()},
        {name: rate for name, (_, rate) in single.items()},
        {names: share for names, (share, _) in pairs.items()},
        {names: rate for names, (_, rate) in pairs.items()},
    )


def _sensitivity(ranked: _Ranked, matched: np.ndarray, in_bin: np.ndarray, bins: Bins) -> np.ndarray:
    """Average mAP_N of each bin: its instances alone, without the predictions that match any other.

    As in the original, one that matches an instance outside the bin at any of the thresholds is left out at all.
    """
    average = np.full(len(bins.names), np.nan)
    for index in np.unique(in_bin):
        inside = (matched < 0) | (in_bin[matched] == index)
        keep = np.broadcast_to(inside.all(axis=0), matched.shape)
        positives = np.bincount(ranked.truth.labels[in_bin == index], minlength=len(ranked.positives))
        average[index] = np.nanmean(ranked.ap(matched >= 0, keep, positives))
    return average
