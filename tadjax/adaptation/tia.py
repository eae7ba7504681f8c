"""The temporal-informative adapter of AdaTAD (Liu et al., CVPR 2024, section 3.3), its ablations, the plain adapter.

    h  = GELU(W_down x + b_down)
    h' = h + W_mid (DWConv_k(h) + b_dw) + b_mid
    x' = x + alpha (W_up h' + b_up)

DWConv is depth-wise over time (and, in one ablation, space) and sees the whole window: all clips joined.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from tadjax.backbones.layers import Dense


def zero_halo(h: jax.Array, reach: int) -> jax.Array:
    """What stands before and after the window in time: nothing. [B, T, ...] -> [B, T + 2 reach, ...]."""
    return jnp.pad(h, ((0, 0), (reach, reach)) + ((0, 0),) * (h.ndim - 2))


class Tia(nn.Module):
    """x [B, T', h, w, D] -> alpha (W_up h' + b_up), float32, the same shape: what is added to x, or summed beside it.

    hidden: width of the bottleneck; 0 = `ratio` of x's. kernel: of the depth-wise convolution over (time, height,
    width), odd numbers; () leaves it out (plain adapter). residual: keeps h in h'. `halo` widens h in time by what lies
    outside of this shard of the window. width: of what comes out; 0 = x's, as the sum with x demands.
    """

    hidden: int = 0
    kernel: tuple[int, ...] = (3, 1, 1)
    residual: bool = True
    dtype: Any = jnp.float32
    halo: Callable[[jax.Array, int], jax.Array] = zero_halo
    ratio: float = 0.25
    width: int = 0

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        hidden = self.hidden or int(x.shape[-1] * self.ratio)
        h = nn.gelu(self._dense(hidden, nn.initializers.truncated_normal(0.02), "down")(x), approximate=False)
        if self.kernel:
            mixed = DepthwiseConv(hidden, self.kernel, self.dtype, self.halo, name="dwconv")(h)
            mixed = self._dense(hidden, nn.initializers.normal((2 / hidden) ** 0.5), "mid")(mixed)
            h = h + mixed if self.residual else mixed
        alpha = self.param("alpha", nn.initializers.ones, (1,))
        return alpha * self._dense(self.width or x.shape[-1], nn.initializers.zeros, "up")(h).astype(jnp.float32)

    def _dense(self, features: int, init: Callable, name: str) -> Dense:
        return Dense(features, self.dtype, init, name=name)


class DepthwiseConv(nn.Module):
    """Depth-wise convolution over (time, height, width) of [B, T', h, w, C], zero padded, as a sum of shifted maps.

    Compilers fuse the shifts into one pass over memory; as a grouped convolution it is many times slower on CPU.
    Products and sums are float32, those of the gradients (over all positions) too; what comes out is of `dtype`.
    """

    features: int
    kernel: tuple[int, ...]
    dtype: Any = jnp.float32
    halo: Callable[[jax.Array, int], jax.Array] = zero_halo

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kt, kh, kw = self.kernel
        taps = kt * kh * kw
        shape = (kt, 1, self.features) if (kh, kw) == (1, 1) else (kt, kh, kw, 1, self.features)
        kernel = self.param("kernel", nn.initializers.normal((2 / taps) ** 0.5), shape)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        weights = kernel.reshape(kt, kh, kw, self.features)
        _, t, h, w, _ = x.shape
        padded = jnp.pad(self.halo(x, kt // 2), ((0, 0), (0, 0), (kh // 2, kh // 2), (kw // 2, kw // 2), (0, 0)))
        out = bias
        for i in range(kt):
            for j in range(kh):
                for k in range(kw):
                    shifted = padded[:, i : i + t, j : j + h, k : k + w].astype(jnp.float32)
                    out = out + weights[i, j, k] * shifted
        return out.astype(self.dtype)
