"""Video Swin Transformer (Liu et al. 2022): attention within windows of 8 x 7 x 7 tokens, shifted by half in every
second block, and four stages of which each next one halves the picture.

What flows through is [B, T/2, h, w, C]; time keeps its length after the patch embedding. A stage's patch merging is
part of its first block here, and the norm of the last stage's output a stage of its own, without adapters.

`dtype` is that of the products, `stream` of what flows through the blocks (tadjax/backbones/vit.py). Under autocast the
published code rounds the stream at each patch merging and adds in half precision from there on; a float32 stream here
is float32 throughout.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from tadjax.backbones.layers import Dense, Triple, normalise
from tadjax.backbones.vit import MEAN, STD, Mlp, Stage, add

PATCH = (2, 4, 4)  # frames, pixels, pixels
MLP_RATIO = 4
MASKED = -100.0  # as in the published code; what is added to a logit

SIZES = {
    "tiny": dict(stem_width=8, depths=(1, 1, 2, 1), heads=(1, 2, 2, 4)),  # the configs' tiny twins; Swin-T is "t"
    "t": dict(stem_width=96, depths=(2, 2, 6, 2), heads=(3, 6, 12, 24)),
    "s": dict(stem_width=96, depths=(2, 2, 18, 2), heads=(3, 6, 12, 24)),
    "b": dict(stem_width=128, depths=(2, 2, 18, 2), heads=(4, 8, 16, 32)),
}

_kernel_init = nn.initializers.truncated_normal(0.02)
_norm = functools.partial(nn.LayerNorm, epsilon=1e-5, dtype=jnp.float32)


class PatchEmbed(nn.Module):
    """Frames [B, T, H, W, 3], normalised -> [B, T/2, H/4, W/4, C]; what is no whole patch is filled up with zeros.

    The products are of `dtype`, what comes out float32.
    """

    width: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, frames: jax.Array) -> jax.Array:
        frames = _pad(frames, PATCH)
        b, t, h, w, c = frames.shape
        i, j, k = PATCH
        kernel = self.param("kernel", _kernel_init, (*PATCH, c, self.width))
        bias = self.param("bias", nn.initializers.zeros, (self.width,))
        patches = frames.reshape(b, t // i, i, h // j, j, w // k, k, c).astype(self.dtype)
        factors = patches, kernel.astype(self.dtype)
        x = jnp.einsum("btihjwkc,ijkcd->bthwd", *factors, preferred_element_type=jnp.float32) + bias
        return _norm(name="norm")(x)


class PatchMerging(nn.Module):
    """2 x 2 tokens become one of twice the width, of x's dtype."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x, stream = _pad(x, (1, 2, 2)), x.dtype
        corners = [x[:, :, row::2, column::2] for row, column in ((0, 0), (1, 0), (0, 1), (1, 1))]
        x = _norm(name="norm")(jnp.concatenate(corners, axis=-1)).astype(self.dtype)  # [B, T, h/2, w/2, 4C]
        width = x.shape[-1] // 2
        reduction = nn.Dense(width, use_bias=False, dtype=self.dtype, kernel_init=_kernel_init, name="reduction")
        return reduction(x).astype(stream)


@dataclasses.dataclass(frozen=True)
class Share:
    """Which part of the time axis x is: one of `count`, with a roll over all of them, and the own part of all windows'
    numbers (axis 0)."""

    count: int = 1
    roll: Callable[[jax.Array, int, int], jax.Array] = jnp.roll
    own: Callable[[jax.Array, int], jax.Array] = lambda x, axis: x


class Block(nn.Module):
    """A pre-norm transformer block whose attention stays within windows."""

    heads: int
    window: Triple
    attention: str = "xla"
    dtype: Any = jnp.float32
    share: Share = Share()

    @nn.compact
    def __call__(self, x: jax.Array, shifted: jax.Array, scale: jax.Array | None = None) -> jax.Array:
        """x [B, T, h, w, C] -> the same, in x's dtype; shifted: 1 where this block's windows are, else 0; scale [2, B]:
        stochastic depth."""
        attention = WindowAttention(self.heads, self.window, self.attention, self.dtype, self.share, name="attention")
        x = add(x, _scaled(attention(_norm(name="norm1")(x).astype(self.dtype), shifted), scale, 0))
        mlp = Mlp(MLP_RATIO * x.shape[-1], self.dtype, name="mlp")
        return add(x, _scaled(mlp(_norm(name="norm2")(x).astype(self.dtype)), scale, 1))


