"""TriDet: Temporal Action Detection with Relative Boundary Modeling (Shi et al., CVPR 2023).

Features of a window -> convolutional embedding -> scalable-granularity perception (SGP) layers in place of attention,
of which each branch layer halves the time axis (section 3.2) -> Trident-head: boundaries as expectations over bins
around every point (section 3.3) -> focal loss weighted by overlap, and DIoU loss (section 3.4). The numbers are those
of OpenTAD's implementation, whose checkpoints this head loads.
"""

import math
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from tadjax.backbones.layers import Dense
from tadjax.errors import ConfigError
from tadjax.heads.anchor_free import AnchorFree
from tadjax.heads.layers import (
    ConvNormRelu,
    LevelNorms,
    Tower,
    bias_init,
    conv_init,
    downsample,
    layer_norm,
    masked,
    max_pool,
    pad_sequence,
    prior_init,
    scaled_branch,
)
from tadjax.heads.losses import diou, giou, sigmoid_focal_loss, smooth_labels, update_loss_normalizer
from tadjax.heads.points import decode_segments
from tadjax.heads.positions import positions

GROUPS = 16  # of the GroupNorm before the MLP
MIN_OVERLAP = 1e-6  # below it the power of the overlap has no usable gradient


class DepthwiseConv(nn.Module):
    """Depth-wise convolution over time with bias, odd kernel, zero padding: [B, T, C] -> f32 [B, T, C].

    Shifted slices, one a kernel position: they fuse, where grouped convolutions run channel by channel.
    """

    kernel_size: int
    init_std: float

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        length, width = x.shape[1:]
        kernel = self.param("kernel", nn.initializers.normal(self.init_std), (self.kernel_size, 1, width))
        bias = self.param("bias", nn.initializers.zeros, (width,))
        x = jnp.pad(x, ((0, 0), (self.kernel_size // 2,) * 2, (0, 0)))
        return sum(w * x[:, i : i + length] for i, w in enumerate(kernel[:, 0])) + bias


class Mlp(nn.Module):
    """Two layers with an exact GELU between, `hidden` wide inside."""

    hidden: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        def dense(inputs: int, outputs: int, name: str) -> Dense:
            return Dense(outputs, self.dtype, conv_init, bias_init(inputs), name=name)

        width = x.shape[-1]
        return dense(self.hidden, width, "fc2")(nn.gelu(dense(width, self.hidden, "fc1")(x), approximate=False))


def wide_kernel(window: int, k: float) -> int:
    """The kernel of Conv_kw, about k times as wide as that of Conv_w, and odd; Python rounds halves to even numbers."""
    size = round((window + 1) * k)
    return size + 1 if size % 2 == 0 else size


class SgpLayer(nn.Module):
    """Scalable-granularity perception (equation 2); stride 2 halves the time axis: [B, T, C] -> f32 [B, T / stride, C].

        f_SGP(x) = phi(x) FC(x) + psi(x) (Conv_w(x) + Conv_kw(x)) + x,    phi(x) = ReLU(FC(AvgPool(x)))

    As published, only the residual path is masked: padded steps hold something, which the average, the group norm and
    the next level see. So what a video's detections are depends on how far it is padded.
    """

    window: int
    k: float
    mlp_width: int
    stride: int
    drop_path: float
    init_std: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, valid: jax.Array, deterministic: bool) -> tuple[jax.Array, jax.Array]:
        def depthwise(kernel_size: int, name: str) -> DepthwiseConv:
            return DepthwiseConv(kernel_size, self.init_std, name=name)

        x, valid = max_pool(x, self.stride), downsample(valid, self.stride)
        u = layer_norm(1e-5, "norm1")(x)
        phi = nn.relu(depthwise(1, "phi")(jnp.mean(u, axis=1, keepdims=True)))  # [B, 1, C]
        psi = depthwise(self.window, "psi")(u)
        local = depthwise(self.window, "conv_w")(u) + depthwise(wide_kernel(self.window, self.k), "conv_kw")(u)
        sgp = phi * depthwise(1, "fc")(u) + psi * local + u
        x = masked(x, valid) + scaled_branch(self, "scale_sgp", sgp, self.drop_path, deterministic)

        norm = nn.GroupNorm(GROUPS, epsilon=1e-5, dtype=jnp.float32, use_fast_variance=False, name="norm2")
        mlp = Mlp(self.mlp_width, self.dtype, name="mlp")(norm(x))
        return x + scaled_branch(self, "scale_mlp", mlp, self.drop_path, deterministic), valid


class Projection(nn.Module):
    """Features [B, T, C_in] -> pyramid of f32 [B, T / 2^l, C] and masks, l = 0 ... branch layers (section 3.2)."""

    width: int
    convs: tuple[int, int, int]
    windows: tuple[int, ...]  # one a level; the stem's layers have window 1, so the first is unused, as published
    k: float
    mlp_width: int
    max_length: int
    absolute_position: bool
    drop_path: float
    input_noise: float
    init_std: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self, x: jax.Array, valid: jax.Array, train: bool, deterministic: bool
    ) -> tuple[list[jax.Array], list[jax.Array]]:
        embed, stem, branch = self.convs
        if self.input_noise and not deterministic:
            x = x + self.input_noise * jax.random.normal(self.make_rng("dropout"), x.shape, x.dtype)
        for i in range(embed):
            x = ConvNormRelu(self.width, dtype=self.dtype, name=f"embed_{i}")(x, valid)
        if self.absolute_position:
            x = x + masked(positions(x.shape[1], self.max_length, self.width, train), valid)

        def layer(name: str, window: int, stride: int, drop_path: float) -> SgpLayer:
            return SgpLayer(window, self.k, self.mlp_width, stride, drop_path, self.init_std, self.dtype, name=name)

        for i in range(stem):
            x, valid = layer(f"stem_{i}", 1, 1, 0.0)(x, valid, deterministic)
        levels, valids = [x], [valid]
        for i in range(branch):
            x, valid = layer(f"branch_{i}", self.windows[i + 1], 2, self.drop_path)(x, valid, deterministic)
            levels.append(x)
            valids.append(valid)
        return levels, valids


def trident_offsets(start: jax.Array, end: jax.Array, bins: jax.Array) -> jax.Array:
    """Trident-head (equations 4 to 6): expected distances to start and end, f32 [B, T, K, 2], in steps of the level.

    The start's distance is distributed over the b steps before a point and the point itself, by a softmax over the
    boundary logits of those steps (the same for all points) plus the point's own relative ones. Beyond the ends of the
    sequence the boundary logits count as 0; padded steps within it keep theirs, as published.

    Args: start, end: boundary logits f32 [B, T, K]. bins: f32 [B, T, 2 (b + 1)], the point's logits, those of the
    start first, each in the order of time.
    """
    length, count = start.shape[1], bins.shape[2] // 2 - 1
    center = bins.reshape(*bins.shape[:2], 1, 2, count + 1)
    before = jnp.pad(start, ((0, 0), (count, 0), (0, 0)))
    after = jnp.pad(end, ((0, 0), (0, count), (0, 0)))
    before = jnp.stack([before[:, j : j + length] for j in range(count + 1)], axis=-1)  # [B, T, K, b + 1]
    after = jnp.stack([after[:, j : j + length] for j in range(count + 1)], axis=-1)
    steps = jnp.arange(count + 1, dtype=jnp.float32)
    to_start = jax.nn.softmax(before + center[..., 0, :], axis=-1) * steps[::-1]
    to_end = jax.nn.softmax(after + center[..., 1, :], axis=-1) * steps
    return jnp.stack([jnp.sum(to_start, axis=-1), jnp.sum(to_end, axis=-1)], axis=-1)


class Pyramid(NamedTuple):
    """What the network computes, one entry a level, T_l = T / 2^l."""

    features: list[jax.Array]  # f32 [B, T_l, C], after the projection
    normed: list[jax.Array]  # f32 [B, T_l, C], after the neck
    valid: list[jax.Array]  # bool [B, T_l]
    logits: list[jax.Array]  # f32 [B, T_l, K], before the sigmoid
    bins: list[jax.Array]  # f32 [B, T_l, 2 (bins + 1)], the points' relative boundary logits, >= 0
    start: list[jax.Array]  # f32 [B, T_l, K], boundary logits
    end: list[jax.Array]  # f32 [B, T_l, K]

    def offsets(self) -> jax.Array:
        """f32 [B, P, K, 2], distances to start and end in strides of the point's level, a class, within [0, bins]."""
        levels = zip(self.start, self.end, self.bins, strict=True)
        return jnp.concatenate([trident_offsets(*level) for level in levels], axis=1)


class TriDet(AnchorFree):
    """The head; docs/config.md describes its settings, AnchorFree those of all heads without anchors."""

    window: int | tuple[int, ...] = 1
    k: float = 5.0
    mlp_width: int = 768
    bins: int = 16
    iou_power: float = 0.2
    kernel_size: int = 3
    boundary_kernel_size: int = 3
    input_noise: float = 0.0
    init_std: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for window in self.windows:
            if window < 1 or window % 2 == 0:
                raise ConfigError(f"head.tridet.window: {window} is no odd number of at least 1")
        if self.width % GROUPS:
            raise ConfigError(f"head.width = {self.width} is not a multiple of {GROUPS}, the groups of TriDet's norms")
        if self.max_length % self.strides[-1]:
            raise ConfigError(
                f"head.max_length = {self.max_length} is not a multiple of {self.strides[-1]}, the largest stride of "
                f"head.convs = {self.convs}"
            )

    @property
    def windows(self) -> tuple[int, ...]:
        """Windows of Conv_w, one a level."""
        return self.by_level(self.window, "tridet.window")

    @property
    def length_multiple(self) -> int:
        """Sequences longer than max_length are padded to a multiple of this in evaluation.

        Published as the largest of these factors, which fails where it is no multiple of the largest stride.
        """
        largest = max(s * w for s, w in zip(self.strides, self.windows, strict=True))
        return math.lcm(largest, self.strides[-1])

    def setup(self) -> None:
        self.projection = Projection(
            self.width,
            tuple(self.convs),
            self.windows,
            self.k,
            self.mlp_width,
            self.max_length,
            self.absolute_position,
            self.drop_path,
            self.input_noise,
            self.init_std,
            self.dtype,
        )
        self.neck = LevelNorms()

        def tower(outputs: int, kernel_size: int, **options) -> Tower:
            return Tower(outputs, self.width, self.head_convs, kernel_size, dtype=self.dtype, **options)

        self.classification = tower(self.classes, self.kernel_size, out_bias_init=prior_init(self.class_prior))
        self.regression = tower(2 * (self.bins + 1), self.kernel_size, scaled=True)
        self.start = tower(self.classes, self.boundary_kernel_size)
        self.end = tower(self.classes, self.boundary_kernel_size)

    def __call__(
        self, features: jax.Array, valid: jax.Array, train: bool = False, deterministic: bool = True
    ) -> Pyramid:
        """The network on features [B, T, C_in] and valid bool [B, T]; T a multiple of the largest stride."""
        levels, valids = self.projection(features, valid, train, deterministic)
        normed = self.neck(levels)
        logits, bins = self.classification(normed, valids), self.regression(normed, valids)
        boundary = [jax.lax.stop_gradient(x) for x in normed]  # the boundary towers do not shape the features
        return Pyramid(levels, normed, valids, logits, bins, self.start(boundary, valids), self.end(boundary, valids))

    @nn.nowrap
    def pyramid(
        self,
        params: dict,
        features: jax.Array,
        valid: jax.Array,
        *,
        train: bool = False,
        rng: jax.Array | None = None,
    ) -> Pyramid:
        """The network on features [B, T, C_in] and valid bool [B, T] of any length T.

        Padded as published: in evaluation to max_length, see `pad_sequence`; in training only as far as the strides
        need. Padding matters to this head, so let window.feature_length be max_length. Without `rng` training is
        deterministic.
        """
        max_length, multiple = (0, self.strides[-1]) if train else (self.max_length, self.length_multiple)
        features, valid = pad_sequence(features, valid, max_length, multiple)
        deterministic = rng is None or not train
        rngs = None if deterministic else {"dropout": rng}
        return self.apply({"params": params}, features, valid, train, deterministic, rngs=rngs)

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
        """Section 3.4: focal loss, weighted by overlap where positive, and DIoU loss over pairs of point and class.

        Arguments and result as for ActionFormer. With train=False the regression loss is divided by this batch's
        number of positive points (at least 1), the classification loss by the moving normaliser, which stays.
        """
        pyramid = self.pyramid(params, features, valid, train=train, rng=rng)
        points = self.points(pyramid)
        logits, offsets = jnp.concatenate(pyramid.logits, axis=1), pyramid.offsets()
        point_valid = jnp.concatenate(pyramid.valid, axis=1)[..., None]  # [B, P, 1]
        class_targets, offset_targets = self.point_targets(points, targets)
        pairs = point_valid & (class_targets > 0)  # [B, P, K]; every class of a point has its own segment
        positives = jnp.sum(jnp.any(pairs, axis=-1))

        if train:
            normalizer = update_loss_normalizer(state["loss_normalizer"], positives, self.loss_normalizer_momentum)
            state = {"loss_normalizer": normalizer}
        regression_normalizer = state["loss_normalizer"] if train else jnp.maximum(positives, 1)

        predicted = decode_segments(points[:, None], offsets)  # [B, P, K, 2]
        # Targets mean nothing elsewhere; a harmless one keeps their (unused) gradients finite.
        wanted = decode_segments(points[:, None], jnp.where(pairs[..., None], offset_targets[:, :, None], 1.0))
        overlap = jnp.where(pairs, jnp.maximum(giou(predicted, wanted), MIN_OVERLAP), 1.0)
        focal = sigmoid_focal_loss(logits, smooth_labels(class_targets, self.label_smoothing))
        focal = focal * overlap**self.iou_power
        classification = jnp.sum(jnp.where(point_valid, focal, 0)) / state["loss_normalizer"]
        distance = jnp.sum(jnp.where(pairs, 1 - diou(predicted, wanted), 0))
        regression = self.reg_loss_weight * distance / regression_normalizer
        losses = {"classification": classification, "regression": regression, "loss": classification + regression}
        return losses, state

    @nn.nowrap
    def candidates(self, params: dict, features: jax.Array, valid: jax.Array) -> dict:
        """Every point's prediction, level by level, neither clipped nor sorted: P points, those of padding included.

        Returns segments f32 [B, P, K, 2] in feature steps, one a class, scores f32 [B, P, K] after the sigmoid, valid
        bool [B, P].
        """
        pyramid = self.pyramid(params, features, valid)
        points: np.ndarray = self.points(pyramid)
        return {
            "segments": decode_segments(points[:, None], pyramid.offsets()),
            "scores": jax.nn.sigmoid(jnp.concatenate(pyramid.logits, axis=1)),
            "valid": jnp.concatenate(pyramid.valid, axis=1),
        }
