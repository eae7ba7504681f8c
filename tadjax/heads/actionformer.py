"""ActionFormer: Localizing Moments of Actions with Transformers (Zhang et al., ECCV 2022).

Features of a window -> convolutional embedding -> transformer, of which each branch block halves the time axis
(section 3.2) -> on every level, classes and distances to start and end at every point (section 3.3) -> focal and DIoU
losses (section 3.4). The numbers are those of OpenTAD's implementation, whose AdaTAD checkpoints this head loads.
"""

import math
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from tadjax.backbones.layers import Dense
from tadjax.errors import ConfigError
from tadjax.heads.anchor_free import AnchorFree
from tadjax.heads.attention import ConvAttention
from tadjax.heads.layers import (
    ConvNormRelu,
    LevelNorms,
    Tower,
    conv_init,
    downsample,
    layer_norm,
    masked,
    max_pool,
    pad_sequence,
    prior_init,
    scaled_branch,
)
from tadjax.heads.losses import diou, sigmoid_focal_loss, smooth_labels, update_loss_normalizer
from tadjax.heads.points import decode_segments
from tadjax.heads.positions import positions


class Mlp(nn.Module):
    """Two layers with an exact GELU between, four times as wide inside."""

    dropout: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, deterministic: bool) -> jax.Array:
        width = x.shape[-1]
        x = Dense(4 * width, self.dtype, conv_init, name="fc1")(x)
        x = nn.Dropout(self.dropout)(nn.gelu(x, approximate=False), deterministic=deterministic)
        x = Dense(width, self.dtype, conv_init, name="fc2")(x)
        return nn.Dropout(self.dropout)(x, deterministic=deterministic)


class TransformerBlock(nn.Module):
    """Pre-norm transformer block; stride 2 halves the time axis: f32 [B, T, C] -> [B, T / stride, C]."""

    heads: int
    window: int
    stride: int
    drop_path: float
    dropout: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, valid: jax.Array, deterministic: bool) -> tuple[jax.Array, jax.Array]:
        out_valid = downsample(valid, self.stride)
        attention = ConvAttention(self.heads, self.window, self.stride, self.dropout, self.dtype, name="attention")
        branch = attention(layer_norm(1e-5, "norm1")(x), valid, deterministic)
        x = masked(max_pool(x, self.stride), out_valid)
        x = x + scaled_branch(self, "scale_attention", branch, self.drop_path, deterministic)

        branch = Mlp(self.dropout, self.dtype, name="mlp")(layer_norm(1e-5, "norm2")(x), deterministic)
        branch = masked(branch, out_valid)
        return x + scaled_branch(self, "scale_mlp", branch, self.drop_path, deterministic), out_valid


class Projection(nn.Module):
    """Features [B, T, C_in] -> pyramid of f32 [B, T / 2^l, C] and masks, l = 0 ... branch blocks (section 3.2).

    The features of invalid steps are not zeroed before the first convolution, as published: they reach one step into
    the valid part. Nothing else of what stands there is ever seen.
    """

    width: int
    convs: tuple[int, int, int]
    heads: int
    windows: tuple[int, ...]  # one a level
    max_length: int
    absolute_position: bool
    drop_path: float
    input_dropout: float
    proj_dropout: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self, x: jax.Array, valid: jax.Array, train: bool, deterministic: bool
    ) -> tuple[list[jax.Array], list[jax.Array]]:
        embed, stem, branch = self.convs
        # Dropout of whole channels, over all time steps of a sample.
        x = nn.Dropout(self.input_dropout, broadcast_dims=(1,))(x, deterministic=deterministic)
        for i in range(embed):
            x = ConvNormRelu(self.width, dtype=self.dtype, name=f"embed_{i}")(x, valid)
        if self.absolute_position:
            x = x + masked(positions(x.shape[1], self.max_length, self.width, train), valid)

        def block(x: jax.Array, valid: jax.Array, name: str, level: int, stride: int) -> tuple[jax.Array, jax.Array]:
            return TransformerBlock(
                self.heads, self.windows[level], stride, self.drop_path, self.proj_dropout, self.dtype, name=name
            )(x, valid, deterministic)

        for i in range(stem):
            x, valid = block(x, valid, f"stem_{i}", level=0, stride=1)
        levels, valids = [x], [valid]
        for i in range(branch):
            x, valid = block(x, valid, f"branch_{i}", level=i + 1, stride=2)
            levels.append(x)
            valids.append(valid)
        return levels, valids


class Pyramid(NamedTuple):
    """What the network computes, one entry a level, T_l = T / 2^l."""

    features: list[jax.Array]  # f32 [B, T_l, C], after the projection
    normed: list[jax.Array]  # f32 [B, T_l, C], after the neck
    valid: list[jax.Array]  # bool [B, T_l]
    logits: list[jax.Array]  # f32 [B, T_l, K], before the sigmoid
    offsets: list[jax.Array]  # f32 [B, T_l, 2], to start and end, in strides of the level, >= 0


