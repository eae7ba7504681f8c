"""SlowFast: both pathways, the resized features, gradients; the real model by a recipe of weights, and its names."""

import json
import pathlib
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from convert.layouts import layout_named
from tadjax.backbones.slowfast import SlowFast
from tests.golden import backbone as common
from tests.golden.compare import HERE, Row

LAYOUT = "slowfast"
DEPTHS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}


def matches(name: str, keys: set[str]) -> bool:
    return {"out/final_slow", "out/final_fast"} <= keys or common.listed_tensors(keys, "ResNet3dSlowFast")


def check(path: pathlib.Path) -> Iterator[Row]:
    if path.suffix == ".json":
        for name, listed in json.loads(path.read_text()).items():
            depths = DEPTHS[101 if "R101" in name else 50]
            kernel = listed["slow_path.conv1_lateral.conv.weight"][0][2]
            yield from common.key_list(path, name, listed, LAYOUT, SlowFast(depths, lateral_kernel=kernel))
        return
    arrays, config = common.read(path)
    with jax.default_matmul_precision("highest"):
        if "in/x" in arrays:
            tensors, x = common.state_dict(arrays), arrays["in/x"]
        else:
            listed = json.loads((HERE / "slowfast_r50_keys.json").read_text())
            listed = listed["ResNet3dSlowFast_R50_resample4_speed4_fusion7"]
            tensors = common.real_state_dict(listed, config["weight_recipe_seed"])
            x = common.real_input(arrays, config)
            yield from common.probes(arrays, tensors)
        yield from _model(arrays, config["args"], tensors, np.moveaxis(x, 1, -1))


def _model(arrays: dict, args: dict, tensors: common.StateDict, x: np.ndarray) -> Iterator[Row]:
    layout, slow_args = layout_named(LAYOUT), args["slow_pathway"]
    params = common.backbone_params(tensors, layout)
    want = arrays["out/opentad_feature"]  # [B, D, feature_length]
    backbone = SlowFast(
        DEPTHS[slow_args["depth"]],
        resample=args["resample_rate"],
        speed=args["speed_ratio"],
        lateral_kernel=slow_args["fusion_kernel"],
        channel_ratio=args["channel_ratio"],
        stem_width=slow_args["base_channels"],
        feature_length=want.shape[2],
    )
    final = jax.jit(lambda p, x: common.run_layers(backbone, p, x)[-1])(params, x)
    yield common.forward("out/final_slow", final[0], arrays["out/final_slow"])
    yield common.forward("out/final_fast", final[1], arrays["out/final_fast"])
    yield common.forward("out/opentad_feature", backbone.pool(final), want)
    if "out/functional" not in arrays:
        return
    weights = [common.functional_weight(y.shape, seed) for y, seed in zip(final, (1001, 1000), strict=True)]

    def total(params: dict, x: jax.Array) -> jax.Array:
        final = common.run_layers(backbone, params, x)[-1]
        return sum(jnp.sum(y * weight) for y, weight in zip(final, weights, strict=True))

    yield from common.gradients(total, params, x, arrays, layout)
