"""R(2+1)D (Tran et al. 2018): every 3-D convolution is one in space, then one in time, a norm and a ReLU between them.

Two families of published weights differ in two points that no name shows. In torchvision's, both convolutions of a
block have as many channels between space and time as the first one's count of parameters asks for, and batch norm adds
1e-5; in TSP's (Alwassel et al. 2021) each convolution has its own count, and batch norm adds 1e-3.
"""

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from tadjax.backbones import resnet
from tadjax.backbones.layers import ConvNorm, normalise
from tadjax.backbones.vit import Stage

MEAN = (110.2008, 100.63983, 95.99475)  # torchvision's of Kinetics, times 255
STD = (58.14765, 56.46975, 55.332195)

SIZES = {
    "tiny": dict(depths=(1, 2, 1, 1), widths=(8, 8, 16, 16), stem_middle=4),  # the configs' tiny twins
    "18": dict(depths=(2, 2, 2, 2)),
    "34": dict(depths=(3, 4, 6, 3)),
    "18_torchvision": dict(depths=(2, 2, 2, 2), flavour="torchvision"),
}
EPSILON = {"tsp": 1e-3, "torchvision": 1e-5}


def middle(c: int, d: int) -> int:
    """Channels between space and time with which (2+1)D has as many parameters as a 3 x 3 x 3 kernel C -> D."""
    return 27 * c * d // (9 * c + 3 * d)


class Stem(nn.Module):
    """7 x 7 pixels, then 3 frames."""

    middle: int
    width: int
    epsilon: float
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        conv_norm = functools.partial(ConvNorm, epsilon=self.epsilon, dtype=self.dtype)
        x = nn.relu(conv_norm(self.middle, (1, 7, 7), (1, 2, 2), name="space")(x))
        return nn.relu(conv_norm(self.width, (3, 1, 1), name="time")(x))


class Block(nn.Module):
    """Two (2+1)D convolutions with `middles` channels inside; the first carries the stride, in space and in time."""

    width: int
    middles: tuple[int, int]
    stride: int = 1
    project: bool = False
    epsilon: float = 1e-5
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        s = self.stride
        conv_norm = functools.partial(ConvNorm, epsilon=self.epsilon, dtype=self.dtype)
        y = nn.relu(conv_norm(self.middles[0], (1, 3, 3), (1, s, s), name="space1")(x))
        y = nn.relu(conv_norm(self.width, (3, 1, 1), (s, 1, 1), name="time1")(y))
        y = nn.relu(conv_norm(self.middles[1], (1, 3, 3), name="space2")(y))
        y = conv_norm(self.width, (3, 1, 1), name="time2")(y)
        if self.project:
            x = conv_norm(self.width, (1, 1, 1), (s, s, s), name="shortcut")(x)
        return nn.relu(x + y)


@dataclasses.dataclass(frozen=True)
class R2plus1d:
    """A backbone in the project's contract (tadjax/backbones/vit.py); T frames become T / 8 steps of 16 x 16 pixels.

    flavour: whose weights, "tsp" or "torchvision".
    """

    depths: tuple[int, int, int, int]
    flavour: str = "tsp"
    widths: tuple[int, int, int, int] = (64, 128, 256, 512)
    stem_middle: int = 45
    dtype: Any = jnp.float32

    @property
    def width(self) -> int:
        return self.widths[-1]

    @property
    def depth(self) -> int:
        return sum(self.depths)

    @property
    def _stem(self) -> Stem:
        return Stem(self.stem_middle, self.widths[0], EPSILON[self.flavour], self.dtype)

    @property
    def _layers(self) -> list[resnet.Layer]:
        block = functools.partial(Block, epsilon=EPSILON[self.flavour], dtype=self.dtype)
        layers, before = [], self.widths[0]
        for number, (d, depth) in enumerate(zip(self.widths, self.depths, strict=True)):
            first, own = middle(before, d), middle(d, d)
            middles = (first, own if self.flavour == "tsp" else first)
            down = block(d, middles, stride=2, project=True) if number else block(d, middles)
            layers.append(resnet.Layer(down, block(d, (own, own)), depth))
            before = d
        return layers

    def init(self, key: jax.Array) -> dict:
        """Random float32 parameters, named as in tadjax/backbones/resnet.py."""
        return resnet.init(key, self._stem, self._layers, jnp.zeros((1, 1, 1, 1, 3)))

    def embed(self, params: dict, frames: jax.Array) -> jax.Array:
        """Frames [B, T, H, W, 3] in 0..255 -> the stem's output [B, T, H/2, W/2, C]."""
        return self.stem(params, normalise(frames, MEAN, STD, self.dtype))

    def stem(self, params: dict, x: jax.Array) -> jax.Array:
        """`embed`, of frames that are normalised already."""
        return self._stem.apply({"params": params["stem"]}, x)

    def stages(self, params: dict) -> list[Stage]:
        return resnet.stages(params, self._layers)

    def pool(self, x: jax.Array) -> jax.Array:
        """The spatial mean, [B, T/8, h, w, D] -> float32 [B, T/8, D]."""
        return resnet.spatial_mean(x)

    def steps(self, frames: int) -> int:
        """T', the steps that `pool` makes of so many frames."""
        return -(-frames // 8)

    def drop_path(self, key: jax.Array, batch: int, frames: int) -> list[None]:
        return resnet.no_drop_path(self._layers)
