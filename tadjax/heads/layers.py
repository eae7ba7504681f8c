"""Layers that the heads share: masked convolutions, level norms, prediction towers, and padding of the sequence.

They follow ActionFormer's published code (Zhang et al., ECCV 2022) exactly, its epsilons, its initialisation and
what it leaves unmasked included, since published checkpoints depend on all of it. Parameters, norms and the residual
stream are float32; `dtype` is that of the convolutions and matrix products.

Features are [B, T, C]; `valid` is bool [B, T].
"""

import math
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

# PyTorch's default for convolutions, kaiming_uniform(a=sqrt(5)): uniform in +-1 / sqrt(fan in).
conv_init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")

LAYER_SCALE = 1e-4  # initial size of the residual branches (Touvron et al., ICCV 2021)

Init = Callable[[jax.Array, Sequence[int]], jax.Array]


def bias_init(fan_in: int) -> Init:
    """PyTorch's default for the bias of a convolution: uniform in +-1 / sqrt(fan in)."""
    bound = 1 / math.sqrt(fan_in)
    return lambda key, shape, dtype=jnp.float32: jax.random.uniform(key, shape, dtype, -bound, bound)


def prior_init(prior: float) -> Init:
    """A bias from which sigmoid(logit) = prior when training starts (focal loss, section 3.3)."""
    return nn.initializers.constant(-math.log((1 - prior) / prior))


def layer_norm(epsilon: float, name: str | None = None) -> nn.LayerNorm:
    """Over channels, in and out in float32."""
    return nn.LayerNorm(epsilon=epsilon, dtype=jnp.float32, use_fast_variance=False, name=name)


def masked(x: jax.Array, valid: jax.Array) -> jax.Array:
    """x [B, T, C] with zeros at the steps that are not valid [B, T], whatever stood there."""
    return jnp.where(valid[..., None], x, 0)


def downsample(valid: jax.Array, stride: int) -> jax.Array:
    """The mask [B, T / stride] of a level: a step is valid if the step it is centred on is."""
    return valid[:, ::stride]


def neighbours(x: jax.Array, stride: int, fill: float) -> list[jax.Array]:
    """What a kernel of 3 sees at each output: x [B, T, C] -> three of [B, T / stride, C], steps before, at and after.

    Three shifted slices in place of a depth-wise convolution or a pooling window: they fuse into one elementwise
    kernel, forward and backward, where grouped convolutions run channel by channel.
    """
    length = x.shape[1] // stride
    x = jnp.pad(x, ((0, 0), (1, 1), (0, 0)), constant_values=fill)
    return [x[:, i : i + (length - 1) * stride + 1 : stride] for i in range(3)]


def max_pool(x: jax.Array, stride: int) -> jax.Array:
    """Kernel 3 at stride 2: [B, T, C] -> [B, T / 2, C]; x itself at stride 1.

    Masked steps take part as what they hold, beyond the ends nothing does.
    """
    if stride == 1:
        return x
    before, at, after = neighbours(x, stride, -jnp.inf)
    return jnp.maximum(jnp.maximum(before, at), after)


def scaled_branch(module: nn.Module, name: str, branch: jax.Array, drop_path: float, deterministic: bool) -> jax.Array:
    """Layer scale and drop path of `module`: a learned scale a channel, whole samples of the branch left out at random.

    As published, a block without drop path has no layer scale either.
    """
    if drop_path == 0:
        return branch
    branch = branch * module.param(name, nn.initializers.constant(LAYER_SCALE), branch.shape[-1:])
    if deterministic:
        return branch
    keep = jax.random.bernoulli(module.make_rng("dropout"), 1 - drop_path, (branch.shape[0], 1, 1))
    return jnp.where(keep, branch / (1 - drop_path), 0)


class DepthwiseConv(nn.Module):
    """Depth-wise convolution over time, kernel 3, without bias: [B, T, C] -> [B, T / stride, C], float32."""

    stride: int = 1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param("kernel", conv_init, (3, 1, x.shape[-1]))
        return sum(w * step for w, step in zip(kernel[:, 0], neighbours(x, self.stride, 0.0), strict=True))


class ConvNormRelu(nn.Module):
    """Convolution without bias -> mask -> LayerNorm -> ReLU -> mask. Its input is not masked: see `Projection`."""

    width: int
    kernel_size: int = 3
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, valid: jax.Array) -> jax.Array:
        conv = nn.Conv(
            self.width, (self.kernel_size,), use_bias=False, dtype=self.dtype, kernel_init=conv_init, name="conv"
        )
        x = masked(conv(x), valid)
        x = nn.relu(layer_norm(1e-6, "norm")(x))
        return masked(x, valid)


class LevelNorms(nn.Module):
    """The neck: a LayerNorm a level. Not masked, as published: steps that are not valid hold the norm's bias."""

    @nn.compact
    def __call__(self, levels: Sequence[jax.Array]) -> list[jax.Array]:
        return [layer_norm(1e-6, f"norm_{i}")(x) for i, x in enumerate(levels)]


class Tower(nn.Module):
    """Masked convolutions and a predictor with bias, shared by all levels: [B, T_l, C] -> f32 [B, T_l, outputs].

    The predictor runs in float32: boundaries need more than bfloat16's 8 bits. With `scaled`, the outputs are
    distances: level l's are multiplied by a learned scale_l and cut at zero.
    """

    outputs: int
    width: int
    convs: int
    kernel_size: int = 3
    out_bias_init: Init | None = None  # None: PyTorch's default
    scaled: bool = False
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, levels: Sequence[jax.Array], valids: Sequence[jax.Array]) -> list[jax.Array]:
        convs = [ConvNormRelu(self.width, self.kernel_size, self.dtype, name=f"conv_{i}") for i in range(self.convs)]
        fan_in = self.kernel_size * (self.width if self.convs else levels[0].shape[-1])
        out = nn.Conv(
            self.outputs,
            (self.kernel_size,),
            kernel_init=conv_init,
            bias_init=self.out_bias_init or bias_init(fan_in),
            dtype=jnp.float32,
            precision="highest",  # by default chips round the factors of a float32 product
            name="out",
        )
        predictions = []
        for x, valid in zip(levels, valids, strict=True):
            for conv in convs:
                x = conv(x, valid)
            predictions.append(out(x))
        if not self.scaled:
            return predictions
        scale = self.param("scale", nn.initializers.ones, (len(levels),))
        return [nn.relu(scale[i] * x) for i, x in enumerate(predictions)]


def pad_sequence(features: jax.Array, valid: jax.Array, max_length: int, multiple: int) -> tuple[jax.Array, jax.Array]:
    """Zeros after the last step: shorter sequences to max_length, longer ones to the next multiple of `multiple`."""
    length = features.shape[1]
    target = max_length if length <= max_length else -(-length // multiple) * multiple
    padding = ((0, 0), (0, target - length))
    return jnp.pad(features, (*padding, (0, 0))), jnp.pad(valid, padding)
