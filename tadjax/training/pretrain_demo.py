"""A backbone for the demo in a minute or two: a small ViT learns to see the actor, not what it does.

Real recipes start from backbones that were pre-trained on hundreds of thousands of videos. The demo's stands in for
them: on clips without any action (`draw_aimless_clip`) each token of the last block predicts, through one linear layer,
how much of each quarter of its patch the actor covers. The layer is thrown away; what an action is, the adapters and
the head must learn.
"""

import functools
import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import optax

from tadjax.backbones.vit import CLIP_FRAMES, TUBELET, Vit
from tadjax.prepare.demo_videos import draw_aimless_clip

CLIPS = 2000
STEPS = 500
BATCH = 16
LEARNING_RATE = 2e-3
WARMUP_STEPS = 50
WEIGHT_DECAY = 0.05
QUARTERS = 2  # cells of a patch, along each side


def draw_clips(seed: int, size: int, count: int = CLIPS) -> tuple[np.ndarray, np.ndarray]:
    """Clips uint8 [count, 16, size, size, 3] and the actor's masks uint8 [count, 16, size, size]."""
    draw = functools.partial(draw_aimless_clip, seed, size=size, frames=CLIP_FRAMES)
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as pool:
        clips = list(pool.map(draw, range(count), chunksize=16))
    frames, masks = zip(*clips, strict=True)
    return np.stack(frames), np.stack(masks)


def coverage(masks: jax.Array, patch: int) -> jax.Array:
    """Masks [B, T, H, W] in 0..255 -> the share that is covered of each quarter of each token, [B, T/2, h, w, 4]."""
    b, t, height, width = masks.shape
    cell = patch // QUARTERS
    h, w = height // patch, width // patch
    cells = masks.astype(jnp.float32).reshape(b, t // TUBELET, TUBELET, h, QUARTERS, cell, w, QUARTERS, cell)
    return cells.mean((2, 5, 8)).transpose(0, 1, 2, 4, 3, 5).reshape(b, t // TUBELET, h, w, QUARTERS**2) / 255


def predict(backbone: Vit, params: dict, frames: jax.Array) -> jax.Array:
    """Frames [B, 16, H, W, 3] -> logits of `coverage`, [B, 8, h, w, 4]."""
    x = backbone.embed(params["backbone"], frames)
    for stage in backbone.stages(params["backbone"]):
        x, _ = jax.lax.scan(lambda x, layer, block=stage.block: (block(layer, x, None), None), x, stage.params)
    mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    x = (x - mean) * jax.lax.rsqrt(variance + 1e-6)
    return x @ params["readout"]["kernel"] + params["readout"]["bias"]


def pretrain(
    backbone: Vit, frames: np.ndarray, masks: np.ndarray, seed: int = 0, steps: int = STEPS
) -> tuple[dict, float]:
    """Trains all of `backbone` on the clips of `draw_clips`; returns its parameters and the last tenth's mean loss."""
    schedule = optax.warmup_cosine_decay_schedule(0.0, LEARNING_RATE, WARMUP_STEPS, steps)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule, b2=0.95, weight_decay=WEIGHT_DECAY))
    width, cells = backbone.width, QUARTERS**2
    params = {
        "backbone": backbone.init(jax.random.key(seed)),
        "readout": {
            "kernel": jnp.zeros((width, cells)),
            "bias": jnp.full(cells, -2.0),
        },  # most of a picture is no actor
    }

    def loss_of(params: dict, frames: jax.Array, masks: jax.Array) -> jax.Array:
        logits = predict(backbone, params, frames)
        return optax.sigmoid_binary_cross_entropy(logits, coverage(masks, backbone.patch)).mean()

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params, state, frames, masks):
        loss, gradients = jax.value_and_grad(loss_of)(params, frames, masks)
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state, loss

    state, losses = optimizer.init(params), []
    for number in range(steps):
        params, state, loss = step(params, state, *_augmented(frames, masks, np.random.default_rng((seed, number))))
        losses.append(loss)
    return params["backbone"], float(np.mean([float(loss) for loss in losses[-max(steps // 10, 1) :]]))


def _augmented(frames: np.ndarray, masks: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A batch of clips, each mirrored, transposed, played backwards and with its colour channels permuted by chance."""
    batch_frames, batch_masks = [], []
    for index in rng.choice(len(frames), BATCH, replace=False):
        clip, mask = frames[index][..., rng.permutation(3)], masks[index]
        for axis in range(3):
            if rng.random() < 0.5:
                clip, mask = np.flip(clip, axis), np.flip(mask, axis)
        if rng.random() < 0.5:
            clip, mask = clip.swapaxes(1, 2), mask.swapaxes(1, 2)
        batch_frames.append(clip)
        batch_masks.append(mask)
    return np.stack(batch_frames), np.stack(batch_masks)
