import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tadjax.adaptation.inside import Memory
from tadjax.adaptation.losa import Losa
from tadjax.backbones.vit import SIZES, Vit, sine_cosine
from tests.adaptation import tiny

LAYERS = (0, 1, 2, 3)
LOSA = Losa(width=16)
STEPS = 8 * tiny.CLIPS


def features(losa, given, memory):
    return losa.features(tiny.BACKBONE, tiny.params(), given, tiny.frames(), layers=LAYERS, memory=memory)


def adapters(losa, layers=LAYERS):
    """Parameters away from their start: gates open, Proj no identity."""
    return tiny.away_from_start(losa.init(jax.random.key(1), tiny.BACKBONE, layers), 2)


def small_taps(seed: int, layers: int = 4) -> tuple[jax.Array, jax.Array, jax.Array]:
    """F'_i, F'_N, F_N for `fuse`, so that attention can be tested without a backbone."""
    rng = np.random.default_rng(seed)
    shapes = (layers, 2, STEPS, 16), (2, STEPS, 16), (2, STEPS, tiny.BACKBONE.width)
    return tuple(jnp.asarray(rng.standard_normal(s), jnp.float32) for s in shapes)


@pytest.mark.parametrize("width", [16, 480])
def test_attention_tells_steps_apart_from_the_start(width):
    """Whatever the width: scores that are all but equal would hand the same features to every step."""
    losa = Losa(width=width)
    of_layer = jax.tree.map(lambda a: a[0], losa.init(jax.random.key(1), tiny.BACKBONE, LAYERS)["attention"]["long"])
    rng = np.random.default_rng(0)
    f, f_last = (jnp.asarray(rng.standard_normal((1, STEPS, width)), jnp.float32) for _ in range(2))
    adapted = losa._attend(of_layer, f, f_last, f_last, jnp.ones((1, STEPS, STEPS), bool))
    assert adapted.std(1).mean() > 0.1 * jnp.abs(adapted).mean()


@pytest.mark.parametrize("ranges", [("short", "long"), ("long",), ("short",)])
@pytest.mark.parametrize("fusion", [True, False])
def test_at_the_start_the_head_sees_the_last_layer(ranges, fusion):
    losa = dataclasses.replace(LOSA, ranges=ranges, fusion=fusion)
    f, f_last, f_n = small_taps(0)
    given = losa.init(jax.random.key(1), tiny.BACKBONE, LAYERS)
    assert np.array_equal(losa.fuse(given, f, f_last, f_n, None), f_n)  # to the last bit


def test_the_last_layer_is_the_frozen_backbones():
    @jax.jit
    def both():
        given = LOSA.init(jax.random.key(1), tiny.BACKBONE, LAYERS)
        outputs = tiny.layer_outputs(tiny.BACKBONE, tiny.params(), tiny.frames())
        return features(LOSA, given, Memory()), tiny.BACKBONE.pool(outputs[-1])

    np.testing.assert_allclose(*both(), rtol=0, atol=1e-5)


def test_learnable_parameters_as_published():
    """143 M on ViT-g (the paper's table of parameters)."""
    backbone = Vit(**SIZES["g"])
    losa = Losa()
    shapes = jax.eval_shape(lambda key: losa.init(key, backbone, tuple(range(39))), jax.random.key(0))
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    assert abs(count / 143e6 - 1) < 0.01, count


def numpy_fuse(given, f, f_last, f_n, positions=0.0):
    """The module docstring's equations, one head, query and key at a time where it matters."""

    def softmax(scores):
        exponentials = np.exp(scores - scores.max(-1, keepdims=True))
        return exponentials / exponentials.sum(-1, keepdims=True)

    def linear(layer, i, x):
        return x @ layer["kernel"][i] + layer["bias"][i]

    sums = {}
    for name in ("short", "long"):
        attention, total = given["attention"][name], 0.0
        for i in range(f.shape[0]):
            inputs = ("query", f[i] + positions), ("key", f_last + positions), ("value", f_last)
            q, k, v = (linear(attention[n], i, x) for n, x in inputs)
            heads = []
            for h in range(4):
                part = slice(4 * h, 4 * h + 4)
                weights = softmax(q[..., part] @ k[..., part].swapaxes(-1, -2) / 2)  # sqrt(4)
                heads.append(weights @ v[..., part])
            total = total + given["gate"][name][i] * linear(attention["out"], i, np.concatenate(heads, -1))
        sums[name] = total
    both = np.concatenate([sums["short"] + f_n, sums["long"] + f_n], -1)
    return both @ given["projection"]["kernel"] + given["projection"]["bias"]


def test_equals_the_papers_equations():
    given, taps_ = adapters(LOSA), small_taps(1)
    want = numpy_fuse(jax.tree.map(np.asarray, given), *map(np.asarray, taps_))
    np.testing.assert_allclose(LOSA.fuse(given, *taps_, None), want, rtol=0, atol=2e-5)
    with_positions = dataclasses.replace(LOSA, positions="sincos")
    want = numpy_fuse(*jax.tree.map(np.asarray, (given, *taps_)), sine_cosine(STEPS, 16))
    np.testing.assert_allclose(with_positions.fuse(given, *taps_, None), want, rtol=0, atol=2e-5)