class ActionFormer(AnchorFree):
    """The head; docs/config.md describes its settings, AnchorFree those of all heads without anchors."""

    heads: int = 4
    attention_window: int | tuple[int, ...] = -1
    proj_dropout: float = 0.0
    input_dropout: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for window in self.windows:
            if window != -1 and (window < 3 or window % 2 == 0):
                raise ConfigError(
                    f"head.attention_window: {window} is neither -1 (full) nor an odd number of at least 3"
                )
        if self.width % self.heads:
            raise ConfigError(f"head.width = {self.width} is not a multiple of head.heads = {self.heads}")
        if self.max_length % self.length_multiple:
            enough = -(-self.max_length // self.length_multiple) * self.length_multiple
            raise ConfigError(
                f"head.max_length = {self.max_length} is not a multiple of {self.length_multiple}, which the strides "
                f"and attention windows of {self.levels} levels need; {enough} would do"
            )

    @property
    def windows(self) -> tuple[int, ...]:
        """Attention windows, one a level."""
        return self.by_level(self.attention_window, "attention_window")

    @property
    def length_multiple(self) -> int:
        """Sequences longer than max_length are padded to a multiple of this.

        Published as the largest of these factors; where that is a multiple of all others, as it must be, the two agree.
        """
        factors = [s * 2 * (w // 2) if w > 1 else s for s, w in zip(self.strides, self.windows, strict=True)]
        return math.lcm(*factors)

    def setup(self) -> None:
        self.projection = Projection(
            self.width,
            tuple(self.convs),
            self.heads,
            self.windows,
            self.max_length,
            self.absolute_position,
            self.drop_path,
            self.input_dropout,
            self.proj_dropout,
            self.dtype,
        )
        self.neck = LevelNorms()
        self.classification = Tower(
            self.classes, self.width, self.head_convs, out_bias_init=prior_init(self.class_prior), dtype=self.dtype
        )
        self.regression = Tower(2, self.width, self.head_convs, scaled=True, dtype=self.dtype)

    def __call__(
        self, features: jax.Array, valid: jax.Array, train: bool = False, deterministic: bool = True
    ) -> Pyramid:
        """The network on features [B, T, C_in] and valid bool [B, T]; T a multiple of the largest stride."""
        levels, valids = self.projection(features, valid, train, deterministic)
        normed = self.neck(levels)
        logits, offsets = self.classification(normed, valids), self.regression(normed, valids)
        return Pyramid(levels, normed, valids, logits, offsets)

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
        """The network on features [B, T, C_in] and valid bool [B, T] of any length T: padded first, see `pad_sequence`.

        In training it is deterministic without `rng`, in evaluation always.
        """
        features, valid = pad_sequence(features, valid, self.max_length, self.length_multiple)
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
        """Section 3.4: focal loss over valid points and classes, DIoU loss over positive points.

        Args:
            features: [B, T, C_in]. valid: bool [B, T].
            targets: segments f32 [B, M, 2] in feature steps, labels int [B, M], segment_valid bool [B, M].
            rng: of dropout and drop path; None leaves both out.
            train: with the moving normaliser, which is updated first; otherwise both losses are divided by this batch's
                number of positive points (at least 1), and the state stays.

        Returns:
            losses: f32 scalars classification, regression (weighted), loss (their sum); finite for every batch.
            state: after this step.
        """
        pyramid = self.pyramid(params, features, valid, train=train, rng=rng)
        points = self.points(pyramid)
        logits, offsets = jnp.concatenate(pyramid.logits, axis=1), jnp.concatenate(pyramid.offsets, axis=1)
        point_valid = jnp.concatenate(pyramid.valid, axis=1)  # [B, P]
        class_targets, offset_targets = self.point_targets(points, targets)
        positive = point_valid & jnp.any(class_targets > 0, axis=-1)
        positives = jnp.sum(positive)

        if train:
            normalizer = update_loss_normalizer(state["loss_normalizer"], positives, self.loss_normalizer_momentum)
            state = {"loss_normalizer": normalizer}
        else:
            normalizer = jnp.maximum(positives, 1)

        focal = sigmoid_focal_loss(logits, smooth_labels(class_targets, self.label_smoothing))
        classification = jnp.sum(jnp.where(point_valid[..., None], focal, 0)) / normalizer
        # Targets mean nothing at other points; a harmless one keeps their (unused) gradients finite.
        offset_targets = jnp.where(positive[..., None], offset_targets, 1.0)
        distance = 1 - diou(decode_segments(points, offsets), decode_segments(points, offset_targets))
        regression = self.reg_loss_weight * jnp.sum(jnp.where(positive, distance, 0)) / normalizer
        losses = {"classification": classification, "regression": regression, "loss": classification + regression}
        return losses, state

    @nn.nowrap
    def candidates(self, params: dict, features: jax.Array, valid: jax.Array) -> dict:
        """Every point's prediction, level by level, neither clipped nor sorted: P points, those of padding included.

        Returns segments f32 [B, P, 2] in feature steps, scores f32 [B, P, K] after the sigmoid, valid bool [B, P].
        """
        pyramid = self.pyramid(params, features, valid)
        return {
            "segments": decode_segments(self.points(pyramid), jnp.concatenate(pyramid.offsets, axis=1)),
            "scores": jax.nn.sigmoid(jnp.concatenate(pyramid.logits, axis=1)),
            "valid": jnp.concatenate(pyramid.valid, axis=1),
        }
