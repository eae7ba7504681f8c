import math

import jax.numpy as jnp
import numpy as np
import pytest

from tadjax.heads.points import assign_targets, decode_segments, make_points

LENGTHS, STRIDES, RANGES = (32, 16, 8), (1, 2, 4), ((0, 4), (4, 8), (8, 10000))
CLASSES = 4


def test_points_of_two_levels():
    want = [[0, 0, 4, 1], [1, 0, 4, 1], [2, 0, 4, 1], [0, 4, 9, 2], [2, 4, 9, 2]]
    np.testing.assert_array_equal(make_points((3, 2), (1, 2), ((0, 4), (4, 9))), want)


def test_decode_multiplies_distances_by_the_stride():
    points = jnp.array([[6.0, 0, 4, 1], [8.0, 4, 8, 2]])
    offsets = jnp.array([[1.0, 2.0], [1.5, 0.0]])
    np.testing.assert_array_equal(decode_segments(points, offsets), [[5, 8], [5, 8]])
    per_class = jnp.stack([offsets, 2 * offsets], axis=1)  # [P, K, 2]
    np.testing.assert_array_equal(decode_segments(points[:, None], per_class)[:, 1], [[4, 10], [2, 8]])


def assign(segments, labels, segment_valid=None, radius=1.5, filter_similar_gt=True):
    segments, labels = np.asarray(segments, np.float32), np.asarray(labels, np.int32)
    points = make_points(LENGTHS, STRIDES, RANGES)
    valid = np.ones(labels.shape, bool) if segment_valid is None else segment_valid
    found = assign_targets(
        jnp.asarray(points),
        jnp.asarray(segments),
        jnp.asarray(labels),
        jnp.asarray(valid),
        classes=CLASSES,
        center_sample_radius=radius,
        filter_similar_gt=filter_similar_gt,
    )
    return points, *(np.asarray(x) for x in found)


def assign_point_by_point(points, segments, labels, radius, filter_similar_gt):
    """The rule as loops over points and segments, in float32 as the reference."""
    classes, offsets = np.zeros((len(points), CLASSES), np.float32), np.zeros((len(points), 2), np.float32)
    for p, (position, shortest, longest, stride) in enumerate(points):
        candidates = []
        for (start, end), label in zip(segments, labels, strict=True):
            center = np.float32(0.5) * (start + end)
            low, high = max(center - stride * radius, start), min(center + stride * radius, end)
            if low < position < high and shortest <= max(position - start, end - position) <= longest:
                candidates.append((end - start, start, end, label))
        if not candidates:
            continue
        length, start, end, _ = min(candidates, key=lambda c: c[0])
        offsets[p] = (position - start) / stride, (end - position) / stride
        for other in candidates:
            if not filter_similar_gt or other[0] <= length + np.float32(1e-3):
                classes[p, other[3]] = 1
    return classes, offsets


@pytest.mark.parametrize("radius", [1.5, 0.75, math.inf])
@pytest.mark.parametrize("filter_similar_gt", [True, False])
def test_targets_equal_the_rule_point_by_point(radius, filter_similar_gt):
    rng = np.random.default_rng(1)
    start = rng.integers(0, 28, (3, 12)).astype(np.float32)  # on the grid, where strictness and ties matter
    lengths = rng.choice([1, 2, 4, 4.0005, 4.002, 8, 9, 16], (3, 12))
    segments = np.stack([start, np.minimum(start + lengths, 32)], axis=-1)
    segments[1] += rng.uniform(-0.5, 0.5, (12, 1))
    labels = rng.integers(0, CLASSES, (3, 12))
    points, classes, offsets = assign(segments, labels, radius=radius, filter_similar_gt=filter_similar_gt)
    assert classes.any()
    for b in range(3):
        want_classes, want_offsets = assign_point_by_point(
            points, segments[b].astype(np.float32), labels[b], np.float32(radius), filter_similar_gt
        )
        np.testing.assert_array_equal(classes[b], want_classes)
        positive = want_classes.any(-1)
        np.testing.assert_allclose(offsets[b][positive], want_offsets[positive], atol=1e-6)


def test_range_is_inclusive_at_both_ends_and_center_strict():
    # Segment (4, 12), centre 8: distance 4 at point 8 lies in [0, 4] of level 0 and in [4, 8] of level 1.
    points, classes, _ = assign([[(4, 12)]], [[2]])
    positions = {(p[0], p[3]) for p, c in zip(points, classes[0], strict=True) if c[2]}
    # Level 1 (stride 2) reaches 3 to either side: 5 < p < 11, so 6 (distance 6), 8 and 10, and not the ends themselves.
    assert positions == {(8, 1), (6, 2), (8, 2), (10, 2)}


def test_padded_segments_do_not_matter():
    segments, labels = np.array([[(4, 12), (20, 23)]]), np.array([[2, 1]])
    _, classes, offsets = assign(segments, labels)
    padded = np.concatenate([segments, np.array([[(5, 9), (0, 0)]])], axis=1)
    valid = np.array([[True, True, False, False]])
    _, padded_classes, padded_offsets = assign(padded, np.array([[2, 1, 3, 0]]), valid)
    np.testing.assert_array_equal(padded_classes, classes)
    positive = classes.any(-1)
    np.testing.assert_array_equal(padded_offsets[positive], offsets[positive])


def test_order_of_segments_does_not_matter():
    rng = np.random.default_rng(2)
    start = rng.uniform(0, 26, (2, 10))
    segments = np.stack([start, start + rng.uniform(1, 6, (2, 10))], axis=-1)
    labels = rng.integers(0, CLASSES, (2, 10))
    order = rng.permutation(10)
    _, classes, offsets = assign(segments, labels)
    _, permuted_classes, permuted_offsets = assign(segments[:, order], labels[:, order])
    np.testing.assert_array_equal(permuted_classes, classes)
    positive = classes.any(-1)
    np.testing.assert_array_equal(permuted_offsets[positive], offsets[positive])


def test_no_segments_at_all_gives_no_positive_point():
    points, classes, offsets = assign(np.zeros((2, 0, 2)), np.zeros((2, 0)))
    assert classes.shape == (2, len(points), CLASSES) and offsets.shape == (2, len(points), 2)
    assert not classes.any()
