"""What the residual networks share (He et al. 2016): blocks, and four layers of them in the backbones' contract.

The first block of a layer changes the size, the others are alike. So a layer is two stages (tadjax/backbones/vit.py):
the first block alone, and the rest, stacked, for one scan. Parameters: {"stem": ..., "layer1": {"first": ...,
"rest": every array stacked on a leading axis}, ..., "layer4": ...}.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from tadjax.backbones.layers import ConvNorm
from tadjax.backbones.vit import Stage


class Basic(nn.Module):
    """Two 3 x 3 convolutions of the frames; `before` acts on the residual branch alone."""

    width: int
    stride: int = 1
    project: bool = False  # the shortcut is a 1 x 1 convolution: where the size changes
    before: Callable[[jax.Array], jax.Array] | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        stride = (1, self.stride, self.stride)
        y = x if self.before is None else self.before(x)
        y = nn.relu(ConvNorm(self.width, (1, 3, 3), stride, dtype=self.dtype, name="conv1")(y))
        y = ConvNorm(self.width, (1, 3, 3), dtype=self.dtype, name="conv2")(y)
        if self.project:
            x = ConvNorm(self.width, (1, 1, 1), stride, dtype=self.dtype, name="shortcut")(x)
        return nn.relu(x + y)


class Bottleneck(nn.Module):
    """1 x 1 (`kernel_t` long in time), 3 x 3 with the stride, 1 x 1 to 4 `width`; `before` as in Basic."""

    width: int
    stride: int = 1
    project: bool = False
    kernel_t: int = 1
    before: Callable[[jax.Array], jax.Array] | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        stride = (1, self.stride, self.stride)
        y = x if self.before is None else self.before(x)
        y = nn.relu(ConvNorm(self.width, (self.kernel_t, 1, 1), dtype=self.dtype, name="conv1")(y))
        y = nn.relu(ConvNorm(self.width, (1, 3, 3), stride, dtype=self.dtype, name="conv2")(y))
        y = ConvNorm(4 * self.width, (1, 1, 1), dtype=self.dtype, name="conv3")(y)
        if self.project:
            x = ConvNorm(4 * self.width, (1, 1, 1), stride, dtype=self.dtype, name="shortcut")(x)
        return nn.relu(x + y)


@dataclasses.dataclass(frozen=True)
class Layer:
    """`depth` blocks: the first, which changes the size, and the others, which are alike."""

    first: nn.Module
    rest: nn.Module
    depth: int


def init(key: jax.Array, stem: nn.Module, layers: Sequence[Layer], x: Any) -> dict:
    """Random float32 parameters; x: the smallest input of the stem."""
    key, stem_key = jax.random.split(key)
    params = {"stem": stem.init(stem_key, x)["params"]}
    x = jax.eval_shape(lambda x: stem.apply({"params": params["stem"]}, x), x)
    for number, layer in enumerate(layers, start=1):
        key, first_key, rest_key = jax.random.split(key, 3)
        zeros = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), x)
        of_layer = params[f"layer{number}"] = {"first": layer.first.init(first_key, zeros)["params"]}
        x = jax.eval_shape(lambda x: layer.first.apply({"params": of_layer["first"]}, x), zeros)  # noqa: B023
        if layer.depth > 1:
            zeros = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), x)
            keys = jax.random.split(rest_key, layer.depth - 1)
            of_layer["rest"] = jax.vmap(lambda k: layer.rest.init(k, zeros)["params"])(keys)  # noqa: B023
    return params


def stages(params: dict, layers: Sequence[Layer], clip_steps: int = 0) -> list[Stage]:
    """Two stages a layer; one where it has a single block."""
    found = []
    for number, layer in enumerate(layers, start=1):
        of_layer = params[f"layer{number}"]
        found.append(Stage(jax.tree.map(lambda a: a[None], of_layer["first"]), _block(layer.first), clip_steps))
        if layer.depth > 1:
            found.append(Stage(of_layer["rest"], _block(layer.rest), clip_steps))
    return found


def _block(module: nn.Module) -> Callable:
    def block(params: dict, x: Any, branch_scale: jax.Array | None = None) -> Any:
        return module.apply({"params": params}, x)  # no stochastic depth: these networks were trained without

    return block


def no_drop_path(layers: Sequence[Layer]) -> list[None]:
    """The contract's draws of stochastic depth: none for each stage."""
    return [None for layer in layers for _ in range(min(layer.depth, 2))]


def spatial_mean(x: jax.Array) -> jax.Array:
    """[B, T, H, W, C] -> float32 [B, T, C]."""
    return x.astype(jnp.float32).mean((2, 3))
