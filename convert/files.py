"""Checkpoint files as lists of tensors: name, shape, dtype, and where in the file the numbers lie.

Opening one reads no numbers and runs no pickled code; `StoredTensor.read` then brings one tensor into memory at a time,
by plain file reads (a memory map would count the whole file towards the process's memory). PyTorch is imported for its
own files alone: safetensors and pickles of numpy arrays need none.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import operator
import pathlib
import pickle
import zipfile
import zlib
from typing import IO, TYPE_CHECKING, Any, BinaryIO

import ml_dtypes
import numpy as np

from tadjax.errors import WeightsError, first_line

if TYPE_CHECKING:
    import torch

_TORCH_DTYPES = {  # by torch's names
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float64": np.dtype(np.float64),
    "int64": np.dtype(np.int64),
    "int32": np.dtype(np.int32),
    "int16": np.dtype(np.int16),
    "int8": np.dtype(np.int8),
    "uint8": np.dtype(np.uint8),
    "bool": np.dtype(np.bool_),
}
_SAFETENSORS_DTYPES = {
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F64": np.dtype(np.float64),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}
# Plain data that published training checkpoints hold beside their tensors; making them runs no code of the file's.
_NUMPY = {name: getattr(np._core.multiarray, name) for name in ("scalar", "_reconstruct")}
_HARMLESS = [argparse.Namespace, np.dtype, np.ndarray, *_NUMPY.values()]
_HARMLESS += [(made, f"numpy.core.multiarray.{name}") for name, made in _NUMPY.items()]  # as numpy 1 called them
_HARMLESS += [type(np.dtype(t)) for t in ("f2", "f4", "f8", "i4", "i8", "u1", "?")]


@dataclasses.dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file. `strides` in elements; None: row-major."""

    shape: tuple[int, ...]
    dtype: np.dtype
    file: pathlib.Path
    offset: int = 0  # bytes
    strides: tuple[int, ...] | None = None
    array: np.ndarray | None = None  # of files that can only be read whole

    def read(self) -> np.ndarray:
        """The numbers; WeightsError if the file ends before them."""
        if self.array is not None:
            return self.array
        count = math.prod(self.shape)
        if self.strides is not None and count:
            count = 1 + sum((n - 1) * s for n, s in zip(self.shape, self.strides, strict=True))
        flat = np.fromfile(self.file, self.dtype, count, offset=self.offset)
        if flat.size < count:
            raise WeightsError(f"{self.file}: the file ends inside a tensor; it is truncated")
        if self.strides is None:
            return flat.reshape(self.shape)
        strides = [s * self.dtype.itemsize for s in self.strides]
        return np.lib.stride_tricks.as_strided(flat, self.shape, strides, writeable=False)


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint holds: `groups` of tensors by top-level key ("" for tensors that lie at the top itself)."""

    files: tuple[pathlib.Path, ...]
    groups: dict[str, dict[str, StoredTensor]]
    others: tuple[str, ...] = ()  # top-level keys without tensors


def open_checkpoint(path: str | pathlib.Path) -> Checkpoint:
    """Opens .pth, .pt, .bin, .safetensors and .npz files, the .index.json of a sharded one, pickles of numpy arrays.

    WeightsError if the file is absent, truncated, of no such format, or needs pickled code to run.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise WeightsError(f"{path}: no such file")
    if path.suffix == ".json":
        return _open_sharded(path)
    if path.suffix == ".safetensors":
        return Checkpoint((path,), {"": _open_safetensors(path)})
    if path.suffix == ".npz":
        return Checkpoint((path,), {"": _open_npz(path)})
    if (arrays := _open_numpy_pickle(path)) is not None:
        return Checkpoint((path,), {"": arrays})
    groups, others = _open_torch(path)
    return Checkpoint((path,), groups, others)


def _open_sharded(index: pathlib.Path) -> Checkpoint:
    try:
        shards = json.loads(index.read_text())["weight_map"]
    except (ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"{index}: not the index of a sharded checkpoint (no readable 'weight_map')") from error
    tensors: dict[str, StoredTensor] = {}
    for name in shards.values() if isinstance(shards, dict) else (None,):
        if not isinstance(name, str) or pathlib.PureWindowsPath(name).name != name or not name:
            raise WeightsError(f"{index}: 'weight_map' names {name!r:.80}, which is no file beside the index")
    files = [index.parent / name for name in sorted(set(shards.values()))]
    if absent := [file.name for file in files if not file.is_file()]:
        raise WeightsError(f"{index}: {len(absent)} of its {len(files)} files are not beside it, such as {absent[0]}")
    for file in files:
        tensors |= open_checkpoint(file).groups.get("", {})
    if absent := sorted(set(shards) - set(tensors)):
        raise WeightsError(f"{index}: {len(absent)} tensors are in none of its files, such as {absent[0]}")
    return Checkpoint((index, *files), {"": {name: tensors[name] for name in shards}})


