"""V-JEPA 2 and 2.1 encoders (Assran et al. 2025), as video backbones.

Blocks as VideoMAE's (vit.py) but for a key bias, positions, and a norm at the end. There is no table of positions: in
every block queries and keys are rotated by the token's step, row and column. A head's channels are three segments of d
channels for time, row and column, then a rest that stays. In a segment, channels (2m, 2m + 1) are a pair:

    V-JEPA 2     tiled: channel e turns by p / 10000 ** (j / (d/2)), j = e mod d/2, so that the two of a pair turn by
                 different angles. No rotation, but what the weights were trained with.
    V-JEPA 2.1   interleaved: j = floor(e / 2), a rotation. Rows and columns are stretched to 0 .. 15 on any grid.

Clips may have any even number of frames; each begins at step 0. The pre-training saw 16, then 64.
V-JEPA 2.1 norms its tokens after four of its layers, each with a norm of its own. The last one's are the features; a
method beside the backbone that taps one of these layers sees it normed, as it was trained to be seen.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tadjax.backbones.vit import CLIP_FRAMES, Clips, Stage, Style, in_clips, make_norm

BASE = 10000.0
STRETCHED = 15.0  # the last row and column of 2.1: those of 256 pixels in patches of 16

# width D, depth, heads, patch, MLP hidden width
SIZES = {
    "l": dict(width=1024, depth=24, heads=16, patch=16, mlp_width=4096),
    "h": dict(width=1280, depth=32, heads=16, patch=16, mlp_width=5120),
    "g": dict(width=1408, depth=40, heads=22, patch=16, mlp_width=6144),
    "tiny": dict(width=48, depth=5, heads=3, patch=16, mlp_width=192),  # the configs' tiny twins
}
# The same, and the layers, from 0, that norms follow.
SIZES_21 = {
    "b": dict(width=768, depth=12, heads=12, patch=16, mlp_width=3072, levels=(2, 5, 8, 11)),
    "l": dict(width=1024, depth=24, heads=16, patch=16, mlp_width=4096, levels=(5, 11, 17, 23)),
    "g": dict(width=1408, depth=40, heads=22, patch=16, mlp_width=6144, levels=(9, 19, 29, 39)),
    "G": dict(width=1664, depth=48, heads=26, patch=16, mlp_width=8192, levels=(11, 23, 37, 47)),
    "tiny": dict(width=48, depth=5, heads=3, patch=16, mlp_width=192, levels=(0, 2, 3, 4)),
}


@dataclasses.dataclass(frozen=True)
class VJepa(Clips):
    """A backbone in the project's contract (tadjax/backbones/vit.py); T frames become T / 2 steps.

    levels: of V-JEPA 2.1, the layers that norms follow, the last layer included; () is V-JEPA 2. clip_frames: frames
    that see each other, even. normed: whether the last norm is part of the features.
    """

    width: int
    depth: int
    heads: int
    patch: int
    mlp_width: int
    levels: tuple[int, ...] = ()
    clip_frames: int = CLIP_FRAMES
    normed: bool = True
    drop_path_rate: float = 0.0
    attention: str = "xla"
    dtype: Any = jnp.float32
    stream: Any = jnp.float32

    style = Style(biases="qkv")

    def init(self, key: jax.Array) -> dict:
        """Random float32 parameters: patch_embed, blocks (stacked on a leading layer axis), final_norm; of V-JEPA 2.1
        video_embed [D], and final_norm stacked over the levels.
        """
        embed_key, block_key, video_key = jax.random.split(key, 3)
        params = {"patch_embed": self._init_embed(embed_key), "blocks": self._init_blocks(block_key, self.depth)}
        shape = (len(self.levels), self.width) if self.levels else (self.width,)
        params["final_norm"] = {"scale": jnp.ones(shape), "bias": jnp.zeros(shape)}
        if self.levels:
            params["video_embed"] = 1e-6 * jax.random.normal(video_key, (self.width,))
        return params

    def embed(self, params: dict, frames: jax.Array) -> jax.Array:
        """Frames [B, T, H, W, 3] in 0..255 (whole clips) -> tokens, stream [B, T/2, h, w, D]."""
        x = self._tokens(params, frames)
        if self.levels:
            x = x + params["video_embed"].astype(jnp.float32)
        return x.astype(self.stream)

    def stages(self, params: dict) -> list[Stage]:
        """The blocks and, as a stage of its own, the last norm."""
        last = params["final_norm"]
        layers = {"block": params["blocks"]}
        if self.levels:
            # Each layer's norm: its level's, or of layers that are none an unused one.
            level = np.array([self.levels.index(i) if i in self.levels else 0 for i in range(self.depth)])
            layers["norm"] = jax.tree.map(lambda a: a[level], last)
            layers["is_level"] = jnp.array([i in self.levels for i in range(self.depth)])
            last = jax.tree.map(lambda a: a[-1], last)
        stages = [Stage(layers, self._run, self.clip_steps, seen=self._seen if self.levels else None)]
        if self.normed:
            stages.append(Stage(jax.tree.map(lambda a: a[None], last), self._norm, self.clip_steps))
        return stages

    def _run(self, layer: dict, x: jax.Array, branch_scale: jax.Array | None = None) -> jax.Array:
        rotation = self._rotation(*x.shape[2:4])
        return in_clips(self._block, layer["block"], x, self.clip_steps, branch_scale, rotation)

    def _norm(self, layer: dict, x: jax.Array, branch_scale: jax.Array | None = None) -> jax.Array:
        return make_norm("layer").apply({"params": layer}, x).astype(self.stream)

    def _seen(self, layer: dict, x: jax.Array) -> jax.Array:
        return jnp.where(layer["is_level"], self._norm(layer["norm"], x), x)

    def _rotation(self, h: int, w: int) -> tuple[jax.Array, jax.Array]:
        """Cosines and sines of a clip's tokens, float32 [steps h w, head_dim]. ValueError for a grid that 2.1 has not.

        The tables of the axes are small constants; their product is made where it is used.
        """
        stretched = bool(self.levels)
        if stretched and min(h, w) < 2:
            raise ValueError(f"V-JEPA 2.1 stretches rows and columns to 16: {h} x {w} patches are too few for it")
        head_dim, steps = self.width // self.heads, self.clip_steps
        d = head_dim // 3 // 2 * 2
        axes = [np.arange(steps, dtype=np.float64)]
        axes += [np.arange(n) * (STRETCHED / (n - 1) if stretched else 1.0) for n in (h, w)]
        angles = [axis_angles(positions, d, tiled=not stretched) for positions in axes]

        def over_the_clip(function: Any, rest: float) -> jax.Array:
            parts = [jnp.asarray(function(a), jnp.float32) for a in angles]
            parts = [p.reshape([-1 if i == axis else 1 for i in range(3)] + [d]) for axis, p in enumerate(parts)]
            parts = [jnp.broadcast_to(p, (steps, h, w, d)) for p in parts]
            parts.append(jnp.full((steps, h, w, head_dim - 3 * d), rest, jnp.float32))
            return jnp.concatenate(parts, -1).reshape(steps * h * w, head_dim)

        return over_the_clip(np.cos, 1.0), over_the_clip(np.sin, 0.0)

    def drop_path(self, key: jax.Array, batch: int, frames: int) -> list[jax.Array | None]:
        """The draws of stochastic depth, one array a stage; the norm has none."""
        return [self._drop_path(key, self.depth, batch, frames), *[None] * self.normed]


def axis_angles(positions: np.ndarray, d: int, tiled: bool) -> np.ndarray:
    """Angles [positions, d] of a segment of d channels."""
    half = np.arange(d // 2)
    order = np.tile(half, 2) if tiled else np.repeat(half, 2)
    return positions[:, None] * BASE ** (-order / (d / 2))
