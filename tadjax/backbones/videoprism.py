"""VideoPrism's video encoder (Zhao et al. 2024), as a video backbone: attention within a frame, then over time.

Spatial blocks see the patches of one frame, temporal blocks what stands at one place in all frames of a clip. Both are
of the kind of vit.py, with logits that are capped at 50, and norms whose stored scale is one less than it is. A norm
follows either part; the temporal part begins with the first one and with a learned table over frames. Both tables, of
places and of frames, are resized linearly with antialiasing where a picture or a clip has others.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from tadjax.backbones.vit import Clips, Stage, Style, make_norm

IMAGE = 288  # pixels
MEAN, STD = (0.0, 0.0, 0.0), (255.0, 255.0, 255.0)

# width D, blocks of either kind, heads, patch, MLP hidden width, rows of the table over frames
SIZES = {
    "b": dict(width=768, spatial=12, temporal=4, heads=12, patch=18, mlp_width=3072, table_frames=16),
    "l": dict(width=1024, spatial=24, temporal=4, heads=16, patch=18, mlp_width=4096, table_frames=8),
    "tiny": dict(width=48, spatial=3, temporal=2, heads=3, patch=18, mlp_width=192, table_frames=8),
}


@dataclasses.dataclass(frozen=True)
class VideoPrism(Clips):
    """A backbone in the project's contract (tadjax/backbones/vit.py); T frames are T steps.

    Its layers are the spatial blocks, then the temporal ones. image, table_frames: the pixels and frames of the
    clips that the tables belong to. clip_frames: frames that see each other.
    """

    width: int
    spatial: int
    temporal: int
    heads: int
    patch: int
    mlp_width: int
    table_frames: int
    image: int = IMAGE
    clip_frames: int = 16
    drop_path_rate: float = 0.0
    attention: str = "xla"
    dtype: Any = jnp.float32
    stream: Any = jnp.float32

    tubelet = 1
    style = Style(norm="layer_plus_one", biases="qkv", cap=50.0)

    @property
    def depth(self) -> int:
        return self.spatial + self.temporal

    def init(self, key: jax.Array) -> dict:
        """Random float32 parameters: patch_embed; spatial_ and temporal_ positions [rows, D] and blocks (stacked on a
        leading layer axis); spatial_norm and final_norm.
        """
        embed_key, *keys = jax.random.split(key, 5)
        norm = {"scale": jnp.zeros(self.width), "bias": jnp.zeros(self.width)}
        return {
            "patch_embed": self._init_embed(embed_key),
            "spatial_positions": 0.02 * jax.random.normal(keys[0], ((self.image // self.patch) ** 2, self.width)),
            "spatial_blocks": self._init_blocks(keys[1], self.spatial),
            "spatial_norm": norm,
            "temporal_positions": 0.02 * jax.random.normal(keys[2], (self.table_frames, self.width)),
            "temporal_blocks": self._init_blocks(keys[3], self.temporal),
            "final_norm": jax.tree.map(jnp.copy, norm),
        }

    def embed(self, params: dict, frames: jax.Array) -> jax.Array:
        """Frames [B, T, H, W, 3] in 0..255 (whole clips) -> tokens with positions, stream [B, T, h, w, D]."""
        x = self._tokens(params, frames, MEAN, STD)
        grid = self.image // self.patch
        table = params["spatial_positions"].astype(jnp.float32).reshape(grid, grid, self.width)
        return (x + resized(table, (*x.shape[2:4], self.width))).astype(self.stream)

    def stages(self, params: dict) -> list[Stage]:
        """Spatial blocks; the first temporal block, and what stands before it; the others; the last norm."""
        first, rest = (
            jax.tree.map(lambda a, part=part: a[part], params["temporal_blocks"]) for part in (slice(1), slice(1, None))
        )
        between = jax.tree.map(
            lambda a: a[None], {"norm": params["spatial_norm"], "positions": params["temporal_positions"]}
        )
        stages = [
            Stage(params["spatial_blocks"], self._in_space, self.clip_steps),
            Stage({"block": first, **between}, self._first_in_time, self.clip_steps),
        ]
        if self.temporal > 1:
            stages.append(Stage(rest, self._in_time, self.clip_steps))
        return [*stages, Stage(jax.tree.map(lambda a: a[None], params["final_norm"]), self.norm, self.clip_steps)]

    def _in_space(self, layer: dict, x: jax.Array, branch_scale: jax.Array | None = None) -> jax.Array:
        b, t, h, w, d = x.shape
        scale = _repeated(branch_scale, self.clip_steps)
        return self._block.apply({"params": layer}, x.reshape(b * t, h * w, d), scale).reshape(x.shape)

    def _first_in_time(self, layer: dict, x: jax.Array, branch_scale: jax.Array | None = None) -> jax.Array:
        x = self.norm(layer["norm"], x).astype(jnp.float32)
        b, t, h, w, d = x.shape
        table = resized(layer["positions"].astype(jnp.float32), (self.clip_steps, d))
        x = x.reshape(b, t // self.clip_steps, self.clip_steps, h, w, d) + table[:, None, None]
        return self._in_time(layer["block"], x.reshape(b, t, h, w, d).astype(self.stream), branch_scale)

    def _in_time(self, layer: dict, x: jax.Array, branch_scale: jax.Array | None = None) -> jax.Array:
        b, t, h, w, d = x.shape
        clips, steps = t // self.clip_steps, self.clip_steps
        places = jnp.moveaxis(x.reshape(b * clips, steps, h * w, d), 1, 2).reshape(-1, steps, d)
        places = self._block.apply({"params": layer}, places, _repeated(branch_scale, h * w))
        return jnp.moveaxis(places.reshape(b * clips, h * w, steps, d), 1, 2).reshape(x.shape)

    def norm(self, layer: dict, x: jax.Array, branch_scale: jax.Array | None = None) -> jax.Array:
        return make_norm(self.style.norm).apply({"params": layer}, x).astype(self.stream)

    def drop_path(self, key: jax.Array, batch: int, frames: int) -> list[jax.Array | None]:
        """The draws of stochastic depth, one array a stage; the last norm has none."""
        factors = self._drop_path(key, self.depth, batch, frames)
        ends = [0, self.spatial, self.spatial + 1, *([self.depth] if self.temporal > 1 else [])]
        return [factors[a:b] for a, b in zip(ends, ends[1:], strict=False)] + [None]


def resized(table: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """A table in another shape, linearly, antialiased where it shrinks."""
    return table if table.shape == shape else jax.image.resize(table, shape, "bilinear")


def _repeated(scale: jax.Array | None, rows: int) -> jax.Array | None:
    """Factors of clips [2, B, clips] for the rows that each of them falls into: [2, B * clips * rows]."""
    return None if scale is None else jnp.repeat(scale.reshape(2, -1), rows, axis=1)
