"""Deferred acceptance against the walk through the predictions by descending score."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tadjax.detections.results import parse_results
from tadjax.metrics.instances import GroundTruth, Predictions, align, read_ground_truth
from tadjax.metrics.matching import match, segment_tiou


def walk(truth: GroundTruth, predictions: Predictions, tiou, ranks):
    matched = np.full((len(tiou), len(predictions)), -1)
    for t, threshold in enumerate(tiou):
        taken = set()
        for p in np.argsort(ranks, kind="stable"):
            same = (truth.video == predictions.video[p]) & (truth.labels == predictions.labels[p])
            overlap = segment_tiou(predictions.segments[p], truth.segments, truth.rules.empty_matches_empty)
            free = [g for g in np.flatnonzero(same & (overlap >= threshold)) if g not in taken]
            if free:
                matched[t, p] = max(free, key=lambda g: (overlap[g], g))
                taken.add(matched[t, p])
    return matched


def random_case(seed, rules):
    rng = np.random.default_rng(seed)

    def segment():
        start = int(rng.integers(0, 12))
        return [start, start + int(rng.integers(0, 8))]  # whole seconds: many equal tIoU, some of no length

    database = {
        f"v{i}": {
            "subset": "s",
            "annotations": [{"segment": segment(), "label": "ab"[rng.integers(2)]} for _ in range(rng.integers(1, 9))],
        }
        for i in range(4)
    }
    found = {
        f"v{i}": [
            {"segment": segment(), "label": "ab"[rng.integers(2)], "score": float(rng.random())}
            for _ in range(rng.integers(0, 40))
        ]
        for i in range(5)  # v4 is not annotated
    }
    truth = read_ground_truth({"database": {"x": {"subset": "s", "annotations": [
        {"segment": [0, 1], "label": "a"}, {"segment": [0, 1], "label": "b"}]}, **database}}, "s", rules)  # fmt: skip
    return truth, align(parse_results(found), truth)[0]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(["opentad", "activitynet", "epic"]))
def test_equal_to_the_walk(seed, rules):
    truth, predictions = random_case(seed, rules)
    tiou, ranks = np.array([0.1, 0.3, 0.5, 0.9]), predictions.ranks()
    np.testing.assert_array_equal(match(truth, predictions, tiou, ranks), walk(truth, predictions, tiou, ranks))


def test_second_best_instance_when_the_best_is_taken():
    truth = read_ground_truth(
        {"database": {"v": {"subset": "s", "annotations": [
            {"segment": [0, 10], "label": "a"}, {"segment": [2, 12], "label": "a"}]}}})  # fmt: skip
    found = [{"segment": [0, 10], "label": "a", "score": s} for s in (0.9, 0.8, 0.7)]
    predictions = align(parse_results({"v": found}), truth)[0]
    matched = match(truth, predictions, np.array([0.5, 0.7]), predictions.ranks())
    assert matched.tolist() == [[0, 1, -1], [0, -1, -1]]  # tIoU with the second is 8 / 12


@pytest.mark.parametrize(("rules", "want"), [("epic", 0.0), ("activitynet", np.inf)])
def test_two_segments_of_no_length(rules, want):
    point = np.array([3.0, 3.0])
    assert segment_tiou(point, point, rules == "activitynet") == want


def test_predictions_far_outside_or_reversed_match_nothing_and_disturb_nothing():
    truth = read_ground_truth({"database": {"v": {"subset": "s", "annotations": [{"segment": [0, 10], "label": "a"}]}}})
    segments = [[-1e12, -1e11], [1e11, 1e12], [10, 0], [0, 10]]
    found = [{"segment": s, "label": "a", "score": 0.9 - 0.1 * i} for i, s in enumerate(segments)]
    predictions = align(parse_results({"v": found}), truth)[0]
    assert match(truth, predictions, np.array([0.5]), predictions.ranks()).tolist() == [[-1, -1, -1, 0]]
