import numpy as np
import pytest

from tadjax.heads.alignment import alignment_weights, sample_positions


def reference(segment, bins: int, ratio: int, features: np.ndarray) -> np.ndarray:
    """[bins, C], sample by sample, in float64."""
    length, (start, end) = len(features), segment
    height = max(end - start, 1)
    count = ratio or int(np.ceil(height / bins))
    out = np.zeros((bins, features.shape[1]))
    for p in range(bins):
        for i in range(count):
            t = start + p * height / bins + (i + 0.5) * (height / bins) / count
            if -1 <= t <= length:
                t = min(max(t, 0), length - 1)
                below = min(int(t), length - 2)
                out[p] += ((below + 1 - t) * features[below] + (t - below) * features[below + 1]) / count
    return out


@pytest.mark.parametrize(("bins", "ratio"), [(4, 0), (7, 0), (3, 2)])
def test_weights_equal_sampling_one_by_one(bins, ratio):
    """Inside, across both ends, beyond them, reversed, and shorter than a step."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(13, 2))
    segments = np.array([[2, 9], [-4.3, 5.1], [8.2, 20], [-9, -3], [14.2, 19], [6, 3], [5.2, 5.3], [0, 13]])
    weights = alignment_weights(*sample_positions(segments, bins, 13, ratio), 13)
    want = [reference(s, bins, ratio, features) for s in segments]
    np.testing.assert_allclose(weights @ features.astype(np.float32), want, atol=2e-6)


def test_bins_of_a_ramp_are_the_bins_centres():
    weights = alignment_weights(*sample_positions(np.array([2.0, 10.0]), 4, 13), 13)
    np.testing.assert_allclose(weights @ np.arange(13, dtype=np.float32), [3, 5, 7, 9], rtol=1e-6)
