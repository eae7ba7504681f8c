"""Decoded canvases -> the pictures that the backbone sees, on the devices, as each batch arrives.

A canvas is two to three times as large as the picture that training sees of it. So a small program of its own augments
each batch before the step that it is for, and what waits for that step is its result.
"""

import functools
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from tadjax.adaptation.host_frames import CLIP, HostFrames, pack, words_shape
from tadjax.data.augment import Augmentation, augment
from tadjax.data.loader import put
from tadjax.errors import ConfigError
from tadjax.localizer import Batch
from tadjax.parallel import mesh as meshes

OF_CANVAS = ("frame_size", "portrait", "augment_seed")  # entries of a record that say what to make of its canvas
FRAMES_AT_ONCE = 256  # that a device is given at once where no batch waits


class Arrival:
    """Puts batches onto a mesh; called with a batch as it is decoded, gives it as the training step takes it.

    config.data.device_batches = 0: a device holds no more than FRAMES_AT_ONCE frames of a canvas, and the caller waits
    for them. Otherwise it is given the whole canvas, and works on it behind what it was told before.
    """

    def __init__(self, config: Any, mesh: Mesh, sides: Mapping[tuple[int, ...], int]):
        """sides: of the pictures to be made, in pixels, for canvases of shape [T, height, width, 3]."""
        self.mesh = mesh
        self.whole = config.data.device_batches > 0 and config.memory.frames == "device"
        self._sides = sides
        self._shardings = meshes.batch_shardings(mesh)
        self.host = meshes.batch_shardings(mesh, "host")["frames"] if config.memory.frames == "host" else None
        if self.host is not None and jax.process_count() > 1:
            raise ConfigError("config.memory.frames = 'host' is for a single process; set it to 'device'")
        settings = Augmentation(**config.augment)

        def fill(frames: jax.Array, first: jax.Array, canvas: jax.Array, *of_canvas: jax.Array) -> tuple:
            """Of one device: canvas [b, n, Hc, Wc, 3] -> frames[:, first : first + n]; and where to go on."""
            seen = augment(canvas, *of_canvas, size=frames.shape[2], settings=settings)
            return jax.lax.dynamic_update_slice_in_dim(frames, seen, first, axis=1), first + seen.shape[1]

        frames, videos = meshes.FRAMES, meshes.VIDEOS
        in_specs, out_specs = (frames, P(), frames, videos, videos, videos), (frames, P())
        sharded = jax.shard_map(fill, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)
        self.fill = jax.jit(sharded, donate_argnums=(0, 1))

        def see(side: int, *arguments: jax.Array) -> HostFrames:
            """Of one device: canvas [b, n, Hc, Wc, 3] -> what the host keeps of it."""
            return pack(augment(*arguments, size=side, settings=settings))

        def sharded_see(side: int, *arguments: jax.Array) -> HostFrames:
            seen = functools.partial(see, side)
            return jax.shard_map(seen, mesh=mesh, in_specs=in_specs[2:], out_specs=frames, check_vma=False)(*arguments)

        self.see = jax.jit(sharded_see, static_argnums=0)

    def __call__(self, batch: Batch, batch_size: int) -> Batch:
        """batch: numpy, this process's rows of batch_size, entries of `TrainSet.record`.

        Returns:
          Global arrays on the devices, without OF_CANVAS. frames: uint8 [B, T, side, side, 3], augmented and upright;
          the host's, where config.memory.frames says so.
        """
        moved = {
            name: put(rows, batch_size, self._shardings[name])
            for name, rows in batch.items()
            if name not in ("frames", *OF_CANVAS)
        }
        return {**moved, "frames": self._frames(batch, batch_size)} if "frames" in batch else moved

    def _frames(self, batch: Batch, batch_size: int) -> jax.Array:
        canvas, clips = batch["frames"], self.mesh.shape["clip"]
        rows, length, *picture = canvas.shape
        held = length // clips  # frames of a window that a device has
        n = self.at_once(held, batch_size)
        of_device = canvas.reshape(rows, clips, held, *picture)
        of_canvas = [put(batch[name], batch_size, self._shardings[name]) for name in OF_CANVAS]
        side = self._sides[canvas.shape[1:]]

        def parts() -> Iterator[tuple[int, jax.Array]]:
            for start in range(0, held, n):
                part = np.ascontiguousarray(of_device[:, :, start : start + n]).reshape(rows, clips * n, *picture)
                yield start, put(part, batch_size, self._shardings["frames"])

        if self.host is not None:
            shape = words_shape((rows, length, side, side, 3))
            words = np.empty((rows, clips, held // CLIP, *shape[2:]), np.uint32)
            for start, part in parts():
                seen = np.asarray(self.see(side, part, *of_canvas).words).reshape(rows, clips, -1, *shape[2:])
                words[:, :, start // CLIP : (start + n) // CLIP] = seen
            return put(HostFrames(words.reshape(shape), (side, side, 3)), batch_size, self.host)
        frames, first = self._empty(batch_size, length, side)
        for _, part in parts():
            frames, first = self.fill(frames, first, part, *of_canvas)
            if not self.whole:
                frames.block_until_ready()
        return frames

    def at_once(self, held: int, batch_size: int) -> int:
        """How many of the `held` frames of a window a device is given at once."""
        if self.whole:
            return held
        most = max(FRAMES_AT_ONCE // (batch_size // meshes.videos_at_once(self.mesh)), 1)
        unit = 1 if self.host is None else CLIP
        return max(n for n in range(unit, held + 1, unit) if held % n == 0 and n <= max(most, unit))

    def lower(self, batch_size: int, canvas: tuple[int, ...]) -> Any:
        """The program that runs as a batch of canvases [T, height, width, 3] arrives, lowered for these shapes."""
        shapes = self.shapes(batch_size, canvas)
        return self.fill.lower(*shapes) if self.host is None else self.see.lower(self._sides[canvas], *shapes[2:])

    def shapes(self, batch_size: int, canvas: tuple[int, ...]) -> list[jax.ShapeDtypeStruct]:
        """Of the arguments of `fill` for canvases [T, height, width, 3]."""
        length, *picture = canvas
        side, clips = self._sides[canvas], self.mesh.shape["clip"]
        part = clips * self.at_once(length // clips, batch_size)
        shapes = {
            "frames": ((batch_size, length, side, side, 3), np.uint8, meshes.FRAMES),
            "first": ((), np.int32, P()),
            "canvas": ((batch_size, part, *picture), np.uint8, meshes.FRAMES),
            "frame_size": ((batch_size, 2), np.int32, meshes.VIDEOS),
            "portrait": ((batch_size,), np.bool_, meshes.VIDEOS),
            "augment_seed": ((batch_size,), np.uint32, meshes.VIDEOS),
        }
        return [
            jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(self.mesh, spec))
            for shape, dtype, spec in shapes.values()
        ]

    @functools.cached_property
    def _empty(self) -> Any:
        """(batch size, frames, side) -> frames to be filled, from the first on."""

        def empty(batch_size: int, length: int, side: int) -> tuple[jax.Array, jax.Array]:
            return jnp.zeros((batch_size, length, side, side, 3), jnp.uint8), jnp.zeros((), jnp.int32)

        shardings = (NamedSharding(self.mesh, meshes.FRAMES), NamedSharding(self.mesh, P()))
        return jax.jit(empty, static_argnums=(0, 1, 2), out_shardings=shardings)
