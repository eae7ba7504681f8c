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
EPSILON = 1e-6  # of all norms
PRETRAIN_IMAGE = 224  # pixels; the position table belongs to this size's grid
Colour = tuple[float, float, float]
MEAN: Colour = (123.675, 116.28, 103.53)
STD: Colour = (58.395, 57.12, 57.375)

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
    devices hold pieces of them. seen: (one layer's params, its feature map) -> what a method beside the backbone sees
    of it; None: as it is.
    """

    params: Any
    block: Callable[[Any, jax.Array, jax.Array | None], jax.Array]
    clip_steps: int = 0
    whole: Callable[[Any], Any] = lambda layer: layer
    seen: Callable[[Any, jax.Array], jax.Array] | None = None


def feature_map(x: Any) -> jax.Array:
    """What adapters see of x, [B, T', h, w, D]: all of it, or of several pathways the first (SlowFast's slow one)."""
    return x[0] if isinstance(x, tuple) else x


class PatchEmbed(nn.Module):
    """Frames [B, T, H, W, 3], normalised -> tokens [B, T/t, H/p, W/p, D] by a convolution that does not overlap.

    t: `tubelet` frames. The products are of `dtype`, their sums and the tokens float32.
    """

    width: int
    patch: int
    dtype: Any = jnp.float32
    tubelet: int = TUBELET

    @nn.compact
    def __call__(self, frames: jax.Array) -> jax.Array:
        b, t, h, w, c = frames.shape
        p, k = self.patch, self.tubelet
        kernel = self.param("kernel", _kernel_init, (k, p, p, c, self.width))
        bias = self.param("bias", nn.initializers.zeros, (self.width,))
        tubelets = frames[:, :, : h // p * p, : w // p * p].reshape(b, t // k, k, h // p, p, w // p, p, c)
        factors = tubelets.astype(self.dtype), kernel.astype(self.dtype)
        return jnp.einsum("btihjwkc,ijkcd->bthwd", *factors, preferred_element_type=jnp.float32) + bias


Rotation = tuple[jax.Array, jax.Array]  # cosines and sines [P, head_dim], float32, of a clip's tokens


@dataclasses.dataclass(frozen=True)
class Style:
    """In what the blocks of this family differ; the defaults are VideoMAE's.

    norm: "layer"; "layer_plus_one", whose stored scale is one less than what it scales by; or "rms" (over the width, no
    mean, no bias). biases: "qv" (none of keys), "qkv" or "" (none at all). qk_norm: RMS norms of queries and keys over
    all heads together, before they are split. layer_scale: a learned factor a channel on either branch. gelu: "erf" or
    "tanh". cap: logits become cap * tanh(logits / cap); 0 leaves them.
    """

    norm: str = "layer"
    biases: str = "qv"
    qk_norm: bool = False
    layer_scale: bool = False
    gelu: str = "erf"
    cap: float = 0.0


class PlusOneNorm(nn.Module):
    """LayerNorm whose parameter `scale` is one less than what it scales by."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale = self.param("scale", nn.initializers.zeros, (x.shape[-1],))
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],))
        normed = nn.LayerNorm(epsilon=EPSILON, dtype=jnp.float32, use_scale=False, use_bias=False)(x)
        return normed * (1 + scale.astype(jnp.float32)) + bias


def make_norm(kind: str, name: str | None = None) -> nn.Module:
    """The norm of a Style, of the last axis, float32 out."""
    if kind == "layer_plus_one":
        return PlusOneNorm(name=name)
    kinds = {"layer": nn.LayerNorm, "rms": nn.RMSNorm}
    return kinds[kind](epsilon=EPSILON, dtype=jnp.float32, name=name)