def _open_safetensors(path: pathlib.Path) -> dict[str, StoredTensor]:
    """The format: 8 bytes with the length of a JSON header, the header, the numbers."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > size - 8:
            raise WeightsError(f"{path}: truncated, or not a safetensors file")
        try:
            header = json.loads(file.read(length))
        except (ValueError, RecursionError) as error:
            raise WeightsError(f"{path}: not a safetensors file (its header is no JSON)") from error
    if not isinstance(header, dict):
        raise WeightsError(f"{path}: not a safetensors file (its header is no JSON object)")
    header.pop("__metadata__", None)
    return {name: _safetensor(path, name, entry, 8 + length, size) for name, entry in header.items()}


def _safetensor(path: pathlib.Path, name: str, entry: Any, start: int, size: int) -> StoredTensor:
    """One entry of the header; its numbers lie at data_offsets from `start`, in a file of `size` bytes."""
    try:
        dtype = _SAFETENSORS_DTYPES.get(entry["dtype"])
        shape, (begin, end) = tuple(map(operator.index, entry["shape"])), map(operator.index, entry["data_offsets"])
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"{path}: {name} has no readable dtype, shape and data_offsets in the header") from error
    if dtype is None:
        raise WeightsError(f"{path}: {name} has dtype {entry['dtype']}, which is not supported")
    if start + end > size:
        raise WeightsError(f"{path}: the file ends inside {name}; it is truncated")
    if min(begin, *shape, 0) < 0 or end - begin != math.prod(shape) * dtype.itemsize:
        raise WeightsError(f"{path}: {name} is {list(shape)} {entry['dtype']}, but has bytes {begin} to {end}")
    return StoredTensor(shape, dtype, path, start + begin)


def _open_npz(path: pathlib.Path) -> dict[str, StoredTensor]:
    """A numpy archive: a zip of .npy files, which hold a header and the numbers."""
    found = {}
    try:
        with zipfile.ZipFile(path) as archive, path.open("rb") as file:
            for entry in archive.infolist():
                with archive.open(entry) as stream:
                    shape, by_column, dtype = _npy_header(stream)
                    if dtype.hasobject:
                        raise ValueError(f"{entry.filename} holds Python objects")
                    offset, array = _start_in_zip(file, entry) + stream.tell(), None
                    if entry.compress_type != zipfile.ZIP_STORED:
                        array = np.frombuffer(stream.read(), dtype).reshape(shape, order="F" if by_column else "C")
                strides = tuple(math.prod(shape[:i]) for i in range(len(shape))) if by_column else None
                name = entry.filename.removesuffix(".npy")
                found[name] = StoredTensor(shape, dtype, path, offset, strides, array)
    except (zipfile.BadZipFile, ValueError, KeyError, OSError, EOFError, zlib.error, NotImplementedError) as error:
        raise WeightsError(f"{path}: no archive of numpy arrays, or truncated ({first_line(error)})") from error
    return found


def _npy_header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """(shape, whether columns come first, dtype); the stream then stands at the numbers."""
    formats = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    return formats[np.lib.format.read_magic(stream)](stream)


def _start_in_zip(file: BinaryIO, entry: zipfile.ZipInfo) -> int:
    """Where the bytes of an entry begin: after its local header, whose name and extra field have their own lengths."""
    file.seek(entry.header_offset + 26)
    name, extra = (int.from_bytes(file.read(2), "little") for _ in range(2))
    return entry.header_offset + 30 + name + extra


def _open_torch(path: pathlib.Path) -> tuple[dict[str, dict[str, StoredTensor]], tuple[str, ...]]:
    try:
        import torch
        from torch._subclasses.fake_tensor import FakeTensorMode
    except ImportError as error:
        raise WeightsError(f"{path}: reading this file needs PyTorch: pip install torch ({error})") from error
    try:
        streamed = _is_plain_zip(path)
        with torch.serialization.safe_globals(_HARMLESS):
            if streamed:
                with FakeTensorMode():  # tensors without numbers, which know where in the file theirs lie
                    content = torch.load(path, map_location="cpu", weights_only=True)
            else:
                content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(f"{path}: {_refusal(error)}") from error
    except Exception as error:  # on garbage the reader may raise anything
        raise WeightsError(
            f"{path}: no checkpoint that PyTorch can read, or truncated ({first_line(error)})"
        ) from error
    if not isinstance(content, dict):
        raise WeightsError(f"{path}: holds a {type(content).__name__}, not a dictionary of tensors")
    groups: dict[str, dict[str, StoredTensor]] = {}
    for key, value in content.items():
        if isinstance(value, torch.Tensor):
            groups.setdefault("", {})[str(key)] = _stored(path, str(key), value, streamed)
        elif isinstance(value, dict):
            tensors = {str(k): _stored(path, str(k), v, streamed) for k, v in value.items() if _is_tensor(v)}
            if tensors:
                groups[str(key)] = tensors
    return groups, tuple(str(key) for key in content if str(key) not in groups and not _is_tensor(content[key]))


class _NumpyOnly(pickle.Unpickler):
    """Puts plain containers and numpy arrays together; whatever else a pickle names is an error, so nothing runs."""

    def find_class(self, module: str, name: str) -> Any:
        if module.startswith("numpy") and name in ("_reconstruct", "ndarray", "dtype"):
            return _NUMPY["_reconstruct"] if name == "_reconstruct" else getattr(np, name)
        raise pickle.UnpicklingError(f"{module}.{name} is no array of numbers")


def _open_numpy_pickle(path: pathlib.Path) -> dict[str, StoredTensor] | None:
    """The arrays in nested dictionaries, names joined by "/"; None for a file that is no pickle of those alone."""
    try:
        with path.open("rb") as file:
            content = _NumpyOnly(file).load()
    except Exception:  # on another format, and on garbage, the reader may raise anything
        return None
    if not isinstance(content, dict):
        return None
    found: dict[str, StoredTensor] = {}
    open_nodes = [("", content)]
    while open_nodes:
        prefix, node = open_nodes.pop(0)
        for name, value in node.items():
            if isinstance(value, dict):
                open_nodes.append((f"{prefix}{name}/", value))
            elif isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
                found[f"{prefix}{name}"] = StoredTensor(value.shape, value.dtype, path, array=value)
            else:
                return None
    return found or None


def _is_plain_zip(path: pathlib.Path) -> bool:
    """torch.save's format since 1.6, numbers uncompressed; older or repacked files can only be read whole."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return all(entry.compress_type == zipfile.ZIP_STORED for entry in archive.infolist())


