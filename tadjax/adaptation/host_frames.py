"""Frames of a window that wait in the host's memory, from where a group of clips is fetched when its turn comes.

A TPU reads a part of an array in the host's memory only where the part consists of whole tiles, of 8 x 128 words of 32
bits; of any other array it first fetches all. So a clip's frames 0 to 3, 4 to 7, 8 to 11 and 12 to 15 are the four
bytes of its words, and the words are filled up to whole tiles.
"""

import math
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

CLIP = 16  # frames
BYTES = 4  # of a word
TILE = (8, 128)  # words


@flax.struct.dataclass
class HostFrames:
    """words: uint32 [B, T / 16, rows, 128]. picture: (H, W, 3)."""

    words: Any
    picture: tuple[int, ...] = flax.struct.field(pytree_node=False)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the frames, [B, T, H, W, 3]."""
        return (self.words.shape[0], self.words.shape[1] * CLIP, *self.picture)

    @property
    def dtype(self) -> Any:
        """Of the frames."""
        return jnp.uint8


def words_shape(frames: tuple[int, ...]) -> tuple[int, ...]:
    """Of the words of frames [B, T, H, W, 3]. ValueError where these are no whole clips."""
    b, t, *picture = frames
    if t % CLIP:
        raise ValueError(f"config.memory.frames = host: {t} frames are no whole number of clips of {CLIP} frames")
    tiles = -(-CLIP // BYTES * math.prod(picture) // math.prod(TILE))
    return (b, t // CLIP, tiles * TILE[0], TILE[1])


def pack(frames: jax.Array | np.ndarray) -> HostFrames:
    """Frames uint8 [B, T, H, W, 3] (T a multiple of 16) -> the same as words, where the frames are."""
    shape, picture = words_shape(frames.shape), frames.shape[2:]
    flat = frames.reshape(*shape[:2], BYTES, -1)
    if isinstance(frames, np.ndarray):  # a byte at a time: words of 32 bits of all frames would be four times as large
        filled = np.zeros((*shape[:2], math.prod(shape[2:]), BYTES), np.uint8)
        filled[:, :, : flat.shape[3]] = np.moveaxis(flat, 2, 3)
        return HostFrames(filled.view("<u4").reshape(shape), tuple(picture))
    flat = flat.astype(jnp.uint32)
    words = sum(flat[:, :, i] << np.uint32(8 * i) for i in range(BYTES))
    words = jnp.pad(words, ((0, 0), (0, 0), (0, math.prod(shape[2:]) - words.shape[2])))
    return HostFrames(words.reshape(shape), tuple(picture))


def packed(frames: jax.ShapeDtypeStruct) -> HostFrames:
    """What `pack` makes of frames of a shape, with their sharding."""
    words = jax.ShapeDtypeStruct(words_shape(frames.shape), jnp.uint32, sharding=frames.sharding)
    return HostFrames(words, tuple(frames.shape[2:]))


def on_device(frames: jax.Array | HostFrames, first: jax.Array | int = 0, count: int | None = None) -> jax.Array:
    """`count` frames from frame `first` on (None: all), on the device: [B, count, H, W, 3].

    ValueError if frames wait on the host and `count` is not a multiple of 16, the frames of a clip.
    """
    if not isinstance(frames, HostFrames):
        return _part(frames, first, count)
    if count is not None and count % CLIP:
        raise ValueError(f"config.memory.frames = host: groups of {count} frames are no whole clips of {CLIP} frames")
    part = _part(frames.words, first // CLIP, None if count is None else count // CLIP)
    words = jax.device_put(part, jax.memory.Space.Device)
    b, clips = words.shape[:2]
    words = words.reshape(b, clips, -1)[:, :, : CLIP // BYTES * math.prod(frames.picture)]
    parts = jnp.stack([(words >> np.uint32(8 * i)).astype(jnp.uint8) for i in range(BYTES)], 2)
    return parts.reshape(b, clips * CLIP, *frames.picture)


def _part(x: jax.Array, first: jax.Array | int, count: int | None) -> jax.Array:
    if count is None or count == x.shape[1]:
        return x
    return jax.lax.dynamic_slice_in_dim(x, first, count, axis=1)
