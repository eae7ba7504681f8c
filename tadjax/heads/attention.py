"""Multi-head attention over valid time steps, with depth-wise convolutions on queries, keys and values.

ActionFormer (Zhang et al., ECCV 2022), section 3.2, equations 2 to 5; local windows as in Longformer (Beltagy et al.,
2020): their cost grows with T * window, not T^2. Softmax is float32.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from tadjax.backbones.layers import Dense
from tadjax.heads.layers import DepthwiseConv, conv_init, downsample, layer_norm, masked

# Queries a block of local attention. Smaller blocks waste less work on the band's corners, larger ones feed matrix
# units better.
BLOCK = 32
QUERIES = 1024  # of full attention whose scores are held at once


def full_attention(q: jax.Array, k: jax.Array, v: jax.Array, valid: jax.Array) -> jax.Array:
    """Every step attends to every valid step. q (scaled), k, v: [B, T, H, D]; valid: bool [B, T]. -> [B, T, H, D].

    Of long sequences some queries at a time, also in the backward pass: memory grows with T, not T^2.
    """
    b, length, heads, width = q.shape
    if length <= QUERIES:
        return _attend(q, k, v, valid[:, None])
    count = -(-length // QUERIES)
    size = -(-length // count)
    q = jnp.pad(q, ((0, 0), (0, count * size - length), (0, 0), (0, 0)))
    parts = q.reshape(b, count, size, heads, width).swapaxes(0, 1)
    out = jax.lax.map(jax.checkpoint(lambda part: _attend(part, k, v, valid[:, None])), parts)
    return out.swapaxes(0, 1).reshape(b, count * size, heads, width)[:, :length]


def local_attention(q: jax.Array, k: jax.Array, v: jax.Array, valid: jax.Array, window: int) -> jax.Array:
    """Step i attends to the valid steps of i - window // 2 ... i + window // 2. Arguments as of `full_attention`.

    The sequence is cut into blocks of c queries; each sees the c + 2 (window // 2) keys around it. Any T will do.
    """
    length, radius = q.shape[1], window // 2
    block = max(radius, min(BLOCK, length))
    count = -(-length // block)

    def blocks(x: jax.Array) -> jax.Array:  # [B, T, ...] -> [B, n, c, ...]
        x = jnp.pad(x, ((0, 0), (0, count * block - length)) + ((0, 0),) * (x.ndim - 2))
        return x.reshape(x.shape[0], count, block, *x.shape[2:])

    def with_neighbours(x: jax.Array) -> jax.Array:  # [B, n, c, ...] -> [B, n, c + 2 radius, ...]
        rest = ((0, 0),) * (x.ndim - 2)
        before = jnp.pad(x[:, :-1, block - radius :], ((0, 0), (1, 0), *rest))
        after = jnp.pad(x[:, 1:, :radius], ((0, 0), (0, 1), *rest))
        return jnp.concatenate([before, x, after], axis=2)

    distance = jnp.arange(block + 2 * radius) - radius - jnp.arange(block)[:, None]  # [c, c + 2 radius]
    allowed = (jnp.abs(distance) <= radius) & with_neighbours(blocks(valid))[:, :, None]
    out = _attend(blocks(q), with_neighbours(blocks(k)), with_neighbours(blocks(v)), allowed)
    return out.reshape(out.shape[0], count * block, *out.shape[3:])[:, :length]


def _attend(q: jax.Array, k: jax.Array, v: jax.Array, allowed: jax.Array) -> jax.Array:
    """q [..., Tq, H, D], k and v [..., Tk, H, D], allowed [..., Tq or 1, Tk]; finite also for a query without keys."""
    scores = jnp.einsum("...qhd,...khd->...hqk", q, k, preferred_element_type=jnp.float32)
    # A large finite number: -inf would make NaN of a query that sees no key, and that NaN would survive its masking.
    scores = jnp.where(allowed[..., None, :, :], scores, -1e30)
    return jnp.einsum("...hqk,...khd->...qhd", jax.nn.softmax(scores).astype(v.dtype), v)


class ConvAttention(nn.Module):
    """Masked multi-head attention, with stride 2 also a downsampling: f32 [B, T, C] -> [B, T / stride, C].

    window: -1 for full attention, otherwise odd and at least 3.
    """

    heads: int
    window: int = -1
    stride: int = 1
    dropout: float = 0.0
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, valid: jax.Array, deterministic: bool) -> jax.Array:
        width = x.shape[-1]
        out_valid = downsample(valid, self.stride)

        def project(name: str) -> jax.Array:
            # x is not masked here: beside the last valid step the kernel sees what the norm made of invalid ones.
            y = masked(DepthwiseConv(self.stride, name=f"{name}_conv")(x), out_valid)
            y = layer_norm(1e-5, f"{name}_norm")(y)
            y = Dense(width, self.dtype, conv_init, name=name)(y)
            return y.reshape(*y.shape[:2], self.heads, width // self.heads)  # [B, T, H, D]

        q, k, v = project("query"), project("key"), project("value")
        q = q * (width // self.heads) ** -0.5
        if self.window > 1:
            y = local_attention(q, k, v, out_valid, self.window)
        else:
            y = full_attention(q, k, v, out_valid)
        y = Dense(width, self.dtype, conv_init, name="proj")(y.reshape(*y.shape[:2], width))
        y = nn.Dropout(self.dropout)(y, deterministic=deterministic)
        return masked(y, out_valid)
