"""R(2+1)D of TSP and torchvision: stages, pooled features and gradients; the real models by a recipe of weights."""

import json
import pathlib
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from convert.layouts import layout_named
from tadjax.backbones.r2plus1d import SIZES, R2plus1d
from tests.golden import backbone as common
from tests.golden.compare import HERE, Row

LAYOUT = "r2plus1d"
REAL = {1e-3: ("opentad_ResNet2Plus1d_TSP_layers_2222", "tsp"), 1e-5: ("torchvision_r2plus1d_18", "torchvision")}


def matches(name: str, keys: set[str]) -> bool:
    tsp_or_torchvision = ("opentad_ResNet2Plus1d", "torchvision_r2plus1d")
    reduced, real = "sd/layer1.0.conv1.0.3.weight" in keys, {"probe/stem.0.weight", "out/final"} <= keys
    return reduced or real or common.listed_tensors(keys, *tsp_or_torchvision)


def check(path: pathlib.Path) -> Iterator[Row]:
    if path.suffix == ".json":
        for name, listed in json.loads(path.read_text()).items():
            size = "34" if "34" in name else "18"
            flavour = "torchvision" if name.startswith("torchvision") else "tsp"
            yield from common.key_list(path, name, listed, LAYOUT, R2plus1d(**SIZES[size], flavour=flavour))
        return
    arrays, config = common.read(path)
    with jax.default_matmul_precision("highest"):
        yield from _reduced(arrays, config) if "in/x" in arrays else _real(arrays, config)


def _reduced(arrays: dict, config: dict) -> Iterator[Row]:
    layout, tensors = layout_named(LAYOUT), common.state_dict(arrays)
    params = common.backbone_params(tensors, layout)
    backbone = R2plus1d(
        depths=tuple(config["layers"]),
        flavour=REAL[config["bn_eps"]][1],
        widths=tuple(tensors[f"layer{n}.0.conv1.1.bias"].size for n in (1, 2, 3, 4)),
        stem_middle=tensors["stem.1.bias"].size,
    )
    x = np.moveaxis(arrays["in/x"], 1, -1)
    stem, *stages = jax.jit(lambda p, x: common.run_layers(backbone, p, x))(params, x)
    yield common.forward("out/stem", stem, arrays["out/stem"])
    for n in (1, 2, 3, 4):
        yield common.forward(f"out/layer{n}", stages[2 * n - 1], arrays[f"out/layer{n}"])
    yield common.forward("out/final", stages[-1], arrays["out/final"])
    want = arrays["out/pooled_tsp"]
    pooled = np.asarray(backbone.pool(stages[-1]).mean(1))
    yield Row("out/pooled_tsp", pooled, want, atol=2e-5 * float(np.abs(want).max()), rtol=1e-4)
    weight = common.functional_weight(stages[-1].shape)
    total = lambda params, x: jnp.sum(common.run_layers(backbone, params, x)[-1] * weight)  # noqa: E731
    yield from common.gradients(total, params, x, arrays, layout)


def _real(arrays: dict, config: dict) -> Iterator[Row]:
    name, flavour = REAL[config["bn_eps"]]
    listed = json.loads((HERE / "r2plus1d18_keys.json").read_text())[name]
    tensors = common.real_state_dict(listed, config["weight_recipe_seed"])
    yield from common.probes(arrays, tensors)
    params = common.backbone_params(tensors, layout_named(LAYOUT))
    backbone = R2plus1d(depths=SIZES["18"]["depths"], flavour=flavour)
    x = np.moveaxis(common.real_input(arrays, config), 1, -1)
    final = jax.jit(lambda p, x: common.run_layers(backbone, p, x)[-1])(params, x)
    yield common.forward("out/final", final, arrays["out/final"])
