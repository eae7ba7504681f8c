import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tadjax.errors import ConfigError
from tadjax.heads.gtad import GTad, SubGraphAlignment, extended_segments, likely_boundaries, nearest_neighbours
from tests.golden.compare import HERE, failures

FEATURE_WIDTH = 8


def tiny(**changes) -> GTad:
    settings = {"width": 8, "groups": 2, "durations": 5, "roi_size": 4, "context_size": 2, "aligned_width": 6}
    return GTad(**(settings | {"map_width": 4, "map_convs": 1} | changes))


def test_equals_the_published_code():
    """Graph blocks, alignment, map, targets, losses, gradients, proposals, and detections under three kinds of NMS."""
    assert failures(HERE / "gtad.npz") == []


def test_the_authors_own_losses_proposals_and_suppression_equal_theirs():
    assert failures(HERE / "gtad_original.npz") == []


def test_original_settings_shift_the_samples_and_take_every_proposal_before_the_last_step():
    plain, own = (extended_segments(5, 12, 0.5, shift) for shift in (0.0, -1.0))
    np.testing.assert_array_equal(own[2, 3], [3 - 1.5, 6 + 1.5 - 1])
    np.testing.assert_array_equal(own[2, 11], [0, 0])
    np.testing.assert_array_equal(own[..., 0], plain[..., 0])
    head = tiny(original=True)
    params = head.init_params(jax.random.key(0), FEATURE_WIDTH)
    features = jax.random.normal(jax.random.key(1), (1, 12, FEATURE_WIDTH))
    found = jax.jit(head.candidates)(params, features, jnp.ones((1, 12), bool))
    ends = np.asarray(found["segments"])[np.asarray(found["valid"])][:, 1]
    assert len(ends) == 11 + 10 + 9 + 8 + 7 and ends.max() == 11


def test_nearest_neighbours_are_those_in_feature_space():
    x = np.array([[[0.0], [10], [1], [11], [30]]], np.float32)
    found = np.sort(np.asarray(nearest_neighbours(x, 2))[0], axis=-1)
    np.testing.assert_array_equal(found, [[0, 2], [1, 3], [0, 2], [1, 3], [3, 4]])


def test_likely_boundaries_are_high_or_peaks():
    probability = np.array([[0.2, 0.1, 0.3, 0.9, 0.5, 0.44]], np.float32)[..., None]
    np.testing.assert_array_equal(likely_boundaries(probability)[0, :, 0], [True, False, False, True, True, False])


@pytest.mark.parametrize("original", [False, True])
def test_losses_are_finite_without_segments_and_draws_follow_the_key(original):
    head = tiny(original=original)
    params = head.init_params(jax.random.key(0), FEATURE_WIDTH)
    rng = np.random.default_rng(0)
    features = rng.normal(size=(2, 16, FEATURE_WIDTH)).astype(np.float32)
    valid = np.arange(16) < np.array([[16], [9]])
    segments = np.array([[[1, 4], [8, 11]], [[2.0, 5], [0, 0]]], np.float32)

    @jax.jit
    def run(params, segment_valid, rng):
        targets = {"segments": segments, "segment_valid": segment_valid}
        losses, _ = head.losses(params, {}, features, valid, targets, rng=rng)
        return losses["loss"], losses

    gradients = jax.jit(jax.grad(run, has_aux=True))
    grads, losses = gradients(params, np.zeros((2, 2), bool), jax.random.key(1))
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((grads, losses)))
    some = np.array([[True, True], [True, False]])
    a, same, b = (run(params, some, jax.random.key(seed))[1] for seed in (1, 1, 2))
    assert a["regression"] == same["regression"] != b["regression"]
    assert a["classification"] == b["classification"]


def test_candidates_are_the_cells_of_the_map():
    head = tiny()
    params = head.init_params(jax.random.key(0), FEATURE_WIDTH)
    features = jax.random.normal(jax.random.key(1), (1, 12, FEATURE_WIDTH))
    found = jax.jit(head.candidates)(params, features, jnp.ones((1, 12), bool))
    assert found["scores"].shape == (1, 5 * 12, 1)
    segments = np.asarray(found["segments"])[np.asarray(found["valid"])]
    assert len(segments) and np.all(segments[:, 1] <= 12) and np.all(segments[:, 1] > segments[:, 0])
    np.testing.assert_array_equal(found["segments"][0, 2 * 12 + 3], [3, 6])


def test_memory_stays_below_that_of_all_aligned_segments():
    """A step of gradients at L = 100: [L * L, bins, C] alone would be 369 MB."""
    alignment = SubGraphAlignment(512, 100, 32, 4, 0.5, 3, jnp.float32)
    features = jax.ShapeDtypeStruct((1, 100, 256), jnp.float32)
    params = jax.eval_shape(alignment.init, jax.random.key(0), features)

    def total(params, features):
        return jnp.sum(alignment.apply(params, features)[0] ** 2)

    compiled = jax.jit(jax.grad(total, argnums=(0, 1))).lower(params, features).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 200e6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": 20}, "proposals without classes, but there are 20"),
        ({"width": 6}, "head.width = 6 is not a multiple of 4"),
        ({"map_kernel": 5}, "head.gtad.map_kernel = 5"),
    ],
)
def test_impossible_settings_are_named(changes, message):
    with pytest.raises(ConfigError, match=message):
        tiny(**changes)
