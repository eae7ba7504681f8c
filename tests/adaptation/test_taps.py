import functools
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tadjax.adaptation import taps
from tadjax.adaptation.host_frames import pack
from tadjax.backbones.vit import Stage, Vit
from tests.adaptation import tiny

WIDTH = 7


def tap(params, x):
    """Any small function of a layer's output, not linear in anything."""
    return jnp.tanh(x @ params["kernel"] + params["bias"]).mean((2, 3))


def tap_params(count: int) -> list[dict]:
    rng = np.random.default_rng(3)
    shapes = dict(kernel=(count, tiny.BACKBONE.width, WIDTH), bias=(count, WIDTH))
    return [{name: jnp.asarray(0.3 * rng.standard_normal(s), jnp.float32) for name, s in shapes.items()}]


def weighted_sum(taps_, last):
    """A scalar in which every entry of the taps counts differently, and not linearly."""
    weights = np.random.default_rng(4).standard_normal(taps_.shape).astype(np.float32)
    return (weights * taps_**2).sum() + (last**2).sum()


def plain(backbone, params, frames, given, layers):
    outputs = tiny.layer_outputs(backbone, params, frames)
    of_layer = [tap(jax.tree.map(lambda a, i=i: a[i], given), outputs[layer]) for i, layer in enumerate(layers)]
    return jnp.stack(of_layer), backbone.pool(outputs[-1])


@functools.cache
def reference(layers):
    params, frames = tiny.params(), tiny.frames()

    def loss(given):
        out = plain(tiny.BACKBONE, params, frames, given[0], layers)
        return weighted_sum(*out), out

    (_, out), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(tap_params(len(layers)))
    return out, grads


def ours(layers, storage, clips_per_group, on_host=False):
    params, frames = tiny.params(), tiny.frames()
    if on_host:
        here = jax.sharding.SingleDeviceSharding(jax.devices()[0], memory_kind="pinned_host")
        frames = jax.device_put(pack(frames), here)
        assert frames.words.sharding.memory_kind == "pinned_host"

    def loss(given, frames):
        options = dict(layers=layers, storage=storage, clips_per_group=clips_per_group)
        collected, last = taps.run(tiny.BACKBONE, params, frames, tap=tap, tap_params=given, **options)
        return weighted_sum(collected[0], last), (collected[0], last)

    (_, out), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(tap_params(len(layers)), frames)
    return out, grads


@pytest.mark.parametrize("clips_per_group", [0, 1, 2])
@pytest.mark.parametrize("storage", taps.STORAGES)
def test_every_storage_equals_plain_autodiff(storage, clips_per_group):
    layers = (1, 3, 4)
    (got, got_last), got_grads = ours(layers, storage, clips_per_group)
    (want, want_last), want_grads = reference(layers)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5)
    np.testing.assert_allclose(got_last, want_last, rtol=0, atol=1e-5)
    # 8 bits: x is off by half a step of 1 / 127 of its channel's largest magnitude, and few errors average out here.
    tolerance = 3e-2 if storage == "store_int8" else 1e-5
    assert tiny.largest_difference(got_grads, want_grads) < tolerance


@pytest.mark.parametrize("storage, clips_per_group", [("recompute", 1), ("recompute", 0), ("store", 2)])
def test_frames_in_the_hosts_memory_change_no_bit(storage, clips_per_group):
    on_host = ours((1, 3, 4), storage, clips_per_group, on_host=True)
    on_device = ours((1, 3, 4), storage, clips_per_group)
    jax.tree.map(np.testing.assert_array_equal, on_host, on_device)


@pytest.mark.parametrize("layers", [(0, 1, 2, 3, 4), (2, 3), (4,), (0,)])
def test_any_subset_of_layers(layers):
    (got, _), got_grads = ours(layers, "recompute", 2)
    (want, _), want_grads = reference(layers)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5)
    assert tiny.largest_difference(got_grads, want_grads) < 1e-5


def test_no_layers_is_the_frozen_backbone():
    params, frames = tiny.params(), tiny.frames()
    collected, last = taps.run(tiny.BACKBONE, params, frames, tap=tap, tap_params=[], layers=(), clips_per_group=1)
    assert collected == []
    want = tiny.BACKBONE.pool(tiny.layer_outputs(tiny.BACKBONE, params, frames)[-1])
    np.testing.assert_allclose(last, want, rtol=0, atol=1e-5)


@pytest.mark.parametrize("storage", taps.STORAGES)
def test_no_gradient_into_the_backbone(storage):
    frames, given = tiny.frames(1), tap_params(2)

    def loss(params):
        options = dict(layers=(0, 2), storage=storage)
        collected, last = taps.run(tiny.BACKBONE, params, frames, tap=tap, tap_params=given, **options)
        return weighted_sum(collected[0], last)

    grads = jax.jit(jax.grad(loss))(tiny.params())
    assert all(np.all(np.asarray(g) == 0) for g in jax.tree.leaves(grads))


class TwoStages(Vit):
    """The tiny backbone with its layers in two stages, as convolutional backbones have them."""

    def stages(self, params):
        (whole,) = super().stages(params)
        parts = (slice(0, 2), slice(2, None))
        return [Stage(jax.tree.map(lambda a, p=p: a[p], whole.params), whole.block, whole.clip_steps) for p in parts]


