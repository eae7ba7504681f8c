"""What the checkers of the convolutional and window-attention backbones share."""

import json
import pathlib
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from convert.files import Checkpoint, StoredTensor
from convert.layouts import Layout
from convert.mapping import to_flax, to_torch
from convert.torch_to_flax import Conversion, prepare, recognise
from tadjax.workdir import weights
from tests.golden.compare import Row

StateDict = dict[str, np.ndarray]


def listed_tensors(keys: set[str], *first: str) -> bool:
    """Are these the top-level keys of a file {model: {torch key: [shape, dtype]}} of models with these names?"""
    return bool(keys) and all(key.startswith(first) for key in keys)


def read(path: pathlib.Path) -> tuple[dict[str, np.ndarray], dict]:
    """(arrays, config) of an .npz file."""
    arrays = dict(np.load(path, allow_pickle=False))
    return arrays, json.loads(str(arrays["config"]))


def state_dict(arrays: dict[str, np.ndarray], prefix: str = "sd/") -> StateDict:
    return {key.removeprefix(prefix): value for key, value in arrays.items() if key.startswith(prefix)}


def drawn(key: str, shape: list[int], dtype: str, seed: int) -> np.ndarray:
    """A tensor of the real models, by the recipe that draws them from their names."""
    random = np.random.RandomState((zlib.crc32(key.encode()) + seed) % 2**32)
    if np.dtype(dtype).kind != "f":
        return np.zeros(shape, dtype)
    if key.endswith("running_var"):
        return (0.75 + 0.5 * random.random_sample(shape)).astype(np.float32)
    normal = random.standard_normal(shape)
    if key.endswith(("running_mean", "bias")):
        return (0.1 * normal).astype(np.float32)
    if key.endswith("relative_position_bias_table"):
        return (0.5 * normal).astype(np.float32)
    if len(shape) >= 2:
        return (normal * np.sqrt(2 / np.prod(shape[1:]))).astype(np.float32)
    return (0.6 + 0.1 * normal).astype(np.float32)


def real_state_dict(listed: dict[str, list], seed: int) -> StateDict:
    return {key: drawn(key, shape, dtype, seed) for key, (shape, dtype) in listed.items()}


def probes(arrays: dict[str, np.ndarray], tensors: StateDict) -> Iterator[Row]:
    for key, value in state_dict(arrays, "probe/").items():
        yield Row(f"probe/{key}", tensors[key].ravel()[: value.size], value, rtol=1e-6)


def real_input(arrays: dict[str, np.ndarray], config: dict) -> np.ndarray:
    """The input that config["input"] describes: RandomState(seed) ..."""
    seed = int(config["input"].split("(")[1].split(")")[0])
    return np.random.RandomState(seed).standard_normal(arrays["in/x_shape"]).astype(np.float32)


def backbone_params(tensors: StateDict, layout: Layout) -> dict:
    params, report = to_flax(tensors, layout.rules, layout.drops)
    report.check("sd")
    return params["backbone"]


def run_layers(backbone: Any, params: dict, x: Any) -> list[Any]:
    """What each stage gives, from normalised frames on, its layers one after the other."""
    x = backbone.stem(params, x)
    outputs = [x]
    for stage in backbone.stages(params):
        for layer in range(jax.tree.leaves(stage.params)[0].shape[0]):
            x = stage.block(jax.tree.map(lambda a, i=layer: a[i], stage.params), x, None)
        outputs.append(x)
    return outputs


def forward(name: str, got: jax.Array, want: np.ndarray) -> Row:
    """An output [B, T, H, W, C] beside the reference's [B, C, T, H, W]."""
    got = np.moveaxis(np.asarray(got), -1, 1)
    return Row(name, got, want, atol=2e-5 * float(np.abs(want).max()), rtol=1e-4)


def functional_weight(shape: tuple[int, ...], seed: int = 1000) -> np.ndarray:
    """Weights of the sum whose gradients the files hold, for an output of ours, [B, T, H, W, C]."""
    b, t, h, w, c = shape
    drawn_ = np.random.RandomState(seed).standard_normal((b, c, t, h, w)).astype(np.float32)
    return np.moveaxis(drawn_, 1, -1)


def gradients(
    total: Callable[[dict, jax.Array], jax.Array], params: dict, x: np.ndarray, arrays: dict, layout: Layout
) -> Iterator[Row]:
    """out/functional, and every grad/ of the file; in_x is [B, C, T, H, W] there."""
    value, (grads, grad_x) = jax.jit(jax.value_and_grad(total, argnums=(0, 1)))(params, jnp.asarray(x))
    want = arrays["out/functional"]
    yield Row("out/functional", np.asarray(value), want, atol=2e-5 * float(np.abs(want)), rtol=1e-4)
    got = to_torch({"backbone": grads}, layout.rules) | {"in_x": np.moveaxis(np.asarray(grad_x), -1, 1)}
    for key, want in state_dict(arrays, "grad/").items():
        yield Row(f"grad/{key}", got[key], want, atol=2e-5 * float(np.abs(want).max()))


def listed_conversion(path: pathlib.Path, listed: dict[str, list]) -> Conversion:
    """What becomes of a model of which only names and shapes are known; raises if any tensor is unknown or missing."""
    tensors = {}
    for key, (shape, dtype) in listed.items():
        array = np.broadcast_to(np.zeros((), dtype), shape)
        tensors[key] = StoredTensor(tuple(shape), np.dtype(dtype), path, array=array)
    return prepare(recognise(Checkpoint((path,), {"state_dict": tensors})))


def key_list(path: pathlib.Path, name: str, listed: dict[str, list], layout: str, backbone: Any) -> Iterator[Row]:
    """Names and shapes of a real model: each tensor is one of our parameters or dropped with a reason; none is left."""
    conversion = listed_conversion(path, listed)
    yield Row(f"{name}: depths", np.array(conversion.geometry["backbone"]["depths"]), np.array(backbone.depths))
    yield from listed_rows(conversion, name, listed, layout, backbone)


def listed_rows(
    conversion: Conversion, name: str, listed: dict[str, list], layout: str, backbone: Any
) -> Iterator[Row]:
    """`key_list`, of what was made of the list."""
    tensors = {key: conversion.source.tensors[name] for name, key in conversion.source.keys.items() if key in listed}
    yield Row(f"{name}: layout is {layout}", np.array(conversion.source.layout.name == layout), np.array(True))
    wanted = weights.shapes(jax.eval_shape(lambda: {"backbone": backbone.init(jax.random.key(0))}))
    yield Row(f"{name}: parameters on one side only", np.array(len({*wanted} ^ {*conversion.shapes})), 0)
    for parameter in sorted(wanted):
        got = np.array(conversion.shapes.get(parameter, ()))
        yield Row(f"{name}: shape of {parameter}", got, np.array(wanted[parameter]))
    # Ones, which the file leaves out.
    implied = [key for key in conversion.report.mapped if conversion.source.keys[key] not in tensors]
    dropped = sum(int(np.prod(conversion.source.tensors[key].shape)) for key in conversion.report.dropped)
    ours = sum(int(np.prod(shape)) for shape in wanted.values())
    ours -= sum(int(np.prod(conversion.source.tensors[key].shape)) for key in implied)
    listed_elements = sum(int(np.prod(tensor.shape)) for tensor in tensors.values())
    yield Row(f"{name}: elements", np.array(ours + dropped), np.array(listed_elements))
    yield Row(
        f"{name}: tensors",
        np.array(len({*conversion.report.mapped, *conversion.report.dropped} - {*implied})),
        len(tensors),
    )
