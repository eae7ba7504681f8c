"""VideoMAE and VideoMAEv2 Vision Transformers (Tong et al. 2022; Wang et al. 2023), as video backbones.

A clip of 16 sampled frames is cut into tubelets of 2 frames x p x p pixels and attends only to itself; the clips of a
window meet in time afterwards. What flows through the blocks is a feature map [B, T', h, w, D] with T' = T / 2, which
each block folds into clips of 8 steps. The last block's output goes on without a final norm.

Two dtypes: `dtype` of the matrix products, and `stream` of what flows through the blocks, to which each branch is
added. A branch is about a tenth of what it is added to; bfloat16, with its 8 bits, loses most of it. The published code
keeps the stream in float32; in bfloat16 the features are 8 (12 layers) to 15 times (40) as far from an all-float32 run.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from tadjax.backbones.attention import attention
from tadjax.backbones.layers import Dense, normalise

TUBELET = 2  # frames
CLIP_FRAMES = 16
CLIP_STEPS = CLIP_FRAMES // TUBELET
PRETRAIN_IMAGE = 224  # pixels; the position table belongs to this size's grid
MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)

# width D, depth, heads, patch, MLP hidden width
SIZES = {
    "s": dict(width=384, depth=12, heads=6, patch=16, mlp_width=1536),
    "b": dict(width=768, depth=12, heads=12, patch=16, mlp_width=3072),
    "l": dict(width=1024, depth=24, heads=16, patch=16, mlp_width=4096),
    "h": dict(width=1280, depth=32, heads=16, patch=16, mlp_width=5120),
    "g": dict(width=1408, depth=40, heads=16, patch=14, mlp_width=6144),
    "tiny": dict(width=48, depth=4, heads=4, patch=16, mlp_width=192),  # the configs' tiny twins
    "demo": dict(width=64, depth=4, heads=2, patch=16, mlp_width=256),
}

_kernel_init = nn.initializers.truncated_normal(0.02)


@dataclasses.dataclass(frozen=True)
class Stage:
    """Blocks of one kind, which one scan can run.

    params: stacked on a leading layer axis. block: (one layer's params, x, branch_scale) -> x. clip_steps: steps of x's
    time axis that see each other in a block; 0 = all of the window. whole: puts one layer's params together, where
    devices hold pieces of them.
    """

    params: Any
    block: Callable[[Any, jax.Array, jax.Array | None], jax.Array]
    clip_steps: int = 0
    whole: Callable[[Any], Any] = lambda layer: layer


def feature_map(x: Any) -> jax.Array:
    """What adapters see of x, [B, T', h, w, D]: all of it, or of several pathways the first (SlowFast's slow one)."""
    return x[0] if isinstance(x, tuple) else x


class PatchEmbed(nn.Module):
    """Frames [B, T, H, W, 3], normalised -> tokens [B, T/2, H/p, W/p, D] by a convolution that does not overlap.

    The products are of `dtype`, their sums and the tokens float32.
    """

    width: int
    patch: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, frames: jax.Array) -> jax.Array:
        b, t, h, w, c = frames.shape
        p = self.patch
        kernel = self.param("kernel", _kernel_init, (TUBELET, p, p, c, self.width))
        bias = self.param("bias", nn.initializers.zeros, (self.width,))
        tubelets = frames[:, :, : h // p * p, : w // p * p].reshape(b, t // TUBELET, TUBELET, h // p, p, w // p, p, c)
        factors = tubelets.astype(self.dtype), kernel.astype(self.dtype)
        return jnp.einsum("btihjwkc,ijkcd->bthwd", *factors, preferred_element_type=jnp.float32) + bias


class Block(nn.Module):
    """One pre-norm transformer block over the tokens of a clip, [n, P, D]. The dtype of x is that of what comes out."""

    heads: int
    mlp_width: int
    attention: str = "xla"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, scale: jax.Array | None = None) -> jax.Array:
        """`scale` [2, n] multiplies the attention and the MLP branch of each clip (stochastic depth)."""
        norm = functools.partial(nn.LayerNorm, epsilon=1e-6, dtype=jnp.float32)
        attend = Attention(self.heads, self.attention, self.dtype, name="attention")
        x = add(x, _scaled(attend(norm(name="norm1")(x).astype(self.dtype)), scale, 0))
        mlp = Mlp(self.mlp_width, self.dtype, name="mlp")
        return add(x, _scaled(mlp(norm(name="norm2")(x).astype(self.dtype)), scale, 1))


def add(x: jax.Array, *branches: jax.Array) -> jax.Array:
    """x and what is added to it, summed in float32, rounded once to x's dtype."""
    total = sum((branch.astype(jnp.float32) for branch in branches), x.astype(jnp.float32))
    return total.astype(x.dtype)


def _scaled(branch: jax.Array, scale: jax.Array | None, which: int) -> jax.Array:
    return branch if scale is None else branch * scale[which, :, None, None]  # float32


class Attention(nn.Module):
    """Joint space-time attention with biases on queries and values and none on keys."""

    heads: int
    implementation: str = "xla"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        n, tokens, d = x.shape
        qkv = nn.Dense(3 * d, use_bias=False, dtype=self.dtype, kernel_init=_kernel_init, name="qkv")(x)
        q_bias = self.param("q_bias", nn.initializers.zeros, (d,))
        v_bias = self.param("v_bias", nn.initializers.zeros, (d,))
        bias = jnp.concatenate([q_bias, jnp.zeros_like(q_bias), v_bias])
        qkv = (qkv.astype(jnp.float32) + bias).astype(self.dtype)
        q, k, v = jnp.moveaxis(qkv.reshape(n, tokens, 3, self.heads, d // self.heads), 2, 0)  # [n, P, heads, d]
        out = attention(q, k, v, self.implementation).reshape(n, tokens, d)
        return Dense(d, self.dtype, _kernel_init, name="proj")(out)


class Mlp(nn.Module):
    hidden: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        width = x.shape[-1]
        x = Dense(self.hidden, self.dtype, _kernel_init, name="fc1")(x)
        x = nn.gelu(x, approximate=False)
        return Dense(width, self.dtype, _kernel_init, name="fc2")(x)


@dataclasses.dataclass(frozen=True)
class Vit:
    """A backbone in the project's contract: `init`, `embed`, `stages`, `pool`, `steps`, and `drop_path`'s draws.

    image: the training picture's size in pixels of the checkpoint's position table (224 for all published ones).
    dtype: of the products. stream: of what flows through the blocks; bfloat16 takes half the memory and is less exact.
    """

    width: int
    depth: int
    heads: int
    patch: int
    mlp_width: int
    image: int = PRETRAIN_IMAGE
    drop_path_rate: float = 0.0
    attention: str = "xla"
    dtype: Any = jnp.float32
    stream: Any = jnp.float32

    @property
    def _patch_embed(self) -> PatchEmbed:
        return PatchEmbed(self.width, self.patch, self.dtype)

    @property
    def _block(self) -> Block:
        return Block(self.heads, self.mlp_width, self.attention, self.dtype)

    def init(self, key: jax.Array) -> dict:
        """Random parameters, float32: {"patch_embed": ..., "blocks": every array stacked on a leading layer axis}."""
        embed_key, block_key = jax.random.split(key)
        p = self.patch
        embed = self._patch_embed.init(embed_key, jnp.zeros((1, TUBELET, p, p, 3)))["params"]
        tokens = jnp.zeros((1, 1, self.width))
        blocks = jax.vmap(lambda k: self._block.init(k, tokens)["params"])(jax.random.split(block_key, self.depth))
        return {"patch_embed": embed, "blocks": blocks}

    def embed(self, params: dict, frames: jax.Array) -> jax.Array:
        """Frames [B, T, H, W, 3] in 0..255 (T a multiple of 16) -> tokens with positions, stream [B, T/2, h, w, D]."""
        b, t, height, width, _ = frames.shape
        if t % CLIP_FRAMES:
            raise ValueError(f"{t} frames are no whole number of clips of {CLIP_FRAMES} frames")
        x = self._patch_embed.apply({"params": params["patch_embed"]}, normalise(frames, MEAN, STD, self.dtype))
        h, w = height // self.patch, width // self.patch
        positions = position_table(self.width, self.image // self.patch, h, w)  # [8, h, w, D]
        clips = x.reshape(b, t // CLIP_FRAMES, CLIP_STEPS, h, w, self.width) + positions  # float32
        return clips.reshape(x.shape).astype(self.stream)

    def stages(self, params: dict) -> list[Stage]:
        def block(layer: dict, x: jax.Array, branch_scale: jax.Array | None = None) -> jax.Array:
            b, t, h, w, d = x.shape
            clips = x.reshape(b * t // CLIP_STEPS, CLIP_STEPS * h * w, d)
            scale = None if branch_scale is None else branch_scale.reshape(2, -1)
            return self._block.apply({"params": layer}, clips, scale).reshape(x.shape)

        return [Stage(params["blocks"], block, CLIP_STEPS)]

    def pool(self, x: jax.Array) -> jax.Array:
        """The spatial mean, [B, T', h, w, D] -> float32 [B, T', D]."""
        return x.astype(jnp.float32).mean((2, 3))

    def steps(self, frames: int) -> int:
        """T', the steps that `pool` makes of so many frames."""
        return frames // TUBELET

    def drop_path(self, key: jax.Array, batch: int, frames: int) -> list[jax.Array]:
        """Factors of the residual branches, one array a stage: [depth, 2 branches, B, clips], each 0 or 1 / keep.

        A draw a clip, layer and branch, as in the published code, where the rate rises linearly over the layers.
        """
        rates = jnp.linspace(0.0, self.drop_path_rate, self.depth)[:, None, None, None]
        shape = (self.depth, 2, batch, frames // CLIP_FRAMES)
        return [jax.random.bernoulli(key, 1 - rates, shape) / (1 - rates)]


def sine_cosine(positions: int, width: int) -> np.ndarray:
    """VideoMAE's fixed position table over the flattened (time, height, width) grid, float32 [positions, width]."""
    channel = np.arange(width)
    angle = np.arange(positions)[:, None] / np.power(10000, 2 * (channel // 2) / width)[None]
    return np.where(channel % 2 == 0, np.sin(angle), np.cos(angle)).astype(np.float32)


def position_table(width: int, grid: int, h: int, w: int) -> np.ndarray:
    """Positions of one clip, float32 [8, h, w, width]: the pre-training grid's, resized in space where it differs."""
    table = sine_cosine(CLIP_STEPS * grid * grid, width).reshape(CLIP_STEPS, grid, grid, width)
    if (h, w) == (grid, grid):
        return table
    rows, columns = bicubic_matrix(grid, h), bicubic_matrix(grid, w)
    return np.einsum("hi,wj,tijd->thwd", rows, columns, table.astype(np.float64), optimize=True).astype(np.float32)


def bicubic_matrix(source: int, target: int) -> np.ndarray:
    """Weights [target, source] of bicubic resizing as the checkpoints' code does it.

    Keys' kernel with a = -0.75, half-pixel centres, no antialiasing, border pixels replicated.
    """
    a = -0.75
    matrix = np.zeros((target, source))
    for row in range(target):
        centre = (row + 0.5) * source / target - 0.5
        first = int(np.floor(centre)) - 1
        for tap in range(first, first + 4):
            x = abs(centre - tap)
            near = (a + 2) * x**3 - (a + 3) * x**2 + 1
            far = a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
            matrix[row, min(max(tap, 0), source - 1)] += near if x <= 1 else far
    return matrix
