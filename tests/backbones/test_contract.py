"""Every convolutional and window-attention backbone through what the rest of the project sees of it."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import thumos_vitg
from convert.layouts import layout_named
from convert.mapping import flat, nested, to_flax, to_torch
from tadjax.adaptation import inside
from tadjax.adaptation.snippets import Snippets
from tadjax.backbones import i3d, r2plus1d, vit
from tadjax.backbones.i3d import I3d
from tadjax.backbones.layers import normalise
from tadjax.backbones.r2plus1d import R2plus1d
from tadjax.backbones.slowfast import SlowFast
from tadjax.backbones.swin import PatchMerging, Swin
from tadjax.backbones.tsm import Tsm
from tadjax.build import build
from tadjax.errors import ConfigError
from tadjax.workdir import weights
from tests.golden.backbone import read, run_layers, state_dict
from tests.golden.compare import HERE

FRAMES = (1, 16, 32, 40, 3)
TINY = {
    "r2plus1d": R2plus1d(depths=(1, 2, 1, 2), widths=(4, 6, 8, 10), stem_middle=4),
    "tsm_r18": Tsm(depths=(1, 2, 1, 2), bottleneck=False, stem_width=8),
    "slowfast": SlowFast(depths=(1, 2, 1, 1), stem_width=16),
    "swin": Swin(stem_width=8, depths=(2, 1, 3, 1), heads=(1, 2, 2, 4), window=(4, 3, 3), drop_path_rate=0.1),
    "i3d": I3d(divisor=16),
}
STEPS = {"i3d": 2, "r2plus1d": 2, "tsm_r18": 16, "slowfast": 16, "swin": 8}  # of 16 frames
SCALES = dict.fromkeys(TINY, (vit.MEAN, vit.STD)) | {
    "r2plus1d": (r2plus1d.MEAN, r2plus1d.STD),
    "i3d": (i3d.MEAN, i3d.STD),
}
GOLDEN = {
    "r2plus1d": "r2plus1d18.npz",
    "tsm_r18": "tsm_r18.npz",
    "slowfast": "slowfast_r50.npz",
    "swin": "video_swin.npz",
}


def frames_of(seed=0):
    return jnp.asarray(np.random.default_rng(seed).integers(0, 256, FRAMES, np.uint8))


def params_of(backbone):
    """Random parameters, drawn without compiling anything; batch norm's statistics too."""
    shapes = weights.shapes(jax.eval_shape(lambda: backbone.init(jax.random.key(0))))
    random = np.random.default_rng(0)

    def draw(path, shape):
        if path.endswith("kernel"):
            inputs = np.prod(shape[("rest" in path or "blocks" in path) : -1])
            return random.standard_normal(shape, np.float32) * np.float32((2 / inputs) ** 0.5)
        return 0.1 * random.standard_normal(shape, np.float32) + path.endswith(("scale", "var"))

    return nested({path: draw(path, shape).astype(np.float32) for path, shape in shapes.items()})


def source_of(name):
    """The reference's state dict, without the norms that the file has of inner outputs."""
    tensors = state_dict(read(HERE / GOLDEN[name])[0])
    return {key: tensor for key, tensor in tensors.items() if not key.startswith(("norm0", "norm1", "norm2"))}


