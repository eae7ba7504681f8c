"""SlowFast (Feichtenhofer et al. 2019): a slow pathway of many channels, a fast one of many frames, joined sideways.

What flows through the blocks is a pair (slow [B, T/r, h, w, C], fast [B, alpha T/r, h, w, beta C]). Before each layer a
convolution strided in time brings the fast pathway's frames to the slow one's and its channels beside theirs; the join
is part of the layer's first block. Batch norm is in inference mode, the whole window is one clip.
"""

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from tadjax.backbones import resnet
from tadjax.backbones.layers import BatchNorm, Conv, ConvNorm, max_pool, normalise, resize_in_time
from tadjax.backbones.vit import MEAN, STD, Stage

Pathways = tuple[jax.Array, jax.Array]
WIDTHS = (1, 2, 4, 8)  # of the four layers, times the stem's

# PySlowFast's weights have a norm and a ReLU after each lateral convolution, and were trained on frames scaled by other
# numbers than mmaction2's.
PYSLOWFAST = dict(lateral_norm=True, mean=(114.75,) * 3, std=(57.375,) * 3)
# resample: frames from one of the slow pathway's to its next; speed: the paper's alpha. r50, r101: the 8x8 setting.
SIZES = {
    "tiny": dict(depths=(1, 2, 1, 1), stem_width=8),  # the configs' tiny twins
    "r50": dict(depths=(3, 4, 6, 3), resample=4, speed=4, lateral_kernel=7),
    "r101": dict(depths=(3, 4, 23, 3), resample=4, speed=4, lateral_kernel=7),
    "r50_4x16": dict(depths=(3, 4, 6, 3), resample=8, speed=8, lateral_kernel=5),  # mmaction2's default
    "r50_pyslowfast": dict(depths=(3, 4, 6, 3), **PYSLOWFAST),
    "r101_pyslowfast": dict(depths=(3, 4, 23, 3), **PYSLOWFAST),
}


class Stem(nn.Module):
    """7 x 7 pixels, 5 frames of them in the fast pathway."""

    width: int
    fast_width: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Pathways) -> Pathways:
        slow, fast = x
        conv_norm = functools.partial(ConvNorm, stride=(1, 2, 2), dtype=self.dtype)
        slow = nn.relu(conv_norm(self.width, (1, 7, 7), name="slow")(slow))
        fast = nn.relu(conv_norm(self.fast_width, (5, 7, 7), name="fast")(fast))
        return max_pool(slow), max_pool(fast)


class Lateral(nn.Module):
    """The fast pathway at the slow one's frames; norm: see PYSLOWFAST."""

    width: int
    kernel: int
    speed: int
    norm: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, fast: jax.Array) -> jax.Array:
        x = Conv(self.width, (self.kernel, 1, 1), (self.speed, 1, 1), self.dtype, name="conv")(fast)
        return nn.relu(BatchNorm(dtype=self.dtype, name="norm")(x)) if self.norm else x


class Block(nn.Module):
    """A bottleneck in each pathway; the fast one's always look at 3 frames, the slow one's where `kernel_t` = 3."""

    width: int
    fast_width: int
    kernel_t: int
    lateral: Lateral | None = None  # of a layer's first block
    stride: int = 1
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Pathways) -> Pathways:
        slow, fast = x
        project = self.lateral is not None
        if project:
            slow = jnp.concatenate([slow, self.lateral(fast)], axis=-1)
        block = functools.partial(resnet.Bottleneck, stride=self.stride, project=project, dtype=self.dtype)
        slow = block(self.width, kernel_t=self.kernel_t, name="slow")(slow)
        return slow, block(self.fast_width, kernel_t=3, name="fast")(fast)


@dataclasses.dataclass(frozen=True)
class SlowFast:
    """A backbone in the project's contract (tadjax/backbones/vit.py), but that x is a pair of feature maps.

    channel_ratio: the paper's 1 / beta. feature_length: steps to which `pool` resizes each pathway; 0 for the fast
    one's. lateral_norm, mean, std: see PYSLOWFAST.
    """

    depths: tuple[int, int, int, int]
    resample: int = 4
    speed: int = 4
    lateral_kernel: int = 7
    channel_ratio: int = 8
    stem_width: int = 64
    lateral_norm: bool = False
    mean: tuple[float, float, float] = MEAN
    std: tuple[float, float, float] = STD
    feature_length: int = 0
    dtype: Any = jnp.float32

    @property
    def width(self) -> int:
        return 4 * WIDTHS[-1] * (self.stem_width + self.stem_width // self.channel_ratio)

    @property
    def depth(self) -> int:
        return sum(self.depths)

    @property
    def _stem(self) -> Stem:
        return Stem(self.stem_width, self.stem_width // self.channel_ratio, self.dtype)

    @property
    def _layers(self) -> list[resnet.Layer]:
        layers, before = [], self.stem_width
        for number, (times, depth) in enumerate(zip(WIDTHS, self.depths, strict=True)):
            d = self.stem_width * times
            lateral = Lateral(
                2 * before // self.channel_ratio, self.lateral_kernel, self.speed, self.lateral_norm, self.dtype
            )
            kernel_t = 1 if number < 2 else 3  # the slow pathway looks at one frame at a time in the early layers
            block = functools.partial(Block, d, d // self.channel_ratio, kernel_t, dtype=self.dtype)
            layers.append(resnet.Layer(block(lateral=lateral, stride=2 if number else 1), block(), depth))
            before = 4 * d
        return layers

    def init(self, key: jax.Array) -> dict:
        """Random float32 parameters, named as in tadjax/backbones/resnet.py, both pathways' in each block."""
        x = (jnp.zeros((1, 1, 1, 1, 3)), jnp.zeros((1, self.speed, 1, 1, 3)))
        return resnet.init(key, self._stem, self._layers, x)

    def embed(self, params: dict, frames: jax.Array) -> Pathways:
        """Frames [B, T, H, W, 3] in 0..255 (T a multiple of `resample`) -> both stems' outputs, H/4 x W/4 pixels."""
        return self.stem(params, normalise(frames, self.mean, self.std, self.dtype))

    def stem(self, params: dict, x: jax.Array) -> Pathways:
        """`embed`, of frames that are normalised already."""
        if x.shape[1] % self.resample:
            raise ValueError(f"{x.shape[1]} frames are no multiple of {self.resample}, the slow pathway's step")
        pathways = x[:, :: self.resample], x[:, :: self.resample // self.speed]
        return self._stem.apply({"params": params["stem"]}, pathways)

    def stages(self, params: dict) -> list[Stage]:
        return resnet.stages(params, self._layers)

    def pool(self, x: Pathways) -> jax.Array:
        """Both pathways' spatial means at one length, beside each other: float32 [B, T', D + beta D]."""
        slow, fast = map(resnet.spatial_mean, x)
        length = self.feature_length or fast.shape[1]
        return jnp.concatenate([resize_in_time(slow, length), resize_in_time(fast, length)], axis=-1)

    def steps(self, frames: int) -> int:
        """T', the steps that `pool` makes of so many frames."""
        return self.feature_length or frames // (self.resample // self.speed)

    def drop_path(self, key: jax.Array, batch: int, frames: int) -> list[None]:
        return resnet.no_drop_path(self._layers)
