"""Every convolutional and window-attention backbone through what the rest of the project sees of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from convert.layouts import layout_named
from convert.mapping import flat, to_flax, to_torch
from tadjax.adaptation import inside
from tadjax.backbones.r2plus1d import R2plus1d
from tadjax.backbones.tsm import Tsm
from tests.golden.backbone import read, run_layers, state_dict
from tests.golden.compare import HERE

FRAMES = (1, 16, 32, 48, 3)
TINY = {
    "r2plus1d": R2plus1d(depths=(1, 2, 1, 2), widths=(4, 6, 8, 10), stem_middle=4),
    "tsm_r18": Tsm(depths=(1, 2, 1, 2), bottleneck=False, stem_width=8),
}
STEPS = {"r2plus1d": 2, "tsm_r18": 16}  # of 16 frames
GOLDEN = {"r2plus1d": "r2plus1d18.npz", "tsm_r18": "tsm_r18.npz"}


@pytest.fixture(params=TINY)
def name(request):
    return request.param


def frames_of(seed=0):
    return jnp.asarray(np.random.default_rng(seed).integers(0, 256, FRAMES, np.uint8))


@pytest.mark.parametrize("remat", ["none", "block"])
def test_scanned_layers_equal_layers_in_a_row(name, remat):
    backbone, frames = TINY[name], frames_of()
    params = backbone.init(jax.random.key(0))
    features = jax.jit(lambda p, x: inside.run(backbone, p, x, memory=inside.Memory(remat)))(params, frames)
    x = backbone.embed(params, frames)
    for stage in backbone.stages(params):
        for layer in range(jax.tree.leaves(stage.params)[0].shape[0]):
            x = stage.block(jax.tree.map(lambda a, i=layer: a[i], stage.params), x)
    assert features.shape == (1, STEPS[name], backbone.width)
    np.testing.assert_allclose(features, backbone.pool(x), rtol=1e-4, atol=1e-5)


def test_a_checkpoints_bits_survive_both_ways(name):
    layout = layout_named(name)
    source = state_dict(read(HERE / GOLDEN[name])[0])
    params, report = to_flax(source, layout.rules, layout.drops)
    back = to_torch(params, layout.rules)
    assert {*back} | {*report.dropped} == {*source}
    for key, tensor in back.items():
        np.testing.assert_array_equal(tensor, source[key])
        assert tensor.dtype == source[key].dtype


def test_a_missing_tensor_is_reported(name):
    layout = layout_named(name)
    source = state_dict(read(HERE / GOLDEN[name])[0])
    lacking = [key for key in source if key.endswith("weight")][len(source) // 20]
    _, report = to_flax({k: v for k, v in source.items() if k != lacking}, layout.rules, layout.drops)
    assert report.missing == [lacking]


def test_bfloat16_is_near_float32(name):
    backbone, frames = TINY[name], frames_of(1)
    params = backbone.init(jax.random.key(1))
    half = type(backbone)(**{**vars(backbone), "dtype": jnp.bfloat16})
    want = inside.run(backbone, params, frames, memory=inside.Memory("none"))
    got = inside.run(half, params, frames, memory=inside.Memory("none"))
    assert got.dtype == jnp.float32
    assert 0 < float(jnp.abs(got - want).max()) < 0.05 * float(jnp.abs(want).max())


def test_draws_of_stochastic_depth_are_one_a_stage(name):
    backbone = TINY[name]
    params = backbone.init(jax.random.key(0))
    assert len(backbone.drop_path(jax.random.key(0), 2, 16)) == len(backbone.stages(params))


def test_no_gradient_reaches_the_statistics_of_batch_norm(name):
    backbone = TINY[name]
    params = backbone.init(jax.random.key(2))
    x = jnp.asarray(np.random.default_rng(2).standard_normal(FRAMES, np.float32))
    total = lambda p: sum(jnp.sum(a) for a in jax.tree.leaves(run_layers(backbone, p, x)[-1]))  # noqa: E731
    grads = flat(jax.grad(total)(params))
    statistics = {path for path in grads if path.endswith(("/mean", "/var"))}
    assert {path for path, g in grads.items() if not np.any(g)} >= statistics
    assert all(np.any(g) for path, g in grads.items() if path.endswith("conv/kernel"))
