"""Adapters of the baselines, one by one: outputs and gradients of each case of the file."""

import json
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tadjax.adaptation.petl import Aim, StAdapter
from tadjax.adaptation.tia import Tia
from tadjax.adaptation.unipt import Unipt
from tadjax.backbones.vit import Vit
from tests.golden.compare import Row

Arrays = dict[str, np.ndarray]
OUTPUT_TOLERANCE = 5e-5


def matches(name: str, keys: set[str]) -> bool:
    return any(key.endswith("/out/functional") for key in keys)


def check(path: pathlib.Path) -> Iterator[Row]:
    arrays = dict(np.load(path, allow_pickle=False))
    cases = json.loads(str(arrays["config"]))["cases"]
    with jax.default_matmul_precision("highest"):
        for name, config in cases.items():
            for start, checked in CASES.items():
                if name.startswith(start):
                    case = {k[len(name) + 1 :]: v for k, v in arrays.items() if k.startswith(f"{name}/")}
                    yield from _rows(name, case, *checked(config, case))


def _rows(name: str, case: Arrays, params: Any, function: Callable, names: dict[str, str]) -> Iterator[Row]:
    """function(params, inputs) -> y in the file's shape. names: torch names -> paths in params; others are skipped.

    Also compared is the gradient with respect to the inputs, as the reference weighs the output.
    """
    inputs = {key[3:]: jnp.asarray(value) for key, value in case.items() if key.startswith("in/") and value.ndim > 1}
    y = function(params, inputs)
    yield Row(f"{name}/out/y", y, case["out/y"], atol=OUTPUT_TOLERANCE)
    weights = np.random.RandomState(9000).standard_normal(case["out/y"].shape).astype(np.float32)
    grads, of_inputs = jax.grad(lambda p, i: (function(p, i) * weights).sum(), argnums=(0, 1))(params, inputs)
    for key, value in inputs.items():
        want = case[f"grad/in_{key}"]
        assert value.shape == want.shape
        yield Row(f"{name}/grad/in_{key}", of_inputs[key], want, atol=_gradient_tolerance(want))
    for torch, path in names.items():
        got = grads
        for part in path.split("/"):
            got = got[int(part) if part.isdigit() else part]
        want = _ours(case[f"grad/{torch}"])
        yield Row(f"{name}/grad/{torch}", np.reshape(got, want.shape), want, atol=_gradient_tolerance(want))


def _gradient_tolerance(want: np.ndarray) -> float:
    return max(5e-6, 9e-6 * float(np.abs(want).max()))


def _ours(array: np.ndarray) -> np.ndarray:
    """Linear [out, in] -> [in, out]; convolutions [out, in / groups, k ...] -> [k ..., in / groups, out]."""
    return np.moveaxis(array, (0, 1), (-1, -2)) if array.ndim > 1 else array


def _linear(case: Arrays, torch: str) -> dict:
    return {"kernel": _ours(case[f"sd/{torch}.weight"]), "bias": case[f"sd/{torch}.bias"]}


def _of(torch: str, ours: str) -> dict[str, str]:
    return {f"{torch}.weight": f"{ours}/kernel", f"{torch}.bias": f"{ours}/bias"}


def _tia_params(case: Arrays, prefix: str = "", where: str = "") -> tuple[dict, dict[str, str]]:
    layers = {"down_proj": "down", "up_proj": "up", "dwconv": "dwconv", "conv": "mid"}
    found = {torch: ours for torch, ours in layers.items() if f"sd/{prefix}{torch}.weight" in case}
    params = {ours: _linear(case, f"{prefix}{torch}") for torch, ours in found.items()}
    if "mid" in params:
        params["mid"]["kernel"] = params["mid"]["kernel"][0]  # a pointwise convolution
    names = {f"{prefix}gamma": f"{where}alpha"}
    for torch, ours in found.items():
        names |= _of(f"{prefix}{torch}", f"{where}{ours}")
    return {**params, "alpha": case[f"sd/{prefix}gamma"]}, names


