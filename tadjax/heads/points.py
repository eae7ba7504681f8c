"""Points of a feature pyramid: where they lie, which segments they are responsible for, and what they predict.

ActionFormer (Zhang et al., ECCV 2022), section 3.3: each position of each pyramid level is a candidate for an action's
moment t, and predicts the class and the distances (d_s, d_e) to the action's start and end, in units of the level's
stride. Shared by all heads without anchors.

A point is a row (position, shortest, longest, stride), all in feature steps of level 0: [shortest, longest] is the
range of distances that its level is responsible for.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

# Segments whose lengths differ by less than this count as equally short (feature steps): THUMOS14 annotates some
# actions twice, with two labels and boundaries that differ by rounding only.
SIMILAR_LENGTH = 1e-3


def make_points(
    lengths: Sequence[int], strides: Sequence[int], regression_ranges: Sequence[tuple[float, float]]
) -> np.ndarray:
    """The points of all levels, level 0 first: f32 [P, 4], P = sum(lengths). Point i of a level lies at i * stride."""
    levels = [
        np.stack([np.arange(length) * stride, *(np.full(length, value) for value in (*reach, stride))], axis=-1)
        for length, stride, reach in zip(lengths, strides, regression_ranges, strict=True)
    ]
    return np.concatenate(levels).astype(np.float32)


def decode_segments(points: jax.Array, offsets: jax.Array) -> jax.Array:
    """Segments [..., 2] in feature steps: position -/+ offset * stride.

    points: f32 [P, 4]. offsets: f32 [..., P, 2], distances to start and end in strides. For offsets a class,
    [..., P, K, 2], give `points[:, None]`.
    """
    position, stride = points[..., 0], points[..., 3]
    return jnp.stack([position - offsets[..., 0] * stride, position + offsets[..., 1] * stride], axis=-1)


def assign_targets(
    points: jax.Array,
    segments: jax.Array,
    labels: jax.Array,
    segment_valid: jax.Array,
    *,
    classes: int,
    center_sample_radius: float,
    filter_similar_gt: bool = True,
) -> tuple[jax.Array, jax.Array]:
    """What each point should predict (ActionFormer, section 3.4, with center sampling as in FCOS).

    A point is a candidate for a segment if it lies strictly inside the segment cut to +-radius * stride around its
    centre, and its larger distance to the segment's two ends lies in the level's range, both ends included. The
    shortest segment wins; its rivals within 1e-3 of its length contribute their labels (`filter_similar_gt=False`: all
    candidates do, as for Ego4D), but not their boundaries.

    Args:
        points: f32 [P, 4].
        segments: f32 [B, M, 2], feature steps. labels: int [B, M]. segment_valid: bool [B, M], false where padded.
        center_sample_radius: in strides; `math.inf` makes the whole segment its centre.

    Returns:
        class_targets: f32 [B, P, K], 0 or 1, several ones possible; all zero at points without a segment.
        offset_targets: f32 [B, P, 2], distances to start and end in strides; meaningful where some class is one.
    """
    batch, count, _ = segments.shape
    if count == 0:  # a data set without a single annotated segment
        return jnp.zeros((batch, len(points), classes)), jnp.zeros((batch, len(points), 2))

    position, shortest, longest, stride = (points[None, :, None, i] for i in range(4))  # each [1, P, 1]
    start, end = segments[:, None, :, 0], segments[:, None, :, 1]  # [B, 1, M]
    offsets = jnp.stack([position - start, end - position], axis=-1)  # [B, P, M, 2]

    center = 0.5 * (start + end)
    reach = stride * center_sample_radius
    inside = (position > jnp.maximum(center - reach, start)) & (position < jnp.minimum(center + reach, end))
    distance = jnp.max(offsets, axis=-1)
    responsible = (distance >= shortest) & (distance <= longest)
    candidate = inside & responsible & segment_valid[:, None]  # [B, P, M]

    length = jnp.where(candidate, end - start, jnp.inf)
    if filter_similar_gt:
        contributes = candidate & (length <= jnp.min(length, axis=-1, keepdims=True) + SIMILAR_LENGTH)
    else:
        contributes = candidate
    one_hot = jax.nn.one_hot(labels, classes)  # [B, M, K]
    class_targets = jnp.minimum(jnp.einsum("bpm,bmk->bpk", contributes.astype(jnp.float32), one_hot), 1.0)

    winner = jnp.argmin(length, axis=-1)[..., None, None]  # the first of the shortest
    offset_targets = jnp.take_along_axis(offsets, winner, axis=2)[:, :, 0] / stride
    return class_targets, offset_targets
