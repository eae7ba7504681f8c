"""Snippets: grouped or not, shared frames or their own, each is seen alone, and gradients are those of plain code."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tadjax.adaptation.snippets import Snippets

LENGTH, S = 12, 4


def run(weight, frames):
    """A "backbone" that sees order: [n, S, h, w, 3] -> [n, S / 2, D]."""
    x = frames.astype(jnp.float32).mean((2, 3)).reshape(len(frames), -1, 6)
    return jnp.tanh(x @ weight) * jnp.arange(1, x.shape[1] + 1)[:, None]


@pytest.mark.parametrize("hop", [1, 3, 4])
@pytest.mark.parametrize("per_group", [0, 3, 12])
def test_groups_and_shared_frames_change_nothing(hop, per_group):
    rng = np.random.default_rng(0)
    frames = rng.standard_normal((2, (LENGTH - 1) * hop + S, 2, 2, 3)).astype(np.float32)
    weight = rng.standard_normal((6, 5)).astype(np.float32)

    def plain(weight):
        each = [run(weight, frames[:, t * hop : t * hop + S]).mean(1) for t in range(LENGTH)]
        return jnp.stack(each, axis=1)

    def ours(weight):
        return Snippets(S, per_group).features(lambda f, scales: run(weight, f), frames, LENGTH, None)

    cotangent = rng.standard_normal((2, LENGTH, 5)).astype(np.float32)
    got, pull = jax.vjp(ours, weight)
    want, pull_plain = jax.vjp(plain, weight)
    np.testing.assert_allclose(got, want, atol=1e-6)
    np.testing.assert_allclose(pull(cotangent)[0], pull_plain(cotangent)[0], atol=2e-5)


def test_each_snippet_has_its_own_draws_of_stochastic_depth():
    frames = np.zeros((2, LENGTH * S, 1, 1, 3), np.float32)
    scales = [np.arange(2.0 * LENGTH).reshape(1, 1, 2, LENGTH, 1)]
    for per_group in (0, 4):
        features = Snippets(S, per_group).features(lambda f, s: s[0][0, 0][:, :, None], frames, LENGTH, scales)
        np.testing.assert_array_equal(features[..., 0], scales[0][0, 0, :, :, 0])


def test_snippets_that_are_no_whole_number_of_groups_are_an_error():
    with pytest.raises(ValueError, match="12 snippets are no whole number of groups of 5"):
        Snippets(S, 5).features(lambda f, scales: f, np.zeros((1, 48, 1, 1, 3)), LENGTH, None)
