"""Linear layers; convolution and batch norm of video, [B, T, H, W, C]: what the convolutional backbones are made of.

A kernel that is 1 in time is a 2-D convolution of the frames, one that is 1 in space a 1-D convolution of the pixels'
series: both run on the well-trodden 2-D routines of every chip. Padding is half the kernel, as in torch, or SAME, as in
TensorFlow: the two differ where the stride is above 1.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

Triple = tuple[int, int, int]  # time, height, width

_kernel_init = nn.initializers.he_normal()


def dense(layer: dict, x: jax.Array, dtype: Any) -> jax.Array:
    """x W + b for one layer's {"kernel", "bias"}: the product in dtype, and what comes out.

    The bias is added in float32: its gradient is a sum over all positions, which must not be rounded on its way.
    """
    product = x.astype(dtype) @ layer["kernel"].astype(dtype)
    return (product.astype(jnp.float32) + layer["bias"]).astype(dtype)


class Dense(nn.Module):
    """`dense` as a module, with the parameters of nn.Dense: [..., C] -> dtype [..., width]."""

    width: int
    dtype: Any = jnp.float32
    kernel_init: Callable = nn.initializers.lecun_normal()
    bias_init: Callable = nn.initializers.zeros

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.width))
        return dense({"kernel": kernel, "bias": self.param("bias", self.bias_init, (self.width,))}, x, self.dtype)


def conv(x: jax.Array, kernel: jax.Array, stride: Triple = (1, 1, 1), padding: str = "HALF") -> jax.Array:
    """[B, T, H, W, C] by a kernel [t, h, w, C, D] with odd sides -> [B, ceil(T/s), ceil(H/s), ceil(W/s), D].

    padding: "HALF" the kernel on either side, or "SAME": the smaller half of what is needed in front.
    """
    b, _, _, _, c = x.shape
    kt, kh, kw, _, d = kernel.shape
    st, sh, sw = stride
    if kt == 1:
        x = x[:, ::st]
        t, h, w = x.shape[1:4]
        frames = _conv(x.reshape(b * t, h, w, c), kernel[0], (sh, sw), padding)
        return frames.reshape(b, t, *frames.shape[1:])
    if (kh, kw) == (1, 1):
        x = x[:, :, ::sh, ::sw]
        t, h, w = x.shape[1:4]
        series = _conv(x.reshape(b, t, h * w, c), kernel.reshape(kt, 1, c, d), (st, 1), padding)
        return series.reshape(b, -1, h, w, d)
    return _conv(x, kernel, stride, padding)


def _conv(x: jax.Array, kernel: jax.Array, stride: tuple[int, ...], padding: str) -> jax.Array:
    axes = "THW"[-len(stride) :]
    half = [(k // 2, k // 2) for k in kernel.shape[:-2]]
    numbers = (f"N{axes}C", f"{axes}IO", f"N{axes}C")
    around = half if padding == "HALF" else padding
    return jax.lax.conv_general_dilated(x, kernel, stride, around, dimension_numbers=numbers)


class Conv(nn.Module):
    """A convolution without bias."""

    width: int
    kernel: Triple
    stride: Triple = (1, 1, 1)
    dtype: Any = jnp.float32
    padding: str = "HALF"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param("kernel", _kernel_init, (*self.kernel, x.shape[-1], self.width))
        return conv(x.astype(self.dtype), kernel.astype(self.dtype), self.stride, self.padding)


class BatchNorm(nn.Module):
    """Batch norm in inference mode: a video at a time is no sample to take statistics of.

    The statistics are parameters (so they are loaded, saved and sharded as such) that no gradient reaches.
    """

    epsilon: float = 1e-5
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (x.shape[-1],)
        scale = self.param("scale", nn.initializers.ones, shape)
        bias = self.param("bias", nn.initializers.zeros, shape)
        mean = jax.lax.stop_gradient(self.param("mean", nn.initializers.zeros, shape))
        var = jax.lax.stop_gradient(self.param("var", nn.initializers.ones, shape))
        x = (x.astype(jnp.float32) - mean) * (scale * jax.lax.rsqrt(var + self.epsilon)) + bias
        return x.astype(self.dtype)


class ConvNorm(nn.Module):
    """A convolution and its batch norm."""

    width: int
    kernel: Triple
    stride: Triple = (1, 1, 1)
    epsilon: float = 1e-5
    dtype: Any = jnp.float32
    padding: str = "HALF"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = Conv(self.width, self.kernel, self.stride, self.dtype, self.padding, name="conv")(x)
        return BatchNorm(self.epsilon, self.dtype, name="norm")(x)


class MaxPool(nn.Module):
    """The largest of `window`, [B, T, H, W, C], each of T, H, W becoming ceil(n / stride): SAME, as in TensorFlow.

    A module, though it has no parameters, so that a window that several devices share finds it (parallel/halo.py).
    """

    window: Triple
    stride: Triple = (1, 1, 1)

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.max_pool(x, self.window, self.stride, "SAME")


def max_pool(x: jax.Array) -> jax.Array:
    """The largest of 3 x 3 pixels at every second one, [B, T, H, W, C] -> [B, T, ceil(H/2), ceil(W/2), C]."""
    return nn.max_pool(x, (1, 3, 3), (1, 2, 2), ((0, 0), (1, 1), (1, 1)))


def resize_in_time(features: jax.Array, length: int) -> jax.Array:
    """Linear interpolation [B, T', D] -> [B, length, D]: half-pixel centres, no antialiasing, also when shrinking."""
    if features.shape[1] == length:
        return features
    return jax.image.resize(features, (features.shape[0], length, features.shape[2]), "linear", antialias=False)


def normalise(frames: jax.Array, mean: tuple[float, ...], std: tuple[float, ...], dtype: Any) -> jax.Array:
    """Frames in 0..255 -> what the checkpoints were trained on."""
    return ((frames.astype(jnp.float32) - jnp.array(mean)) / jnp.array(std)).astype(dtype)
