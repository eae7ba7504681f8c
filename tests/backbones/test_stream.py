"""A ViT with products in bfloat16 and its residual stream in float32 or bfloat16, against all of it in float32."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tadjax.adaptation import inside, stacks
from tadjax.adaptation.tia import Tia
from tadjax.backbones.vit import Vit

VIT = Vit(width=192, depth=12, heads=3, patch=16, mlp_width=768)
LAYERS = tuple(range(VIT.depth))


def relative(got: np.ndarray, want: np.ndarray) -> float:
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    return np.linalg.norm(got - want) / np.linalg.norm(want)


def model(dtype, stream):
    """(features, what the adapters add to them, the gradient of every adapter parameter)."""
    backbone_key, adapter_key, frames_key, cotangent_key = jax.random.split(jax.random.key(0), 4)
    params = jax.tree.map(lambda a: a.astype(jnp.bfloat16).astype(dtype), VIT.init(backbone_key))
    frames = jax.random.randint(frames_key, (1, 32, 64, 64, 3), 0, 256).astype(jnp.uint8)
    cotangent = jax.random.normal(cotangent_key, (1, 16, VIT.width))
    adapters = stacks.init(adapter_key, VIT, LAYERS, lambda k, x: Tia().init(k, x)["params"])
    up = adapters["up"]["kernel"]
    adapters["up"]["kernel"] = 0.002 * jax.random.normal(adapter_key, up.shape)  # they add about 1 % of the features
    backbone = dataclasses.replace(VIT, dtype=dtype, stream=stream)
    run = {"adapter": Tia(dtype=dtype), "layers": LAYERS, "memory": inside.Memory()}

    @jax.jit
    def compute(params, adapters, frames):
        def total(adapters):
            features = inside.run(backbone, params, frames, adapter_params=adapters, **run)
            return jnp.sum(features * cotangent), features

        grads, features = jax.grad(total, has_aux=True)(adapters)
        return features, features - inside.run(backbone, params, frames, memory=inside.Memory()), grads

    return compute(params, adapters, frames)


@pytest.fixture(scope="module")
def errors():
    """{stream: (of features, of what adapters add, {parameter: of its gradient})}."""
    features, added, grads = model(jnp.float32, jnp.float32)
    found = {}
    for stream in (jnp.float32, jnp.bfloat16):
        got = model(jnp.bfloat16, stream)
        of_grads = jax.tree.map(relative, got[2], grads)
        found[jnp.dtype(stream).name] = relative(got[0], features), relative(got[1], added), of_grads
    return found


def test_features_with_a_float32_stream_are_near_float32_and_with_a_bfloat16_stream_are_not(errors):
    assert errors["float32"][0] < 2.5e-3 < errors["bfloat16"][0]


def test_a_float32_stream_halves_the_error_of_what_the_adapters_add(errors):
    assert errors["float32"][1] < errors["bfloat16"][1] / 2


@pytest.mark.parametrize("stream", ["float32", "bfloat16"])
def test_gradients_of_biases_and_of_the_scale_are_no_sums_of_bfloat16(errors, stream):
    """With biases added in bfloat16 these were 2.6 to 8.5e-2."""
    grads = errors[stream][2]
    small = {name: grads[name]["bias"] for name in ("down", "dwconv", "mid", "up")} | {"alpha": grads["alpha"]}
    assert max(small.values()) < 1.5e-2, small


def test_the_stream_and_the_positions_are_float32_unless_bfloat16_is_asked_for():
    frames = jnp.zeros((1, 16, 32, 32, 3), jnp.uint8)
    for stream in (jnp.float32, jnp.bfloat16):
        backbone = dataclasses.replace(VIT, dtype=jnp.bfloat16, stream=stream)
        params = jax.eval_shape(VIT.init, jax.random.key(0))
        assert jax.eval_shape(backbone.embed, params, frames).dtype == stream
