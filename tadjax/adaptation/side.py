"""AdaTAD-dagger: temporal-informative adapters beside the backbone (Liu et al., CVPR 2024, section 3.4).

    y = x_N + sum_i alpha_i (W_up h'_i + b_up)      with h'_i as in the adapter inside (tia.py), of layer i's output

and the head sees the spatial mean of y. After h_i = GELU(W_down x_i + b_down), all that follows up to that mean is
affine and acts on time only. So the mean can be taken at once: layer i's tap is m_i = mean_hw(h_i) [B, T', d/r], and
the temporal convolution, W_mid and W_up run on m_i. Exact, and one matrix product a layer is left at full resolution.

Where the kernel reaches over space this does not hold; the tap is then the mean of the whole adapter's output.

Where a backbone's stages differ in width and in time, W_up leads to the last one's width, and what comes of it is
resized in time to the last one's steps.
"""

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from tadjax.adaptation import stacks, taps
from tadjax.adaptation.inside import Memory
from tadjax.adaptation.tia import DepthwiseConv, Tia
from tadjax.backbones.layers import dense, resize_in_time


@dataclasses.dataclass(frozen=True)
class Side:
    """The adapters of AdaTAD-dagger on the layers that the caller names, and what their sum is added to.

    base: "last", the backbone's last layer, or "listed", the last layer with an adapter, which is the published code's
    reading (the layers above it are then not run). All published recipes adapt the last layer, where both agree.
    gather: see taps.run.
    """

    tia: Tia
    base: str = "last"
    gather: taps.Gather = taps.all_here

    @property
    def pooled(self) -> bool:
        """Whether the spatial mean can be taken before the convolution: its kernel does not reach over space."""
        return not self.tia.kernel or self.tia.kernel[1:] == (1, 1)

    def init(self, key: jax.Array, backbone: Any, layers: tuple[int, ...]) -> dict:
        """Random float32 parameters, named and stacked as the adapters inside are (stacks.py)."""
        return stacks.init(key, backbone, layers, lambda k, x: self._tia(backbone).init(k, x)["params"])

    def _tia(self, backbone: Any) -> Tia:
        return self.tia.clone(width=backbone.width)

    def features(
        self,
        backbone: Any,
        params: Any,
        adapters: dict,
        frames: jax.Array,
        *,
        layers: tuple[int, ...],
        memory: Memory,
        valid: jax.Array | None = None,
    ) -> jax.Array:
        """Frames [B, T, H, W, 3] in 0..255 -> mean_hw(y), float32 [B, T', D].

        params are the frozen backbone's. ValueError for a kernel over space with clips_per_group: the groups cut time.
        """
        del valid  # a padded step reaches its neighbour only, as inside the backbone
        if not self.pooled and memory.clips_per_group:
            raise ValueError(f"adapters with kernel {self.tia.kernel} beside the backbone need clips_per_group = 0")
        of_stages = list(stacks.split(adapters, len(backbone.stages(params))).values())
        whole = functools.partial(self.whole, self._tia(backbone))
        collected, x_n = taps.run(
            backbone,
            params,
            frames,
            tap=self.squeeze if self.pooled else whole,
            tap_params=of_stages,
            layers=layers,
            storage=memory.taps,
            clips_per_group=memory.clips_per_group,
            to_the_end=self.base == "last",
            gather=self.gather,
        )
        y = x_n
        for of_stage, outputs in zip(of_stages, collected, strict=True):
            y = y + resize_in_time(self._sum(of_stage, outputs), x_n.shape[1])
        return y

    def _sum(self, adapters: dict, outputs: jax.Array) -> jax.Array:
        """The layers' taps [n, B, T_i, h], expanded one after the other, or [n, B, T_i, D] -> float32 [B, T_i, D]."""
        if not self.pooled:
            return outputs.astype(jnp.float32).sum(0)

        def add_layer(total: jax.Array, layer: tuple) -> tuple[jax.Array, None]:
            return total + self.expand(*layer).astype(jnp.float32), None

        width = jax.tree.leaves(adapters["up"]["bias"])[0].shape[-1]
        zeros = jnp.zeros((*outputs.shape[1:-1], width), jnp.float32)
        return jax.lax.scan(jax.checkpoint(add_layer, prevent_cse=False), zeros, (adapters, outputs))[0]

    def squeeze(self, adapter: dict, x: jax.Array) -> jax.Array:
        """The tap m = mean_hw GELU(W_down x + b_down): [B, T', h, w, D] -> float32 [B, T', h]."""
        h = nn.gelu(dense(adapter["down"], x, self.tia.dtype), approximate=False)
        return h.astype(jnp.float32).mean((2, 3))

    def expand(self, adapter: dict, m: jax.Array) -> jax.Array:
        """What follows on the pooled bottleneck: m [B, T', h] -> alpha (W_up h' + b_up), float32 [B, T', D]."""
        tia, h = self.tia, m
        if tia.kernel:
            dwconv = DepthwiseConv(h.shape[-1], tia.kernel, tia.dtype, tia.halo)
            mixed = dwconv.apply({"params": adapter["dwconv"]}, h[:, :, None, None])[:, :, 0, 0]
            mixed = dense(adapter["mid"], mixed, tia.dtype)
            h = h + mixed if tia.residual else mixed
        return adapter["alpha"] * dense(adapter["up"], h, tia.dtype).astype(jnp.float32)

    def whole(self, tia: Tia, adapter: dict, x: jax.Array) -> jax.Array:
        """The tap for kernels over space: the spatial mean of the adapter's whole output, float32 [B, T', D]."""
        return tia.apply({"params": adapter}, x).astype(jnp.float32).mean((2, 3))
