"""CRC-32 of stored arrays, kept beside the folder that holds them, and compared when they come back.

DIR/NAME.checksums.json, of DIR/NAME/:   {path of an array: {dtype: CRC-32 of its numbers in that dtype}}

Orbax's files notice when they are cut short, but not every flipped bit. Weights are mostly loaded as bfloat16, whatever
they are stored as, so an array has a checksum for both. In another dtype, or of a folder that was written before there
were checksums, arrays are read unchecked.
"""

import json
import pathlib
import zlib
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tadjax.errors import WeightsError, first_line
from tadjax.files import write_whole

Sums = dict[str, int]  # by dtype


def crc(array: Any) -> int:
    """Of an array's numbers, row-major."""
    return zlib.crc32(np.ascontiguousarray(_on_host(array)).reshape(-1).view(np.uint8))


def crcs(arrays: Iterable[Any]) -> list[int]:
    """Of each array, several at a time."""
    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(crc, arrays))


def of(array: Any, rounding: Callable[[np.ndarray], np.ndarray] = lambda a: a.astype(jnp.bfloat16)) -> Sums:
    """The checksums of an array. `rounding` to bfloat16 is for those who know a faster way."""
    array = _on_host(array)
    sums = {array.dtype.name: crc(array)}
    if jnp.issubdtype(array.dtype, jnp.floating) and array.dtype != jnp.bfloat16:
        sums["bfloat16"] = crc(rounding(array))
    return sums


def of_tree(tree: Any) -> dict[str, Sums]:
    """The checksums of each array that this process holds whole, by path."""
    return {path: of(leaf) for path, leaf in _leaves(tree).items() if is_whole(leaf)}


def is_whole(array: Any) -> bool:
    """Whether this process holds all numbers of an array."""
    return getattr(array, "is_fully_addressable", True) or array.is_fully_replicated


def write(folder: pathlib.Path, sums: Mapping[str, Sums]) -> None:
    """Keeps the checksums of the arrays that lie in `folder`, or will."""
    write_whole(_file(folder), json.dumps(sums, indent=1) + "\n")


def verify(folder: pathlib.Path, tree: Any) -> None:
    """WeightsError names the arrays of `tree`, read from `folder`, that do not hold the numbers that were written."""
    leaves = _leaves(tree)
    try:
        sums = json.loads(_file(folder).read_bytes())
        written = {path: sums.get(path, {}).get(leaf.dtype.name) for path, leaf in leaves.items() if is_whole(leaf)}
    except FileNotFoundError:
        return
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise WeightsError(f"{_file(folder)} is damaged: {first_line(error)}") from error
    written = {path: number for path, number in written.items() if number is not None}
    read = dict(zip(written, crcs(leaves[path] for path in written), strict=True))
    if changed := sorted(path for path in written if read[path] != written[path]):
        more = f" and {len(changed) - 4} more" if len(changed) > 4 else ""
        raise WeightsError(
            f"{folder} is damaged: the numbers in {', '.join(changed[:4])}{more} are not those that were written "
            f"({_file(folder).name}); copy or convert it again"
        )


def _file(folder: pathlib.Path) -> pathlib.Path:
    return folder.with_name(f"{folder.name}.checksums.json")


def _leaves(tree: Any) -> dict[str, Any]:
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def _on_host(array: Any) -> np.ndarray:
    """The numbers. JAX keeps what the host has read of an array for as long as that array lives: so they are read of
    another array over the same buffers, which takes no memory of the device, and goes with them."""
    if isinstance(array, jax.Array):
        array = array if array.is_fully_addressable else array.addressable_data(0)
        shards = [shard.data for shard in array.addressable_shards]
        array = jax.make_array_from_single_device_arrays(array.shape, array.sharding, shards)
    return np.asarray(array)
