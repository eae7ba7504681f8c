import jax
import numpy as np
import pytest

from tadjax.heads.proposal_map import balanced_bce, balanced_l2, boundary_targets, map_segments, map_targets


def targets(*segments):
    """One video per argument, a list of segments."""
    count = max(map(len, segments))
    padded = np.zeros((len(segments), count, 2), np.float32)
    for video, found in zip(padded, segments, strict=True):
        video[: len(found)] = np.reshape(found, (-1, 2))
    return {"segments": padded, "segment_valid": np.arange(count) < np.array([len(s) for s in segments])[:, None]}


def test_cells_are_segments_within_the_window():
    segments, valid = map_segments(3, 5)
    assert valid.sum(1).tolist() == [5, 4, 3]
    np.testing.assert_array_equal(segments[1, 2], [2, 4])
    np.testing.assert_array_equal(segments[~valid], 0)


def test_map_targets_are_the_best_overlap():
    """[2, 4] against [2, 4]: 1; [2, 5] against [2, 4]: 2 / 3; no segment: 0."""
    segments, valid = map_segments(3, 6)
    iou = np.asarray(map_targets(segments, targets([[2, 4], [0, 1]], [])))
    assert iou[0, 1, 2] == 1 and iou[0, 2, 2] == pytest.approx(2 / 3) and iou[0, 0, 0] == 1
    assert not iou[1].any() and iou.max() == 1


def test_boundary_targets_are_covered_shares_of_steps():
    """A start at 3 covers [1.5, 4.5], an end at 6.25 covers [4.75, 7.75]."""
    edges = np.asarray(boundary_targets(targets([[3, 6.25]], []), 9))
    np.testing.assert_allclose(edges[0, :, 0], [0, 0.5, 1, 1, 0.5, 0, 0, 0, 0])
    np.testing.assert_allclose(edges[0, :, 1], [0, 0, 0, 0, 0.25, 1, 1, 0.75, 0])
    assert not edges[1].any()


def test_balanced_cross_entropy_weighs_both_sides_equally():
    """At logit 0 every element has log 2; with a logit of l at the one positive of four, half the weight is on it."""
    positive = np.array([True, False, False, False])
    assert balanced_bce(np.zeros(4, np.float32), positive) == pytest.approx(np.log(2))
    logits = np.array([2, 0, 0, 0], np.float32)
    assert balanced_bce(logits, positive) == pytest.approx(0.5 * np.log1p(np.exp(-2)) + 0.5 * np.log(2))
    assert balanced_bce(logits, np.zeros(4, bool)) == pytest.approx((np.log1p(np.exp(2)) + 3 * np.log(2)) / 4)
    valid = np.array([True, True, False, False])
    assert balanced_bce(logits, positive, valid) == pytest.approx(0.5 * np.log1p(np.exp(-2)) + 0.5 * np.log(2))


def test_squared_error_takes_as_many_low_as_high_ones():
    """One high proposal of error 0.1, four low ones of error 0.5 and draws of which one is above 1 - 1 / 4."""
    iou = np.array([0.8, 0.5, 0, 0, 0, 0], np.float32)
    predicted = np.array([0.7, 0.5, 0.5, 0.5, 0.5, 0.5], np.float32)
    draws = np.stack([np.full(6, 0.5), [0.9, 0.9, 0.1, 0.8, 0.2, 0.3]]).astype(np.float32)
    # Picked: the high one, the middling one (error 0), and the low one whose draw is 0.8.
    assert balanced_l2(predicted, iou, draws) == pytest.approx(5 * (0.01 + 0 + 0.25) / 3)
    none = balanced_l2(predicted[2:], iou[2:], draws[:, 2:])
    assert none == pytest.approx(0.25)


def test_losses_without_any_segment_have_finite_gradients():
    nothing = np.zeros((2, 3, 5), np.float32)
    draws = np.zeros((2, 2, 3, 5), np.float32)
    valid = map_segments(3, 5)[1]
    for loss in (lambda x: balanced_l2(x, nothing, draws, valid), lambda x: balanced_bce(x, nothing > 0, valid)):
        assert np.isfinite(jax.grad(loss)(nothing + 0.3)).all()
