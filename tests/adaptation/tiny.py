"""A tiny backbone, frames, and the plain form of a frozen pass with taps, for the tests of this folder."""

import functools

import jax
import numpy as np

from tadjax.backbones.vit import Vit, feature_map

BACKBONE = Vit(width=24, depth=5, heads=2, patch=16, mlp_width=48)
CLIPS = 4


@functools.cache
def params() -> dict:
    """Random parameters (numpy) with biases and scales away from their starts, so that none is silently left out."""
    shapes = jax.eval_shape(BACKBONE.init, jax.random.key(0))
    rng = np.random.default_rng(0)

    def draw(path, shape) -> np.ndarray:
        start = 1.0 if path[-1].key == "scale" else 0.0
        return (start + 0.05 * rng.standard_normal(shape.shape)).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def value_and_gradient(function, given):
    """y = function(given), and the gradient of the sum of its squares."""

    def loss(given):
        y = function(given)
        return (y**2).sum(), y

    (_, y), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(given)
    return y, grads


def away_from_start(tree: dict, seed: int) -> dict:
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda a: np.asarray(a + 0.05 * rng.standard_normal(a.shape), np.float32), tree)


@functools.cache
def frames(videos: int = 2, clips: int = CLIPS, height: int = 32, width: int = 48) -> np.ndarray:
    rng = np.random.default_rng(2)
    return rng.integers(0, 256, (videos, 16 * clips, height, width, 3)).astype(np.uint8)


def layer_outputs(backbone, params: dict, frames: jax.Array) -> list[jax.Array]:
    """x_i of every layer, layer after layer, in plain code; no gradient into the backbone."""
    x, outputs = backbone.embed(params, frames), []
    for stage in backbone.stages(params):
        for i in range(jax.tree.leaves(stage.params)[0].shape[0]):
            x = stage.block(jax.tree.map(lambda a, i=i: a[i], stage.params), x, None)
            outputs.append(jax.lax.stop_gradient(x))
    return outputs


def seen_outputs(backbone, params: dict, frames: jax.Array) -> list[jax.Array]:
    """`layer_outputs`, as a method beside the backbone sees them."""
    outputs, layer = layer_outputs(backbone, params, frames), 0
    for stage in backbone.stages(params):
        for i in range(jax.tree.leaves(stage.params)[0].shape[0]):
            x = feature_map(outputs[layer])
            of_layer = jax.tree.map(lambda a, i=i: a[i], stage.params)
            outputs[layer] = x if stage.seen is None else stage.seen(of_layer, x)
            layer += 1
    return outputs


def largest_difference(ours, theirs) -> float:
    """Over all arrays of two trees, relative to the largest magnitude of each reference array.

    An array a thousand times smaller than the largest one counts as if it were not smaller still: some gradients are
    zero but for rounding (biases that a softmax does not see).
    """
    floor = 1e-3 * max(np.abs(b).max() for b in jax.tree.leaves(theirs))
    one = jax.tree.map(lambda a, b: np.abs(a - b).max() / max(np.abs(b).max(), floor), ours, theirs)
    return float(max(jax.tree.leaves(one)))
