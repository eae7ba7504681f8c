import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tadjax.adaptation import inside
from tadjax.adaptation.inside import Memory
from tadjax.adaptation.petl import Aim, ShiftedAttention, StAdapter
from tadjax.adaptation.unipt import Unipt
from tests.adaptation import tiny
from tests.golden.compare import HERE, failures

LAYERS = (1, 2, 4)


def frozen_features():
    return tiny.BACKBONE.pool(tiny.layer_outputs(tiny.BACKBONE, tiny.params(), tiny.frames())[-1])


def features(method, given, memory, layers=LAYERS, frames=None):
    frames = tiny.frames() if frames is None else frames
    return method.features(tiny.BACKBONE, tiny.params(), given, frames, layers=layers, memory=memory)


def test_equals_the_published_code():
    """ST-Adapter, AIM and UniPT, TIA inside and beside, and the plain adapter."""
    assert failures(HERE / "peft_adapters.npz") == []


@pytest.mark.parametrize("method", [Aim(), Unipt()])
def test_starts_as_the_frozen_backbone(method):
    layers = (1, 2) if isinstance(method, Unipt) else LAYERS

    @jax.jit
    def both():
        given = method.init(jax.random.key(0), tiny.BACKBONE, layers)
        return features(method, given, Memory(), layers), frozen_features()

    np.testing.assert_allclose(*both(), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "method", [pytest.param(StAdapter(6), marks=pytest.mark.slow), StAdapter(6, (3, 3, 3), ("mlp",)), Aim()]
)
def test_keeping_activations_otherwise_changes_nothing(method):
    given = tiny.away_from_start(method.init(jax.random.key(0), tiny.BACKBONE, LAYERS), 1)

    def value_and_gradient(memory):
        return jax.jit(jax.value_and_grad(lambda a: (features(method, a, memory) ** 2).sum()))(given)

    value, grads = value_and_gradient(Memory("none"))
    for memory in (Memory("block", 2), Memory("nested", 1)):
        got, got_grads = value_and_gradient(memory)
        np.testing.assert_allclose(got, value, rtol=1e-5)
        assert tiny.largest_difference(got_grads, grads) < 1e-5


def test_st_adapter_is_two_linear_layers_around_a_convolution_over_time():
    adapter = StAdapter(6)
    place = tiny.away_from_start(adapter.init_layer(jax.random.key(0), 24), 1)["mlp"]
    x = np.random.default_rng(2).standard_normal((2, 8, 2, 3, 24)).astype(np.float32)
    hidden = x @ place["down"]["kernel"] + place["down"]["bias"]
    padded = np.pad(hidden, ((0, 0), (1, 1), (0, 0), (0, 0), (0, 0)))
    kernel = place["dwconv"]["kernel"][:, 0]
    mixed = sum(kernel[i] * padded[:, i : i + 8] for i in range(3)) + place["dwconv"]["bias"]
    want = x + mixed @ place["up"]["kernel"] + place["up"]["bias"]
    np.testing.assert_allclose(adapter.adapt(place, x, jnp.float32), want, rtol=0, atol=1e-5)


def shifted_attention_in_loops(params, x, heads, group):
    """Head by head: groups of `group` steps, in the later half of the heads half a group later, around the end."""
    b, t, h, w, d = x.shape
    size, out = d // heads, np.zeros_like(x)
    q, k, v = np.split(x @ params["qkv"]["kernel"] + params["qkv"]["bias"], 3, axis=-1)
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        shift = group // 2 if head >= heads // 2 else 0
        for start in range(0, t, group):
            steps = (np.arange(start, start + group) + shift) % t
            scores = np.einsum("bqhwd,bkhwd->bhwqk", q[:, steps][..., part], k[:, steps][..., part]) / size**0.5
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            weights /= weights.sum(-1, keepdims=True)
            attended = np.einsum("bhwqk,bkhwd->bqhwd", weights, v[:, steps][..., part])
            for i, step in enumerate(steps):
                out[:, step, ..., part] = attended[:, i]
    return out @ params["proj"]["kernel"] + params["proj"]["bias"]


def test_shifted_attention():
    module, x = ShiftedAttention(heads=2, group_steps=8), np.random.default_rng(3).standard_normal((2, 16, 2, 3, 24))
    x = x.astype(np.float32)
    params = tiny.away_from_start(module.init(jax.random.key(0), x)["params"], 1)
    got = module.apply({"params": params}, x)
    np.testing.assert_allclose(got, shifted_attention_in_loops(params, x, 2, 8), rtol=0, atol=2e-5)


def test_shifted_attention_inside_starts_as_the_frozen_backbone():
    module = ShiftedAttention(heads=2)

    x = jnp.zeros((1, 16, 1, 1, 24))
    given = jax.vmap(lambda key: module.init(key, x)["params"])(jax.random.split(jax.random.key(1), 3))

    @jax.jit
    def adapted(given, params, frames):
        options = dict(adapter=module, adapter_params=given, layers=LAYERS, memory=Memory())
        return inside.run(tiny.BACKBONE, params, frames, **options)

    got = adapted(given, tiny.params(), tiny.frames())
    np.testing.assert_allclose(got, jax.jit(frozen_features)(), rtol=0, atol=1e-5)


def test_unipt_leaves_out_padded_steps():
    unipt = Unipt()
    given = tiny.away_from_start(unipt.init(jax.random.key(0), tiny.BACKBONE, (0, 1)), 1)
    h = np.random.default_rng(4).standard_normal((3, 2, 16, 24)).astype(np.float32)
    valid = np.arange(16) < np.array([[9], [16]])
    other = np.where(valid[None, ..., None], h, 7.0).astype(np.float32)
    first, second = (unipt.interact(given, jnp.asarray(x), jnp.asarray(valid)) for x in (h, other))
    np.testing.assert_allclose(first[0, :9], second[0, :9], rtol=0, atol=1e-5)


def test_unipt_of_a_window_without_a_valid_step_is_finite():
    unipt = Unipt()
    given = tiny.away_from_start(unipt.init(jax.random.key(0), tiny.BACKBONE, (0, 1)), 1)
    h = np.random.default_rng(4).standard_normal((3, 1, 16, 24)).astype(np.float32)
    assert np.isfinite(unipt.interact(given, jnp.asarray(h), jnp.zeros((1, 16), bool))).all()


def test_st_adapter_has_as_many_parameters_as_published():
    """88 M on ViT-g (LoSA's table), 384 wide, two in each of 40 blocks."""
    backbone = dataclasses.replace(tiny.BACKBONE, width=1408)
    shapes = jax.eval_shape(lambda key: StAdapter().init(key, backbone, tuple(range(40))), jax.random.key(0))
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    assert abs(count / 88e6 - 1) < 0.02, count
