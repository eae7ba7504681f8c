"""InternVideo2's first stage and what was distilled from it (Wang et al. 2024), as video backbones.

Blocks of the kind of vit.py with RMS norms, none of them after the last block; without biases in front of the
attention, but with norms of queries and keys over all heads together; and with a factor a channel on each branch.
Frames are steps of their own. A class token stands before a clip's patches: it sees and is seen, but is no feature, and
no adapter touches it. What flows through the blocks is so a pair: the map [B, T, h, w, D], and a token a clip
[B, clips, 1, 1, D].

The learned table of positions is resized to other grids and clips: linearly in time, then bicubically in space.
The GELU is the tanh approximation, with which the authors' fused layers trained the weights; gelu = "erf" is what their
code computes without these layers. layer: the last layer that is run, counted from the end; in the paper's appendix
features of -5 and -7 are better than those of the last.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tadjax.backbones.vit import Clips, Stage, Style, bicubic_matrix, in_clips
from tadjax.errors import ConfigError

FRAMES = 8  # of a clip, and of the table of positions, in most published files
IMAGE = 224  # pixels

# width D, blocks, heads, patch, MLP hidden width
SIZES = {
    "s": dict(width=384, blocks=12, heads=6, patch=14, mlp_width=1536),
    "b": dict(width=768, blocks=12, heads=12, patch=14, mlp_width=3072),
    "l": dict(width=1024, blocks=24, heads=16, patch=14, mlp_width=4096),
    "1b": dict(width=1408, blocks=40, heads=16, patch=14, mlp_width=6144),
    "tiny": dict(width=48, blocks=5, heads=3, patch=14, mlp_width=192),  # the configs' tiny twins
}


@dataclasses.dataclass(frozen=True)
class InternVideo2(Clips):
    """A backbone in the project's contract (tadjax/backbones/vit.py); T frames are T steps.

    blocks: in the file, of which `layer` says how many are run. image, position_frames: the pixels and frames of the
    clips that the table of positions belongs to. clip_frames: frames that see each other.
    """

    width: int
    blocks: int
    heads: int
    patch: int
    mlp_width: int
    image: int = IMAGE
    position_frames: int = FRAMES
    clip_frames: int = FRAMES
    gelu: str = "tanh"
    layer: int = -1
    drop_path_rate: float = 0.0
    attention: str = "xla"
    dtype: Any = jnp.float32
    stream: Any = jnp.float32

    tubelet = 1

    def __post_init__(self):
        if not 1 <= self.depth <= self.blocks:
            raise ConfigError(f"config.backbone.layer = {self.layer}: there are -1, the last, to {-self.blocks}")

    @property
    def depth(self) -> int:
        """Layers that are run."""
        return self.blocks + 1 + self.layer

    @property
    def style(self) -> Style:
        return Style(norm="rms", biases="", qk_norm=True, layer_scale=True, gelu=self.gelu)

    def init(self, key: jax.Array) -> dict:
        """Random float32 parameters: patch_embed, class_token [D], positions [1 + frames g g, D] (the class token's
        first), blocks (stacked on a leading layer axis).
        """
        embed_key, class_key, table_key, block_key = jax.random.split(key, 4)
        rows = 1 + self.position_frames * (self.image // self.patch) ** 2
        return {
            "patch_embed": self._init_embed(embed_key),
            "class_token": 0.02 * jax.random.normal(class_key, (self.width,)),
            "positions": 0.02 * jax.random.normal(table_key, (rows, self.width)),
            "blocks": self._init_blocks(block_key, self.blocks),
        }

    def embed(self, params: dict, frames: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Frames [B, T, H, W, 3] in 0..255 (whole clips) -> tokens with positions [B, T, h, w, D], class tokens."""
        x = self._tokens(params, frames)
        b, t, h, w, d = x.shape
        clips = t // self.clip_frames
        table = params["positions"].astype(jnp.float32)
        x = x.reshape(b, clips, self.clip_frames, h, w, d) + self.positions(table[1:], h, w)
        first = jnp.broadcast_to(params["class_token"].astype(jnp.float32) + table[0], (b, clips, 1, 1, d))
        return x.reshape(b, t, h, w, d).astype(self.stream), first.astype(self.stream)

    def positions(self, table: jax.Array, h: int, w: int) -> jax.Array:
        """The table [frames g g, D], without the class token's row, as a clip's: float32 [clip_frames, h, w, D]."""
        grid = self.image // self.patch
        table = table.reshape(self.position_frames, grid, grid, -1)
        exact = dict(precision="highest")
        if self.clip_frames != self.position_frames:
            in_time = linear_matrix(self.position_frames, self.clip_frames)
            table = jnp.einsum("st,thwd->shwd", in_time, table, **exact)
        if (h, w) != (grid, grid):
            rows, columns = (bicubic_matrix(grid, n).astype(np.float32) for n in (h, w))
            table = jnp.einsum("hi,wj,tijd->thwd", rows, columns, table, **exact)
        return table

    def stages(self, params: dict) -> list[Stage]:
        blocks = params["blocks"]
        if self.depth < self.blocks:  # a copy of them, but no other place would know which are unused
            blocks = jax.tree.map(lambda a: a[: self.depth], blocks)
        return [Stage(blocks, self._run, self.clip_steps)]

    def _run(self, layer: dict, x: tuple, branch_scale: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
        patches, first = x
        b, t, h, w, d = patches.shape
        clips = t // self.clip_frames
        tokens = jnp.concatenate([first.reshape(b * clips, 1, d), patches.reshape(b * clips, -1, d)], axis=1)
        tokens = in_clips(self._block, layer, tokens[:, :, None, None], tokens.shape[1], branch_scale)[:, :, 0, 0]
        return tokens[:, 1:].reshape(patches.shape), tokens[:, :1].reshape(first.shape)

    def drop_path(self, key: jax.Array, batch: int, frames: int) -> list[jax.Array]:
        """The draws of stochastic depth, one array a stage."""
        return [self._drop_path(key, self.depth, batch, frames)]


def linear_matrix(source: int, target: int) -> np.ndarray:
    """Weights [target, source] of linear resizing, float32: half-pixel centres, no antialiasing, edges repeated."""
    centres = np.clip((np.arange(target) + 0.5) * source / target - 0.5, 0, source - 1)
    return np.maximum(1 - np.abs(centres[:, None] - np.arange(source)), 0).astype(np.float32)