class Block(nn.Module):
    """One pre-norm transformer block over the tokens of a clip, [n, P, D]. The dtype of x is that of what comes out."""

    heads: int
    mlp_width: int
    attention: str = "xla"
    dtype: Any = jnp.float32
    style: Style = Style()

    @nn.compact
    def __call__(self, x: jax.Array, scale: jax.Array | None = None, rotation: Rotation | None = None) -> jax.Array:
        """`scale` [2, n] multiplies the attention and the MLP branch of each clip (stochastic depth)."""
        style, norm = self.style, functools.partial(make_norm, self.style.norm)
        attend = Attention(self.heads, self.attention, self.dtype, style, name="attention")
        branch = attend(norm("norm1")(x).astype(self.dtype), rotation)
        x = add(x, _scaled(self._of_layer("attention_scale", branch), scale, 0))
        mlp = Mlp(self.mlp_width, self.dtype, style.gelu, name="mlp")
        branch = mlp(norm("norm2")(x).astype(self.dtype))
        return add(x, _scaled(self._of_layer("mlp_scale", branch), scale, 1))

    def _of_layer(self, name: str, branch: jax.Array) -> jax.Array:
        """The branch times its layer-scale, in float32; itself where there is none."""
        if not self.style.layer_scale:
            return branch
        return branch.astype(jnp.float32) * self.param(name, nn.initializers.constant(1e-5), (branch.shape[-1],))


def add(x: jax.Array, *branches: jax.Array) -> jax.Array:
    """x and what is added to it, summed in float32, rounded once to x's dtype."""
    total = sum((branch.astype(jnp.float32) for branch in branches), x.astype(jnp.float32))
    return total.astype(x.dtype)


def _scaled(branch: jax.Array, scale: jax.Array | None, which: int) -> jax.Array:
    return branch if scale is None else branch * scale[which, :, None, None]  # float32


