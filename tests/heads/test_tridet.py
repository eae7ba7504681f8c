import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tadjax.errors import ConfigError
from tadjax.heads.tridet import TriDet, trident_offsets, wide_kernel
from tests.golden.compare import HERE, failures

RANGES = ((0, 6), (6, 10000))
FEATURE_WIDTH = 6


def tiny(**changes) -> TriDet:
    settings = {"classes": 3, "width": 16, "convs": (1, 1, 1), "mlp_width": 8, "max_length": 32, "head_convs": 1}
    return TriDet(**(settings | {"bins": 4, "init_std": 0.3, "regression_ranges": RANGES} | changes))


@functools.cache
def params_of(head: TriDet) -> dict:
    return head.init_params(jax.random.key(0), FEATURE_WIDTH)


def batch(length=32):
    rng = np.random.default_rng(0)
    features = rng.normal(size=(2, length, FEATURE_WIDTH)).astype(np.float32)
    targets = {
        "segments": np.array([[[3, 9], [8, 24]], [[5, 7], [0, 0]]], np.float32),
        "labels": np.array([[0, 1], [2, 0]], np.int32),
        "segment_valid": np.array([[True, True], [True, False]]),
    }
    return features, np.arange(length) < np.array([[length], [length - 12]]), targets


def test_equals_the_published_code():
    """Forward pass, targets, losses, gradients and detections."""
    assert failures(HERE / "tridet.npz") == []


def test_offsets_are_expectations_over_bins():
    """Flat logits: the mean of the bins, everywhere; one large logit: the distance to where it stands."""
    flat = trident_offsets(jnp.zeros((1, 7, 2)), jnp.zeros((1, 7, 2)), jnp.zeros((1, 7, 2 * 5)))
    np.testing.assert_allclose(flat, np.full((1, 7, 2, 2), 2.0), rtol=1e-6)

    start, end = jnp.zeros((1, 7, 2)).at[0, 2, 1].set(50.0), jnp.zeros((1, 7, 2)).at[0, 5, 1].set(50.0)
    peaked = np.asarray(trident_offsets(start, end, jnp.zeros((1, 7, 2 * 5))))
    np.testing.assert_allclose(peaked[0, 2:7, 1, 0], [0, 1, 2, 3, 4], atol=1e-5)  # from the start at 2 on
    np.testing.assert_allclose(peaked[0, 1:6, 1, 1], [4, 3, 2, 1, 0], atol=1e-5)  # until the end at 5
    np.testing.assert_allclose(peaked[0, :, 0], 2.0, rtol=1e-6)  # the other class is not moved
    np.testing.assert_allclose(peaked[0, :2, 1, 0], 2.0, rtol=1e-6)  # before the start


@pytest.mark.parametrize(("window", "k", "size"), [(1, 5, 11), (1, 1.5, 3), (15, 1.3, 21), (3, 1.125, 5), (1, 1.25, 3)])
def test_wide_kernel_rounds_as_published(window, k, size):
    """(1 + 1) * 1.25 = 2.5 and (3 + 1) * 1.125 = 4.5 are rounded to even numbers first, then made odd."""
    assert wide_kernel(window, k) == size


def test_losses_without_segments_or_valid_steps_are_finite_and_so_are_gradients():
    head, params = tiny(), params_of(tiny())
    features, valid, targets = batch()

    @jax.jit
    def gradients(valid, segment_valid):
        def loss(params):
            found, _ = head.losses(
                params, head.init_state(), features, valid, targets | {"segment_valid": segment_valid}
            )
            return found["loss"], found

        return jax.value_and_grad(loss, has_aux=True)(params)

    for steps, segments in ((valid, np.zeros((2, 2), bool)), (np.zeros_like(valid), targets["segment_valid"])):
        (_, found), grads = gradients(steps, segments)
        assert found["regression"] == 0
        assert all(np.isfinite(x).all() for x in jax.tree.leaves(grads))
    (_, found), _ = gradients(valid, targets["segment_valid"])
    assert found["regression"] > 0


def test_boundary_towers_do_not_shape_the_features():
    """Their loss reaches their own parameters, and not those of projection and neck."""
    head = tiny()
    features, valid, _ = batch()

    def total(params):
        pyramid = head.pyramid(params, features, valid)
        return sum(jnp.sum(x**2) for x in (*pyramid.start, *pyramid.end))

    grads = jax.jit(jax.grad(total))(params_of(head))
    assert all(np.abs(x).max() == 0 for x in jax.tree.leaves([grads["projection"], grads["neck"]]))
    assert np.abs(grads["start"]["out"]["kernel"]).max() > 0


def test_candidates_lie_within_the_bins_and_have_a_segment_a_class():
    head = tiny()
    features, valid, _ = batch(length=20)  # padded to 32
    found = jax.jit(head.candidates)(params_of(head), features, valid)
    assert found["segments"].shape == (2, 48, 3, 2) and found["scores"].shape == (2, 48, 3)
    position = np.concatenate([np.arange(32), 2 * np.arange(16)])
    stride = np.repeat([1, 2], [32, 16])
    reach = np.abs(np.asarray(found["segments"]) - position[:, None, None]) / stride[:, None, None]
    assert reach.max() <= 4 + 1e-5
    np.testing.assert_array_equal(found["valid"].sum(-1), [20 + 10, 8 + 4])


def test_training_is_padded_to_strides_and_evaluation_to_max_length():
    head = tiny()
    shapes = jax.eval_shape(lambda: head.init_params(jax.random.key(0), FEATURE_WIDTH))
    features, valid = jax.ShapeDtypeStruct((1, 19, FEATURE_WIDTH), jnp.float32), jax.ShapeDtypeStruct((1, 19), bool)
    for train, length in ((True, 20), (False, 32)):
        run = functools.partial(head.pyramid, train=train)
        assert jax.eval_shape(run, shapes, features, valid).features[0].shape[1] == length


@pytest.mark.parametrize(("windows", "length"), [((1, 1, 1), 44), ((1, 5, 3), 48), ((3, 1, 1), 44)])
def test_long_sequences_are_padded_to_the_largest_factor_as_published(windows, length):
    """Window x stride, the largest of the levels (4, 12, 4): not to what all of them divide."""
    head = tiny(convs=(1, 1, 2), window=windows, regression_ranges=((0, 4), (4, 8), (8, 10000)))
    assert -(-43 // head.length_multiple) * head.length_multiple == length


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"window": 4}, "head.tridet.window: 4 is no odd number"),
        ({"window": (1, 1, 1)}, "head.tridet.window has 3 entries"),
        ({"width": 24}, "head.width = 24 is not a multiple of 16"),
        ({"max_length": 33}, "head.max_length = 33 is not a multiple of 2"),
        ({"regression_ranges": RANGES[:1]}, "head.regression_ranges has 1 entries"),
    ],
)
def test_impossible_settings_are_named(changes, message):
    with pytest.raises(ConfigError, match=message):
        tiny(**changes)