def test_stages_with_their_own_taps():
    backbone, params, frames = TwoStages(24, 5, 2, 16, 48), tiny.params(), tiny.frames(1)
    (given,) = tap_params(3)
    first, second = (jax.tree.map(lambda a, s=s: a[s], given) for s in (slice(0, 1), slice(1, 3)))

    def loss(given):
        options = dict(layers=(1, 2, 4), clips_per_group=2)
        collected, last = taps.run(backbone, params, frames, tap=tap, tap_params=given, **options)
        assert [c.shape[0] for c in collected] == [1, 2]
        return weighted_sum(jnp.concatenate(collected), last)

    def wanted(given):
        return weighted_sum(*plain(backbone, params, frames, given, (1, 2, 4)))

    got = jax.jit(jax.grad(loss))([first, second])
    got = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), *got)
    assert tiny.largest_difference(got, jax.jit(jax.grad(wanted))(given)) < 1e-5


def test_clips_that_are_no_whole_number_of_groups():
    with pytest.raises(ValueError, match="4 clips a window are no whole number of groups of 3"):
        ours((1,), "store", 3)


def test_a_backbone_without_clips_cannot_go_in_groups():
    class Whole(Vit):
        def stages(self, params):
            return [Stage(s.params, s.block, 0) for s in super().stages(params)]

    with pytest.raises(ValueError, match="must be 0"):
        backbone = Whole(24, 5, 2, 16, 48)
        taps.run(backbone, tiny.params(), tiny.frames(), tap=tap, tap_params=[], layers=(), clips_per_group=1)


def test_eight_bits_are_off_by_half_a_step():
    x = jnp.asarray(np.random.default_rng(5).standard_normal((2, 8, 2, 3, 24)) * np.arange(24), jnp.float32)
    back = taps._dequantise(taps._quantise(x))
    step = np.abs(x).max((1, 2, 3), keepdims=True) / 127
    assert np.all(np.abs(back - x) <= 0.5001 * step)
    assert np.all(back[..., 0] == 0)


def test_memory_does_not_grow_with_depth_or_length():
    """XLA's own account of the temporaries of a gradient, two passes: twice the tapped layers, twice the clips."""

    def temporaries(backbone, clips, layers):
        given = jax.eval_shape(lambda: tap_params(len(layers)))
        shapes = jax.eval_shape(backbone.init, jax.random.key(0))

        def loss(given, params, frames):
            options = dict(layers=layers, storage="recompute", clips_per_group=2)
            collected, last = taps.run(backbone, params, frames, tap=tap, tap_params=given, **options)
            return weighted_sum(collected[0], last)

        frames = jax.ShapeDtypeStruct((1, 16 * clips, 64, 64, 3), jnp.uint8)
        compiled = jax.jit(jax.grad(loss)).lower(given, shapes, frames).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    eight = Vit(24, 8, 2, 16, 48)
    base = temporaries(eight, 8, (4, 5, 6, 7))
    frames = 8 * 16 * 64 * 64 * 3  # what twice the clips add in input bytes
    assert temporaries(eight, 8, tuple(range(8))) - base < 0.1 * base
    assert temporaries(eight, 16, (4, 5, 6, 7)) - base < 0.1 * base + frames


SHARDED = """
import jax, numpy as np
jax.config.update("jax_num_cpu_devices", 4)
from jax.sharding import NamedSharding, PartitionSpec as P
from tadjax.adaptation import taps
from tests.adaptation import tiny
from tests.adaptation.test_taps import tap, tap_params, weighted_sum

params, given = tiny.params(), tap_params(2)
def losses(over_devices):
    def run(given, params, frames):
        options = dict(layers=(1, 3), storage=STORAGE, **GROUPS)
        out = taps.run(tiny.BACKBONE, params, frames, tap=tap, tap_params=given, **options)
        return out[0][0], out[1]
    def loss(given, params, frames):
        return weighted_sum(*over_devices(run)(given, params, frames))
    return jax.value_and_grad(loss)

frames = tiny.frames(4)
mesh = jax.make_mesh((2, 2), ("data", "clip"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
batch = NamedSharding(mesh, P("data"))
split = lambda f: jax.shard_map(
    f, mesh=mesh, in_specs=(P(), P(), P("data", "clip")), out_specs=(P(None, "data", "clip"), P("data", "clip")),
    check_vma=False)
for STORAGE, GROUPS in (("store", {}), ("recompute", {"clips_per_group": 1})):
    whole = jax.jit(losses(lambda f: f))(given, params, frames)
    in_jit = jax.jit(losses(lambda f: f))(given, params, jax.device_put(frames, batch))
    in_map = jax.jit(losses(split))(given, params, frames)
    errors = tiny.largest_difference(in_jit, whole), tiny.largest_difference(in_map, whole)
    print(STORAGE, *errors)
    assert max(errors) < 1e-5
"""


@pytest.mark.slow  # tests/parallel/test_sharding.py has the like of it for LoSA
def test_sharded_equals_single():
    """Videos over devices by the partitioner, and videos and clips over devices in shard_map."""
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", SHARDED], capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
