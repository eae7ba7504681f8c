"""Parameter-efficient baselines inside the blocks of a ViT, which the papers' tables compare with.

- ST-Adapter (Pan et al., NeurIPS 2022): a bottleneck with a depth-wise convolution over time and space on the residual
  stream, before the attention and before the MLP of each block.
- AIM (Yang et al., ICLR 2023): the block's own attention used once more over time, and bottleneck adapters after it,
  after the attention, and beside the MLP.
- LongLoRA-style attention (Chen et al., ICLR 2024; AdaTAD's ablation): in place of TIA, attention over time in groups,
  half of the heads shifted by half a group.

The plain adapter, TIA without its residual, and other kernels are fields of the adapter itself (tia.py).
"""

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from tadjax.adaptation import stacks
from tadjax.adaptation.inside import Memory, in_clip_groups, part, pick_layer, scan_layers
from tadjax.adaptation.tia import DepthwiseConv
from tadjax.backbones.attention import attention
from tadjax.backbones.layers import Dense, dense
from tadjax.backbones.vit import Attention, Mlp, Stage, Vit, add


class ShiftedAttention(nn.Module):
    """LongLoRA-style: x [B, T', h, w, D] -> what is added to x. Each position attends over time in groups of steps.

    In half of the heads the sequence is shifted by half a group, so that neighbouring groups see each other; the ends
    of the window meet there, as published. The output projection starts at zero. `roll` shifts along the time axis
    where this is a shard of the window.
    """

    heads: int
    group_steps: int = 16
    dtype: Any = jnp.float32
    roll: Callable[..., jax.Array] = jnp.roll

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        b, t, h, w, d = x.shape
        group = min(self.group_steps, t)
        if t % group:
            raise ValueError(f"{t} time steps are no whole number of groups of {group}")
        qkv = Dense(3 * d, self.dtype, nn.initializers.truncated_normal(0.02), name="qkv")(x)
        qkv = qkv.reshape(b, t, h * w, 3, self.heads, d // self.heads)
        half = self.heads // 2
        shifted = jnp.concatenate([qkv[..., :half, :], self.roll(qkv[..., half:, :], -(group // 2), axis=1)], axis=-2)
        grouped = shifted.reshape(b, t // group, group, h * w, 3, self.heads, d // self.heads)
        grouped = jnp.moveaxis(grouped, 3, 2).reshape(-1, group, 3, self.heads, d // self.heads)  # a position a row
        out = attention(grouped[:, :, 0], grouped[:, :, 1], grouped[:, :, 2])
        out = jnp.moveaxis(out.reshape(b, t // group, h * w, group, self.heads, d // self.heads), 2, 3)
        out = out.reshape(b, t, h * w, self.heads, d // self.heads)
        out = jnp.concatenate([out[..., :half, :], self.roll(out[..., half:, :], group // 2, axis=1)], axis=-2)
        project = Dense(d, self.dtype, nn.initializers.zeros, name="proj")
        return project(out.reshape(b, t, h, w, d))


@dataclasses.dataclass(frozen=True)
class _InBlocks:
    """A method that trains something within the frozen blocks; subclasses have `init_layer` and `block`."""

    def init(self, key: jax.Array, backbone: Vit, layers: tuple[int, ...]) -> dict:
        """Random float32 parameters, stacked over the layers."""
        return jax.vmap(lambda k: self.init_layer(k, backbone.width))(jax.random.split(key, len(layers)))

    def features(
        self,
        backbone: Vit,
        params: Any,
        adapters: dict,
        frames: jax.Array,
        *,
        layers: tuple[int, ...],
        memory: Memory,
        valid: jax.Array | None = None,
    ) -> jax.Array:
        """Frames [B, T, H, W, 3] in 0..255 -> features, float32 [B, T', D]."""
        del valid  # everything here stays within a clip
        (stage,) = backbone.stages(params)
        depth = stacks.depth(stage.params)

        def adapted(layer: tuple, x: jax.Array, _: None) -> jax.Array:
            b, t, h, w, d = x.shape
            clips = x.reshape(b * t // stage.clip_steps, stage.clip_steps, h, w, d)
            return self.block(backbone, *layer, clips).reshape(x.shape)

        with_adapter = in_clip_groups(Stage(None, adapted, stage.clip_steps), memory.clips_per_group)
        without = in_clip_groups(stage, memory.clips_per_group)

        def step(x: jax.Array, layer: tuple) -> tuple[jax.Array, None]:
            index, adapter = layer
            frozen = stage.whole(pick_layer(stage.params, index))
            return (without(frozen, x, None) if adapter is None else with_adapter((frozen, adapter), x, None)), None

        x, used = backbone.embed(params, frames), 0
        for is_adapted, members in itertools.groupby(range(depth), key=lambda i: i in layers):
            indices, of_run = jnp.array(list(members)), None
            if is_adapted:
                of_run = part(adapters, used, len(indices))
                used += len(indices)
            x = scan_layers(step, x, (indices, of_run), memory)
        return backbone.pool(x)


@dataclasses.dataclass(frozen=True)
class StAdapter(_InBlocks):
    """x <- x + W_2 DWConv3d(W_1 x) before the attention and before the MLP; the convolution starts at zero.

    width: of the bottleneck (384 as published). places: "attention", "mlp", or both.
    """

    width: int = 384
    kernel: tuple[int, int, int] = (3, 1, 1)
    places: tuple[str, ...] = ("attention", "mlp")

    def init_layer(self, key: jax.Array, channels: int) -> dict:
        return {
            name: self._init_place(k, channels) for name, k in zip(self.places, jax.random.split(key), strict=False)
        }

    def _init_place(self, key: jax.Array, channels: int) -> dict:
        kt, kh, kw = self.kernel
        shape = (kt, 1, self.width) if (kh, kw) == (1, 1) else (kt, kh, kw, 1, self.width)
        down, up = jax.random.split(key)
        return {
            "down": _linear_init(down, channels, self.width),
            "dwconv": {"kernel": jnp.zeros(shape), "bias": jnp.zeros((self.width,))},
            "up": _linear_init(up, self.width, channels),
        }

    def adapt(self, place: dict, x: jax.Array, dtype: Any) -> jax.Array:
        """[n, T', h, w, D] -> the same, adapted."""
        hidden = dense(place["down"], x, dtype)
        hidden = DepthwiseConv(self.width, self.kernel, dtype).apply({"params": place["dwconv"]}, hidden)
        return add(x, dense(place["up"], hidden, dtype))

    def block(self, backbone: Vit, frozen: dict, adapter: dict, x: jax.Array) -> jax.Array:
        parts = _Parts(backbone, frozen)
        if "attention" in self.places:
            x = self.adapt(adapter["attention"], x, backbone.dtype)
        x = add(x, parts.attend(parts.norm("norm1", x)))
        if "mlp" in self.places:
            x = self.adapt(adapter["mlp"], x, backbone.dtype)
        return add(x, parts.mlp(parts.norm("norm2", x)))


@dataclasses.dataclass(frozen=True)
class Aim(_InBlocks):
    """Temporal, spatial and joint adaptation: the frozen attention over time at each position, then the block's own.

    ratio: bottleneck by width. scale: of the adapter beside the MLP. joint: the block's own attention goes over all
    tokens of the clip, as VideoMAE was trained; AIM's image models attend within a frame (False). epsilon: of the
    block's norms.
    """

    ratio: float = 0.25
    scale: float = 0.5
    joint: bool = True
    epsilon: float = 1e-6

    def init_layer(self, key: jax.Array, channels: int) -> dict:
        width = int(channels * self.ratio)
        initial = nn.initializers.truncated_normal(0.02)
        return {
            name: {
                "down": {"kernel": initial(k, (channels, width)), "bias": jnp.zeros((width,))},
                "up": {"kernel": jnp.zeros((width, channels)), "bias": jnp.zeros((channels,))},
            }
            for name, k in zip(("time", "space", "mlp"), jax.random.split(key, 3), strict=True)
        }

    def adapt(self, adapter: dict, x: jax.Array, dtype: Any) -> jax.Array:
        """W_2 GELU(W_1 x), without x."""
        return dense(adapter["up"], nn.gelu(dense(adapter["down"], x, dtype), approximate=False), dtype)

    def block(self, backbone: Vit, frozen: dict, adapter: dict, x: jax.Array) -> jax.Array:
        parts, dtype = _Parts(backbone, frozen, self.epsilon), backbone.dtype
        n, t, h, w, d = x.shape
        over_time = jnp.moveaxis(parts.norm("norm1", x), 1, 3).reshape(n * h * w, t, 1, 1, d)
        over_time = jnp.moveaxis(parts.attend(over_time).reshape(n, h, w, t, d), 3, 1)
        x = add(x, self.adapt(adapter["time"], over_time, dtype))
        normed = parts.norm("norm1", x)
        frames = normed if self.joint else normed.reshape(n * t, 1, h, w, d)
        attended = parts.attend(frames).reshape(x.shape)
        x = add(x, attended, self.adapt(adapter["space"], attended, dtype))
        normed = parts.norm("norm2", x)
        return add(x, parts.mlp(normed), self.scale * self.adapt(adapter["mlp"], normed, dtype))


class _Parts:
    """The pieces of one frozen block of a ViT."""

    def __init__(self, backbone: Vit, params: dict, epsilon: float = 1e-6):
        self.backbone, self.params, self.epsilon = backbone, params, epsilon

    def norm(self, name: str, x: jax.Array) -> jax.Array:
        norm = nn.LayerNorm(epsilon=self.epsilon, dtype=jnp.float32)
        return norm.apply({"params": self.params[name]}, x).astype(self.backbone.dtype)

    def attend(self, x: jax.Array) -> jax.Array:
        """Attention among all tokens of each row of [n, T', h, w, D]."""
        vit = self.backbone
        tokens = x.reshape(x.shape[0], -1, x.shape[-1])
        module = Attention(vit.heads, vit.attention, vit.dtype)
        return module.apply({"params": self.params["attention"]}, tokens).reshape(x.shape)

    def mlp(self, x: jax.Array) -> jax.Array:
        return Mlp(self.backbone.mlp_width, self.backbone.dtype).apply({"params": self.params["mlp"]}, x)


def _linear_init(key: jax.Array, inputs: int, outputs: int) -> dict:
    """A linear layer's usual start in the published code: uniform within 1 / sqrt(inputs), bias too."""
    kernel, bias = jax.random.split(key)
    reach = inputs**-0.5
    return {
        "kernel": jax.random.uniform(kernel, (inputs, outputs), minval=-reach, maxval=reach),
        "bias": jax.random.uniform(bias, (outputs,), minval=-reach, maxval=reach),
    }
