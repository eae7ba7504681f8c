"""The whole model: backbone -> adaptation -> head. Parameters in, arrays out.

A Localizer knows no files, configs, meshes or data sets; tadjax/build.py makes one of a config.

params = {"backbone": ..., "adapter": ..., "head": ...}. What is frozen is decided by the caller, who differentiates
with respect to the collections that are trained and to nothing else.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from tadjax.adaptation import inside, stacks
from tadjax.adaptation.host_frames import HostFrames
from tadjax.adaptation.snippets import Snippets
from tadjax.backbones.layers import resize_in_time

Batch = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class Localizer:
    """A backbone (tadjax/backbones), adapters inside or beside it on some of its layers, and a head (tadjax/heads).

    adapter: a module inside the blocks; beside: a method that computes the features its own way (side.Side, losa.Losa,
    petl.Aim ...). One of them at most. trains_backbone: the backbone's own parameters get gradients. snippets: each
    feature step is a snippet of the frames that the backbone sees alone; None for the frame representation.
    """

    backbone: Any
    head: Any
    feature_length: int
    adapter: nn.Module | None = None
    layers: tuple[int, ...] = ()
    memory: inside.Memory = inside.Memory()
    beside: Any = None
    trains_backbone: bool = False
    snippets: Snippets | None = None

    def init(self, key: jax.Array) -> dict:
        """Random float32 parameters of all three collections."""
        backbone_key, adapter_key, head_key = jax.random.split(key, 3)
        params = {
            "backbone": self.backbone.init(backbone_key),
            "head": self.head.init_params(head_key, self.backbone.width),
        }
        if self.beside is not None:
            params["adapter"] = self.beside.init(adapter_key, self.backbone, self.layers)
        if self.adapter is not None:
            params["adapter"] = stacks.init(
                adapter_key, self.backbone, self.layers, lambda k, x: self.adapter.init(k, x)["params"]
            )
        return params

    def features(
        self,
        params: dict,
        frames: jax.Array | HostFrames,
        rng: jax.Array | None = None,
        valid: jax.Array | None = None,
    ) -> jax.Array:
        """Frames [B, T, H, W, 3] in 0..255 -> features, float32 [B, feature_length, D].

        frames: may wait in the host's memory; with features on disk in the backbone's place these, float32
        [B, feature_length, D].
        rng: draws the stochastic depth of a backbone with adapters inside (on in training, also where the backbone is
        frozen); None for none. valid: bool [B, feature_length], what attention over the window may see; None for all.
        """
        return resize_in_time(self.steps(params, frames, rng, valid), self.feature_length)

    def steps(
        self,
        params: dict,
        frames: jax.Array | HostFrames,
        rng: jax.Array | None = None,
        valid: jax.Array | None = None,
    ) -> jax.Array:
        """Frames -> features at the backbone's own steps, float32 [B, T', D]; of snippets, one each."""
        scales = None
        if self.beside is None:
            valid = None  # what is padded reaches its neighbours only
            scales = None if rng is None else self._branch_scales(rng, *frames.shape[:2])
        elif valid is not None:
            valid = valid_steps(valid, self.backbone.steps(frames.shape[1]))
        return self.window_features(params, frames, scales, valid)

    def _branch_scales(self, rng: jax.Array, batch: int, frames: int) -> list:
        """The backbone's draws of stochastic depth; of snippets [layers, branches, B, feature_length, clips]."""
        if self.snippets is None:
            return self.backbone.drop_path(rng, batch, frames)
        drawn = self.backbone.drop_path(rng, batch * self.feature_length, self.snippets.frames)
        return jax.tree.map(lambda a: a.reshape(*a.shape[:2], batch, self.feature_length, *a.shape[3:]), drawn)

    def window_features(
        self, params: dict, frames: jax.Array | HostFrames, scales: list | None, valid: jax.Array | None
    ) -> jax.Array:
        """`steps`, of draws of stochastic depth that are made (None: none), and of valid steps [B, T'] (None: all)."""
        if self.beside is not None:
            return self.beside.features(
                self.backbone,
                params["backbone"],
                params["adapter"],
                frames,
                layers=self.layers,
                memory=self.memory,
                valid=valid,
            )

        def run(frames: jax.Array, scales: list | None) -> jax.Array:
            return inside.run(
                self.backbone,
                params["backbone"],
                frames,
                adapter=self.adapter,
                adapter_params=params.get("adapter"),
                layers=self.layers,
                branch_scales=scales,
                memory=self.memory,
                frozen=not self.trains_backbone,
            )

        if self.snippets is None:
            return run(frames, scales)
        return self.snippets.features(run, frames, self.feature_length, scales)

    def losses(
        self, params: dict, state: dict, batch: Batch, *, rng: jax.Array | None = None, train: bool = True
    ) -> tuple[dict[str, jax.Array], dict]:
        """The head's losses ("loss" is their sum) on a batch, and the head's next state (its loss normaliser).

        batch: frames [B, T, H, W, 3], valid bool [B, L], segments float32 [B, M, 2] in feature steps, labels int32
        [B, M], segment_valid bool [B, M].
        """
        backbone_rng, head_rng = (None, None) if rng is None else jax.random.split(rng)
        features = self.features(params, batch["frames"], backbone_rng, batch["valid"])
        targets = {name: batch[name] for name in ("segments", "labels", "segment_valid")}
        return self.head.losses(params["head"], state, features, batch["valid"], targets, rng=head_rng, train=train)

    def candidates(self, params: dict, batch: Batch) -> dict[str, jax.Array]:
        """Segments in feature steps [B, P, 2], scores [B, P, K] and valid [B, P], before any suppression."""
        features = self.features(params, batch["frames"], valid=batch["valid"])
        return self.head.candidates(params["head"], features, batch["valid"])


def valid_steps(valid: jax.Array, steps: int) -> jax.Array:
    """Bool [B, feature_length] -> [B, T'], the backbone's steps: those that any valid feature step lies on."""
    length = valid.shape[1]
    edges = np.arange(steps + 1) * length / steps
    first, last = np.floor(edges[:-1]).astype(int), np.ceil(edges[1:]).astype(int)
    covers = (np.arange(length) >= first[:, None]) & (np.arange(length) < last[:, None])  # [T', feature_length]
    return jnp.any(valid[:, None, :] & covers, axis=-1)
