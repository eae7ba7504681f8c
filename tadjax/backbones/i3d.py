"""I3D (Carreira and Zisserman 2017), RGB: Inception-v1 (Szegedy et al. 2015) with its kernels inflated over time.

Every unit is a convolution without bias, batch norm and ReLU. Convolutions and pools pad as TensorFlow's SAME does: the
output has ceil(n / stride) places, and of the padding the smaller half stands in front. The classifier's first step, a
mean over two steps, is not part of the features here: T frames give T / 8 steps.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from tadjax.backbones import resnet
from tadjax.backbones.layers import ConvNorm, MaxPool, Triple, normalise
from tadjax.backbones.vit import Stage

MEAN = STD = (127.5, 127.5, 127.5)  # 0..255 -> -1..1

# Channels (a, b, c, d, e, f) of each Mixed block, in their order.
MIXED = {
    "3b": (64, 96, 128, 16, 32, 32),
    "3c": (128, 128, 192, 32, 96, 64),
    "4b": (192, 96, 208, 16, 48, 64),
    "4c": (160, 112, 224, 24, 64, 64),
    "4d": (128, 128, 256, 24, 64, 64),
    "4e": (112, 144, 288, 32, 64, 64),
    "4f": (256, 160, 320, 32, 128, 128),
    "5b": (256, 160, 320, 32, 128, 128),
    "5c": (384, 192, 384, 48, 128, 128),
}
# The max pools that stand before a Mixed block: window and stride over (t, h, w).
POOLS: dict[str, tuple[Triple, Triple]] = {"4b": ((3, 3, 3), (2, 2, 2)), "5b": ((2, 2, 2), (2, 2, 2))}

SIZES = {
    "rgb": dict(),
    "tiny": dict(divisor=16),  # the configs' tiny twins
}


class Unit(nn.Module):
    """Convolution, batch norm, ReLU."""

    width: int
    kernel: Triple = (1, 1, 1)
    stride: Triple = (1, 1, 1)
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.relu(
            ConvNorm(self.width, self.kernel, self.stride, epsilon=1e-3, padding="SAME", dtype=self.dtype, name="unit")(
                x
            )
        )


class Stem(nn.Module):
    """What stands before the Mixed blocks: [B, T, H, W, 3] -> [B, T/2, H/8, W/8, widths[2]]."""

    widths: Triple
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        unit = functools.partial(Unit, dtype=self.dtype)
        x = unit(self.widths[0], (7, 7, 7), (2, 2, 2), name="conv1a")(x)
        x = MaxPool((1, 3, 3), (1, 2, 2))(x)
        x = unit(self.widths[1], name="conv2b")(x)
        x = unit(self.widths[2], (3, 3, 3), name="conv2c")(x)
        return MaxPool((1, 3, 3), (1, 2, 2))(x)


class Mixed(nn.Module):
    """Four branches side by side along the channels, after a max pool where `pool` has one.

    1x1x1 a | 1x1x1 b, 3x3x3 c | 1x1x1 d, 3x3x3 e | max pool of 3x3x3, 1x1x1 f
    """

    channels: tuple[int, ...]
    pool: tuple[Triple, Triple] | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        a, b, c, d, e, f = self.channels
        unit = functools.partial(Unit, dtype=self.dtype)
        if self.pool is not None:
            x = MaxPool(*self.pool)(x)
        branches = (
            unit(a, name="branch0")(x),
            unit(c, (3, 3, 3), name="branch1")(unit(b, name="branch1_reduce")(x)),
            unit(e, (3, 3, 3), name="branch2")(unit(d, name="branch2_reduce")(x)),
            unit(f, name="branch3")(MaxPool((3, 3, 3))(x)),
        )
        return jnp.concatenate(branches, axis=-1)


@dataclasses.dataclass(frozen=True)
class I3d:
    """A backbone in the project's contract (tadjax/backbones/vit.py); T frames become T / 8 steps of 32 x 32 pixels.

    Its layers are the nine Mixed blocks. No two of them are alike, so each is a stage of its own.
    divisor: what all widths are divided by.
    """

    divisor: int = 1
    dtype: Any = jnp.float32

    @property
    def width(self) -> int:
        a, _, c, _, e, f = self._channels("5c")
        return a + c + e + f

    @property
    def depth(self) -> int:
        return len(MIXED)

    @property
    def depths(self) -> tuple[int, int, int]:
        """Layers between the pools: 3b and 3c, 4b to 4f, 5b and 5c."""
        return (2, 5, 2)

    def _channels(self, name: str) -> tuple[int, ...]:
        return tuple(channels // self.divisor for channels in MIXED[name])

    @property
    def _stem(self) -> Stem:
        return Stem((64 // self.divisor, 64 // self.divisor, 192 // self.divisor), self.dtype)

    def _mixed(self, name: str) -> Mixed:
        return Mixed(self._channels(name), POOLS.get(name), self.dtype)

    def init(self, key: jax.Array) -> dict:
        """Random float32 parameters {"stem": ..., "mixed_3b": arrays with a leading axis of 1, ...}."""
        key, stem_key = jax.random.split(key)
        x = jnp.zeros((1, 8, 32, 32, 3))
        params = {"stem": self._stem.init(stem_key, x)["params"]}
        shape = jax.eval_shape(lambda p, x: self.stem({"stem": p}, x), params["stem"], x)
        for name in MIXED:
            key, block_key = jax.random.split(key)
            block = self._mixed(name)
            of_block = block.init(block_key, jnp.zeros(shape.shape, shape.dtype))["params"]
            params[f"mixed_{name}"] = jax.tree.map(lambda a: a[None], of_block)
            shape = jax.eval_shape(lambda p, x: block.apply({"params": p}, x), of_block, shape)  # noqa: B023
        return params

    def embed(self, params: dict, frames: jax.Array) -> jax.Array:
        """Frames [B, T, H, W, 3] in 0..255 -> the stem's output [B, T/2, H/8, W/8, C]."""
        return self.stem(params, normalise(frames, MEAN, STD, self.dtype))

    def stem(self, params: dict, x: jax.Array) -> jax.Array:
        """`embed`, of frames that are normalised already."""
        return self._stem.apply({"params": params["stem"]}, x)

    def stages(self, params: dict) -> list[Stage]:
        return [Stage(params[f"mixed_{name}"], _block(self._mixed(name))) for name in MIXED]

    def pool(self, x: jax.Array) -> jax.Array:
        """The spatial mean, [B, T/8, h, w, D] -> float32 [B, T/8, D]."""
        return resnet.spatial_mean(x)

    def steps(self, frames: int) -> int:
        """T', the steps that `pool` makes of so many frames."""
        return -(-frames // 8)

    def drop_path(self, key: jax.Array, batch: int, frames: int) -> list[None]:
        """The contract's draws of stochastic depth: none for each stage."""
        return [None] * len(MIXED)


def _block(module: Mixed) -> Callable:
    def block(params: dict, x: jax.Array, branch_scale: jax.Array | None = None) -> jax.Array:
        return module.apply({"params": params}, x)

    return block


def logits(x: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
    """The published classifier: Mixed_5c's output [B, T', h, w, 1024] -> float32 [B, K], a score a class.

    kernel: [1024, K]; bias: [K]. Means over two neighbouring steps and the whole plane (7 x 7 at 224 pixels), the
    linear layer, and the mean over time; a single step stands for itself. The mean over space moves past the layer.
    """
    steps = resnet.spatial_mean(x)
    if steps.shape[1] > 1:
        steps = (steps[:, 1:] + steps[:, :-1]) / 2
    return (steps @ kernel + bias).mean(1)
