"""G-TAD: Sub-Graph Localization for Temporal Action Detection (Xu et al., CVPR 2020).

Features of a window -> GCNeXt blocks, graph convolutions over neighbours in time and in feature space (section 3.2) ->
every segment's features aligned to a few bins (section 3.3) -> a map of overlaps of all segments up to D steps long,
and boundary probabilities of every step (section 3.4). Proposals have no class: scores come from the map, labels from
a classifier of whole videos. The numbers are those of OpenTAD's implementation, whose checkpoints this head loads,
without its rounding of features to float16 before the alignment; or, of losses and proposals, those of the authors'
own (gtad_original.py).

Memory. Alignment and the 1x1 convolution after it are both linear, so the convolution comes first: on T steps in place
of D * T segments. The aligned features of all segments, [D * T, bins, C], never exist; the largest arrays are the map
and, one duration at a time, the alignment matrix. At width 256, 512 aligned channels, float32, for one video
(temporaries of a gradient step as XLA's CPU compiler counts them; arithmetic of the forward pass):

                                      map   convolved steps   matrix   gradient step   alignment   bins of all segments
    100 x 100, 32 + 4 bins (ANet)    20 MB        7 MB         1 MB       112 MB       37 GFLOP    369 MB,  94 GFLOP
    256 x 64, 16 + 16 bins (THUMOS)  34 MB       17 MB         8 MB       228 MB      137 GFLOP    537 MB, 137 GFLOP
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from tadjax.backbones.layers import conv
from tadjax.errors import ConfigError
from tadjax.heads import gtad_original
from tadjax.heads.alignment import alignment_weights, sample_positions
from tadjax.heads.layers import bias_init, conv_init, masked
from tadjax.heads.proposal_map import balanced_bce, balanced_l2, boundary_targets, map_segments, map_targets

GROUP_WIDTH = 4  # channels of a GCNeXt path
GROUPS = 32  # paths of the blocks before the boundaries and the map, whatever those of the first
NEIGHBOURS = 3  # of a step in feature space, itself included
BOUNDARY_THRESHOLD, IOU_THRESHOLD = 0.5, 0.9  # above which a step is a boundary, a proposal an action


class GroupedConv(nn.Module):
    """Convolution over time in groups, zero padding, with bias: [B, T, ..., C] -> [B, T, ..., outputs].

    `kernel` is the kernel's shape before its channels; only its first number, over time, may be above 1.
    """

    outputs: int
    groups: int = 1
    kernel: tuple[int, ...] = (1,)
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        length, inputs = x.shape[1], x.shape[-1] // self.groups
        size = self.kernel[0]
        weights = self.param("kernel", conv_init, (*self.kernel, inputs, self.outputs))
        bias = self.param("bias", bias_init(size * inputs), (self.outputs,))
        weights = weights.reshape(size, inputs, self.groups, -1).astype(self.dtype)
        x = x.reshape(*x.shape[:-1], self.groups, inputs).astype(self.dtype)
        x = jnp.pad(x, ((0, 0), (size // 2,) * 2, *((0, 0),) * (x.ndim - 2)))
        taps = (jnp.einsum("bt...gi,igo->bt...go", x[:, i : i + length], w) for i, w in enumerate(weights))
        y = sum(tap.astype(jnp.float32) for tap in taps)
        return y.reshape(*y.shape[:-2], self.outputs) + bias


class MapConv(nn.Module):
    """Convolution of a map [B, T, L, C] -> `dtype` [B, T, L, outputs], zero padding; the bias is added in float32."""

    outputs: int
    kernel: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (self.kernel, self.kernel, x.shape[-1], self.outputs)
        kernel = self.param("kernel", conv_init, shape)
        bias = self.param("bias", bias_init(self.kernel**2 * x.shape[-1]), (self.outputs,))
        y = conv(x[:, None].astype(self.dtype), kernel[None].astype(self.dtype))[:, 0]
        return (y.astype(jnp.float32) + bias).astype(self.dtype)


def nearest_neighbours(x: jax.Array, count: int) -> jax.Array:
    """i32 [B, T, k]: the steps of x [B, T, C] closest in feature space, the step itself and padded ones included."""
    x = jax.lax.stop_gradient(x.astype(jnp.float32))
    square = jnp.sum(x**2, axis=-1)
    product = jnp.einsum("btc,bsc->bts", x, x, precision=jax.lax.Precision.HIGHEST)  # which are closest is at stake
    return jax.lax.top_k(2 * product - square[:, None] - square[:, :, None], count)[1]


def gather_steps(x: jax.Array, index: jax.Array) -> jax.Array:
    """[B, T, C] at steps [B, T, k] -> [B, T, k, C]."""
    return jax.vmap(lambda steps, i: steps[i])(x, index)


class GCNeXt(nn.Module):
    """ReLU(temporal graph + semantic graph + x): [B, T, C] -> f32 [B, T, C] (section 3.2, equation 3)."""

    groups: int
    neighbours: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        temporal = self._path("temporal", x, (1,), (3,))
        near = gather_steps(x, nearest_neighbours(x, self.neighbours))  # [B, T, k, C]
        pairs = jnp.concatenate([near, jnp.broadcast_to(x[:, :, None], near.shape)], axis=-1)
        semantic = jnp.max(self._path("semantic", pairs, (1, 1), (1, 1)), axis=2)
        return nn.relu(temporal + x + semantic)

    def _path(self, name: str, x: jax.Array, point: tuple[int, ...], middle: tuple[int, ...]) -> jax.Array:
        width = x.shape[-1] if name == "temporal" else x.shape[-1] // 2
        inner = GROUP_WIDTH * self.groups
        x = nn.relu(GroupedConv(inner, 1, point, self.dtype, name=f"{name}_0")(x))
        x = nn.relu(GroupedConv(inner, self.groups, middle, self.dtype, name=f"{name}_1")(x))
        return GroupedConv(width, 1, point, self.dtype, name=f"{name}_2")(x)


def extended_segments(durations: int, length: int, extend: float, end_shift: float = 0.0) -> np.ndarray:
    """f32 [D, T, 2]: what of the features a segment of the map is sampled from; (0, 0) where it is invalid."""
    segments, valid = map_segments(durations, length)
    reach = extend * (segments[..., 1] - segments[..., 0])
    return segments + np.stack([-reach, reach + np.float32(end_shift) * valid], axis=-1)


class SubGraphAlignment(nn.Module):
    """Features [B, T, C] -> f32 [B, D, T, outputs], of every segment of the map and its surroundings (section 3.3).

    Each segment, extended at both ends by `extend` times its length, is sampled from the features (inner bins) and from
    the means of every step's nearest neighbours in feature space (context bins).
    """

    outputs: int
    durations: int
    roi_size: int
    context_size: int
    extend: float
    neighbours: int
    dtype: Any
    end_shift: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Also returns the two [B, T, C] that are sampled: features, and means of neighbours."""
        length, width = x.shape[1:]
        bins = self.roi_size + self.context_size
        kernel = self.param("kernel", conv_init, (1, 1, width * bins, self.outputs))
        bias = self.param("bias", bias_init(width * bins), (self.outputs,))
        x = GCNeXt(GROUPS, NEIGHBOURS, self.dtype, name="gcnext")(x)
        context = jnp.mean(gather_steps(x, nearest_neighbours(x, self.neighbours)), axis=2)

        kernel = kernel.reshape(width, bins, self.outputs)
        inner_kernel, context_kernel = kernel[:, : self.roi_size], kernel[:, self.roi_size :]
        steps = [self._product("btc,cpo->btpo", *pair) for pair in ((x, inner_kernel), (context, context_kernel))]
        steps = jnp.concatenate(steps, axis=2)  # [B, T, bins, outputs]

        anchors = extended_segments(self.durations, length, self.extend, self.end_shift)
        samples = [sample_positions(anchors, size, length) for size in (self.roi_size, self.context_size)]

        @jax.checkpoint  # the matrices of all durations would be larger than everything else
        def one_duration(_: None, samples: list) -> tuple[None, jax.Array]:
            matrix = jnp.concatenate([alignment_weights(*s, length) for s in samples], axis=1)  # [T, bins, T]
            return None, nn.relu(self._product("spt,btpo->bso", matrix, steps) + bias)

        _, aligned = jax.lax.scan(one_duration, None, samples)  # [D, B, T, outputs]
        return jnp.moveaxis(aligned, 0, 1), x, context

    def _product(self, equation: str, a: jax.Array, b: jax.Array) -> jax.Array:
        return jnp.einsum(equation, a.astype(self.dtype), b.astype(self.dtype), preferred_element_type=jnp.float32)


