"""LoSA: Long-Short-range Adapter for scaling end-to-end temporal action localization (Gupta et al., WACV 2025).

Beside a frozen backbone, for its layers i = 1 ... N-1, whose outputs are F_i (section 3):

    F'_i = conv_i(F_i)                                       space collapsed, [B, T', w]
    FS_i = CrossAttn_short_i(q = F'_i, k = v = F'_N)         [B, T', C]
    FL_i = CrossAttn_long_i (q = F'_i, k = v = F'_N)
    FS   = sum_i p_i^short FS_i,   FL = sum_i p_i^long FL_i  gates p_i, zero at the start
    FT   = Proj([FS + F_N, FL + F_N])                        what the head sees

Where T_i differs from F_N's T', as in networks with stages or pathways, a learned matrix maps the steps of F'_i to T'.
The tap is conv_i: a 1x1 convolution C -> w, GELU, and a learned weighting of the h x w positions, on the grid of the
pre-training resolution and resized as the position table is. All else works on the small taps. In the paper's words
the short-range queries are those of one clip and the long-range ones those of the whole video; queries do not interact,
so that as published the two differ in their weights only. `short_range_clips` makes the short range short.
Proj starts as [I/2, I/2], gates at 0: at the start the head sees the last layer's features.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from tadjax.adaptation import stacks, taps
from tadjax.adaptation.inside import Memory
from tadjax.backbones.layers import dense, resize_in_time
from tadjax.backbones.vit import CLIP_STEPS, bicubic_matrix, sine_cosine

HEADS = 4  # of the cross-attentions
MASKED = -1e30  # score of a key that must not be seen
RANGES = ("short", "long")

# The paper names none. This is PyTorch's for linear layers: at ViT-g's widths near the usual deviation of 0.02; at
# small ones that would leave scores of 1e-4, and attention that never learns to tell steps apart.
_kernel_init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform", batch_axis=0)


@dataclasses.dataclass(frozen=True)
class Losa:
    """The adapters and their fusion. The fields are those of `config.adaptation` (ablations: the paper's table 4).

    width: w, of the taps and of the attention; 0 = about 0.34 C. image: side of the pictures of the pre-training, which
    give the grids of positions; frames: of a window. Both are needed by `init` alone. clip_steps: of a clip.
    ranges: ("short", "long") or one of them. fusion: Proj of both; without it their plain sum. gate: "zero", "one" and
    "random" (0 to 1) are what learned gates start from; "cosine" is not learned but the similarity of a layer's adapted
    features with F_N, both averaged over time. short_range_clips: clips on either side that the short range reaches;
    -1 = all of the window, as published. positions: "sincos" adds the time step's position to queries and keys.
    gather: see taps.run.
    """

    width: int = 0
    image: int = 224
    frames: int = 16
    clip_steps: int = CLIP_STEPS
    ranges: tuple[str, ...] = RANGES
    fusion: bool = True
    gate: str = "zero"
    short_range_clips: int = -1
    positions: str = "none"
    dtype: Any = jnp.float32
    gather: taps.Gather = taps.all_here

    def init(self, key: jax.Array, backbone: Any, layers: tuple[int, ...]) -> dict:
        """Random float32 parameters.

        conv: of the adapted layers and, last, layer N, stacked as stacks.py says. time: the same, of T_i other than
        T'. attention/{short, long}, gate/{short, long}: of the adapted layers, stacked. projection: Proj.
        """
        channels, width = backbone.width, self.width_for(backbone.width)
        conv_key, attention_key, gate_key = jax.random.split(key, 3)
        count = len(layers)
        params = {
            **self._init_taps(conv_key, backbone, (*layers, backbone.depth - 1)),
            "attention": {
                name: {
                    "query": _dense_init(keys[0], count, width, width),
                    "key": _dense_init(keys[1], count, width, width),
                    "value": _dense_init(keys[2], count, width, width),
                    "out": _dense_init(keys[3], count, width, channels),
                }
                for name, keys in zip(self.ranges, jax.random.split(attention_key, (2, 4)), strict=False)
            },
        }
        starts = {"zero": jnp.zeros, "one": jnp.ones, "random": lambda shape: jax.random.uniform(gate_key, shape)}
        if self.gate != "cosine":
            params["gate"] = dict(zip(self.ranges, starts[self.gate]((len(self.ranges), count)), strict=True))
        if self.fusion:
            parts = len(self.ranges)
            kernel = jnp.concatenate([jnp.eye(channels) / parts] * parts)
            params["projection"] = {"kernel": kernel, "bias": jnp.zeros((channels,))}
        return params

    def _init_taps(self, key: jax.Array, backbone: Any, layers: tuple[int, ...]) -> dict:
        """conv and, where a stage has other steps than F_N, time, which starts as the linear interpolation."""
        stages = stacks.outline(backbone, (1, self.frames, self.image, self.image, 3))
        width, steps, convs, times = self.width_for(backbone.width), backbone.steps(self.frames), {}, {}
        for stage, within in stacks.places([of.depth for of in stages], layers).items():
            count, (_, t, h, w, channels) = len(within), stages[stage].shape
            of_stage = key if len(stages) == 1 else jax.random.fold_in(key, stage)
            convs[stage] = {
                "point": _dense_init(of_stage, count, channels, width),
                "space": jnp.ones((count, h, w, width)),
            }
            if t != steps:
                interpolation = resize_in_time(jnp.eye(t)[None], steps)[0]  # [T', T_i]
                times[stage] = jnp.stack([interpolation] * count)
        conv = {"conv": stacks.join(convs, len(stages))}
        return {**conv, "time": stacks.join(times, len(stages))} if times else conv

    def width_for(self, channels: int) -> int:
        """w for a backbone of width C: 480 for ViT-g (1,408), where the published number of parameters comes out."""
        return self.width or max(32, round(0.34 * channels / 32) * 32)

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
        """Frames [B, T, H, W, 3] in 0..255 -> FT, float32 [B, T', C].

        layers: the adapted ones, without layer N. valid: bool [B, T'], the steps that serve as keys; None = all.
        """
        stages = len(backbone.stages(params))
        convs = stacks.split(adapters["conv"], stages)
        collected, f_n = taps.run(
            backbone,
            params,
            frames,
            tap=self.convolve,
            tap_params=list(convs.values()),
            layers=(*layers, backbone.depth - 1),
            storage=memory.taps,
            clips_per_group=memory.clips_per_group,
            gather=self.gather,
        )
        times = stacks.split(adapters["time"], stages) if "time" in adapters else {}
        f = dict(zip(convs, collected, strict=True))
        f |= {stage: jnp.einsum("nst,nbtw->nbsw", time, f[stage]) for stage, time in times.items()}
        f = jnp.concatenate(list(f.values()))  # [n + 1, B, T', w]
        return self.fuse(adapters, f[:-1], f[-1], f_n, valid)

    def convolve(self, conv: dict, x: jax.Array) -> jax.Array:
        """The tap F'_i: [B, T_i, h, w, C] -> float32 [B, T_i, w]. The weighting of the positions is a weighted mean."""
        hidden = nn.gelu(dense(conv["point"], x, self.dtype), approximate=False)
        grid = conv["space"].shape[:2]
        rows, columns = (bicubic_matrix(*sides).astype(np.float32) for sides in zip(grid, x.shape[2:4], strict=True))
        space = jnp.einsum("hi,wj,ijc->hwc", rows, columns, conv["space"])
        return (hidden.astype(jnp.float32) * space).mean((2, 3))

    def fuse(
        self, adapters: dict, f: jax.Array, f_last: jax.Array, f_n: jax.Array, valid: jax.Array | None
    ) -> jax.Array:
        """F'_i [n, B, T', w], F'_N [B, T', w], the features F_N [B, T', C] -> FT [B, T', C]."""
        masks = {name: self._mask(name, f_last.shape[1], valid) for name in self.ranges}
        positions = 0.0
        if self.positions == "sincos":
            positions = jnp.asarray(sine_cosine(f_last.shape[1], f_last.shape[2]))

        def add_layer(sums: dict, layer: tuple) -> tuple[dict, None]:
            f_i, of_layer, gates = layer
            for name in self.ranges:
                adapted = self._attend(of_layer[name], f_i + positions, f_last + positions, f_last, masks[name])
                gate = _cosine(adapted, f_n, valid) if gates is None else gates[name]
                sums = {**sums, name: sums[name] + gate * adapted}
            return sums, None

        zeros = {name: jnp.zeros_like(f_n) for name in self.ranges}
        stacked = (f, adapters["attention"], adapters.get("gate"))
        sums, _ = jax.lax.scan(jax.checkpoint(add_layer, prevent_cse=False), zeros, stacked)
        if not self.fusion:
            return f_n + sum(sums.values())
        parts = jnp.concatenate([sums[name] + f_n for name in self.ranges], axis=-1)  # [B, T', 2C]
        projection = adapters["projection"]
        # At the start this must give back F_N to the last bit, which is no matter of speed.
        return jnp.matmul(parts, projection["kernel"], precision="highest") + projection["bias"]

    def _mask(self, name: str, steps: int, valid: jax.Array | None) -> jax.Array:
        """Which keys a query sees: bool, broadcastable to [B, T' queries, T' keys]."""
        clip = jnp.arange(steps) // self.clip_steps
        mask = jnp.ones((1, steps, steps), bool)
        if name == "short" and self.short_range_clips >= 0:
            mask = (jnp.abs(clip[:, None] - clip) <= self.short_range_clips)[None]
        return mask if valid is None else mask & valid[:, None, :]

    def _attend(
        self, layer: dict, queries: jax.Array, keys: jax.Array, values: jax.Array, mask: jax.Array
    ) -> jax.Array:
        """Cross-attention [B, T', w] -> float32 [B, T', C]; a query that may see no key sees all of them."""
        b, t, width = queries.shape

        def heads(name: str, x: jax.Array) -> jax.Array:
            return dense(layer[name], x.astype(self.dtype), self.dtype).reshape(b, t, HEADS, width // HEADS)

        q, k, v = heads("query", queries), heads("key", keys), heads("value", values)
        scores = jnp.einsum("bqhd,bkhd->bhqk", q * q.shape[-1] ** -0.5, k, preferred_element_type=jnp.float32)
        weights = jax.nn.softmax(jnp.where(mask[:, None], scores, MASKED)).astype(self.dtype)
        out = jnp.einsum("bhqk,bkhd->bqhd", weights, v).reshape(b, t, width)
        return dense(layer["out"], out, self.dtype).astype(jnp.float32)


def _cosine(adapted: jax.Array, f_n: jax.Array, valid: jax.Array | None) -> jax.Array:
    """The gate [B, 1, 1] that is not learned: similarity of two [B, T', C], each summed over the valid steps."""
    where = None if valid is None else valid[..., None]
    a, b = (jnp.sum(x, axis=1, keepdims=True, where=where) for x in (adapted, f_n))
    norms = jnp.linalg.norm(a, axis=-1, keepdims=True) * jnp.linalg.norm(b, axis=-1, keepdims=True)
    return jax.lax.stop_gradient((a * b).sum(-1, keepdims=True) / jnp.maximum(norms, 1e-12))


def _dense_init(key: jax.Array, count: int, inputs: int, outputs: int) -> dict:
    return {"kernel": _kernel_init(key, (count, inputs, outputs)), "bias": jnp.zeros((count, outputs))}
