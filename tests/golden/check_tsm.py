"""TSM-R18 and R50: the shift alone, layers, gradients; the real model by a recipe of weights, and its names."""

import json
import pathlib
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from convert.layouts import layout_named
from tadjax.backbones.tsm import SIZES, Tsm, shift
from tests.golden import backbone as common
from tests.golden.compare import HERE, Row

LAYOUTS = {18: "tsm_r18", 50: "tsm_r50"}


def matches(name: str, keys: set[str]) -> bool:
    reduced, real = "sd/layer1.0.conv1.conv.net.weight" in keys, "probe/layer3.0.conv1.conv.net.weight" in keys
    return reduced or real or common.listed_tensors(keys, "ResNetTSM")


def check(path: pathlib.Path) -> Iterator[Row]:
    if path.suffix == ".json":
        for name, listed in json.loads(path.read_text()).items():
            depth = int(name.removeprefix("ResNetTSM_depth"))
            yield from common.key_list(path, name, listed, LAYOUTS[depth], Tsm(**SIZES[f"r{depth}"]))
        return
    arrays, config = common.read(path)
    with jax.default_matmul_precision("highest"):
        if "in/x" in arrays:
            tensors, x = common.state_dict(arrays), arrays["in/x"]
        else:
            listed = json.loads((HERE / "tsm_r18_keys.json").read_text())[f"ResNetTSM_depth{config['depth']}"]
            tensors = common.real_state_dict(listed, config["weight_recipe_seed"])
            x = common.real_input(arrays, config)
            yield from common.probes(arrays, tensors)
        yield from _shifts(arrays)
        yield from _model(arrays, config, tensors, x)


def _shifts(arrays: dict) -> Iterator[Row]:
    for key in [key for key in arrays if key.startswith("out/shift_")]:
        segments, fraction = (int(part.lstrip("segdiv")) for part in key.removeprefix("out/shift_").split("_"))
        x = np.moveaxis(arrays["in/shift_x"], 1, -1)[None]  # [1, T, H, W, C]
        yield Row(key, np.moveaxis(np.asarray(shift(x, segments, fraction))[0], -1, 1), arrays[key])


def _model(arrays: dict, config: dict, tensors: common.StateDict, frames: np.ndarray) -> Iterator[Row]:
    layout = layout_named(LAYOUTS[config["depth"]])
    params = common.backbone_params(tensors, layout)
    backbone = Tsm(
        **SIZES[f"r{config['depth']}"],
        stem_width=tensors["conv1.bn.bias"].size,
        segments=config["num_segments"],
        fraction=config["shift_div"],
    )
    x = np.moveaxis(frames, 1, -1).reshape(-1, config["num_segments"], *frames.shape[2:], 3)
    _, *stages = jax.jit(lambda p, x: common.run_layers(backbone, p, x))(params, x)
    outputs = {f"out/layer{n}": stages[2 * n - 1] for n in (1, 2, 3, 4)} | {"out/final": stages[-1]}
    for key in outputs.keys() & arrays.keys():
        yield common.forward(key, _frames(outputs[key]), arrays[key])
    if "out/functional" not in arrays:
        return
    weight = np.random.RandomState(1000).standard_normal(arrays["out/final"].shape).astype(np.float32)
    weight = np.moveaxis(weight, 1, -1)

    def total(params: dict, x: jax.Array) -> jax.Array:
        clips = x.reshape(-1, config["num_segments"], *x.shape[1:])
        return jnp.sum(_frames(common.run_layers(backbone, params, clips)[-1]) * weight)

    yield from common.gradients(total, params, np.moveaxis(frames, 1, -1), arrays, layout)


def _frames(clips: jax.Array) -> jax.Array:
    """[B, T, H, W, C] -> [B T, H, W, C]."""
    return clips.reshape(-1, *clips.shape[2:])