class Outputs(NamedTuple):
    """What the network computes, all float32."""

    projected: jax.Array  # [B, T, C], after the first convolution
    features: jax.Array  # [B, T, C], after the first GCNeXt block
    boundaries: jax.Array  # [B, T, 2], logits of start and end
    graph: jax.Array  # [B, T, C], what the inner bins are sampled from
    context: jax.Array  # [B, T, C], what the context bins are sampled from
    aligned: jax.Array  # [B, D, T, outputs]
    map: jax.Array  # [B, D, T, 2], logits of (is an action, overlap)


class GTad(nn.Module):
    """The head: a frozen holder of its settings, which docs/config.md describes; see tadjax/heads/__init__.py."""

    classes: int = 1
    width: int = 256
    groups: int = 32
    neighbours: int = 3
    durations: int = 64
    roi_size: int = 16
    context_size: int = 16
    extend: float = 0.5
    aligned_width: int = 512
    map_width: int = 128
    map_convs: int = 3
    map_kernel: int = 3
    whole_steps: bool = True
    boundary_scores: bool = False
    original: bool = False
    dtype: Any = jnp.float32

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.classes != 1:
            raise ConfigError(
                f"head.name = 'gtad' makes proposals without classes, but there are {self.classes} classes: set "
                "data.class_agnostic = True, and give a classifier of whole videos when evaluating"
            )
        if self.width % 4:
            raise ConfigError(f"head.width = {self.width} is not a multiple of 4, the groups of G-TAD's convolution")
        if self.map_kernel not in (1, 3):
            raise ConfigError(f"head.gtad.map_kernel = {self.map_kernel}: it must be 1 or 3")

    def setup(self) -> None:
        self.projection = GroupedConv(self.width, 4, (3,), self.dtype)
        self.neck = GCNeXt(self.groups, self.neighbours, self.dtype)
        self.start_graph, self.end_graph = (GCNeXt(GROUPS, NEIGHBOURS, self.dtype) for _ in range(2))
        self.start, self.end = GroupedConv(1), GroupedConv(1)
        self.alignment = SubGraphAlignment(
            self.aligned_width,
            self.durations,
            self.roi_size,
            self.context_size,
            self.extend,
            self.neighbours,
            self.dtype,
            gtad_original.END_SHIFT if self.original else 0.0,
        )

        self.map_conv = [MapConv(self.map_width, self.map_kernel, self.dtype) for _ in range(self.map_convs)]
        self.map_out = MapConv(2, 1)

    def __call__(self, features: jax.Array, valid: jax.Array) -> Outputs:
        """The network on features [B, T, C_in] and valid bool [B, T].

        Masks, as published: padded steps are zeros after the first convolution and the first block; everything after
        sees them as such.
        """
        projected = masked(nn.relu(self.projection(features)), valid)
        x = masked(self.neck(projected), valid)
        boundaries = [self.start(self.start_graph(x)), self.end(self.end_graph(x))]
        aligned, graph, context = self.alignment(x)
        cells = aligned
        for layer in self.map_conv:
            cells = nn.relu(layer(cells))
        cells = self.map_out(cells)
        return Outputs(projected, x, jnp.concatenate(boundaries, axis=-1), graph, context, aligned, cells)

    @nn.nowrap
    def init_params(self, key: jax.Array, feature_width: int) -> dict:
        """Parameters (float32), initialised as in the published code. No parameter's shape depends on the length."""
        if feature_width % 4:
            raise ConfigError(f"head.name = 'gtad' needs features in 4 groups; the backbone's {feature_width} are not")
        features = jax.ShapeDtypeStruct((1, NEIGHBOURS + self.neighbours, feature_width), jnp.float32)
        return self.lazy_init(key, features, jax.ShapeDtypeStruct(features.shape[:2], bool))["params"]

    @nn.nowrap
    def init_state(self) -> dict:
        """Nothing is carried from step to step."""
        return {}

    @nn.nowrap
    def outputs(self, params: dict, features: jax.Array, valid: jax.Array) -> Outputs:
        return self.apply({"params": params}, features, valid)

    @nn.nowrap
    def losses(
        self,
        params: dict,
        state: dict,
        features: jax.Array,
        valid: jax.Array,
        targets: dict,
        *,
        rng: jax.Array | None = None,
        train: bool = True,
    ) -> tuple[dict, dict]:
        """Section 3.4: balanced cross entropy of boundaries and map, balanced squared error of the map.

        Args:
            features: [B, T, C_in]. valid: bool [B, T]; as published, the losses count padded steps too.
            targets: segments f32 [B, M, 2] in feature steps, segment_valid bool [B, M].
            rng: draws which proposals the squared error counts; None draws the same ones every time.

        Returns:
            losses: f32 scalars boundaries, classification, regression, loss (their sum); finite for every batch.
            state: as it was.
        """
        outputs = self.outputs(params, features, valid)
        uniform = jax.random.uniform(jax.random.key(0) if rng is None else rng, (2, *outputs.map.shape[:3]))
        return self.output_losses(outputs, targets, uniform), state

    @nn.nowrap
    def output_losses(self, outputs: Outputs, targets: dict, uniform: jax.Array) -> dict:
        """Losses of what the network computed; uniform f32 [2, B, D, T] from [0, 1)."""
        if self.original:
            boundaries, cells = jax.nn.sigmoid(outputs.boundaries), jax.nn.sigmoid(outputs.map)
            return gtad_original.losses(boundaries, cells, targets, uniform)
        segments, valid = map_segments(self.durations, outputs.map.shape[2])
        edges = boundary_targets(targets, outputs.map.shape[2])
        positive = edges >= 1 if self.whole_steps else edges > BOUNDARY_THRESHOLD
        boundaries = sum(balanced_bce(outputs.boundaries[..., i], positive[..., i]) for i in range(2))
        iou = map_targets(segments, targets)
        classification = balanced_bce(outputs.map[..., 0], iou > IOU_THRESHOLD, valid)
        regression = balanced_l2(jax.nn.sigmoid(outputs.map[..., 1]), iou, uniform, valid)
        losses = {"boundaries": boundaries, "classification": classification, "regression": regression}
        return losses | {"loss": sum(losses.values())}

    @nn.nowrap
    def candidates(self, params: dict, features: jax.Array, valid: jax.Array) -> dict:
        """Every cell of the map, P = D * T, shortest first, not sorted.

        Returns segments f32 [B, P, 2] in feature steps, scores f32 [B, P, 1], valid bool [B, P]: whether the segment
        lies in the window and starts and ends at likely boundaries (half the highest probability, or a local peak);
        with `original`, wherever its boundaries are.
        """
        outputs = self.outputs(params, features, valid)
        batch, durations, length, _ = outputs.map.shape
        segments, inside = map_segments(durations, length)
        boundaries = jax.nn.sigmoid(outputs.boundaries)  # [B, T, 2]
        likely = likely_boundaries(boundaries)
        start, end = likely[..., 0].at[:, 0].set(True), likely[..., 1].at[:, -1].set(True)
        last = np.minimum(np.arange(length) + np.arange(durations)[:, None], length - 1)  # [D, T]
        scores = jnp.prod(jax.nn.sigmoid(outputs.map), axis=-1)
        if self.boundary_scores:
            scores = scores * boundaries[:, None, :, 0] * boundaries[:, last, 1]
        chosen = inside & start[:, None] & end[:, last]
        if self.original:
            chosen = jnp.broadcast_to(gtad_original.proposals(durations, length), chosen.shape)
        return {
            "segments": jnp.broadcast_to(segments.reshape(-1, 2), (batch, durations * length, 2)),
            "scores": scores.reshape(batch, -1, 1),
            "valid": chosen.reshape(batch, -1),
        }


def likely_boundaries(probability: jax.Array) -> jax.Array:
    """bool [B, T, 2]: above half the highest probability of the window, or not below either neighbour's."""
    padded = jnp.pad(probability, ((0, 0), (1, 1), (0, 0)), constant_values=-jnp.inf)
    peak = (probability >= padded[:, :-2]) & (probability >= padded[:, 2:])
    return peak | (probability > 0.5 * jnp.max(probability, axis=1, keepdims=True))
