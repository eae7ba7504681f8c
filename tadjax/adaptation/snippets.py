"""Snippet representation: a feature step is a short snippet of frames that the backbone sees alone, averaged.

What action detection on cached features has always done, and the baseline of AdaTAD (Liu et al., CVPR 2024) and LoSA
(Gupta et al., WACV 2025) to the frame representation, where a window's frames are one sequence. With a stride below the
snippet's length the backbone does the same work several times: 16 frames every 4 cost four times as much.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from tadjax.adaptation.inside import join_groups, split_groups


@dataclasses.dataclass(frozen=True)
class Snippets:
    """frames: S, of a snippet. per_group: snippets of a window that go through the backbone at once; 0 = all."""

    frames: int
    per_group: int = 0

    def features(
        self,
        run: Callable[[jax.Array, list | None], jax.Array],
        frames: jax.Array,
        length: int,
        scales: list | None,
    ) -> jax.Array:
        """Frames [B, F, H, W, 3] -> features [B, length, D], the mean of each snippet's steps.

        The first frames of successive snippets are F's (F - S) / (length - 1) frames apart: they share the frames in
        which they overlap (tadjax/data/sampling.py). run: (frames [n, S, H, W, 3], their scales) -> [n, T', D].
        scales: draws of stochastic depth [layers, branches, B, length, clips], one array a stage. Groups are recomputed
        one by one in the backward pass. ValueError if the snippets are no whole number of groups.
        """
        batch, total, *picture = frames.shape
        groups = length // (self.per_group or length)
        if self.per_group and length % self.per_group:
            raise ValueError(f"{length} snippets are no whole number of groups of {self.per_group}")
        first = np.arange(length) * ((total - self.frames) // max(length - 1, 1))
        scales = jax.tree.map(lambda a: split_groups(a, 3, groups), scales)

        @jax.checkpoint
        def of_group(group: tuple[jax.Array, list | None]) -> jax.Array:
            first, scales = group
            scales = jax.tree.map(lambda a: a.reshape(*a.shape[:2], -1, *a.shape[4:]), scales)  # B * G snippets
            index = first[:, None] + jnp.arange(self.frames)
            snippets = jnp.asarray(frames)[:, index].reshape(-1, self.frames, *picture)  # [B * G, S, H, W, 3]
            return run(snippets, scales).mean(1).reshape(batch, len(first), -1)  # [B, G, D]

        return join_groups(jax.lax.map(of_group, (jnp.asarray(first).reshape(groups, -1), scales)), 1)
