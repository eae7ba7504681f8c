"""What devices that share a window along `clip` tell each other. For use inside shard_map, where x is one's own share.

A temporal convolution over the whole window needs some steps of the neighbours (its halo); at the window's ends there
are none, and zeros stand there, as its padding would.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from tadjax.backbones.layers import Conv, MaxPool

AXIS = "clip"


def gather(x: jax.Array, axis: int) -> jax.Array:
    """A share of what is pooled over space -> the whole window's, on every device."""
    return jax.lax.all_gather(x, AXIS, axis=axis, tiled=True)


def own_share(x: jax.Array, axis: int) -> jax.Array:
    """The inverse of `gather`."""
    steps = x.shape[axis] // jax.lax.axis_size(AXIS)
    return jax.lax.dynamic_slice_in_dim(x, jax.lax.axis_index(AXIS) * steps, steps, axis)


def exchange_halo(x: jax.Array, reach: int) -> jax.Array:
    """[B, T, ...] -> [B, T + 2 reach, ...]: with the neighbours' nearest steps, and zeros beyond the window's ends."""
    steps = x.shape[1]
    before, after = [], []
    for distance in range(1, -(-reach // steps) + 1):  # more than one only where the kernel is longer than a share
        count = min(steps, reach - (distance - 1) * steps)
        before.insert(0, _from_device(x[:, steps - count :], -distance))
        after.append(_from_device(x[:, :count], distance))
    return jnp.concatenate([*before, x, *after], axis=1)


def _from_device(x: jax.Array, distance: int) -> jax.Array:
    """The x of the device that lies so far ahead (or back, below 0) in the window; zeros where there is none."""
    devices = jax.lax.axis_size(AXIS)
    pairs = [(i + distance, i) for i in range(devices) if 0 <= i + distance < devices]
    return jax.lax.ppermute(x, AXIS, pairs) if pairs else jnp.zeros_like(x)


def roll(x: jax.Array, shift: int, axis: int) -> jax.Array:
    """jnp.roll of the whole window along its time axis, for |shift| up to a share's length."""
    devices, steps = jax.lax.axis_size(AXIS), x.shape[axis]
    here = functools.partial(jax.lax.slice_in_dim, x, axis=axis)
    if shift < 0:  # the next device's first steps come in at the end
        moved = jax.lax.ppermute(here(0, -shift), AXIS, [((i + 1) % devices, i) for i in range(devices)])
        return jnp.concatenate([here(-shift, steps), moved], axis)
    moved = jax.lax.ppermute(here(steps - shift, steps), AXIS, [(i, (i + 1) % devices) for i in range(devices)])
    return jnp.concatenate([moved, here(0, steps - shift)], axis)


def halo_convolutions(function: Callable) -> Callable:
    """`function`, in which every convolution and max pool over time (of layers.py) sees the neighbours' steps."""

    def convolve(layer: Callable, arguments: tuple, keywords: dict, context: nn.module.InterceptorContext) -> Any:
        module = context.module
        if not isinstance(module, (Conv, MaxPool)) or context.method_name != "__call__":
            return layer(*arguments, **keywords)
        pools = isinstance(module, MaxPool)
        (x,), length, stride = arguments, (module.window if pools else module.kernel)[0], module.stride[0]
        if length == 1:
            return layer(x)
        # As many output steps before as there are halo steps by stride; the layer's own padding lies beyond them.
        extra = -(-(length // 2) // stride)
        with_neighbours = exchange_halo(x, extra * stride)
        if pools:
            with_neighbours = _lowest_beyond(with_neighbours, extra * stride)
        return layer(with_neighbours)[:, extra : extra + x.shape[1] // stride]

    @functools.wraps(function)
    def with_halo(*arguments: Any) -> Any:
        with nn.intercept_methods(convolve):
            return function(*arguments)

    return with_halo


def _lowest_beyond(x: jax.Array, reach: int) -> jax.Array:
    """-inf in place of the zeros that `exchange_halo` puts beyond the window's ends: what no pool picks."""
    steps = x.shape[1] - 2 * reach
    place = jax.lax.axis_index(AXIS) * steps - reach + jnp.arange(x.shape[1])
    inside = (place >= 0) & (place < jax.lax.axis_size(AXIS) * steps)
    return jnp.where(inside[:, None, None, None], x, -jnp.inf)
