"""Every kernel of attention gives what the plain formula gives, and so do its gradients."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash

from tadjax.backbones.attention import attention, resolve


def inputs(tokens: int, width: int, dtype=jnp.float32, heads: int = 2) -> tuple:
    rng = np.random.default_rng(tokens)
    return tuple(jnp.asarray(rng.standard_normal((2, tokens, heads, width)), dtype) for _ in range(4))


def outputs(implementation: str, q, k, v, cotangent) -> list[np.ndarray]:
    """The output, and the gradients of q, k and v."""

    @jax.jit
    def run(q, k, v):
        out, back = jax.vjp(lambda *given: attention(*given, implementation), q, k, v)
        return out, *back(cotangent)

    return [np.asarray(array, np.float64) for array in run(q, k, v)]


def expected(q, k, v, cotangent) -> list[np.ndarray]:
    """The formula in float64."""
    q, k, v, cotangent = (np.asarray(array, np.float64) for array in (q, k, v, cotangent))
    scale = q.shape[-1] ** -0.5
    scores = np.einsum("nphd,nqhd->nhpq", q, k) * scale
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    out = np.einsum("nhpq,nqhd->nphd", weights, v)
    of_weights = np.einsum("nphd,nqhd->nhpq", cotangent, v)
    of_scores = scale * weights * (of_weights - (of_weights * weights).sum(-1, keepdims=True))
    of_q, of_k = np.einsum("nhpq,nqhd->nphd", of_scores, k), np.einsum("nhpq,nphd->nqhd", of_scores, q)
    return [out, of_q, of_k, np.einsum("nhpq,nphd->nqhd", weights, cotangent)]


@pytest.mark.parametrize("implementation", ["xla", "chunked"])
@pytest.mark.parametrize("tokens", [1, 64, 256, 257, 600])
def test_on_any_platform(implementation, tokens):
    given = inputs(tokens, 24)
    for got, want in zip(outputs(implementation, *given), expected(*given), strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=3e-6)


@pytest.mark.parametrize("tokens", [100, 600])
def test_the_tpus_kernel(monkeypatch, tokens):
    """In Pallas' interpreter, at ViT-g's head width; the tokens that pad it to whole blocks take no part."""
    monkeypatch.setattr(splash, "make_splash_mha", functools.partial(splash.make_splash_mha, interpret=True))
    given = inputs(tokens, 88)
    for got, want in zip(outputs("splash", *given), expected(*given), strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-5)


@pytest.mark.parametrize("tokens", [800, 968])
def test_the_gpus_kernel(tokens):
    if jax.default_backend() != "gpu":
        pytest.skip("needs a GPU")
    given = inputs(tokens, 88, jnp.bfloat16, heads=16)
    for got, want in zip(outputs("cudnn", *given), expected(*given), strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=2e-2 * np.abs(want).max())


@pytest.mark.parametrize("implementation", ["cudn", "auto", ""])
def test_other_names_are_refused(implementation):
    """They would be computed some way, and not the one that was meant; "auto" is for `resolve`."""
    message = "is {!r}; it must be xla, chunked, cudnn or splash"
    with pytest.raises(ValueError, match=re.escape(message.format(implementation))):
        attention(*inputs(4, 8)[:3], implementation)


@pytest.mark.parametrize(
    ("platform", "half", "full"), [("gpu", "cudnn", "chunked"), ("tpu", "splash", "splash"), ("cpu", "xla", "xla")]
)
def test_what_auto_takes(platform, half, full):
    taken = [resolve("auto", platform, jnp.dtype(dtype)) for dtype in ("bfloat16", "float32")]
    assert taken == [half, full]
    assert resolve("xla", platform, jnp.dtype("bfloat16")) == "xla"
