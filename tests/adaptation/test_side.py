import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tadjax.adaptation.inside import Memory
from tadjax.adaptation.side import Side
from tadjax.adaptation.tia import Tia
from tests.adaptation import tiny

LAYERS = (2, 4)


def adapters(side: Side) -> dict:
    return tiny.away_from_start(side.init(jax.random.key(1), tiny.BACKBONE, LAYERS), 2)


def plain(side: Side, given: dict, params: dict, frames: jax.Array) -> jax.Array:
    """mean_hw(x_N + sum_i adapter_i(x_i)) with whole adapters at full resolution."""
    outputs = tiny.layer_outputs(tiny.BACKBONE, params, frames)
    y = outputs[-1]
    for i, layer in enumerate(LAYERS):
        y = y + side.tia.apply({"params": jax.tree.map(lambda a, i=i: a[i], given)}, outputs[layer])
    return tiny.BACKBONE.pool(y)


@pytest.mark.parametrize(
    "tia, clips_per_group",
    [
        (Tia(6), 0),
        (Tia(6), 2),
        (Tia(6, residual=False), 1),
        (Tia(6, kernel=()), 1),
        (Tia(6, kernel=(7, 1, 1)), 2),
        (Tia(6, kernel=(3, 3, 3)), 0),
    ],
)
def test_pooled_before_the_up_projection_is_exact(tia, clips_per_group):
    side, params, frames = Side(tia), tiny.params(), tiny.frames()
    given = adapters(side)
    memory = Memory(clips_per_group=clips_per_group)
    ours = functools.partial(side.features, tiny.BACKBONE, params, layers=LAYERS, memory=memory)
    got, got_grads = tiny.value_and_gradient(lambda a: ours(a, frames), given)
    want, want_grads = tiny.value_and_gradient(lambda a: plain(side, a, params, frames), given)
    assert got.shape == (2, 8 * tiny.CLIPS, tiny.BACKBONE.width)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5)
    # h' is computed before the mean in one and after it in the other: rounding of sums of a thousand terms differs.
    assert tiny.largest_difference(got_grads, want_grads) < 2e-5


def test_kernels_over_space_do_not_go_in_groups():
    side = Side(Tia(6, kernel=(3, 3, 3)))
    with pytest.raises(ValueError, match="clips_per_group = 0"):
        memory = Memory(clips_per_group=1)
        side.features(tiny.BACKBONE, tiny.params(), adapters(side), tiny.frames(), layers=LAYERS, memory=memory)


def test_the_published_codes_base_is_the_last_adapted_layer():
    side, params, frames = Side(Tia(6), base="listed"), tiny.params(), tiny.frames()
    given = side.init(jax.random.key(0), tiny.BACKBONE, (0, 2))  # W_up starts at zero: nothing is added

    @jax.jit
    def both():
        got = side.features(tiny.BACKBONE, params, given, frames, layers=(0, 2), memory=Memory())
        return got, tiny.BACKBONE.pool(tiny.layer_outputs(tiny.BACKBONE, params, frames)[2])

    np.testing.assert_allclose(*both(), rtol=0, atol=1e-5)


def test_the_last_layer_is_the_backbones_also_where_it_has_no_adapter():
    side, params, frames = Side(Tia(6)), tiny.params(), tiny.frames()
    given = jax.tree.map(jnp.zeros_like, side.init(jax.random.key(0), tiny.BACKBONE, (0, 1)))

    @jax.jit
    def both():
        got = side.features(tiny.BACKBONE, params, given, frames, layers=(0, 1), memory=Memory())
        return got, tiny.BACKBONE.pool(tiny.layer_outputs(tiny.BACKBONE, params, frames)[-1])

    np.testing.assert_allclose(*both(), rtol=0, atol=1e-5)