def _is_tensor(value: Any) -> bool:
    import torch

    return isinstance(value, torch.Tensor)


def _stored(path: pathlib.Path, name: str, tensor: torch.Tensor, streamed: bool) -> StoredTensor:
    dtype = _TORCH_DTYPES.get(str(tensor.dtype).removeprefix("torch."))
    if dtype is None or str(tensor.layout) != "torch.strided":
        raise WeightsError(f"{path}: {name} is a {tensor.layout} tensor of {tensor.dtype}, which is not supported")
    if not streamed:
        return StoredTensor(tuple(tensor.shape), dtype, path, array=from_torch(tensor))
    offset = tensor.untyped_storage()._checkpoint_offset + tensor.storage_offset() * dtype.itemsize
    strides = None if tensor.is_contiguous() else tuple(tensor.stride())
    return StoredTensor(tuple(tensor.shape), dtype, path, offset, strides)


def from_torch(tensor: torch.Tensor) -> np.ndarray:
    """A CPU tensor as numpy; bfloat16, which numpy does not know, by its bits."""
    import torch

    tensor = tensor.detach()
    if tensor.dtype == torch.bfloat16:
        return tensor.contiguous().view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()


def as_torch(array: np.ndarray) -> torch.Tensor:
    """The inverse of `from_torch`."""
    import torch

    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def _refusal(error: pickle.UnpicklingError) -> str:
    text = str(error)
    if "GLOBAL" in text:
        reason = next(line for line in text.splitlines() if "GLOBAL" in line)
        return (
            f"loading it would run pickled code, which is refused ({reason.strip()[:160]}); "
            "where you trust its source, save its state dict alone to a new file"
        )
    return f"no checkpoint that PyTorch can read, or truncated ({first_line(error)})"
