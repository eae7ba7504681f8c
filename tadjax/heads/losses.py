"""Losses of dense detection heads, element by element and in float32; the heads mask, weight and sum them.

Focal loss: Lin et al., ICCV 2017, equation 5. GIoU: Rezatofighi et al., CVPR 2019. DIoU: Zheng et al., AAAI 2020,
both on intervals. All are finite, with finite gradients, for every finite input, empty and reversed segments included.
"""

import jax
import jax.numpy as jnp


def smooth_labels(targets: jax.Array, smoothing: float) -> jax.Array:
    """Class targets [..., K] drawn towards 1 / (K + 1): the K classes and background."""
    return targets * (1 - smoothing) + smoothing / (targets.shape[-1] + 1)


def sigmoid_focal_loss(logits: jax.Array, targets: jax.Array, alpha: float = 0.25, gamma: float = 2.0) -> jax.Array:
    """alpha_t (1 - p_t)^gamma * cross entropy, of the shape of `logits`; targets may be soft (in [0, 1])."""
    logits, targets = logits.astype(jnp.float32), targets.astype(jnp.float32)
    p = jax.nn.sigmoid(logits)
    cross_entropy = -(targets * jax.nn.log_sigmoid(logits) + (1 - targets) * jax.nn.log_sigmoid(-logits))
    p_t = p * targets + (1 - p) * (1 - targets)
    alpha_t = alpha * targets + (1 - alpha) * (1 - targets)
    return alpha_t * (1 - p_t) ** gamma * cross_entropy


def diou(a: jax.Array, b: jax.Array) -> jax.Array:
    """Distance IoU of segments [..., 2]: IoU - (distance of the centres / length of the enclosing segment)^2."""
    intersection, union, enclosing = _overlap(a, b)
    distance = (a[..., 0] + a[..., 1]) / 2 - (b[..., 0] + b[..., 1]) / 2
    return intersection / jnp.maximum(union, 1e-7) - distance**2 / jnp.maximum(enclosing**2, 1e-7)


def giou(a: jax.Array, b: jax.Array) -> jax.Array:
    """Generalised IoU of segments [..., 2]: IoU - share of the enclosing segment that neither covers."""
    intersection, union, enclosing = _overlap(a, b)
    enclosing = jnp.maximum(enclosing, 1e-7)
    return intersection / jnp.maximum(union, 1e-6) - (enclosing - union) / (enclosing + 1e-6)


def _overlap(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Lengths of the intersection, the union (intersection counted once) and the enclosing segment."""
    (a_start, a_end), (b_start, b_end) = (jnp.moveaxis(x.astype(jnp.float32), -1, 0) for x in (a, b))
    intersection = jnp.maximum(jnp.minimum(a_end, b_end) - jnp.maximum(a_start, b_start), 0)
    union = (a_end - a_start) + (b_end - b_start) - intersection
    enclosing = jnp.maximum(a_end, b_end) - jnp.minimum(a_start, b_start)
    return intersection, union, enclosing


def update_loss_normalizer(normalizer: jax.Array, positives: jax.Array, momentum: float) -> jax.Array:
    """Moving average of the number of positive points a batch, at least 1: it steadies the losses of small batches."""
    return momentum * normalizer + (1 - momentum) * jnp.maximum(positives, 1)
