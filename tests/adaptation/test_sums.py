"""With products in bfloat16: what is summed over layers, taps and positions, and what is added to a stream, is float32.

Each bound stands beside the error of the same sum in bfloat16, which is beyond it.
"""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tadjax.adaptation import inside
from tadjax.adaptation.losa import Losa
from tadjax.adaptation.petl import Aim, ShiftedAttention, StAdapter
from tadjax.adaptation.side import Side
from tadjax.adaptation.tia import DepthwiseConv, Tia
from tadjax.adaptation.unipt import Unipt
from tadjax.backbones.swin import Swin
from tadjax.backbones.vit import Vit
from tests.adaptation import tiny

HALF, FULL = jnp.bfloat16, jnp.float32
VIT = Vit(width=96, depth=1, heads=4, patch=16, mlp_width=384)
SWIN = Swin(stem_width=24, depths=(2, 2, 6, 2), heads=(1, 2, 4, 8))


def exact(tree):
    """Numbers that bfloat16 holds."""
    return jax.tree.map(lambda a: jnp.asarray(a).astype(HALF).astype(FULL), tree)


def relative(got, want) -> float:
    return float(jnp.linalg.norm((got - want).astype(FULL)) / jnp.linalg.norm(want))


def drawn(backbone) -> dict:
    """Parameters as large as at the start, drawn without compiling anything."""
    random = np.random.default_rng(0)

    def draw(path, a) -> np.ndarray:
        return (1.0 if path[-1].key == "scale" else 0.0) + 0.02 * random.standard_normal(a.shape)

    return exact(jax.tree.map_with_path(draw, jax.eval_shape(backbone.init, jax.random.key(0))))


def normal(seed: int, *shape: int) -> jax.Array:
    return exact(jax.random.normal(jax.random.key(seed), shape))


def summed(addends, dtype) -> jax.Array:
    """One after the other, in a dtype."""
    *_, total = itertools.accumulate(jnp.asarray(a).astype(dtype) for a in addends)
    return total


METHODS = {
    "tia": Tia(hidden=24),
    "plain": Tia(hidden=24, kernel=()),
    "shifted attention": ShiftedAttention(4, 8),
    "st_adapter": StAdapter(24),
    "aim": Aim(),
}


@pytest.mark.parametrize("name", METHODS)
def test_what_adapters_add_inside_survives_in_a_float32_stream(name):
    """They add about a hundredth of the stream; half of it is lost where the stream has 8 bits."""
    method, key = METHODS[name], jax.random.key(0)
    frozen = jax.tree.map(lambda a: a[0], drawn(VIT)["blocks"])
    x = normal(1, 1, 8, 2, 2, VIT.width)
    of_blocks = isinstance(method, (StAdapter, Aim))
    params = method.init_layer(key, VIT.width) if of_blocks else method.init(key, x)["params"]
    params = exact(jax.tree.map(lambda a: a + 0.01 * jax.random.normal(key, a.shape), params))

    @functools.partial(jax.jit, static_argnums=(0, 1))
    def added(dtype, stream):
        vit, x_ = dataclasses.replace(VIT, dtype=dtype), (100 * x).astype(stream)
        if of_blocks:
            return method.block(vit, frozen, params, x_).astype(FULL) - x_.astype(FULL)
        adapter = method.clone(dtype=dtype)
        return inside.add(x_, adapter.apply({"params": params}, x_)).astype(FULL) - x_.astype(FULL)

    want = added(FULL, FULL)
    assert relative(want, 0 * want + 100 * x) > 0.9  # what is added is small
    assert relative(added(HALF, FULL), want) < 2e-2 < relative(added(HALF, HALF), want)


@pytest.mark.parametrize("backbone", [VIT, SWIN], ids=["vit", "swin"])
def test_factors_of_stochastic_depth_are_not_rounded(backbone):
    """1 / 0.9 in bfloat16 is 0.16 % too small, in every step."""
    backbone, rate = dataclasses.replace(backbone, dtype=HALF, stream=FULL), 1 / 0.9
    params = drawn(backbone)
    stage = backbone.stages(params)[0]
    layer, x = jax.tree.map(lambda a: a[0], stage.params), normal(1, 1, 8, 2, 2, stage_width(backbone))

    @jax.jit
    def added(factor: float) -> jax.Array:
        scale = jnp.array([factor, 0.0]).reshape(2, 1, 1)
        return stage.block(layer, x, scale) - x

    assert relative(added(rate), rate * added(1.0)) < 1e-4


