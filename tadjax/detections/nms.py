"""Non-maximum suppression of 1-D segments: hard, linear and Gaussian soft-NMS (Bodla et al. 2017, eq. 3 and 4),
BMN's Gaussian that spares short neighbours (Lin et al. 2019, section 4), and segment voting.

The results are those of the sequential algorithm of OpenTAD (which ActionFormer took from mmcv), its float32
arithmetic and its rule for equal scores included: the candidates of a class lie in an array; step i swaps the best
one into place i (of equal ones the first), decays the others, and overwrites each one that falls below `min_score`
with the last of the array. Two things make it fast here. Only segments that overlap the selected one are touched, and
the classes are served best first: since scores only ever decay, selections come out in descending order over all
classes, and the work ends with the `max_seg_num`-th.
"""

import numpy as np

from tadjax.detections.settings import PostSettings

_LENGTH_EPS = np.float32(1e-6)  # added to both lengths, not to the intersection
_VOTING_CHUNK = 4_000_000  # entries of the tIoU matrix held at once


def suppress(
    segments: np.ndarray, scores: np.ndarray, labels: np.ndarray, settings: PostSettings
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The best `settings.max_seg_num` detections by descending score.

    Args: segments [n, 2] in any unit of time, scores [n] finite and not negative, labels [n] integers.
    Returns segments float32 [m, 2], scores float32 [m] (decayed), labels int64 [m]. Every class yields at most
    max_seg_num, and so do all together; voting applies to class-agnostic suppression only, as in OpenTAD.
    """
    segments = np.asarray(segments, np.float32).reshape(-1, 2)
    scores = np.asarray(scores, np.float32).reshape(-1)
    labels = np.asarray(labels, np.int64).reshape(-1)
    groups = labels if settings.multiclass else np.zeros_like(labels)
    if settings.nms == "none":
        index = np.argsort(-scores, kind="stable")[: settings.max_seg_num]
        kept = scores[index]
    elif settings.nms == "hard":
        index = _hard(segments, scores, groups, settings)
        kept = scores[index]
    else:
        index, kept = _soft(segments, scores, groups, settings)
    chosen = segments[index]
    if settings.voting_thresh > 0 and not settings.multiclass:
        chosen = vote(chosen, segments, scores, settings.voting_thresh)
    return chosen, kept, labels[index]


def _hard(segments: np.ndarray, scores: np.ndarray, groups: np.ndarray, settings: PostSettings) -> np.ndarray:
    """Indices of the survivors, by descending score; a neighbour is suppressed from tIoU = iou_threshold on."""
    candidates = np.arange(len(scores))
    if settings.min_score > 0:
        candidates = np.flatnonzero(scores > np.float32(settings.min_score))
    # by score, then class, then place in the input: what sorting each class, joining and sorting again comes to
    candidates = candidates[np.lexsort((groups[candidates], -scores[candidates]))]
    start, end = segments[candidates].T.copy()
    group = groups[candidates]
    length = end - start + _LENGTH_EPS
    alive = np.ones(len(candidates), bool)
    chosen = []
    place = 0
    while len(chosen) < settings.max_seg_num and place < len(candidates):
        skip = int(np.argmax(alive[place:]))
        if not alive[place + skip]:
            break
        i = place + skip
        place = i + 1
        chosen.append(i)
        shared = np.maximum(np.minimum(end[place:], end[i]) - np.maximum(start[place:], start[i]), 0)
        iou = shared / (length[i] + length[place:] - shared)
        alive[place:] &= ~((iou >= np.float32(settings.iou_threshold)) & (group[place:] == group[i]))
    return candidates[np.array(chosen, np.int64)]


def _soft(
    segments: np.ndarray, scores: np.ndarray, groups: np.ndarray, settings: PostSettings
) -> tuple[np.ndarray, np.ndarray]:
    """Indices and decayed scores of the selected candidates, by descending score, equal ones by class."""
    pools = [_Pool(np.flatnonzero(groups == group), segments, scores, settings) for group in np.unique(groups)]
    best = np.array([pool.best for pool in pools], np.float32)
    index, kept = [], []
    while len(index) < settings.max_seg_num and len(pools):
        k = int(np.argmax(best))
        if best[k] == -np.inf:
            break
        index.append(pools[k].select())
        kept.append(best[k])
        best[k] = pools[k].best
    return np.array(index, np.int64), np.array(kept, np.float32)


class _Pool:
    """The candidates of one class, in the very order in which the sequential algorithm holds them.

    Attributes: best, the highest score not yet selected (-inf when none is left).
    """

    def __init__(self, index: np.ndarray, segments: np.ndarray, scores: np.ndarray, settings: PostSettings) -> None:
        start, end = segments[index].T
        # rows: start, end, length, score. The algorithm's steps permute the columns.
        self.columns = np.stack([start, end, end - start + _LENGTH_EPS, scores[index]])
        self.index = index.copy()
        self.first, self.size = 0, len(index)  # columns before `first` are selected, columns from `size` on are dropped
        self.settings = settings
        self._find_best()

    def _find_best(self) -> None:
        left = self.columns[3, self.first : self.size]
        self.place = self.first + int(np.argmax(left)) if len(left) else -1
        self.best = self.columns[3, self.place] if len(left) else np.float32(-np.inf)

    def select(self) -> int:
        """Takes the best candidate out, lets the others decay; its index in the input."""
        i, place = self.first, self.place
        self.columns[:, [i, place]] = self.columns[:, [place, i]]
        self.index[[i, place]] = self.index[[place, i]]
        self.first = i + 1
        touched = self._decay(*self.columns[:3, i])
        if self.settings.min_score > 0:
            # those that start below the threshold go at the first step, whether they overlap or not
            self._drop(touched if i else np.arange(self.size - self.first))
        self._find_best()
        return int(self.index[i])

    def _decay(self, start: np.float32, end: np.float32, length: np.float32) -> np.ndarray:
        """Decays the scores after `first`; the places, counted from `first`, where they may have changed."""
        settings = self.settings
        starts, ends, lengths, scores = self.columns[:, self.first : self.size]
        shared = np.minimum(ends, end) - np.maximum(starts, start)
        if settings.nms == "soft_hard" and settings.iou_threshold <= 0:
            touched = np.arange(len(shared))  # a threshold of 0 suppresses even what does not overlap
        else:
            touched = np.flatnonzero(shared > 0)
        shared = np.maximum(shared[touched], 0)
        iou = shared / (length + lengths[touched] - shared)
        if settings.nms == "soft_hard":
            weight = np.where(iou >= np.float32(settings.iou_threshold), np.float32(0), np.float32(1))
        elif settings.nms == "linear":
            weight = np.where(iou >= np.float32(settings.iou_threshold), 1 - iou, np.float32(1))
        else:
            # the exponential in float64, then rounded: what the C library's float32 one returns
            weight = np.exp((-(iou * iou) / np.float32(settings.sigma)).astype(np.float64)).astype(np.float32)
            if settings.nms == "improved_gaussian":
                threshold = np.float32(settings.t1) + np.float32(settings.t2) * length
                weight = np.where(iou >= threshold, weight, np.float32(1))
        scores[touched] *= weight
        return touched

    def _drop(self, places: np.ndarray) -> None:
        """Removes candidates (places counted from `first`) below min_score as the sequential algorithm would.

        It overwrites each by the last of the array and looks at that place again; so in the end the holes, ascending,
        are filled by what is left of the tail, from its end.
        """
        low = places[self.columns[3, self.first + places] < np.float32(self.settings.min_score)]
        if not len(low):
            return
        left = self.size - self.first - len(low)
        holes = low[low < left]
        tail = np.arange(left, left + len(low))
        tail = np.setdiff1d(tail, low, assume_unique=True)[::-1]
        self.columns[:, self.first + holes] = self.columns[:, self.first + tail]
        self.index[self.first + holes] = self.index[self.first + tail]
        self.size = self.first + left


def vote(chosen: np.ndarray, segments: np.ndarray, scores: np.ndarray, voting_thresh: float) -> np.ndarray:
    """Each chosen segment [m, 2] as the mean of all segments [n, 2] with tIoU >= voting_thresh, weighted by scores [n].

    Float32 [m, 2]. The scores are those before any decay. A segment of no length, whose tIoU even with itself is
    undefined, stays as it is.
    """
    chosen, segments = np.asarray(chosen, np.float32), np.asarray(segments, np.float32)
    voted = chosen.copy()
    lengths = segments[:, 1] - segments[:, 0]
    rows = max(1, _VOTING_CHUNK // max(1, len(segments)))
    for first in range(0, len(chosen), rows):
        start, end = chosen[first : first + rows, :, None].transpose(1, 0, 2)  # each [rows, 1]
        shared = np.maximum(np.minimum(end, segments[:, 1]) - np.maximum(start, segments[:, 0]), 0)
        union = (end - start) + lengths - shared
        iou = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
        weights = np.where(iou >= np.float32(voting_thresh), scores, np.float32(0)).astype(np.float64)
        total = weights.sum(axis=1, keepdims=True)
        mean = np.divide(weights @ segments, total, out=np.zeros((len(start), 2)), where=total > 0)
        voted[first : first + rows] = np.where(total > 0, mean, voted[first : first + rows])
    return voted