def _scaled(branch: jax.Array, scale: jax.Array | None, which: int) -> jax.Array:
    return branch if scale is None else branch * scale[which, :, None, None, None, None]  # float32


class WindowAttention(nn.Module):
    """Attention of the tokens of a window, with a learned bias for each offset between two of them.

    `shifted` is a number rather than a choice made while tracing, so that one scan runs both kinds of block.
    implementation: "xla" holds the scores of all windows at once (on a CPU the fastest), anything else those of one
    window's time only, one stretch of the video after the other.
    """

    heads: int
    window: Triple
    implementation: str = "xla"
    dtype: Any = jnp.float32
    share: Share = Share()

    @nn.compact
    def __call__(self, x: jax.Array, shifted: jax.Array) -> jax.Array:
        size, d = x.shape[1:4], x.shape[-1]
        # An axis no longer than the window is one window, and does not shift.
        whole = (size[0] * self.share.count, *size[1:])
        window = tuple(min(s, w) for s, w in zip(whole, self.window, strict=True))
        shift = tuple(0 if s <= w else w // 2 for s, w in zip(whole, self.window, strict=True))
        x = _pad(x, window)  # after the norm: the tokens of zeros take part in the attention
        padded = x.shape[1:4]
        x = _roll(x, shift, -1, shifted, self.share)
        windows = split_windows(x, window)  # [B, n, N, C]
        region = regions((padded[0] * self.share.count, *padded[1:]), window, shift)
        region = self.share.own(jnp.asarray(region), 0) * (shifted > 0)  # [n, N]
        out = self._attend(windows, region, 1 if self.implementation == "xla" else padded[0] // window[0])
        out = Dense(d, self.dtype, _kernel_init, name="proj")(out)
        x = _roll(join_windows(out, padded, window), shift, 1, shifted, self.share)
        return x[:, : size[0], : size[1], : size[2]]

    def _attend(self, x: jax.Array, region: jax.Array, parts: int) -> jax.Array:
        """Windows [B, n, N, C] -> the same, in so many parts of the n windows, of which each is recomputed alone."""
        b, n, tokens, d = x.shape
        bias = self._position_bias(tokens)  # [heads, N, N]
        qkv = Dense(3 * d, self.dtype, _kernel_init, name="qkv")(x)
        qkv = qkv.reshape(b, parts, n // parts, tokens, 3, self.heads, d // self.heads)
        qkv = jnp.moveaxis(qkv, (1, 4), (0, 1))  # [parts, 3, B, n / parts, N, heads, d]

        def attend(part: tuple[jax.Array, jax.Array]) -> jax.Array:
            (q, k, v), region = part
            apart = region[:, :, None] != region[:, None, :]
            logits = jnp.einsum("bnqhd,bnkhd->bnhqk", q * q.shape[-1] ** -0.5, k).astype(jnp.float32)
            logits = logits + (bias + jnp.where(apart, MASKED, 0.0)[:, None])
            return jnp.einsum("bnhqk,bnkhd->bnqhd", nn.softmax(logits).astype(self.dtype), v)

        given = qkv, region.reshape(parts, n // parts, tokens)
        out = attend(jax.tree.map(lambda a: a[0], given)) if parts == 1 else jax.lax.map(jax.checkpoint(attend), given)
        return (out if parts == 1 else jnp.moveaxis(out, 0, 1)).reshape(b, n, tokens, d)

    def _position_bias(self, tokens: int) -> jax.Array:
        """[heads, N, N]. Of a smaller window the first N x N offsets of the full one's list, as published."""
        offsets = math.prod(2 * w - 1 for w in self.window)
        table = self.param("position_bias", _kernel_init, (offsets, self.heads))
        return jnp.moveaxis(table[offset_index(self.window)[:tokens, :tokens]].astype(jnp.float32), -1, 0)


def offset_index(window: Triple) -> np.ndarray:
    """int [N, N]: the row of the bias table for tokens i and j of a window, by their offset in time, height, width."""
    grid = np.stack(np.meshgrid(*map(np.arange, window), indexing="ij")).reshape(3, -1)
    offset = grid[:, :, None] - grid[:, None, :] + np.array(window)[:, None, None] - 1
    _, h, w = (2 * side - 1 for side in window)
    return (offset[0] * h + offset[1]) * w + offset[2]


def regions(size: Triple, window: Triple, shift: Triple) -> np.ndarray:
    """int32 [n, N]: after the roll, tokens of a window with different numbers were no neighbours before it."""
    region = np.zeros((1, *size, 1), np.int32)
    for axis, (s, w, moved) in enumerate(zip(size, window, shift, strict=True), start=1):
        place = np.arange(s)
        part = np.where(place < s - w, 0, np.where(place < s - moved, 1, 2))
        region = 3 * region + part.reshape([-1 if a == axis else 1 for a in range(5)])
    return np.asarray(split_windows(region, window))[0, :, :, 0]


def split_windows(x: Any, window: Triple) -> Any:
    """[B, T, H, W, C], whole windows -> [B, n windows, N tokens, C]."""
    b, t, h, w, c = x.shape
    i, j, k = window
    x = x.reshape(b, t // i, i, h // j, j, w // k, k, c).transpose(0, 1, 3, 5, 2, 4, 6, 7)
    return x.reshape(b, -1, i * j * k, c)


def join_windows(x: jax.Array, size: Triple, window: Triple) -> jax.Array:
    """The inverse of `split_windows`."""
    (t, h, w), (i, j, k) = size, window
    x = x.reshape(x.shape[0], t // i, h // j, w // k, i, j, k, x.shape[-1]).transpose(0, 1, 4, 2, 5, 3, 6, 7)
    return x.reshape(x.shape[0], t, h, w, x.shape[-1])


def _pad(x: jax.Array, multiple: Triple) -> jax.Array:
    """Zeros at the ends of time, height and width, up to multiples."""
    ends = [(0, -size % of) for size, of in zip(x.shape[1:4], multiple, strict=True)]
    return jnp.pad(x, ((0, 0), *ends, (0, 0))) if any(end for _, end in ends) else x


def _roll(x: jax.Array, shift: Triple, sign: int, shifted: jax.Array, share: Share) -> jax.Array:
    for axis, moved in enumerate(shift, start=1):
        if moved and axis == 1 and share.count > 1:
            x = jnp.where(shifted > 0, share.roll(x, sign * moved, axis), x)
        elif moved:
            x = jnp.roll(x, sign * moved * shifted, axis)
    return x


@dataclasses.dataclass(frozen=True)
class Swin:
    """A backbone in the project's contract (tadjax/backbones/vit.py); T frames become T/2 steps of 32 x 32 pixels.

    share: what part of a window it sees; a whole number of attention windows.
    """

    stem_width: int
    depths: tuple[int, int, int, int]
    heads: tuple[int, int, int, int]
    window: Triple = (8, 7, 7)
    drop_path_rate: float = 0.0
    attention: str = "xla"
    dtype: Any = jnp.float32
    stream: Any = jnp.float32
    share: Share = Share()

    @property
    def width(self) -> int:
        return self.stem_width * 2 ** (len(self.depths) - 1)

    @property
    def depth(self) -> int:
        return sum(self.depths)

    @property
    def _merging(self) -> PatchMerging:
        return PatchMerging(self.dtype)

    def _block(self, stage: int) -> Block:
        return Block(self.heads[stage], self.window, self.attention, self.dtype, self.share)

    def init(self, key: jax.Array) -> dict:
        """Random float32 parameters: patch_embed, stage0 to stage3 (merging, where there is one before the blocks, and
        blocks, stacked on a leading layer axis) and the norm of the last output.
        """
        embed_key, key = jax.random.split(key)
        embed = PatchEmbed(self.stem_width).init(embed_key, jnp.zeros((1, *PATCH, 3)))["params"]
        params = {"patch_embed": embed}
        for stage, depth in enumerate(self.depths):
            key, merging_key, block_key = jax.random.split(key, 3)
            d = self.stem_width * 2**stage
            of_stage = params[f"stage{stage}"] = {}
            if stage:
                of_stage["merging"] = self._merging.init(merging_key, jnp.zeros((1, 1, 2, 2, d // 2)))["params"]
            x, block = jnp.zeros((1, 1, 1, 1, d)), self._block(stage)
            of_stage["blocks"] = jax.vmap(lambda k: block.init(k, x, 0)["params"])(  # noqa: B023
                jax.random.split(block_key, depth)
            )
        params["norm"] = {"scale": jnp.ones(self.width), "bias": jnp.zeros(self.width)}
        return params

    def embed(self, params: dict, frames: jax.Array) -> jax.Array:
        """Frames [B, T, H, W, 3] in 0..255 -> patches, stream [B, T/2, H/4, W/4, C]."""
        return self.stem(params, normalise(frames, MEAN, STD, self.dtype))

    def stem(self, params: dict, x: jax.Array) -> jax.Array:
        """`embed`, of frames that are normalised already."""
        return PatchEmbed(self.stem_width, self.dtype).apply({"params": params["patch_embed"]}, x).astype(self.stream)

    def stages(self, params: dict) -> list[Stage]:
        stages = []
        for number, depth in enumerate(self.depths):
            of_stage, run = params[f"stage{number}"], self._runner(number)
            layers = {"block": of_stage["blocks"], "shifted": jnp.arange(depth) % 2}
            if number:
                first = jax.tree.map(lambda a: a[:1], layers)
                first["merging"] = jax.tree.map(lambda a: a[None], of_stage["merging"])
                stages.append(Stage(first, run))
                layers = jax.tree.map(lambda a: a[1:], layers)
            if number == 0 or depth > 1:
                stages.append(Stage(layers, run))
        return [*stages, Stage(jax.tree.map(lambda a: a[None], params["norm"]), self._final_norm)]

    def _runner(self, number: int) -> Any:
        def run(layer: dict, x: jax.Array, branch_scale: jax.Array | None = None) -> jax.Array:
            if "merging" in layer:
                x = self._merging.apply({"params": layer["merging"]}, x)
            scale = None if branch_scale is None else branch_scale[..., 0]
            return self._block(number).apply({"params": layer["block"]}, x, layer["shifted"], scale)

        return run

    def _final_norm(self, layer: dict, x: jax.Array, branch_scale: jax.Array | None = None) -> jax.Array:
        return _norm().apply({"params": layer}, x).astype(self.stream)

    def pool(self, x: jax.Array) -> jax.Array:
        """The spatial mean, [B, T', h, w, D] -> float32 [B, T', D]."""
        return x.astype(jnp.float32).mean((2, 3))

    def steps(self, frames: int) -> int:
        """T', the steps that `pool` makes of so many frames."""
        return -(-frames // PATCH[0])

    def drop_path(self, key: jax.Array, batch: int, frames: int) -> list[jax.Array | None]:
        """Factors of the residual branches, one array a stage: [layers, 2 branches, B, 1]; the norm has none.

        A draw a window, layer and branch; the rate rises linearly over the layers.
        """
        rates = jnp.linspace(0.0, self.drop_path_rate, self.depth)[:, None, None, None]
        factors = jax.random.bernoulli(key, 1 - rates, (self.depth, 2, batch, 1)) / (1 - rates)
        ends, begin = [], 0
        for number, depth in enumerate(self.depths):
            ends += [begin + depth] if number == 0 or depth == 1 else [begin + 1, begin + depth]
            begin += depth
        return [factors[a:b] for a, b in zip([0, *ends], ends, strict=False)] + [None]
