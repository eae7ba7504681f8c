"""Sub-graph alignment (G-TAD, Xu et al., CVPR 2020, section 3.3): features of segments, resampled to a few bins.

Published as a CUDA kernel (SGAlign, a RoIAlign over time). Here it is a matrix: a bin's feature is a fixed linear
combination of feature steps, so `weights @ features`, and its gradient needs no code. All positions are known when the
program is compiled.
"""

import jax
import jax.numpy as jnp
import numpy as np

OUTSIDE = -2.0  # a position at which interpolation has no weight


def sample_positions(segments: np.ndarray, bins: int, length: int, ratio: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Where the bins of segments [..., 2] are sampled in a sequence of `length` steps.

    A segment of h steps, at least 1, is cut into equal bins, and each bin sampled at the centres of `ratio` equal parts
    (0: as many as a bin has steps, rounded up). Step i is at position i. Samples within one step beyond the ends count
    as the first or last step, those farther away as zeros.

    Returns positions f32 [..., bins, S], OUTSIDE where there is no sample or it counts as zero, and the number of
    samples a bin f32 [...].
    """
    segments = np.asarray(segments, np.float64)
    start, height = segments[..., 0], np.maximum(segments[..., 1] - segments[..., 0], 1)
    count = np.full(height.shape, ratio) if ratio else np.ceil(height / bins).astype(int)
    size = (height / bins)[..., None, None]
    part = np.arange(count.max())
    place = (start[..., None, None] + np.arange(bins)[:, None] * size) + (part + 0.5) * size / count[..., None, None]
    sampled = (part < count[..., None, None]) & (place >= -1) & (place <= length)
    positions = np.where(sampled, np.clip(place, 0, length - 1), OUTSIDE)
    return positions.astype(np.float32), count.astype(np.float32)


def alignment_weights(positions: jax.Array, count: jax.Array, length: int) -> jax.Array:
    """f32 [..., bins, length] from what `sample_positions` returns: the mean of linear interpolations a bin."""
    steps = jnp.arange(length, dtype=jnp.float32)
    hats = jnp.maximum(0, 1 - jnp.abs(positions[..., None] - steps))  # [..., bins, S, length]
    return jnp.sum(hats, axis=-2) / count[..., None, None]
