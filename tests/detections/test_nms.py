"""Suppression against a plain transcription of the sequential algorithm, one candidate at a time."""

import math
import time

import numpy as np
import pytest

from tadjax.detections.nms import suppress, vote
from tadjax.detections.settings import NMS_METHODS, PostSettings
from tadjax.errors import ConfigError

F = np.float32


def sequential_soft(segments, scores, settings):
    """Indices and scores of one class as the swap-and-shrink loop finds them."""
    items = [
        [F(start), F(end), F(F(end) - F(start)) + F(1e-6), F(score), i]
        for i, ((start, end), score) in enumerate(zip(segments, scores, strict=True))
    ]
    size, i = len(items), 0
    while i < size:
        best = max(range(i, size), key=lambda j: (items[j][3], -j))
        items[i], items[best] = items[best], items[i]
        pos = i + 1
        while pos < size:
            shared = max(F(0), min(items[i][1], items[pos][1]) - max(items[i][0], items[pos][0]))
            iou = shared / (items[i][2] + items[pos][2] - shared)
            gaussian = F(math.exp(F(-(iou * iou) / F(settings.sigma))))
            near = iou >= F(settings.iou_threshold)
            spared = iou < F(settings.t1) + F(settings.t2) * items[i][2]
            weight = {
                "soft_hard": F(0) if near else F(1),
                "linear": F(1) - iou if near else F(1),
                "gaussian": gaussian,
                "improved_gaussian": F(1) if spared else gaussian,
            }[settings.nms]
            items[pos][3] = items[pos][3] * weight
            if items[pos][3] < F(settings.min_score):
                items[pos] = items[size - 1]
                size -= 1
                pos -= 1
            pos += 1
        i += 1
    chosen = items[: min(size, settings.max_seg_num)]
    return [item[4] for item in chosen], [item[3] for item in chosen]


def sequential_hard(segments, scores, settings):
    order = [i for i in np.argsort(-scores, kind="stable") if settings.min_score <= 0 or scores[i] > settings.min_score]
    chosen = []
    for i in order:
        for j in chosen:
            shared = max(F(0), min(segments[i, 1], segments[j, 1]) - max(segments[i, 0], segments[j, 0]))
            lengths = F(segments[j, 1] - segments[j, 0] + F(1e-6)) + F(segments[i, 1] - segments[i, 0] + F(1e-6))
            if shared / (lengths - shared) >= F(settings.iou_threshold):
                break
        else:
            chosen.append(i)
    return chosen[: settings.max_seg_num], [scores[i] for i in chosen[: settings.max_seg_num]]


def sequential(segments, scores, labels, settings):
    groups = labels if settings.multiclass else np.zeros_like(labels)
    one_class = sequential_hard if settings.nms == "hard" else sequential_soft
    index, kept = [], []
    for group in np.unique(groups):
        members = np.flatnonzero(groups == group)
        chosen, decayed = one_class(segments[members], scores[members], settings)
        index += members[chosen].tolist()
        kept += decayed
    order = np.argsort(-np.array(kept, F), kind="stable")[: settings.max_seg_num]
    return np.array(index)[order], np.array(kept, F)[order]


def random_candidates(seed, n=120, classes=3, decimals=None):
    rng = np.random.default_rng(seed)
    start = rng.uniform(0, 60, n)
    segments = np.stack([start, start + rng.exponential(6, n)], axis=1)
    scores = rng.random(n) ** 3
    if decimals is not None:  # as after the reference's rounding: many equal scores, some segments equal or empty
        segments, scores = segments.round(0), scores.round(decimals)
    return segments.astype(F), scores.astype(F), rng.integers(0, classes, n)


