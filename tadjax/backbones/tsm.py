"""TSM (Lin et al. 2019): a 2-D ResNet whose blocks look one frame ahead and one back, by shifting channels in time.

Time keeps its length. The frames of a clip (8 in the published weights) see each other and no others.
"""

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from tadjax.backbones import resnet
from tadjax.backbones.layers import ConvNorm, max_pool, normalise
from tadjax.backbones.vit import MEAN, STD, Stage

WIDTHS = (1, 2, 4, 8)  # of the four layers, times the stem's

SIZES = {
    "tiny": dict(depths=(1, 2, 1, 1), bottleneck=False, stem_width=8),  # the configs' tiny twins
    "r18": dict(depths=(2, 2, 2, 2), bottleneck=False),
    "r50": dict(depths=(3, 4, 6, 3), bottleneck=True),
}


def shift(x: jax.Array, segments: int, fraction: int) -> jax.Array:
    """Moves 1 / `fraction` of the channels one frame back, as many one forth, in clips of `segments` frames.

    x [B, T, H, W, C]. Channels [0, C // fraction) become the next frame's, the following C // fraction the previous
    one's; what would come from outside the clip is zero.
    """
    b, t, h, w, c = x.shape
    if t % segments:
        raise ValueError(f"{t} frames are no whole number of clips of {segments} frames")
    fold = c // fraction
    clips = x.reshape(b * t // segments, segments, h, w, c)
    around = ((0, 0), (1, 1), (0, 0), (0, 0), (0, 0))
    ahead = jnp.pad(clips[..., :fold], around)[:, 2:]
    behind = jnp.pad(clips[..., fold : 2 * fold], around)[:, :-2]
    return jnp.concatenate([ahead, behind, clips[..., 2 * fold :]], axis=-1).reshape(x.shape)


class Stem(nn.Module):
    width: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        conv1 = ConvNorm(self.width, (1, 7, 7), (1, 2, 2), dtype=self.dtype, name="conv1")
        return max_pool(nn.relu(conv1(x)))


@dataclasses.dataclass(frozen=True)
class Tsm:
    """A backbone in the project's contract (tadjax/backbones/vit.py); T frames stay T steps, of 32 x 32 pixels."""

    depths: tuple[int, int, int, int]
    bottleneck: bool
    stem_width: int = 64
    segments: int = 8  # frames a clip
    fraction: int = 8  # 1 / 8 of the channels looks ahead, 1 / 8 back
    dtype: Any = jnp.float32

    @property
    def width(self) -> int:
        return self.stem_width * WIDTHS[-1] * (4 if self.bottleneck else 1)

    @property
    def depth(self) -> int:
        return sum(self.depths)

    @property
    def _stem(self) -> Stem:
        return Stem(self.stem_width, self.dtype)

    @property
    def _layers(self) -> list[resnet.Layer]:
        # Of the residual branch alone, so that a frame's own features always stay.
        before = functools.partial(shift, segments=self.segments, fraction=self.fraction)
        block = functools.partial(
            resnet.Bottleneck if self.bottleneck else resnet.Basic, before=before, dtype=self.dtype
        )
        layers = []
        for number, (times, depth) in enumerate(zip(WIDTHS, self.depths, strict=True)):
            d = self.stem_width * times
            first = block(d, stride=2 if number else 1, project=number > 0 or self.bottleneck)
            layers.append(resnet.Layer(first, block(d), depth))
        return layers

    def init(self, key: jax.Array) -> dict:
        """Random float32 parameters, named as in tadjax/backbones/resnet.py."""
        return resnet.init(key, self._stem, self._layers, jnp.zeros((1, self.segments, 1, 1, 3)))

    def embed(self, params: dict, frames: jax.Array) -> jax.Array:
        """Frames [B, T, H, W, 3] in 0..255 (T a multiple of `segments`) -> the stem's output [B, T, H/4, W/4, C]."""
        return self.stem(params, normalise(frames, MEAN, STD, self.dtype))

    def stem(self, params: dict, x: jax.Array) -> jax.Array:
        """`embed`, of frames that are normalised already."""
        return self._stem.apply({"params": params["stem"]}, x)

    def stages(self, params: dict) -> list[Stage]:
        return resnet.stages(params, self._layers, clip_steps=self.segments)

    def pool(self, x: jax.Array) -> jax.Array:
        """The spatial mean, [B, T, h, w, D] -> float32 [B, T, D]."""
        return resnet.spatial_mean(x)

    def steps(self, frames: int) -> int:
        """T', the steps that `pool` makes of so many frames."""
        return frames

    def drop_path(self, key: jax.Array, batch: int, frames: int) -> list[None]:
        return resnet.no_drop_path(self._layers)