class Attention(nn.Module):
    """Attention among all tokens [n, P, D] of a clip."""

    heads: int
    implementation: str = "xla"
    dtype: Any = jnp.float32
    style: Style = Style()

    @nn.compact
    def __call__(self, x: jax.Array, rotation: Rotation | None = None) -> jax.Array:
        n, tokens, d = x.shape
        style = self.style
        if style.biases == "qkv":
            qkv = Dense(3 * d, self.dtype, _kernel_init, name="qkv")(x)
        else:
            qkv = nn.Dense(3 * d, use_bias=False, dtype=self.dtype, kernel_init=_kernel_init, name="qkv")(x)
        if style.biases == "qv":
            q_bias = self.param("q_bias", nn.initializers.zeros, (d,))
            v_bias = self.param("v_bias", nn.initializers.zeros, (d,))
            bias = jnp.concatenate([q_bias, jnp.zeros_like(q_bias), v_bias])
            qkv = (qkv.astype(jnp.float32) + bias).astype(self.dtype)
        q, k, v = jnp.moveaxis(qkv.reshape(n, tokens, 3, d), 2, 0)
        if style.qk_norm:
            q, k = (make_norm("rms", f"{name}_norm")(a).astype(self.dtype) for name, a in (("q", q), ("k", k)))
        q, k, v = (a.reshape(n, tokens, self.heads, d // self.heads) for a in (q, k, v))
        if rotation is not None:
            q, k = rotate(q, *rotation), rotate(k, *rotation)
        out = attention(q, k, v, self.implementation, style.cap).reshape(n, tokens, d)
        return Dense(d, self.dtype, _kernel_init, name="proj")(out)


def rotate(x: jax.Array, cosines: jax.Array, sines: jax.Array) -> jax.Array:
    """Channels (2m, 2m + 1) of [n, P, heads, d] as pairs, each channel by its own angle [P, d], in float32."""
    pairs = x.astype(jnp.float32).reshape(*x.shape[:-1], -1, 2)
    across = jnp.stack([-pairs[..., 1], pairs[..., 0]], -1).reshape(x.shape)
    return (x * cosines[:, None] + across * sines[:, None]).astype(x.dtype)


class Mlp(nn.Module):
    hidden: int
    dtype: Any = jnp.float32
    gelu: str = "erf"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        width = x.shape[-1]
        x = Dense(self.hidden, self.dtype, _kernel_init, name="fc1")(x)
        x = nn.gelu(x, approximate=self.gelu == "tanh")
        return Dense(width, self.dtype, _kernel_init, name="fc2")(x)


class Clips:
    """What the backbones of this family share: layers of one Block over clips of `clip_frames` frames, which do not
    see each other, of which `tubelet` make a step. Subclasses are dataclasses with the fields of Vit.
    """

    tubelet = TUBELET
    clip_frames = CLIP_FRAMES
    style = Style()

    @property
    def clip_steps(self) -> int:
        return self.clip_frames // self.tubelet

    @property
    def _patch_embed(self) -> PatchEmbed:
        return PatchEmbed(self.width, self.patch, self.dtype, self.tubelet)

    @property
    def _block(self) -> Block:
        return Block(self.heads, self.mlp_width, self.attention, self.dtype, self.style)

    def _init_embed(self, key: jax.Array) -> dict:
        return self._patch_embed.init(key, jnp.zeros((1, self.tubelet, self.patch, self.patch, 3)))["params"]

    def _init_blocks(self, key: jax.Array, depth: int) -> dict:
        """Random parameters of so many blocks, stacked on a leading layer axis."""
        tokens = jnp.zeros((1, 1, self.width))
        return jax.vmap(lambda k: self._block.init(k, tokens)["params"])(jax.random.split(key, depth))

    def _tokens(self, params: dict, frames: jax.Array, mean: Colour = MEAN, std: Colour = STD) -> jax.Array:
        """Frames [B, T, H, W, 3] in 0..255 -> embedded patches, float32 [B, T', h, w, D]. ValueError for part clips."""
        if frames.shape[1] % self.clip_frames:
            raise ValueError(f"{frames.shape[1]} frames are no whole number of clips of {self.clip_frames} frames")
        return self._patch_embed.apply({"params": params["patch_embed"]}, normalise(frames, mean, std, self.dtype))

    def pool(self, x: jax.Array) -> jax.Array:
        """The spatial mean, [B, T', h, w, D] -> float32 [B, T', D]."""
        return feature_map(x).astype(jnp.float32).mean((2, 3))

    def steps(self, frames: int) -> int:
        """T', the steps that `pool` makes of so many frames."""
        return frames // self.tubelet

    def _drop_path(self, key: jax.Array, depth: int, batch: int, frames: int) -> jax.Array:
        """Factors of the residual branches, [depth, 2 branches, B, clips], each 0 or 1 / keep.

        A draw a clip, layer and branch, as in the published code, where the rate rises linearly over the layers.
        """
        rates = jnp.linspace(0.0, self.drop_path_rate, depth)[:, None, None, None]
        shape = (depth, 2, batch, frames // self.clip_frames)
        return jax.random.bernoulli(key, 1 - rates, shape) / (1 - rates)


@dataclasses.dataclass(frozen=True)
class Vit(Clips):
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

    def init(self, key: jax.Array) -> dict:
        """Random parameters, float32: {"patch_embed": ..., "blocks": every array stacked on a leading layer axis}."""
        embed_key, block_key = jax.random.split(key)
        return {"patch_embed": self._init_embed(embed_key), "blocks": self._init_blocks(block_key, self.depth)}

    def embed(self, params: dict, frames: jax.Array) -> jax.Array:
        """Frames [B, T, H, W, 3] in 0..255 (T a multiple of 16) -> tokens with positions, stream [B, T/2, h, w, D]."""
        x = self._tokens(params, frames)
        b, t, h, w, d = x.shape
        positions = position_table(self.width, self.image // self.patch, h, w)  # [8, h, w, D]
        clips = x.reshape(b, t // CLIP_STEPS, CLIP_STEPS, h, w, d) + positions  # float32
        return clips.reshape(x.shape).astype(self.stream)

    def stages(self, params: dict) -> list[Stage]:
        def block(layer: dict, x: jax.Array, branch_scale: jax.Array | None = None) -> jax.Array:
            return in_clips(self._block, layer, x, CLIP_STEPS, branch_scale)

        return [Stage(params["blocks"], block, CLIP_STEPS)]

    def drop_path(self, key: jax.Array, batch: int, frames: int) -> list[jax.Array]:
        """The draws of `_drop_path`, one array a stage."""
        return [self._drop_path(key, self.depth, batch, frames)]


def in_clips(
    block: Block,
    layer: dict,
    x: jax.Array,
    clip_steps: int,
    branch_scale: jax.Array | None,
    rotation: Rotation | None = None,
) -> jax.Array:
    """One layer of x [B, T', h, w, D], whose clips see themselves alone. branch_scale: [2, B, clips]."""
    b, t, h, w, d = x.shape
    clips = x.reshape(b * t // clip_steps, clip_steps * h * w, d)
    scale = None if branch_scale is None else branch_scale.reshape(2, -1)
    return block.apply({"params": layer}, clips, scale, rotation).reshape(x.shape)


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