def test_tap_is_the_weighted_mean_over_positions():
    rng = np.random.default_rng(3)
    conv = jax.tree.map(lambda a: a[0], adapters(LOSA)["conv"])
    x = jnp.asarray(rng.standard_normal((1, 8, 14, 14, 24)), jnp.float32)  # the pre-training grid: not resized
    hidden = jax.nn.gelu(x @ conv["point"]["kernel"] + conv["point"]["bias"], approximate=False)
    want = (np.asarray(hidden) * np.asarray(conv["space"])).mean((2, 3))
    np.testing.assert_allclose(LOSA.convolve(conv, x), want, rtol=0, atol=1e-6)
    constant = {**conv, "space": jnp.ones_like(conv["space"])}  # a constant weighting is one on every grid
    small = x[:, :, :3, :5]
    np.testing.assert_allclose(LOSA.convolve(constant, small), hidden[:, :, :3, :5].mean((2, 3)), rtol=0, atol=1e-6)


@functools.cache
def gradient(memory):
    return jax.jit(jax.grad(lambda given: (features(LOSA, given, memory) ** 2).sum()))(adapters(LOSA))


@pytest.mark.parametrize("storage", ["store", "recompute", "offload"])
@pytest.mark.parametrize("clips_per_group", [0, 2])
def test_storages_agree(storage, clips_per_group):
    got = gradient(Memory(taps=storage, clips_per_group=clips_per_group))
    assert tiny.largest_difference(got, gradient(Memory(taps="store"))) < 1e-5


def test_short_range_sees_its_clip_only():
    losa = dataclasses.replace(LOSA, ranges=("short",), short_range_clips=0)
    given, (f, f_last, f_n) = adapters(losa), small_taps(4)
    first = losa.fuse(given, f, f_last, f_n, None)
    changed = f_last.at[:, 8:].set(0.0)  # all but the first clip
    second = losa.fuse(given, f, changed, f_n, None)
    np.testing.assert_array_equal(first[:, :8], second[:, :8])
    assert np.abs(first - second)[:, 8:].max() > 1e-3
    neighbours = dataclasses.replace(losa, short_range_clips=1)
    third, fourth = (neighbours.fuse(given, f, last, f_n, None) for last in (f_last, f_last.at[:, 16:].set(0.0)))
    np.testing.assert_array_equal(third[:, :8], fourth[:, :8])


def test_short_range_of_all_clips_is_the_published_one():
    given, taps_ = adapters(LOSA), small_taps(5)
    whole = dataclasses.replace(LOSA, short_range_clips=tiny.CLIPS)
    np.testing.assert_allclose(whole.fuse(given, *taps_, None), LOSA.fuse(given, *taps_, None), rtol=0, atol=1e-6)


def test_padded_steps_are_no_keys():
    given, (f, f_last, f_n) = adapters(LOSA), small_taps(6)
    valid = jnp.arange(STEPS) < jnp.array([[12], [STEPS]])
    first = LOSA.fuse(given, f, f_last, f_n, valid)
    second = LOSA.fuse(given, f, f_last.at[0, 12:].set(9.0), f_n, valid)
    np.testing.assert_array_equal(first[0, :12], second[0, :12])
    assert np.abs(LOSA.fuse(given, f, f_last, f_n, None) - first)[0, :12].max() > 1e-4  # the mask does something


def test_positions_tell_steps_apart():
    """Without positions, attention does not see the order of its keys; with them it does."""
    (f, f_last, f_n), swap = small_taps(7), np.arange(STEPS)[::-1]
    for positions, same in (("none", True), ("sincos", False)):
        losa = dataclasses.replace(LOSA, positions=positions)
        given = adapters(losa)
        difference = np.abs(losa.fuse(given, f, f_last, f_n, None) - losa.fuse(given, f, f_last[:, swap], f_n, None))
        assert (difference.max() < 1e-5) == same


def test_gates():
    starts = {
        gate: dataclasses.replace(LOSA, gate=gate).init(jax.random.key(1), tiny.BACKBONE, LAYERS)
        for gate in ("zero", "one", "random", "cosine")
    }
    assert np.all(starts["zero"]["gate"]["short"] == 0) and np.all(starts["one"]["gate"]["long"] == 1)
    drawn = np.stack([starts["random"]["gate"][name] for name in ("short", "long")])
    assert drawn.min() >= 0 and drawn.max() < 1 and len(np.unique(drawn)) == 8
    assert "gate" not in starts["cosine"]


def test_cosine_gate_is_the_similarity_of_time_averages():
    losa = dataclasses.replace(LOSA, gate="cosine", ranges=("long",), fusion=False)
    given, (f, f_last, f_n) = adapters(losa, (0,)), small_taps(8, 1)
    learned = dataclasses.replace(losa, gate="one")
    gate_one = {**given, "gate": {"long": jnp.ones(1)}}
    adapted = np.asarray(learned.fuse(gate_one, f, f_last, f_n, None) - f_n)
    a, b = adapted.mean(1), np.asarray(f_n).mean(1)
    cosine = (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)
    want = np.asarray(f_n) + cosine[:, None, None] * adapted
    np.testing.assert_allclose(losa.fuse(given, f, f_last, f_n, None), want, rtol=0, atol=1e-5)


def test_cosine_gate_of_a_window_without_a_valid_step_is_finite():
    losa = dataclasses.replace(LOSA, gate="cosine")
    taken = small_taps(8, 1)
    valid = jnp.zeros(taken[-1].shape[:2], bool)
    assert np.isfinite(losa.fuse(adapters(losa, (0,)), *taken, valid)).all()
