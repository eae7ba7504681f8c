"""The dense map of proposals (BMN, Lin et al., ICCV 2019; G-TAD, Xu et al., CVPR 2020) and its losses.

Cell (d, s) of the map [D, T] is the segment [s, s + d + 1] in feature steps: it starts at step s and lasts d + 1 steps.
It is valid where it ends within the window.
"""

import jax
import jax.numpy as jnp
import numpy as np

BOUNDARY = 1.5  # feature steps on either side of a boundary that belong to it
HIGH, LOW = 0.7, 0.3  # overlaps between which a proposal counts as middling


def map_segments(durations: int, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Segments f32 [D, T, 2] in feature steps, (0, 0) where invalid, and valid bool [D, T]."""
    start = np.broadcast_to(np.arange(length), (durations, length))
    end = start + np.arange(1, durations + 1)[:, None]
    valid = end <= length
    return np.where(valid[..., None], np.stack([start, end], axis=-1), 0).astype(np.float32), valid


def map_targets(segments: np.ndarray, targets: dict) -> jax.Array:
    """f32 [B, D, T]: the highest IoU of each proposal f32 [D, T, 2] with a true segment, 0 without any."""
    a, b = (
        jnp.asarray(segments)[None, :, :, None],
        targets["segments"][:, None, None],
    )  # [1, D, T, 1, 2], [B, 1, 1, M, 2]
    intersection = jnp.maximum(jnp.minimum(a[..., 1], b[..., 1]) - jnp.maximum(a[..., 0], b[..., 0]), 0)
    union = (a[..., 1] - a[..., 0]) + (b[..., 1] - b[..., 0]) - intersection
    iou = jnp.where(targets["segment_valid"][:, None, None], intersection / jnp.maximum(union, 1e-6), 0)
    return jnp.max(iou, axis=-1, initial=0)


def boundary_targets(targets: dict, length: int) -> jax.Array:
    """f32 [B, T, 2]: share of the step [t, t + 1] that lies within 1.5 steps of some start, and of some end."""
    step = jnp.arange(length, dtype=jnp.float32)[:, None, None]  # [T, 1, 1]
    boundary = targets["segments"][:, None]  # [B, 1, M, 2]
    covered = jnp.minimum(step + 1, boundary + BOUNDARY) - jnp.maximum(step, boundary - BOUNDARY)
    covered = jnp.where(targets["segment_valid"][:, None, :, None], jnp.clip(covered, 0, 1), 0)
    return jnp.max(covered, axis=2, initial=0)


def balanced_bce(logits: jax.Array, positive: jax.Array, valid: jax.Array | bool = True) -> jax.Array:
    """Mean cross entropy over `valid`, positives and negatives weighing half each; the plain mean without one of them.

    All of one shape; the weights count over the whole batch.
    """
    valid = jnp.broadcast_to(valid, logits.shape)
    total, positives = jnp.sum(valid), jnp.sum(positive & valid)
    negatives = total - positives
    both = (positives > 0) & (negatives > 0)
    of_positive = jnp.where(both, 0.5 * total / jnp.maximum(positives, 1), 1.0)
    of_negative = jnp.where(both, 0.5 * total / jnp.maximum(negatives, 1), 1.0)
    cross_entropy = -jnp.where(
        positive, of_positive * jax.nn.log_sigmoid(logits), of_negative * jax.nn.log_sigmoid(-logits)
    )
    return jnp.sum(jnp.where(valid, cross_entropy, 0)) / total


def balanced_l2(
    predicted: jax.Array, iou: jax.Array, uniform: jax.Array, valid: jax.Array | bool = True, weight: float = 5.0
) -> jax.Array:
    """Squared error of predicted overlaps, over as many middling and low proposals as there are high ones.

    uniform: draws from [0, 1), [2, *shape], that pick middling and low ones. As published, where high proposals
    outnumber middling (or low) ones, that pick is of all proposals, and without any high one the loss is the plain
    mean, without `weight`.
    """
    valid = jnp.broadcast_to(valid, iou.shape)
    high, middle, low = (group & valid for group in (iou > HIGH, (iou > LOW) & (iou <= HIGH), iou <= LOW))
    count = jnp.sum(high)
    picked = high.astype(jnp.float32)
    for group, draw in ((middle, uniform[0]), (low, uniform[1])):
        picked += (draw * group > 1 - count / jnp.sum(group)) & valid
    error = jnp.where(valid, (predicted - iou) ** 2, 0)
    sampled = weight * jnp.sum(error * picked) / jnp.maximum(jnp.sum(picked), 1)
    return jnp.where(count > 0, sampled, jnp.sum(error) / jnp.sum(valid))