def _tia(config: dict, case: Arrays) -> tuple:
    params, names = _tia_params(case)
    tia = Tia(params["down"]["kernel"].shape[-1], (3, 1, 1) if "dwconv" in params else ())
    shape = case["in/x"].shape
    h, w, steps = config.get("h", 1), config.get("w", 1), shape[1]
    clips = config.get("clips", 1)
    grid = (shape[0] // clips, clips * steps // (h * w), h, w, shape[2])

    def function(params: dict, inputs: Arrays) -> jax.Array:
        x = inputs["x"].reshape(grid)
        return (x + tia.apply({"params": params}, x)).reshape(shape)

    return params, function, names


def _ladder(config: dict, case: Arrays) -> tuple:
    count = config["depth"]
    both = [_tia_params(case, f"adapters.{i}.", f"{i}/") for i in range(count)]
    names = {torch: ours for _, of_one in both for torch, ours in of_one.items()}
    tia, steps = Tia(both[0][0]["down"]["kernel"].shape[-1]), config["temporal_size"]

    def function(params: list, inputs: Arrays) -> jax.Array:
        y = inputs[f"f{count - 1}"]
        for i in range(count):
            x = inputs[f"f{i}"]
            grid = x.reshape(x.shape[0], steps, -1, 1, x.shape[-1])
            y = y + tia.apply({"params": params[i]}, grid).reshape(x.shape)
        return y

    return [params for params, _ in both], function, names


def _st_adapter(config: dict, case: Arrays) -> tuple:
    params = {"down": _linear(case, "fc1"), "dwconv": _linear(case, "conv"), "up": _linear(case, "fc2")}
    kernel = tuple(config["kernel_size"])
    if kernel[1:] == (1, 1):
        params["dwconv"]["kernel"] = params["dwconv"]["kernel"].reshape(kernel[0], 1, -1)
    names = {**_of("fc1", "down"), **_of("conv", "dwconv"), **_of("fc2", "up")}
    adapter = StAdapter(config["adapter_channels"], kernel)
    rows, tokens, width = case["in/x"].shape
    side = round((tokens - 1) ** 0.5)
    grid = (rows // config["T"], config["T"], side, side, width)

    def function(params: dict, inputs: Arrays) -> jax.Array:
        x = inputs["x"]  # a class token first, which the adapter leaves alone
        adapted = adapter.adapt(params, x[:, 1:].reshape(grid), jnp.float32)
        return jnp.concatenate([x[:, :1], adapted.reshape(rows, tokens - 1, width)], axis=1)

    return params, function, names


def _aim_adapter(config: dict, case: Arrays) -> tuple:
    params = {"down": _linear(case, "D_fc1"), "up": _linear(case, "D_fc2")}

    def function(params: dict, inputs: Arrays) -> jax.Array:
        adapted = Aim().adapt(params, inputs["x"], jnp.float32)
        return inputs["x"] + adapted if config["skip_connect"] else adapted

    return params, function, {**_of("D_fc1", "down"), **_of("D_fc2", "up")}


def _aim_block(config: dict, case: Arrays) -> tuple:
    width, t = config["dim"], config["num_frames"]
    adapters = {"T_Adapter": "time", "S_Adapter": "space", "MLP_Adapter": "mlp"}
    params, names = {}, {}
    for torch, ours in adapters.items():
        params[ours] = {"down": _linear(case, f"{torch}.D_fc1"), "up": _linear(case, f"{torch}.D_fc2")}
        names |= {**_of(f"{torch}.D_fc1", f"{ours}/down"), **_of(f"{torch}.D_fc2", f"{ours}/up")}
    bias = case["sd/attn.qkv.bias"]  # softmax does not see the keys' part
    frozen = {
        "attention": {
            "qkv": {"kernel": _ours(case["sd/attn.qkv.weight"])},
            "q_bias": bias[:width],
            "v_bias": bias[2 * width :],
            "proj": _linear(case, "attn.proj"),
        },
        "mlp": {"fc1": _linear(case, "mlp.fc1"), "fc2": _linear(case, "mlp.fc2")},
        **{n: {"scale": case[f"sd/{n}.weight"], "bias": case[f"sd/{n}.bias"]} for n in ("norm1", "norm2")},
    }
    hidden = frozen["mlp"]["fc1"]["bias"].shape[0]
    backbone = Vit(width, 1, config["num_heads"], 16, hidden)
    aim = Aim(scale=config["scale"], joint=False, epsilon=1e-5)

    def function(params: dict, inputs: Arrays) -> jax.Array:
        rows, tokens, _ = inputs["x"].shape
        x = inputs["x"].reshape(rows // t, t, tokens, 1, width)
        return aim.block(backbone, frozen, params, x).reshape(rows, tokens, width)

    return params, function, names


def _unipt(config: dict, case: Arrays) -> tuple:
    count = config["num_layer"]
    downs = [_linear(case, f"downsample_layers.{i}.0") for i in range(count)]
    norms = [_norm(case, f"downsample_layers.{i}.1") for i in range(count)]
    params = {
        "down": jax.tree.map(lambda *a: np.stack(a), *downs),
        "down_norm": jax.tree.map(lambda *a: np.stack(a), *norms),
        "projection": _linear(case, "projection_layer.0"),
        "projection_norm": _norm(case, "projection_layer.1"),
        "gate": _linear(case, "gate_layer"),
        "up": _linear(case, "upsample_layer.1"),
    }
    valid = np.arange(case["in/h0"].shape[1]) < case["in/lengths"][:, None]

    def function(params: dict, inputs: Arrays) -> jax.Array:
        return Unipt().interact(params, jnp.stack([inputs[f"h{i}"] for i in range(count)]), jnp.asarray(valid))

    names = {**_of("projection_layer.0", "projection"), **_of("gate_layer", "gate"), **_of("upsample_layer.1", "up")}
    return params, function, names


def _norm(case: Arrays, torch: str) -> dict:
    return {"scale": case[f"sd/{torch}.weight"], "bias": case[f"sd/{torch}.bias"]}


# By the start of a case's name. Not compared: ST-Adapter's block and AIM's variant with two temporal adapters, which
# belong to other transformers (CLIP's), and UniPT's variant with a class token.
CASES: dict[str, Callable[[dict, Arrays], tuple]] = {
    "plain_adapter": _tia,
    "tia_adapter": _tia,
    "ladder": _ladder,
    "st_adapter": _st_adapter,
    "aim_adapter": _aim_adapter,
    "aim_block_tadapter1": _aim_block,
    "unipt_vse": _unipt,
}
