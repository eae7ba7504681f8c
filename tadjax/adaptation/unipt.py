"""UniPT: Universal Parallel Tuning (Diao et al., CVPR 2024), beside a frozen backbone, over the time steps of a window.

    t_i = LN(W_i h_i + b_i)                       h_i: layer i's spatial mean, [B, T', D]; i = 1 ... N
    m_i = (relu(t_N t_i^T) / row sum + I) t_i     the last layer's steps pick from layer i's
    g   = softmax_i (w . (mean t_N * mean t_i))   over the layers below the last
    y   = W_up relu(t_N + LN(W_p sum_i g_i m_i))

(its variant for sequences of features). Here y is added to the last layer's features, with W_up zero at the start. The
taps h_i have no parameters, so that nothing of the backbone is needed for the backward pass.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from tadjax.adaptation import stacks, taps
from tadjax.adaptation.inside import Memory
from tadjax.backbones.layers import dense


@dataclasses.dataclass(frozen=True)
class Unipt:
    """ratio: mapping size by the backbone's width. gather: see taps.run."""

    ratio: float = 0.5
    dtype: Any = jnp.float32
    gather: taps.Gather = taps.all_here

    def init(self, key: jax.Array, backbone: Any, layers: tuple[int, ...]) -> dict:
        """Random float32 parameters; "down" and its norm are stacked over the layers and, last, layer N."""
        channels, width, count = backbone.width, int(backbone.width * self.ratio), len(layers) + 1
        keys = jax.random.split(key, 3)
        initial = jax.nn.initializers.xavier_uniform()
        return {
            "down": {
                "kernel": jax.vmap(lambda k: initial(k, (channels, width)))(jax.random.split(keys[0], count)),
                "bias": jnp.zeros((count, width)),
            },
            "down_norm": {"scale": jnp.ones((count, width)), "bias": jnp.zeros((count, width))},
            "projection": {"kernel": initial(keys[1], (width, width)), "bias": jnp.zeros((width,))},
            "projection_norm": {"scale": jnp.ones((width,)), "bias": jnp.zeros((width,))},
            "gate": {"kernel": initial(keys[2], (width, 1)), "bias": jnp.zeros((1,))},
            "up": {"kernel": jnp.zeros((width, channels)), "bias": jnp.zeros((channels,))},
        }

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
        """Frames [B, T, H, W, 3] in 0..255 -> features, float32 [B, T', D]. layers: without layer N."""
        depth = stacks.depth(backbone.stages(params)[-1].params)
        collected, last = taps.run(
            backbone,
            params,
            frames,
            tap=lambda _, x: backbone.pool(x),
            tap_params=[jnp.zeros((len(layers) + 1, 0))],
            layers=(*layers, depth - 1),
            clips_per_group=memory.clips_per_group,
            gather=self.gather,
        )
        return last + self.interact(adapters, collected[0], valid)

    def interact(self, adapters: dict, h: jax.Array, valid: jax.Array | None = None) -> jax.Array:
        """h [n, B, T', D], layer N's last -> y, float32 [B, T', D]. valid: bool [B, T'], the steps picked from."""
        mask = jnp.ones(h.shape[1:3]) if valid is None else valid.astype(jnp.float32)
        t = dense(_each_layer(adapters["down"]), h.astype(self.dtype), self.dtype).astype(jnp.float32)
        t = _layer_norm(_each_layer(adapters["down_norm"]), t)  # [n, B, T', k]
        anchor, others = t[-1], t[:-1]
        picks = jax.nn.relu(jnp.einsum("bqk,nbsk->nbqs", anchor, others)) * mask[:, None, :]
        picks = picks / (picks.sum(-1, keepdims=True) + 1e-8)
        moved = jnp.einsum("nbqs,nbsk->nbqk", picks, others) + others
        means = (t * mask[..., None]).sum(2) / jnp.maximum(mask.sum(1), 1)[:, None]  # [n, B, k]
        gates = jax.nn.softmax(dense(adapters["gate"], means[-1] * means[:-1], jnp.float32), axis=0)  # [n - 1, B, 1]
        mixed = dense(adapters["projection"], (gates[:, :, None] * moved).sum(0), jnp.float32)
        joined = anchor + _layer_norm(adapters["projection_norm"], mixed)
        return dense(adapters["up"], jax.nn.relu(joined), jnp.float32)


def _each_layer(stacked: dict) -> dict:
    """Parameters stacked over layers, shaped to meet [n, B, T', k]: vectors gain two axes, matrices one."""
    return jax.tree.map(lambda a: a[:, None, None] if a.ndim == 2 else a[:, None], stacked)


def _layer_norm(params: dict, x: jax.Array) -> jax.Array:
    centred = x - x.mean(-1, keepdims=True)
    variance = (centred**2).mean(-1, keepdims=True)
    return centred * jax.lax.rsqrt(variance + 1e-5) * params["scale"] + params["bias"]
