import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tadjax.heads import attention as attentions
from tadjax.heads.attention import ConvAttention

# Compiled as a whole: operation by operation takes ten times as long.
full_attention = jax.jit(attentions.full_attention)
local_attention = jax.jit(attentions.local_attention, static_argnums=4)


def inputs(length, batch=2, heads=3, width=4, seed=0):
    rng = np.random.default_rng(seed)
    q, k, v = (jnp.asarray(rng.normal(size=(batch, length, heads, width)), jnp.float32) for _ in range(3))
    valid = jnp.asarray(np.arange(length) < np.array([[length], [max(1, 2 * length // 3)]]))
    return q, k, v, valid


def banded(q, k, v, valid, window):
    """Full attention with a T x T mask of the band."""
    length = q.shape[1]
    near = np.abs(np.arange(length)[:, None] - np.arange(length)) <= window // 2
    scores = np.einsum("bqhd,bkhd->bhqk", q, k)
    scores = np.where(near & np.asarray(valid)[:, None, None], scores, -np.inf)
    scores = np.where(np.asarray(valid)[:, None, :, None], scores, 0)  # invalid queries: any finite number
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return np.einsum("bhqk,bkhd->bqhd", weights / weights.sum(-1, keepdims=True), v)


@pytest.mark.parametrize(("length", "window"), [(1, 3), (8, 5), (33, 9), (64, 19), (100, 3), (70, 65), (96, 95)])
def test_local_attention_equals_masked_full_attention(length, window):
    q, k, v, valid = inputs(length)
    got = np.asarray(local_attention(q, k, v, valid, window))
    np.testing.assert_allclose(got[valid], banded(q, k, v, valid, window)[valid], atol=1e-5)


@pytest.mark.parametrize("length", [8, 32, 50])
def test_window_over_everything_is_full_attention(length):
    q, k, v, valid = inputs(length)
    got, want = local_attention(q, k, v, valid, 2 * length + 1), full_attention(q, k, v, valid)
    np.testing.assert_allclose(np.asarray(got)[valid], np.asarray(want)[valid], atol=1e-6)


@pytest.mark.parametrize("length", [17, 24])
def test_some_queries_at_a_time_equal_all_at_once(length, monkeypatch):
    q, k, v, valid = inputs(length)

    def value_and_gradient():
        return jax.jit(jax.value_and_grad(lambda *a: (attentions.full_attention(*a, valid) ** 2).sum(), (0, 1, 2)))(
            q, k, v
        )

    want = value_and_gradient()
    monkeypatch.setattr(attentions, "QUERIES", 8)  # 6 or 8 a part
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), value_and_gradient(), want)


def test_memory_of_full_attention_grows_with_length_not_its_square():
    def temporaries(length):
        q = k = v = jax.ShapeDtypeStruct((1, length, 3, 4), jnp.float32)
        valid = jax.ShapeDtypeStruct((1, length), bool)
        gradient = jax.grad(lambda *a: (attentions.full_attention(*a) ** 2).sum(), (0, 1, 2))
        return jax.jit(gradient).lower(q, k, v, valid).compile().memory_analysis().temp_size_in_bytes

    assert temporaries(8 * attentions.QUERIES) < 2.5 * temporaries(4 * attentions.QUERIES)


@pytest.mark.parametrize("attend", [full_attention, lambda *a: local_attention(*a, 5)])
def test_invalid_steps_have_no_influence_and_no_gradient(attend):
    q, k, v, valid = inputs(40)
    junk = jnp.where(valid[..., None, None], 0.0, 100.0)
    out = np.asarray(attend(q, k, v, valid))
    np.testing.assert_array_equal(np.asarray(attend(q, k + junk, v + junk, valid))[valid], out[valid])

    def loss(k, v):
        return jnp.where(valid[..., None, None], attend(q, k, v, valid), 0).sum()

    for grad in jax.jit(jax.grad(loss, (0, 1)))(k, v):
        assert not np.any(np.asarray(grad)[~np.asarray(valid)])


@pytest.mark.parametrize("attend", [full_attention, lambda *a: local_attention(*a, 5)])
def test_sample_without_a_valid_step_stays_finite(attend):
    q, k, v, valid = inputs(40)

    def loss(q, k, v):
        return attend(q, k, v, jnp.zeros_like(valid)).sum()

    value, grads = jax.jit(jax.value_and_grad(loss, (0, 1, 2)))(q, k, v)
    assert np.isfinite(value) and all(np.all(np.isfinite(g)) for g in grads)


def test_cost_of_local_attention_grows_with_length_not_its_square(monkeypatch):
    monkeypatch.setattr(attentions, "QUERIES", 4096)  # the body of a loop would be counted once

    def flops(length):
        q, k, v, valid = inputs(length, heads=4, width=32)
        return jax.jit(lambda *a: local_attention(*a, 9)).lower(q, k, v, valid).cost_analysis()["flops"]

    assert flops(2304) / flops(1152) == pytest.approx(2, rel=0.01)
    q, k, v, valid = inputs(2304, heads=4, width=32)
    full = jax.jit(attentions.full_attention).lower(q, k, v, valid).cost_analysis()["flops"]
    assert flops(2304) < full / 30  # 40 keys a query in place of 2304


def test_stride_two_takes_every_second_step():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 16, 8)), jnp.float32)
    valid = jnp.asarray(np.arange(16) < np.array([[16], [9]]))
    attention = ConvAttention(heads=2, stride=2)
    params = attention.init(jax.random.key(0), x, valid, True)
    out = np.asarray(attention.apply(params, x, valid, True))
    assert out.shape == (2, 8, 8)
    assert np.all(out[1, 5:] == 0) and np.all(out[1, :5].any(-1))  # steps 0, 2, ..., 8 are valid