@pytest.mark.parametrize("name", TINY)
def test_scanned_layers_equal_layers_in_a_row(name):
    backbone, frames = TINY[name], frames_of()
    params = params_of(backbone)
    features = jax.jit(lambda p, x: inside.run(backbone, p, x, memory=inside.Memory()))(params, frames)
    in_a_row = jax.jit(
        lambda p, x: backbone.pool(run_layers(backbone, p, normalise(x, *SCALES[name], jnp.float32))[-1])
    )
    assert features.shape == (1, STEPS[name], backbone.width)
    np.testing.assert_allclose(features, in_a_row(params, frames), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", TINY)
def test_each_snippet_is_seen_alone(name):
    """Two snippets of 16 frames, eight of them shared, together and one after the other."""
    backbone, frames = TINY[name], jnp.concatenate([frames_of(), frames_of(1)[:, :8]], axis=1)
    params = params_of(backbone)
    run = jax.jit(lambda x: inside.run(backbone, params, x, memory=inside.Memory()))
    alone = jnp.stack([run(frames[:, first : first + 16]).mean(1) for first in (0, 8)], axis=1)
    for per_group in (0, 1):
        features = Snippets(16, per_group).features(lambda x, _: run(x), frames, 2, None)
        assert features.shape == (1, 2, backbone.width)
        np.testing.assert_allclose(features, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", GOLDEN)
def test_a_checkpoints_bits_survive_both_ways(name):
    layout, source = layout_named(name), source_of(name)
    params, report = to_flax(source, layout.rules, layout.drops)
    back = to_torch(params, layout.rules)
    assert {*back} | {*report.dropped} == {*source}
    for key, tensor in back.items():
        np.testing.assert_array_equal(tensor, source[key])
        assert tensor.dtype == source[key].dtype


@pytest.mark.parametrize("name", GOLDEN)
def test_a_missing_tensor_is_reported(name):
    layout, source = layout_named(name), source_of(name)
    lacking = [key for key in source if key.endswith("weight")][len(source) // 20]
    _, report = to_flax({k: v for k, v in source.items() if k != lacking}, layout.rules, layout.drops)
    assert report.missing == [lacking]


@pytest.mark.parametrize("name", TINY)
def test_bfloat16_is_near_float32(name):
    backbone, frames = TINY[name], frames_of(1)
    params = params_of(backbone)
    half = dataclasses.replace(backbone, dtype=jnp.bfloat16)
    want, got = (
        jax.jit(lambda p, x, b=b: inside.run(b, p, x, memory=inside.Memory()))(params, frames) for b in (backbone, half)
    )
    assert got.dtype == jnp.float32
    assert 0 < float(jnp.abs(got - want).max()) < 0.05 * float(jnp.abs(want).max())


@pytest.mark.parametrize("name", TINY)
def test_draws_of_stochastic_depth_are_one_a_stage(name):
    backbone = TINY[name]
    stages = jax.eval_shape(lambda: [s.params for s in backbone.stages(backbone.init(jax.random.key(0)))])
    assert len(backbone.drop_path(jax.random.key(0), 2, 16)) == len(stages)


def test_stochastic_depth_of_swin_drops_branches():
    backbone = TINY["swin"]
    params, frames = params_of(backbone), frames_of()
    factors = backbone.drop_path(jax.random.key(4), 4096, 16)
    assert [None if f is None else f.shape[0] for f in factors] == [2, 1, 1, 2, 1, None]
    kept = np.concatenate([np.asarray(f > 0).mean((1, 2, 3)) for f in factors if f is not None])
    np.testing.assert_allclose(kept, 1 - np.linspace(0, 0.1, 7), atol=0.02)
    dropped = [None if f is None else jnp.zeros_like(f[:, :, :1]) for f in factors]

    @jax.jit
    def without_branches(params, frames):
        x = backbone.embed(params, frames)
        for stage in (1, 2, 3):
            x = PatchMerging().apply({"params": params[f"stage{stage}"]["merging"]}, x)
        return backbone.pool(nn.LayerNorm(epsilon=1e-5).apply({"params": params["norm"]}, x))

    run = jax.jit(lambda p, x: inside.run(backbone, p, x, branch_scales=dropped, memory=inside.Memory()))
    np.testing.assert_allclose(run(params, frames), without_branches(params, frames), rtol=1e-4, atol=1e-5)


def test_windows_part_by_part_equal_all_at_once():
    backbone, frames = TINY["swin"], frames_of(2)
    params = params_of(backbone)
    in_parts = dataclasses.replace(backbone, attention="chunked")
    got, want = (
        jax.jit(lambda p, x, b=b: inside.run(b, p, x, memory=inside.Memory()))(params, frames)
        for b in (in_parts, backbone)
    )
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", [pytest.param("r2plus1d", marks=pytest.mark.slow), "tsm_r18", "slowfast"])
def test_no_gradient_reaches_the_statistics_of_batch_norm(name):
    backbone = TINY[name]
    x = np.random.default_rng(2).standard_normal(FRAMES, np.float32)

    def total(params):
        return sum(jnp.sum(y**2) for y in jax.tree.leaves(run_layers(backbone, params, x)[-1]))

    grads = flat(jax.jit(jax.grad(total))(params_of(backbone)))
    for path, grad in grads.items():
        assert np.any(grad) != path.endswith(("/mean", "/var")), path


@pytest.mark.parametrize("field", ["window.size", "backbone.image"])
def test_pictures_smaller_than_a_patch_are_refused(field):
    config = thumos_vitg.get_config("tiny")
    config.update_from_flattened_dict({field: 12})
    with pytest.raises(ConfigError, match=rf"^config.{field} = 12: smaller than the backbone's patches of 16 x 16"):
        build(config, 3, "cpu")
