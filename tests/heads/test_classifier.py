import jax
import jax.numpy as jnp
import numpy as np

from tadjax.heads.classifier import Classifier, step_labels

TARGETS = {
    "segments": np.array([[[0.6, 6.5], [2.0, 4.0], [7.5, 9.0], [0.0, 9.0]]], np.float32),
    "labels": np.array([[0, 2, 1, 1]], np.int32),
    "segment_valid": np.array([[True, True, True, False]]),
}
VALID = np.arange(9)[None] < 8


def test_a_step_belongs_to_the_shortest_segment_around_its_middle():
    label, counted = step_labels(TARGETS, VALID)
    np.testing.assert_array_equal(counted[0], [False, True, True, True, True, True, False, True, False])
    np.testing.assert_array_equal(np.asarray(label)[np.asarray(counted)], [0, 2, 2, 0, 0, 1])


def test_the_loss_is_the_mean_over_steps_of_actions_and_zero_without():
    head = Classifier(classes=3)
    params = {"out": {"kernel": jnp.eye(3), "bias": jnp.zeros(3)}}
    features = np.random.default_rng(0).normal(size=(1, 9, 3)).astype(np.float32)
    losses, _ = head.losses(params, {}, features, VALID, TARGETS)
    steps, labels = [1, 2, 3, 4, 5, 7], [0, 2, 2, 0, 0, 1]
    logits = features[0, steps]
    want = np.mean(np.log(np.exp(logits).sum(-1)) - logits[np.arange(6), labels])
    np.testing.assert_allclose(losses["loss"], want, rtol=1e-6)
    nothing = TARGETS | {"segment_valid": np.zeros((1, 4), bool)}
    assert head.losses(params, {}, features, VALID, nothing)[0]["loss"] == 0


def test_candidates_are_single_steps():
    head = Classifier(classes=3)
    params = head.init_params(jax.random.key(0), 5)
    found = head.candidates(params, jnp.ones((2, 4, 5)), jnp.ones((2, 4), bool))
    np.testing.assert_array_equal(found["segments"][1], [[0, 1], [1, 2], [2, 3], [3, 4]])
    np.testing.assert_allclose(found["scores"].sum(-1), 1, rtol=1e-6)