def stage_width(backbone) -> int:
    return getattr(backbone, "stem_width", backbone.width)


def test_beside_the_backbone_the_layers_are_summed_in_float32():
    layers, width = 40, 32
    side, key = Side(Tia(hidden=8, dtype=HALF)), jax.random.key(0)
    one = Tia(hidden=8, width=width).init(key, jnp.zeros((1, 8, 1, 1, width)))["params"]
    adapters = exact(jax.tree.map(lambda a: jnp.stack([a] * layers) + 0.1 * normal(2, layers, *a.shape), one))
    taps = normal(3, layers, 1, 8, 8)
    got = side._sum(adapters, taps)
    each = [side.expand(tiny_layer(adapters, i), taps[i]) for i in range(layers)]
    want = summed(each, FULL)
    assert got.dtype == FULL
    assert relative(got, want) < 1e-5 < relative(summed(each, HALF), want)


def tiny_layer(stacked: dict, index: int) -> dict:
    return jax.tree.map(lambda a: a[index], stacked)


def test_losas_layers_are_summed_in_float32():
    layers, width, steps = 40, 16, 8
    losa = Losa(width=width, fusion=False, gate="one", ranges=("long",), dtype=HALF)
    backbone = Vit(width=32, depth=layers + 1, heads=2, patch=16, mlp_width=32)
    params = exact(losa.init(jax.random.key(0), backbone, tuple(range(layers))))
    f, f_last, f_n = normal(1, layers, 1, steps, width), normal(2, 1, steps, width), normal(3, 1, steps, 32)
    got = losa.fuse(params, f, f_last, f_n, None) - f_n
    mask = jnp.ones((1, steps, steps), bool)
    attention = params["attention"]["long"]
    each = [losa._attend(tiny_layer(attention, i), f[i], f_last, f_last, mask) for i in range(layers)]
    want = summed(each, FULL)
    assert relative(got, want) < 1e-5 < relative(summed(each, HALF), want)


def test_unipt_sums_over_layers_in_float32():
    """Only the first products are of bfloat16; of what they give, each number is rounded once."""
    backbone, layers = Vit(width=32, depth=12, heads=2, patch=16, mlp_width=32), tuple(range(11))
    params = Unipt().init(jax.random.key(0), backbone, layers)
    params = exact(tiny.away_from_start(params, 0))
    h = normal(1, 12, 1, 16, 32)
    want = Unipt().interact(params, h)
    everything = jax.tree.map(lambda a: a.astype(HALF), (params, h))
    in_half = Unipt(dtype=HALF).interact(exact(params), everything[1])
    assert in_half.dtype == FULL
    assert relative(in_half, want) < 5e-3


@pytest.mark.parametrize("kernel", [(3, 1, 1), (3, 3, 3)])
def test_depthwise_convolution_rounds_once_and_its_gradients_not_at_all(kernel):
    x, cotangent = normal(1, 1, 16, 8, 8, 8), normal(2, 1, 16, 8, 8, 8)

    def of(dtype):
        conv = DepthwiseConv(8, kernel, dtype)
        params = exact(DepthwiseConv(8, kernel).init(jax.random.key(0), x)["params"])
        out, pull = jax.vjp(lambda p: conv.apply({"params": p}, x.astype(dtype)), params)
        return out, pull(cotangent.astype(dtype))[0]

    (want, grads), (got, in_half) = of(FULL), of(HALF)
    np.testing.assert_array_equal(got, want.astype(HALF))
    for name in ("kernel", "bias"):
        assert relative(in_half[name], grads[name]) < 1e-5, name
    assert relative(cotangent.astype(HALF).reshape(-1, 8).cumsum(0, dtype=HALF)[-1], grads["bias"]) > 1e-3
