import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tadjax.heads.losses import diou, giou, sigmoid_focal_loss, smooth_labels, update_loss_normalizer


def segments(*pairs):
    return jnp.array(pairs, jnp.float32)


def test_diou_and_giou_of_hand_computed_pairs():
    a = segments((0, 4), (0, 2), (1, 3), (0, 10))
    b = segments((2, 6), (6, 8), (1, 3), (4, 5))
    # Overlap 2 of 6, centres 2 apart; disjoint, 8 enclosing 4; equal; inside, centres 0.5 apart.
    np.testing.assert_allclose(diou(a, b), [2 / 6 - (2 / 6) ** 2, -((6 / 8) ** 2), 1, 1 / 10 - 0.05**2], atol=1e-6)
    np.testing.assert_allclose(giou(a, b), [2 / 6, -4 / 8, 1, 1 / 10], atol=1e-6)


@pytest.mark.parametrize("similarity", [diou, giou])
def test_similarity_is_symmetric_and_blind_to_where_and_how_large(similarity):
    rng = np.random.default_rng(0)
    a, b = (np.sort(rng.uniform(0, 50, (100, 2)), axis=-1) for _ in range(2))
    want = similarity(jnp.asarray(a), jnp.asarray(b))
    np.testing.assert_allclose(similarity(jnp.asarray(b), jnp.asarray(a)), want, atol=1e-6)
    np.testing.assert_allclose(similarity(jnp.asarray(3 * a + 7), jnp.asarray(3 * b + 7)), want, atol=1e-4)
    assert np.all(want <= 1 + 1e-6) and np.all(want >= -1 - 1e-6)


@pytest.mark.parametrize("similarity", [diou, giou])
def test_similarity_has_finite_gradients_for_degenerate_segments(similarity):
    a = segments((5, 5), (5, 5), (3, 1), (0, 1))
    b = segments((5, 5), (2, 8), (1, 3), (1e4, 1e4))
    value, grad = jax.value_and_grad(lambda x: similarity(x, b).sum())(a)
    assert np.isfinite(value) and np.all(np.isfinite(grad))


def test_focal_loss_with_gamma_zero_is_half_the_cross_entropy():
    logits, targets = jnp.array([-3.0, 0.2, 4.0]), jnp.array([0.0, 1.0, 1.0])
    p = 1 / (1 + np.exp(-np.array(logits)))
    entropy = -(targets * np.log(p) + (1 - targets) * np.log(1 - p))
    np.testing.assert_allclose(sigmoid_focal_loss(logits, targets, alpha=0.5, gamma=0), entropy / 2, rtol=1e-5)


def test_focal_loss_of_hand_computed_values():
    # Logit 0: p = 0.5, p_t = 0.5, cross entropy log 2, modulation 1/4; alpha_t 0.25, 0.75, and 0.5 halfway between.
    got = sigmoid_focal_loss(jnp.zeros(3), jnp.array([1.0, 0.0, 0.5]))
    np.testing.assert_allclose(got, np.log(2) / 4 * np.array([0.25, 0.75, 0.5]), rtol=1e-6)


def test_focal_loss_is_finite_at_extreme_logits():
    logits = jnp.array([-1e4, -100.0, 100.0, 1e4])
    for target in (0.0, 0.3, 1.0):
        loss = lambda x, t=target: sigmoid_focal_loss(x, jnp.full(4, t)).sum()  # noqa: E731
        value, grad = jax.value_and_grad(loss)(logits)
        assert np.isfinite(value) and np.all(np.isfinite(grad))


def test_focal_loss_of_bfloat16_logits_is_float32():
    assert sigmoid_focal_loss(jnp.zeros(2, jnp.bfloat16), jnp.ones(2)).dtype == jnp.float32


def test_smoothing_counts_background_as_one_more_class():
    got = smooth_labels(jnp.array([1.0, 0.0, 0.0]), 0.1)  # K = 3: 0.1 / 4 for each
    np.testing.assert_allclose(got, [0.925, 0.025, 0.025], rtol=1e-6)
    np.testing.assert_array_equal(smooth_labels(jnp.array([1.0, 0.0]), 0.0), [1, 0])


def test_loss_normalizer_moves_by_a_tenth_and_counts_at_least_one():
    np.testing.assert_allclose(update_loss_normalizer(jnp.float32(100), jnp.int32(40), 0.9), 94, rtol=1e-6)
    np.testing.assert_allclose(update_loss_normalizer(jnp.float32(100), jnp.int32(0), 0.9), 90.1, rtol=1e-6)
