"""A ViT with products in bfloat16 and its residual stream in float32 or bfloat16, against all of it in float32."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tadjax.adaptation import inside, stacks
from tadjax.adaptation.tia import Tia
from tadjax.backbones.vit import Vit

SIZES = {
    "12 layers": Vit(width=192, depth=12, heads=3, patch=16, mlp_width=768),
    "40 layers": Vit(width=64, depth=40, heads=4, patch=16, mlp_width=256),  # as deep as ViT-g
}


def relative(got, want) -> float:
    """Of two trees, all of their arrays taken together: |got - want| / |want|."""
    got, want = (np.concatenate([np.ravel(a).astype(np.float64) for a in jax.tree.leaves(t)]) for t in (got, want))
    return np.linalg.norm(got - want) / np.linalg.norm(want)


def exact(params):
    """Parameters that bfloat16 holds, so that what differs is what is computed of them."""
    return jax.tree.map(lambda a: a.astype(jnp.bfloat16).astype(jnp.float32), params)


def model(vit, dtype, stream):
    """(features, what the adapters add to them, the gradient of every adapter parameter)."""
    backbone_key, adapter_key, frames_key, cotangent_key = jax.random.split(jax.random.key(0), 4)
    params, layers = exact(vit.init(backbone_key)), tuple(range(vit.depth))
    frames = jax.random.randint(frames_key, (1, 32, 64, 64, 3), 0, 256).astype(jnp.uint8)
    cotangent = jax.random.normal(cotangent_key, (1, 16, vit.width))
    adapters = stacks.init(adapter_key, vit, layers, lambda k, x: Tia().init(k, x)["params"])
    up = adapters["up"]["kernel"]
    adapters["up"]["kernel"] = 0.002 * jax.random.normal(adapter_key, up.shape)  # they add about 1 % of the features
    backbone = dataclasses.replace(vit, dtype=dtype, stream=stream)
    run = {"adapter": Tia(dtype=dtype), "layers": layers, "memory": inside.Memory()}

    @jax.jit
    def compute(params, adapters, frames):
        def total(adapters):
            features = inside.run(backbone, params, frames, adapter_params=adapters, **run)
            return jnp.sum(features * cotangent), features

        grads, features = jax.grad(total, has_aux=True)(adapters)
        return features, features - inside.run(backbone, params, frames, memory=inside.Memory()), grads

    return compute(params, exact(adapters), frames)


class Errors(NamedTuple):
    features: float
    added: float  # of what the adapters add to the features
    gradients: float  # of all adapter parameters together
    small: dict[str, float]  # of the gradients of biases and of alpha


@pytest.fixture(scope="module", params=["12 layers", pytest.param("40 layers", marks=pytest.mark.slow)])
def errors(request):
    """{stream: Errors}."""
    vit, found = SIZES[request.param], {}
    features, added, grads = model(vit, jnp.float32, jnp.float32)
    for stream in (jnp.float32, jnp.bfloat16):
        got = model(vit, jnp.bfloat16, stream)
        small = {name: relative(got[2][name]["bias"], grads[name]["bias"]) for name in ("down", "dwconv", "mid", "up")}
        small["alpha"] = relative(got[2]["alpha"], grads["alpha"])
        found[jnp.dtype(stream).name] = Errors(
            relative(got[0], features), relative(got[1], added), relative(got[2], grads), small
        )
    return found


def test_features_with_a_float32_stream_are_near_float32_and_with_a_bfloat16_stream_are_not(errors):
    assert errors["float32"].features < 2.5e-3 < errors["bfloat16"].features


def test_a_float32_stream_halves_the_error_of_what_the_adapters_add(errors):
    assert errors["float32"].added < errors["bfloat16"].added / 2


def test_gradients_with_a_float32_stream_are_near_float32_and_with_a_bfloat16_stream_are_not(errors):
    """What is left are the factors of the adapters' own products, each rounded once: 1.6e-3, three in a row."""
    assert errors["float32"].gradients < 3e-3 < errors["bfloat16"].gradients


@pytest.mark.parametrize("stream", ["float32", "bfloat16"])
def test_gradients_of_biases_and_of_the_scale_are_no_sums_of_bfloat16(errors, stream):
    """With biases added in bfloat16 these were 2.6 to 8.5e-2."""
    assert max(errors[stream].small.values()) < 1.5e-2, errors[stream].small


def test_the_stream_and_the_positions_are_float32_unless_bfloat16_is_asked_for():
    vit = SIZES["12 layers"]
    frames = jnp.zeros((1, 16, 32, 32, 3), jnp.uint8)
    for stream in (jnp.float32, jnp.bfloat16):
        backbone = dataclasses.replace(vit, dtype=jnp.bfloat16, stream=stream)
        params = jax.eval_shape(vit.init, jax.random.key(0))
        assert jax.eval_shape(backbone.embed, params, frames).dtype == stream