@pytest.mark.parametrize("method", [m for m in NMS_METHODS if m != "none"])
@pytest.mark.parametrize("multiclass", [True, False])
@pytest.mark.parametrize("min_score", [0.0, 0.05])
@pytest.mark.parametrize("decimals", [None, 1])
def test_equal_to_the_sequential_algorithm(method, multiclass, min_score, decimals):
    for seed in range(4):
        segments, scores, labels = random_candidates(seed, decimals=decimals)
        settings = PostSettings(
            nms=method, multiclass=multiclass, min_score=min_score, max_seg_num=50, iou_threshold=0.3, t1=0.2, t2=0.02
        )
        got_segments, got_scores, got_labels = suppress(segments, scores, labels, settings)
        index, kept = sequential(segments, scores, labels, settings)
        np.testing.assert_array_equal(got_scores, kept)
        np.testing.assert_array_equal(got_segments, segments[index])
        np.testing.assert_array_equal(got_labels, labels[index])


def test_threshold_zero_suppresses_what_does_not_overlap():
    segments = np.array([[0, 1], [5, 6], [8, 9]], F)
    scores, labels = np.array([0.9, 0.8, 0.7], F), np.zeros(3, np.int64)
    for method, want in (("hard", [0.9]), ("soft_hard", [0.9, 0, 0])):
        kept = suppress(segments, scores, labels, PostSettings(nms=method, iou_threshold=0))[1]
        np.testing.assert_array_equal(kept, np.array(want, F))


def test_gaussian_decay_by_hand():
    segments, scores = np.array([[0, 10], [5, 15]], F), np.array([0.9, 0.6], F)
    kept = suppress(segments, scores, np.zeros(2, np.int64), PostSettings(sigma=0.5))[1]
    assert kept[1] == pytest.approx(0.6 * math.exp(-((1 / 3) ** 2) / 0.5), abs=1e-6)


def test_the_best_is_kept_even_below_min_score():
    segments, scores = np.array([[0, 1], [3, 4]], F), np.array([0.02, 0.01], F)
    kept = suppress(segments, scores, np.zeros(2, np.int64), PostSettings(min_score=0.5))[1]
    np.testing.assert_array_equal(kept, scores[:1])


def test_voting_is_a_mean_weighted_by_scores():
    segments, scores = np.array([[0, 10], [1, 11], [50, 60], [7, 7]], F), np.array([0.6, 0.2, 0.9, 0.5], F)
    voted = vote(segments[[0, 3]], segments, scores, 0.7)
    np.testing.assert_allclose(voted[0], [0.25, 10.25], atol=1e-6)
    np.testing.assert_array_equal(voted[1], segments[3])  # no length, no tIoU: it stays
    voted = vote(np.array([[0, 4]], F), np.array([[0, 4], [0, 2]], F), np.array([0.5, 0.5], F), 0.5)
    np.testing.assert_array_equal(voted, [[0, 3]])  # a tIoU of the threshold is enough


def test_voting_is_left_out_where_classes_stand_alone():
    segments, scores, labels = random_candidates(0)
    plain = suppress(segments, scores, labels, PostSettings())
    for got, want in zip(suppress(segments, scores, labels, PostSettings(voting_thresh=0.5)), plain, strict=True):
        np.testing.assert_array_equal(got, want)


def test_settings_name_the_field():
    for fields, part in (
        ({"nms": "sfot"}, "post.nms"),
        ({"sigma": 0}, "post.sigma"),
        ({"max_seg_num": 0}, "max_seg_num"),
    ):
        with pytest.raises(ConfigError, match=part):
            PostSettings(**fields)


@pytest.mark.slow  # a benchmark: other work on the machine must not fail the suite
def test_forty_thousand_candidates_well_under_a_second():
    rng = np.random.default_rng(0)
    start = rng.uniform(0, 768, 40_000)
    segments = np.stack([start, start + np.exp(rng.uniform(0, 4, 40_000))], axis=1)
    scores, labels = rng.random(40_000) ** 4, rng.integers(0, 20, 40_000)
    seconds = []
    for _ in range(3):
        begin = time.perf_counter()
        found = suppress(segments, scores, labels, PostSettings(sigma=0.7, max_seg_num=2000))
        seconds.append(time.perf_counter() - begin)
    assert len(found[1]) == 2000
    assert min(seconds) < 0.8  # 0.06 s on one quiet core
