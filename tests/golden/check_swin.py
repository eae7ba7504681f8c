"""Video Swin: every stage's output, gradients; the real model by a recipe of weights, and its names."""

import dataclasses
import json
import pathlib
from collections.abc import Iterator

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from convert.layouts import layout_named
from convert.mapping import Drop
from tadjax.backbones.swin import SIZES, Swin
from tests.golden import backbone as common
from tests.golden.compare import HERE, Row

LAYOUT = "swin"
ENDS = (1, 3, 5, 7)  # places of the four stages' last outputs among what `run_layers` gives


def matches(name: str, keys: set[str]) -> bool:
    reduced = {"sd/layers.0.blocks.0.attn.relative_position_bias_table", "out/patch_embed"} <= keys
    real = {"probe/patch_embed.proj.weight", "out/final"} <= keys
    return reduced or real or common.listed_tensors(keys, "SwinTransformer3D")


def check(path: pathlib.Path) -> Iterator[Row]:
    if path.suffix == ".json":
        for name, listed in json.loads(path.read_text()).items():
            size = name.removeprefix("SwinTransformer3D_")[0]
            yield from common.key_list(path, name, listed, LAYOUT, Swin(**SIZES[size]))
        return
    arrays, config = common.read(path)
    with jax.default_matmul_precision("highest"):
        yield from _reduced(arrays, config["args"]) if "in/x" in arrays else _real(arrays, config)


def _reduced(arrays: dict, args: dict) -> Iterator[Row]:
    layout, tensors = layout_named(LAYOUT), common.state_dict(arrays)
    inner = Drop("norm[012].*", "norms of other outputs than the last")
    layout = dataclasses.replace(layout, drops=(*layout.drops, inner))
    params = common.backbone_params(tensors, layout)
    arch = args["arch"]
    backbone = Swin(
        arch["embed_dims"], tuple(arch["depths"]), tuple(arch["num_heads"]), window=tuple(args["window_size"])
    )
    x = np.moveaxis(arrays["in/x"], 1, -1)
    outputs = jax.jit(lambda p, x: common.run_layers(backbone, p, x))(params, x)
    yield common.forward("out/patch_embed", outputs[0], arrays["out/patch_embed"])
    for stage, end in enumerate(ENDS):
        norm = {"scale": tensors[f"norm{stage}.weight"], "bias": tensors[f"norm{stage}.bias"]}
        normed = nn.LayerNorm(epsilon=1e-5).apply({"params": norm}, outputs[end])
        yield common.forward(f"out/stage{stage}", normed, arrays[f"out/stage{stage}"])
    yield common.forward("out/final", outputs[-1], arrays["out/final"])
    weight = common.functional_weight(outputs[-1].shape)
    total = lambda params, x: jnp.sum(common.run_layers(backbone, params, x)[-1] * weight)  # noqa: E731
    yield from common.gradients(total, params, x, arrays, layout)


def _real(arrays: dict, config: dict) -> Iterator[Row]:
    listed = json.loads((HERE / "video_swin_keys.json").read_text())[f"SwinTransformer3D_{config['arch']}_w877"]
    tensors = common.real_state_dict(listed, config["weight_recipe_seed"])
    yield from common.probes(arrays, tensors)
    params = common.backbone_params(tensors, layout_named(LAYOUT))
    backbone = Swin(**SIZES[config["arch"][0]], window=tuple(config["args"]["window_size"]))
    x = np.moveaxis(common.real_input(arrays, config), 1, -1)
    final = jax.jit(lambda p, x: common.run_layers(backbone, p, x)[-1])(params, x)
    yield common.forward("out/final", final, arrays["out/final"])
