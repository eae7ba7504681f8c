"""VideoPrism: both taps at several sizes, features and adapters' gradients, both layouts, the names of real files."""

import dataclasses
import json
import pathlib
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from convert.backbones import TIA
from convert.layouts import layout_named
from convert.mapping import flat, to_flax, to_torch
from tadjax.adaptation import stacks
from tadjax.adaptation.tia import Tia
from tadjax.backbones import BACKBONES
from tadjax.backbones.videoprism import VideoPrism, resized
from tests.golden import backbone as common
from tests.golden.check_vit_family import by_clip, compared, frames_of, layers_in_a_row, trained
from tests.golden.compare import Row

LISTED = {"google": "videoprism", "hf google": "videoprism_hf"}  # by how a list of names begins
TOKENS, NORMED, FEATURES = 7e-5, 2e-5, 8e-6
KINDS = ("spatial", "temporal")


def matches(name: str, keys: set[str]) -> bool:
    return "sd/params/spatial_ln/scale" in keys or common.listed_tensors(keys, *LISTED)


def check(path: pathlib.Path) -> Iterator[Row]:
    if path.suffix == ".json":
        for name, listed in json.loads(path.read_text()).items():
            conversion = common.listed_conversion(path, listed)
            of = conversion.geometry["backbone"]
            yield Row(f"{name}: its size is known", np.array(of["size"] is not None), np.array(True))
            backbone = VideoPrism(**BACKBONES["videoprism"][1][of["size"]])
            layout = next(layout for start, layout in LISTED.items() if name.startswith(start))
            yield from common.listed_rows(conversion, name, listed, layout, backbone)
        return
    arrays, config = common.read(path)
    model = model_of(arrays, config)
    with jax.default_matmul_precision("highest"):
        for case, (_, _, _, _, clip) in config["cases"].items():
            yield from _tokens(model, arrays, case, clip)
        yield from _adapted(model, arrays)
    got = flat(common.backbone_params(common.state_dict(arrays, "hf_sd/"), layout_named("videoprism_hf")))
    for name, want in flat(model.params["backbone"]).items():
        yield Row(f"hf_sd -> {name}", got[name], want)


@dataclasses.dataclass(frozen=True)
class Model:
    backbone: VideoPrism
    params: dict
    adapters: dict[int, dict]  # by layer
    adapter: Tia

    @property
    def layers(self) -> tuple[int, ...]:
        return tuple(self.adapters)


def model_of(arrays: dict, config: dict) -> Model:
    tensors = common.state_dict(arrays)
    encoder = {key.removeprefix("params/"): a for key, a in tensors.items() if key.startswith("params/")}
    params = common.backbone_params(encoder, layout_named("videoprism"))
    (spatial, width, mlp_width), patch = (
        params["spatial_blocks"]["mlp"]["fc1"]["kernel"].shape,
        params["patch_embed"]["kernel"].shape[1],
    )
    clip = config["cases"]["main"][4]
    backbone = VideoPrism(
        width=width,
        spatial=spatial,
        temporal=params["temporal_blocks"]["mlp"]["fc1"]["kernel"].shape[0],
        heads=tensors["params/spatial_encoder/transformers_stack/x_layers/self_attention/query/b"].shape[1],
        patch=patch,
        mlp_width=mlp_width,
        table_frames=len(params["temporal_positions"]),
        image=int(len(params["spatial_positions"]) ** 0.5) * patch,
        clip_frames=clip,
    )
    adapters = {}
    for kind in KINDS:
        for i in config[f"adapter_{kind}"]:
            prefix = f"{kind}_layers.{i}.adapter."
            one = {f"blocks.0.adapter.{k.removeprefix(prefix)}": a for k, a in tensors.items() if k.startswith(prefix)}
            of_layer, report = to_flax(one, TIA)
            report.check(prefix)
            layer = i + (spatial if kind == "temporal" else 0)
            adapters[layer] = jax.tree.map(lambda a: a[0], of_layer["adapter"])
    return Model(backbone, {"backbone": params}, dict(sorted(adapters.items())), Tia(hidden=config["adapter_hidden"]))


def _outputs(model: Model, backbone: VideoPrism, adapters: dict, frames: np.ndarray, prefix: str = "") -> dict:
    """Every output by its name in the file, and its tolerance."""
    params = model.params["backbone"]
    embedded = jax.jit(backbone.embed)(params, frames)
    run = jax.jit(lambda p, x: list(layers_in_a_row(backbone, p, x, adapters, model.adapter)))
    outputs, steps = run(params, embedded), backbone.clip_steps
    found = {f"{prefix}tokens_after_embed": (by_clip(embedded, steps)[:1], TOKENS)}
    for i, x in enumerate(outputs[: backbone.depth]):
        name = f"spatial_block{i}" if i < backbone.spatial else f"temporal_block{i - backbone.spatial}"
        found[f"{prefix}{name}_tokens"] = by_clip(x, steps)[:1], TOKENS
    in_space = backbone.norm(params["spatial_norm"], outputs[backbone.spatial - 1])
    found[f"{prefix}spatial_features"] = by_clip(in_space, steps)[:1], NORMED
    found[f"{prefix}last_tokens"] = by_clip(outputs[backbone.depth - 1], steps), TOKENS
    found[f"{prefix}norm_tokens"] = by_clip(outputs[backbone.depth], steps), NORMED
    return found


def _tokens(model: Model, arrays: dict, case: str, clip: int) -> Iterator[Row]:
    backbone = dataclasses.replace(model.backbone, clip_frames=clip)
    found = _outputs(model, backbone, {}, frames_of(arrays, case))
    spatial, table = found["spatial_features"][0], model.params["backbone"]["temporal_positions"]
    table = np.asarray(resized(jnp.asarray(table), (clip, backbone.width)))
    by_step = spatial.reshape(clip, -1, backbone.width) + table[:, None]
    found["temporal_embed_tokens"] = by_step.reshape(spatial.shape), NORMED
    yield from compared(found, arrays, case)


def _adapted(model: Model, arrays: dict) -> Iterator[Row]:
    found = _outputs(model, model.backbone, model.adapters, frames_of(arrays, "main"), "adapted_")
    yield from compared(found, arrays, "main")
    places = stacks.places(stacks.depths(model.backbone.stages(model.params["backbone"])), model.layers)
    layers = iter(model.layers)
    given = {
        f"stage{stage}": jax.tree.map(lambda *a: jnp.stack(a), *[model.adapters[next(layers)] for _ in within])
        for stage, within in places.items()
    }

    def names(grads: dict) -> dict[str, np.ndarray]:
        rows = [jax.tree.map(lambda a, i=i: a[i : i + 1], of) for of in grads.values() for i in range(stacks.depth(of))]
        return {
            key.replace("blocks.0", _name(model, layer)): grad
            for layer, row in zip(model.layers, rows, strict=True)
            for key, grad in to_torch({"adapter": row}, TIA).items()
        }

    yield from trained(model.backbone, model, given, arrays, ("features", "grad/"), FEATURES, names)


def _name(model: Model, layer: int) -> str:
    spatial = model.backbone.spatial
    return f"spatial_layers.{layer}" if layer < spatial else f"temporal_layers.{layer - spatial}"
