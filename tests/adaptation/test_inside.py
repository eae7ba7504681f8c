import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tadjax.adaptation import inside
from tadjax.adaptation.inside import Memory
from tadjax.adaptation.tia import Tia
from tadjax.profiling import flops
from tests.adaptation import tiny

ADAPTER = Tia(6)
SCALES = [np.random.default_rng(6).choice([0.0, 1.25], (5, 2, 2, tiny.CLIPS)).astype(np.float32)]


def adapters(layers):
    x = jnp.zeros((1, 1, 1, 1, tiny.BACKBONE.width))
    given = jax.vmap(lambda key: ADAPTER.init(key, x)["params"])(jax.random.split(jax.random.key(1), len(layers)))
    return tiny.away_from_start(given, 2)


def plain(given, layers, scales):
    """Block after block, adapter after block, everything kept."""
    params = tiny.params()
    x = tiny.BACKBONE.embed(params, tiny.frames())
    (stage,) = tiny.BACKBONE.stages(params)
    for i in range(5):
        of_layer = jax.tree.map(lambda a, i=i: a[i], stage.params)
        x = stage.block(of_layer, x, None if scales is None else scales[0][i])
        if i in layers:
            j = layers.index(i)
            x = x + ADAPTER.apply({"params": jax.tree.map(lambda a, j=j: a[j], given)}, x)
    return tiny.BACKBONE.pool(x)


def ours(given, layers, scales, memory, params=None):
    options = dict(adapter=ADAPTER, adapter_params=given, layers=layers, branch_scales=scales, memory=memory)
    return inside.run(tiny.BACKBONE, tiny.params() if params is None else params, tiny.frames(), **options)


@pytest.mark.parametrize(
    "remat, clips_per_group, layers, scales",
    [
        ("none", 0, (0, 1, 2, 3, 4), SCALES),
        ("block", 0, (0, 1, 2, 3, 4), SCALES),
        ("block", 2, (0, 1, 2, 3, 4), SCALES),
        ("nested", 1, (1, 2, 3, 4), None),
        ("offload", 2, (0, 1, 2, 3, 4), SCALES),
        ("nested_offload", 2, (0, 1, 2, 3, 4), SCALES),
        ("block", 0, (1, 3), None),
        ("nested", 0, (3, 4), SCALES),
    ],
)
def test_every_way_of_keeping_activations_equals_plain_autodiff(remat, clips_per_group, layers, scales):
    given, memory = adapters(layers), Memory(remat, clips_per_group)
    got, got_grads = tiny.value_and_gradient(lambda a: ours(a, layers, scales, memory), given)
    want, want_grads = tiny.value_and_gradient(lambda a: plain(a, layers, scales), given)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5)
    assert tiny.largest_difference(got_grads, want_grads) < 1e-5


def test_nested_layers_are_the_fewest_that_keep_to_the_number_of_inputs():
    assert inside.nested_layers(39) == (4, 8), "11 inputs: 4 and 7 layers that are not nested; then 3 and a nest of 8"
    assert inside.nested_layers(39, 5) == (4, 8), "fewer than 11 cannot be"
    assert inside.nested_layers(39, 29) == (1, 11), "29: 28 layers that are not nested, and the nest before them"
    assert inside.nested_layers(39, 39) == (0, 0)
    assert inside.nested_layers(1) == (0, 0)


@pytest.mark.parametrize("kept", [3, 4])
def test_a_number_of_kept_inputs_changes_no_gradient(kept):
    layers = (0, 1, 2, 3, 4)
    given, memory = adapters(layers), Memory("nested", 2, kept_inputs=kept)
    _, got = tiny.value_and_gradient(lambda a: ours(a, layers, None, memory), given)
    _, want = tiny.value_and_gradient(lambda a: plain(a, layers, None), given)
    assert tiny.largest_difference(got, want) < 1e-5


def operations(layers, memory, gradient):
    """Of the blocks and adapters alone."""

    def total(given):
        return ours(given, layers, None, memory).sum()

    embedding = flops.count(tiny.BACKBONE.embed, tiny.params(), tiny.frames())
    return flops.count(jax.grad(total) if gradient else total, adapters(layers)) - embedding


def test_layers_below_the_first_adapter_cost_their_forward_pass_only():
    """With the last adapter only, all blocks run forward and none backward."""
    forward, step = (operations((4,), Memory(), gradient) for gradient in (False, True))
    assert step < 1.15 * forward


def test_operations_of_a_step_with_all_adapters():
    """Forward, recomputed and backward: 3 forward passes (less the first block's), groups of clips or not."""
    layers = (0, 1, 2, 3, 4)
    forward = operations(layers, Memory("none"), False)
    assert operations(layers, Memory("block"), True) / forward < 3.1
    assert operations(layers, Memory("block", 2), True) / forward < 3.1
    assert operations(layers, Memory("nested", 2), True) / forward < 4.1
