"""Writes a folder of converted weights: parameter after parameter, beside its final place, renamed when complete."""

import contextlib
import functools
import importlib.util
import json
import pathlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import jax
import ml_dtypes
import numpy as np
import orbax.checkpoint as ocp

from convert.files import as_torch, from_torch
from convert.mapping import nested
from tadjax import ending
from tadjax.errors import WeightsError, first_line
from tadjax.workdir import checksums

CHUNK_BYTES = 64 << 20  # small enough for a sharded restore to read little beyond its own shard


class LazyArray:
    """An array that is made when its turn to be written comes."""

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype, make: Callable[[], np.ndarray]):
        self.shape, self.dtype, self.make = shape, np.dtype(dtype), make
        self.ndim, self.size = len(shape), int(np.prod(shape))
        self.nbytes = self.size * self.dtype.itemsize
        self.checksums: checksums.Sums = {}  # once it was written


def _rounding(array: np.ndarray) -> np.ndarray:
    """To bfloat16; where it is installed by PyTorch, which takes a third of NumPy's time."""
    if importlib.util.find_spec("torch") is None:
        return array.astype(ml_dtypes.bfloat16)
    return from_torch(as_torch(np.require(array, requirements="W")).bfloat16())


class _LazyHandler(ocp.type_handlers.NumpyHandler):
    """Orbax writes all arrays of a tree at once; this one makes, writes and frees them one after the other."""

    def __init__(self) -> None:
        super().__init__(deepcopy_host_arrays=False)

    async def serialize(self, values: Any, infos: Any, args: Any = None) -> list:
        args = args or [ocp.SaveArgs()] * len(values)
        for value, info, arg in zip(values, infos, args, strict=True):
            array = value.make()
            value.checksums = checksums.of(array, _rounding)
            for written in await super().serialize([array], [info], [arg]):
                written.result()
        return []


def save_tree(path: pathlib.Path, arrays: dict[str, LazyArray]) -> None:
    """Saves {"a/b": array} as an Orbax checkpoint of the nested tree, uncompressed (weights hardly compress)."""
    registry = ocp.type_handlers.create_type_handler_registry(
        (LazyArray, _LazyHandler()), (jax.Array, ocp.type_handlers.ArrayHandler())
    )
    handler = ocp.PyTreeCheckpointHandler(use_compression=False, type_handler_registry=registry)
    save_args = nested({name: ocp.SaveArgs(chunk_byte_size=CHUNK_BYTES) for name in arrays})
    with ocp.Checkpointer(handler) as checkpointer:
        checkpointer.save(path.resolve(), args=ocp.args.PyTreeSave(nested(arrays), save_args=save_args))
    checksums.write(path, {name: array.checksums for name, array in arrays.items()})


@contextlib.contextmanager
def new_directory(path: pathlib.Path, expected_bytes: int) -> Iterator[pathlib.Path]:
    """A folder beside `path` that becomes `path` at the end, and vanishes if anything goes wrong.

    WeightsError if `path` exists, or if the disk cannot hold `expected_bytes` or fails while writing.
    """
    if path.exists():
        raise WeightsError(f"{path} exists: remove it, or give another --output")
    path.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(path.parent).free
    if free < expected_bytes:
        raise WeightsError(
            f"{path}: {expected_bytes / 1e9:.1f} GB are needed, {free / 1e9:.1f} GB are free on this disk"
        )
    partial = pathlib.Path(tempfile.mkdtemp(prefix=f"{path.name}.partial-", dir=path.parent))
    remove = functools.partial(shutil.rmtree, partial, ignore_errors=True)
    try:
        with ending.undone(remove):
            yield partial
        partial.chmod(0o755)  # mkdtemp's is for its owner alone
        partial.rename(path)
    except WeightsError:
        raise
    except (OSError, ValueError, RuntimeError) as error:
        raise WeightsError(f"{path} could not be written, nothing is left of it: {first_line(error)}") from error
    finally:
        remove()


def write_json(path: pathlib.Path, content: dict[str, Any]) -> None:
    """JSON with one line an entry, two levels deep: long, but readable and easy to compare."""
    sections = []
    for name, value in content.items():
        if isinstance(value, dict) and value:
            lines = [f"{json.dumps(key)}: {json.dumps(entry)}" for key, entry in value.items()]
            text = "{\n  " + ",\n  ".join(lines) + "\n }"
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            text = "[\n  " + ",\n  ".join(map(json.dumps, value)) + "\n ]"
        else:
            text = json.dumps(value)
        sections.append(f" {json.dumps(name)}: {text}")
    path.write_text("{\n" + ",\n".join(sections) + "\n}\n")
