"""ActionFormer: Localizing Moments of Actions with Transformers (Zhang et al., ECCV 2022).

Features of a window -> convolutional embedding -> transformer, of which each branch block halves the time axis
(section 3.2) -> on every level, classes and distances to start and end at every point (section 3.3) -> focal and DIoU
losses (section 3.4). The numbers are those of OpenTAD's implementation, whose AdaTAD checkpoints this head loads.
"""

import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from tadjax.errors import ConfigError
from tadjax.heads.attention import ConvAttention
from tadjax.heads.layers import (
    ConvNormRelu,
    LevelNorms,
    Tower,
    conv_init,
    downsample,
    layer_norm,
    masked,
    neighbours,
    pad_sequence,
    prior_init,
)
from tadjax.heads.losses import diou, sigmoid_focal_loss, smooth_labels, update_loss_normalizer
from tadjax.heads.points import assign_targets, decode_segments, make_points

LAYER_SCALE = 1e-4  # initial size of the residual branches (Touvron et al., ICCV 2021)


def position_table(length: int, width: int) -> np.ndarray:
    """f32 [T, C]: sines (even channels) and cosines (odd) of position / 10000^(2 floor(c / 2) / C), over sqrt(C)."""
    channel = np.arange(width)
    angle = np.arange(length)[:, None] / 10000 ** (2 * (channel // 2) / width)
    table = np.where(channel % 2 == 0, np.sin(angle), np.cos(angle))
    return table.astype(np.float32) / np.float32(math.sqrt(width))


def resize_table(table: np.ndarray, length: int) -> np.ndarray:
    """[T, C] -> [length, C], linear in time, half-pixel centres, edges clamped; the same table at the same length."""
    source = np.clip((np.arange(length) + 0.5) * (len(table) / length) - 0.5, 0, len(table) - 1)
    below = np.floor(source).astype(int)
    above = np.minimum(below + 1, len(table) - 1)
    share = (source - below)[:, None].astype(np.float32)
    return table[below] * (1 - share) + table[above] * share


class Mlp(nn.Module):
    """Two layers with an exact GELU between, four times as wide inside."""

    dropout: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, deterministic: bool) -> jax.Array:
        width = x.shape[-1]
        x = nn.Dense(4 * width, dtype=self.dtype, kernel_init=conv_init, name="fc1")(x)
        x = nn.Dropout(self.dropout)(nn.gelu(x, approximate=False), deterministic=deterministic)
        x = nn.Dense(width, dtype=self.dtype, kernel_init=conv_init, name="fc2")(x)
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
        if self.stride > 1:  # max pooling; masked steps take part as the zeros they hold, beyond the ends nothing does
            before, at, after = neighbours(x, self.stride, -jnp.inf)
            x = jnp.maximum(jnp.maximum(before, at), after)
        x = masked(x, out_valid) + self._scaled("scale_attention", branch, deterministic)

        branch = Mlp(self.dropout, self.dtype, name="mlp")(layer_norm(1e-5, "norm2")(x), deterministic)
        return x + self._scaled("scale_mlp", masked(branch, out_valid), deterministic), out_valid

    def _scaled(self, name: str, branch: jax.Array, deterministic: bool) -> jax.Array:
        """Layer scale and drop path: a learned scale a channel, the branch of a whole sample left out at random.

        As published, a block without drop path has no layer scale either.
        """
        if self.drop_path == 0:
            return branch
        branch = branch * self.param(name, nn.initializers.constant(LAYER_SCALE), branch.shape[-1:])
        if deterministic:
            return branch
        keep = jax.random.bernoulli(self.make_rng("dropout"), 1 - self.drop_path, (branch.shape[0], 1, 1))
        return jnp.where(keep, branch / (1 - self.drop_path), 0)


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
            x = x + masked(self._positions(x.shape[1], train), valid)

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

    def _positions(self, length: int, train: bool) -> np.ndarray:
        """[1, T, C]: the first T rows of the table; stretched over sequences that are longer than any in training."""
        if train and length > self.max_length:
            raise ConfigError(
                f"head.absolute_position: a training window of {length} feature steps is longer than head.max_length = "
                f"{self.max_length}; raise max_length or shorten the window"
            )
        table = position_table(self.max_length, self.width)
        return (table[:length] if length < self.max_length else resize_table(table, length))[None]


class Pyramid(NamedTuple):
    """What the network computes, one entry a level, T_l = T / 2^l."""

    features: list[jax.Array]  # f32 [B, T_l, C], after the projection
    normed: list[jax.Array]  # f32 [B, T_l, C], after the neck
    valid: list[jax.Array]  # bool [B, T_l]
    logits: list[jax.Array]  # f32 [B, T_l, K], before the sigmoid
    offsets: list[jax.Array]  # f32 [B, T_l, 2], to start and end, in strides of the level, >= 0


class ActionFormer(nn.Module):
    """The head: a frozen holder of its settings, with the common face of all heads (pure functions of `params`).

    The fields are those of `config.head`, described there; classes and dtype come from elsewhere.
    """

    classes: int
    width: int = 512
    convs: tuple[int, int, int] = (2, 2, 5)
    heads: int = 4
    attention_window: int | tuple[int, ...] = -1
    max_length: int = 768
    absolute_position: bool = False
    head_convs: int = 2
    regression_ranges: tuple[tuple[float, float], ...] = ((0, 4), (4, 8), (8, 16), (16, 32), (32, 64), (64, 10000))
    center_sample_radius: float = 1.5
    filter_similar_gt: bool = True
    label_smoothing: float = 0.0
    reg_loss_weight: float = 1.0
    loss_normalizer: float = 100.0
    loss_normalizer_momentum: float = 0.9
    class_prior: float = 0.01
    drop_path: float = 0.1
    proj_dropout: float = 0.0
    input_dropout: float = 0.0
    dtype: Any = jnp.float32

    def __post_init__(self) -> None:
        super().__post_init__()
        levels = self.convs[2] + 1
        if len(self.regression_ranges) != levels:
            raise ConfigError(
                f"head.regression_ranges has {len(self.regression_ranges)} entries, but head.convs = {self.convs} "
                f"makes {levels} levels (branch blocks + 1): give one range a level"
            )
        if len(self.windows) != levels:
            raise ConfigError(
                f"head.attention_window has {len(self.windows)} entries, but head.convs = {self.convs} makes {levels} "
                "levels (branch blocks + 1): give one number for all, or one a level"
            )
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
                f"and attention windows of {levels} levels need; {enough} would do"
            )
        if not 0 < self.class_prior < 1:
            raise ConfigError(f"head.class_prior = {self.class_prior} is not a probability between 0 and 1")

    @property
    def windows(self) -> tuple[int, ...]:
        """Attention windows, one a level."""
        if isinstance(self.attention_window, int):
            return (self.attention_window,) * (self.convs[2] + 1)
        return tuple(self.attention_window)

    @property
    def strides(self) -> tuple[int, ...]:
        """Feature steps between two points of a level."""
        return tuple(2**level for level in range(self.convs[2] + 1))

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
    def init_params(self, key: jax.Array, feature_width: int) -> dict:
        """Parameters (float32), initialised as in the published code. No parameter's shape depends on the length."""
        length = self.strides[-1]
        features = jax.ShapeDtypeStruct((1, length, feature_width), jnp.float32)
        return self.lazy_init(key, features, jax.ShapeDtypeStruct((1, length), bool))["params"]

    @nn.nowrap
    def init_state(self) -> dict:
        """What training carries from step to step besides parameters: the moving number of positive points."""
        return {"loss_normalizer": jnp.float32(self.loss_normalizer)}

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
    def points(self, pyramid: Pyramid) -> np.ndarray:
        """f32 [P, 4], the points of all levels."""
        return make_points([x.shape[1] for x in pyramid.logits], self.strides, self.regression_ranges)

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
    def point_targets(self, points: np.ndarray, targets: dict) -> tuple[jax.Array, jax.Array]:
        """Class targets f32 [B, P, K] before label smoothing, and offset targets f32 [B, P, 2] in strides."""
        return assign_targets(
            jnp.asarray(points),
            targets["segments"],
            targets["labels"],
            targets["segment_valid"],
            classes=self.classes,
            center_sample_radius=self.center_sample_radius,
            filter_similar_gt=self.filter_similar_gt,
        )

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
