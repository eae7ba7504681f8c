"""G-TAD's losses and proposals as its authors released them (github.com/frostinassiky/gtad), OpenTAD's being others.

Of the two channels of the map, the first is the overlap and the second whether a segment is an action (OpenTAD: the
other way round). Segments that reach beyond the window count among the high and middling overlaps. Nothing is said of
likely boundaries when proposals are made: every segment that ends before the last step is one.
"""

import jax
import jax.numpy as jnp
import numpy as np

from tadjax.heads.proposal_map import HIGH, LOW, boundary_targets, map_segments, map_targets

END_SHIFT = -1.0  # feature steps: the end of what a segment's features are sampled from
ACTION_WEIGHT = 10.0  # of the classification loss
BOUNDARY_THRESHOLD, ACTION_THRESHOLD = 0.5, 0.9  # above which a step is a boundary, a segment an action
PRIOR = 10.0  # added to the number of actions, so that a batch without one has a loss
EPSILON = 1e-6  # added to probabilities before the logarithm


def overlap_loss(predicted: jax.Array, iou: jax.Array, uniform: jax.Array, valid: jax.Array) -> jax.Array:
    """Half the squared error of overlaps, over as many middling and low segments as there are high ones.

    predicted, iou: f32 [B, D, T]. uniform: draws from [0, 1), [2, B, D, T], that pick middling and low ones. valid:
    bool [D, T], which only low ones must be.
    """
    high, middle, low = iou > HIGH, (iou > LOW) & (iou <= HIGH), (iou > 0) & (iou <= LOW) & valid
    count = jnp.sum(high)
    picked = high.astype(jnp.float32)
    for group, draw in ((middle, uniform[0]), (low, uniform[1])):
        picked += draw * group > 1 - count / jnp.sum(group)
    error = (predicted * picked - iou * picked) ** 2
    return 0.5 * jnp.sum(error) / jnp.maximum(jnp.sum(picked), 1)


def action_loss(predicted: jax.Array, iou: jax.Array, valid: jax.Array) -> jax.Array:
    """Cross entropy of "is an action", actions and others weighing half each: probabilities f32 [B, D, T]."""
    positive = iou > ACTION_THRESHOLD
    negative = ~positive & valid
    positives = PRIOR + jnp.sum(positive)
    total = PRIOR + positives + jnp.sum(negative)
    return -(_weighted_logs(predicted, positive, negative, total / positives)) / total


def node_loss(predicted: jax.Array, boundary: jax.Array) -> jax.Array:
    """Cross entropy of "is a boundary" (bool, like the probabilities), both sides weighing half each."""
    ratio = boundary.size / jnp.maximum(jnp.sum(boundary), 1)
    return -_weighted_logs(predicted, boundary, ~boundary, ratio) / boundary.size


def _weighted_logs(predicted: jax.Array, positive: jax.Array, negative: jax.Array, ratio: jax.Array) -> jax.Array:
    """Sum of log-likelihoods; `ratio` is that of all entries to the positive ones."""
    of_positive, of_negative = 0.5 * ratio, 0.5 * ratio / jnp.maximum(ratio - 1, EPSILON)
    logs = of_positive * jnp.log(predicted + EPSILON) * positive
    return jnp.sum(logs + of_negative * jnp.log(1 - predicted + EPSILON) * negative)


def every_segment(durations: int, length: int) -> np.ndarray:
    """f32 [D, T, 2]: the cells of the map, in feature steps, those that end beyond the window too."""
    start = np.broadcast_to(np.arange(length), (durations, length))
    return np.stack([start, start + np.arange(1, durations + 1)[:, None]], axis=-1).astype(np.float32)


def losses(boundaries: jax.Array, cells: jax.Array, targets: dict, uniform: jax.Array) -> dict:
    """Losses of probabilities: of boundaries f32 [B, T, 2], of the map f32 [B, D, T, 2]; uniform f32 [2, B, D, T]."""
    durations, length = cells.shape[1:3]
    iou = map_targets(every_segment(durations, length), targets)
    valid = map_segments(durations, length)[1]
    edges = boundary_targets(targets, length) > BOUNDARY_THRESHOLD
    found = {
        "boundaries": sum(node_loss(boundaries[..., i], edges[..., i]) for i in range(2)),
        "regression": overlap_loss(cells[..., 0], iou, uniform, valid),
        "classification": ACTION_WEIGHT * action_loss(cells[..., 1], iou, valid),
    }
    return found | {"loss": sum(found.values())}


def proposals(durations: int, length: int) -> np.ndarray:
    """Bool [D, T]: the cells of the map that are proposals."""
    segments, valid = map_segments(durations, length)
    return valid & (segments[..., 1] < length)
