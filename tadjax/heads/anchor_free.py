"""What the heads without anchors share: their settings, and the points and targets of a feature pyramid.

Every position of every pyramid level is a point that predicts classes and the distances to start and end (ActionFormer,
Zhang et al., ECCV 2022, section 3.3). A head adds its network (`setup`, `__call__`), losses and candidates.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from tadjax.errors import ConfigError
from tadjax.heads.points import assign_targets, make_points


class AnchorFree(nn.Module):
    """A frozen holder of settings, with the common face of all heads (pure functions of `params`).

    The fields are those of `config.head`, described there; classes and dtype come from elsewhere.
    """

    classes: int
    width: int = 512
    convs: tuple[int, int, int] = (2, 2, 5)
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
    dtype: Any = jnp.float32

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.regression_ranges) != self.levels:
            raise ConfigError(
                f"head.regression_ranges has {len(self.regression_ranges)} entries, but head.convs = {self.convs} "
                f"makes {self.levels} levels (branch blocks + 1): give one range a level"
            )
        if not 0 < self.class_prior < 1:
            raise ConfigError(f"head.class_prior = {self.class_prior} is not a probability between 0 and 1")

    @property
    def levels(self) -> int:
        """Levels of the pyramid."""
        return self.convs[2] + 1

    @property
    def strides(self) -> tuple[int, ...]:
        """Feature steps between two points of a level."""
        return tuple(2**level for level in range(self.levels))

    def by_level(self, value: int | tuple[int, ...], field: str) -> tuple[int, ...]:
        """A setting that is one number for all levels, or one a level; ConfigError where their number is wrong."""
        values = (value,) * self.levels if isinstance(value, int) else tuple(value)
        if len(values) != self.levels:
            raise ConfigError(
                f"head.{field} has {len(values)} entries, but head.convs = {self.convs} makes {self.levels} levels "
                "(branch blocks + 1): give one number for all, or one a level"
            )
        return values

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
    def points(self, pyramid: Any) -> np.ndarray:
        """f32 [P, 4], the points of all levels of a pyramid with `logits` [B, T_l, K]."""
        return make_points([x.shape[1] for x in pyramid.logits], self.strides, self.regression_ranges)

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
