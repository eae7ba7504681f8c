"""V-JEPA 2 and 2.1, InternVideo2: tokens, features, adapters' gradients, and the names of real files."""

import dataclasses
import json
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from convert.backbones import TIA
from convert.layouts import Layout, layout_named
from convert.mapping import flat, to_flax, to_torch
from tadjax.adaptation import inside, stacks
from tadjax.adaptation.tia import Tia
from tadjax.backbones import BACKBONES
from tadjax.backbones.internvideo2 import InternVideo2
from tadjax.backbones.layers import resize_in_time
from tadjax.backbones.vit import MEAN, STD, feature_map
from tadjax.backbones.vjepa import VJepa
from tests.golden import backbone as common
from tests.golden.compare import Row

LISTED = {"meta": "vjepa2", "hf facebook": "vjepa2_hf", "vjepa2_1": "vjepa21"}  # by how a list of names begins
LISTED |= dict.fromkeys(("S14", "B14", "L14", "InternVideo2", "1B", "6B"), "internvideo2")
# Absolute: of tokens before the final norm, after it, of features, and of features before the norm.
TOLERANCES = {"vjepa2": (6e-5, 2.5e-5, 4e-6, 1.2e-5), "vjepa21": (7e-5, 1.2e-5, 3e-6, 1.8e-5)}
TOLERANCES["internvideo2"] = (2.5e-5, 0.0, 8e-6, 0.0)


def matches(name: str, keys: set[str]) -> bool:
    return {"sd/norm.weight", "out/norm_tokens", "grad/blocks.0.adapter.gamma"} <= keys or (
        bool({"sd/video_mod_embed", "sd/cls_token"} & keys) or common.listed_tensors(keys, *LISTED)
    )


def check(path: pathlib.Path) -> Iterator[Row]:
    if path.suffix == ".json":
        for name, listed in json.loads(path.read_text()).items():
            layout = next(layout for start, layout in LISTED.items() if name.startswith(start))
            yield from _names(path, name, listed, layout)
        return
    arrays, config = common.read(path)
    marks = {"sd/video_mod_embed": "vjepa21", "sd/cls_token": "internvideo2"}
    name = next((name for key, name in marks.items() if key in arrays), "vjepa2")
    model = model_of(name, arrays, config)
    yield Row("config/mean", np.array(MEAN), np.array(config["mean"]))
    yield Row("config/std", np.array(STD), np.array(config["std"]))
    with jax.default_matmul_precision("highest"):
        for case, (_, _, _, _, clip) in config["cases"].items():
            yield from _tokens(model, arrays, case, clip)
        yield from _adapted(model, arrays)
    yield from _other_names(model, arrays, "hf_sd/", "vjepa2_hf")


@dataclasses.dataclass(frozen=True)
class Model:
    backbone: Any
    params: dict
    layout: Layout
    layers: tuple[int, ...]  # adapted
    adapter: Tia
    tokens: float  # tolerances
    normed: float
    features: float
    prenorm: float


def model_of(name: str, arrays: dict, config: dict) -> Model:
    layout = layout_named(name)
    rules = (*layout.rules, *TIA)
    params, report = to_flax(common.state_dict(arrays), rules, layout.drops)
    report.check("sd")
    _, width, mlp_width = params["backbone"]["blocks"]["mlp"]["fc1"]["kernel"].shape
    of = dict(width=width, heads=config["heads"], mlp_width=mlp_width)
    if name == "internvideo2":
        frames = dict(image=config["img"], position_frames=config["pos_frames"], gelu=config["gelu"])
        backbone = InternVideo2(**of, **frames, blocks=config["depth"], patch=config["patch"])
    else:
        levels = tuple(config.get("hierarchical_layers", ()))
        backbone = VJepa(**of, depth=config["depth"], patch=config["patch_size"], levels=levels)
    adapter = Tia(hidden=config["adapter_hidden"])
    return Model(backbone, params, layout, tuple(config["adapter_index"]), adapter, *TOLERANCES[name])


def layers_in_a_row(backbone: Any, params: dict, x: Any, adapters: dict[int, Any], tia: Tia) -> Iterator[Any]:
    """x after each layer and its adapter, in plain Python."""
    layer = 0
    for stage in backbone.stages(params):
        for i in range(stacks.depth(stage.params)):
            x = stage.block(jax.tree.map(lambda a, i=i: a[i], stage.params), x, None)
            if layer in adapters:
                y = feature_map(x) + tia.apply({"params": adapters[layer]}, feature_map(x))
                x = (y, *x[1:]) if isinstance(x, tuple) else y
            layer += 1
            yield x


def frames_of(arrays: dict, case: str) -> np.ndarray:
    """[B, T, H, W, 3] of the file's [B, 1, 3, T, H, W]."""
    frames = arrays["in/frames" if case == "main" else f"in/{case}_frames"]
    return frames[:, 0].transpose(0, 2, 3, 4, 1)


def by_clip(x: Any, steps: int) -> np.ndarray:
    """[B, T', h, w, D] -> tokens [clips, N, D]; where there are class tokens, these first."""
    patches = np.asarray(feature_map(x))
    tokens = patches.reshape(-1, steps * patches.shape[2] * patches.shape[3], patches.shape[-1])
    if not isinstance(x, tuple):
        return tokens
    return np.concatenate([np.asarray(x[1]).reshape(-1, 1, tokens.shape[-1]), tokens], axis=1)


def _tokens(model: Model, arrays: dict, case: str, clip: int) -> Iterator[Row]:
    backbone = dataclasses.replace(model.backbone, clip_frames=clip)
    params, frames = model.params["backbone"], frames_of(arrays, case)

    @jax.jit
    def run(params: dict, frames: jax.Array) -> tuple[jax.Array, list[jax.Array], list[jax.Array]]:
        x = backbone.embed(params, frames)
        outputs = list(layers_in_a_row(backbone, params, x, {}, model.adapter))
        stage, levels = backbone.stages(params)[0], getattr(backbone, "levels", ())
        seen = [stage.seen(jax.tree.map(lambda a, i=i: a[i], stage.params), outputs[i]) for i in levels]
        return x, outputs, seen

    embedded, outputs, levels = run(params, frames)
    found = _outputs(model, backbone, outputs)
    found["tokens_after_embed"] = by_clip(embedded, backbone.clip_steps)[:1], model.tokens
    if levels:
        found["hierarchical_tokens"] = by_clip(jnp.concatenate(levels, -1), backbone.clip_steps)[:1], model.normed
    if isinstance(backbone, InternVideo2):
        table = params["positions"]
        clip_table = backbone.positions(table[1:], *feature_map(embedded).shape[2:4]).reshape(-1, backbone.width)
        found["pos_embed"] = np.concatenate([table[:1], clip_table])[None], 2e-6
        exact = dataclasses.replace(backbone, gelu="erf")
        last = jax.jit(lambda p, x: list(layers_in_a_row(exact, p, exact.embed(p, x), {}, model.adapter))[-1])
        found["erf_last_tokens"] = by_clip(last(params, frames), backbone.clip_steps), model.tokens
    yield from compared(found, arrays, case)


def _outputs(model: Model, backbone: Any, outputs: list, prefix: str = "") -> dict[str, tuple[np.ndarray, float]]:
    """What each layer gives: of the first clip, and of the last layer and of the norm after it, if any, all."""
    steps, depth = backbone.clip_steps, backbone.depth
    found = {f"{prefix}block{i}_tokens": (by_clip(x, steps)[:1], model.tokens) for i, x in enumerate(outputs[:depth])}
    found[f"{prefix}last_tokens"] = by_clip(outputs[depth - 1], steps), model.tokens
    if len(outputs) > depth:
        found[f"{prefix}norm_tokens"] = by_clip(outputs[depth], steps), model.normed
    return found


def compared(found: dict[str, tuple[np.ndarray, float]], arrays: dict, case: str) -> Iterator[Row]:
    """Those of our arrays that the file has, of a case."""
    prefix = "out/" if case == "main" else f"out/{case}_"
    for name, (got, atol) in found.items():
        if prefix + name in arrays:
            yield Row(prefix + name, got, arrays[prefix + name], atol=atol)


def _adapted(model: Model, arrays: dict) -> Iterator[Row]:
    frames, params = frames_of(arrays, "main"), model.params
    adapters = {layer: jax.tree.map(lambda a, i=i: a[i], params["adapter"]) for i, layer in enumerate(model.layers)}

    @jax.jit
    def run(params: dict, frames: jax.Array) -> list[jax.Array]:
        x = model.backbone.embed(params, frames)
        return list(layers_in_a_row(model.backbone, params, x, adapters, model.adapter))

    outputs = run(params["backbone"], frames)
    yield from compared(_outputs(model, model.backbone, outputs, "adapted_"), arrays, "main")
    whole, bare = {"stage0": params["adapter"]}, params["adapter"]  # of several stages, and of a single one
    plain = lambda grads: to_torch({"adapter": grads}, TIA, model.layers)  # noqa: E731
    of_stage = lambda grads: plain(grads["stage0"])  # noqa: E731
    if isinstance(model.backbone, InternVideo2):
        yield from trained(model.backbone, model, bare, arrays, ("features", "grad/"), model.features, plain)
        exact = dataclasses.replace(model.backbone, gelu="erf")
        yield from trained(exact, model, bare, arrays, ("erf_features", "grad_erf/"), model.features, plain)
        return
    yield from trained(model.backbone, model, whole, arrays, ("features", "grad/"), model.features, of_stage)
    without = dataclasses.replace(model.backbone, normed=False)
    of_norm = ("prenorm_features", "grad_prenorm/")
    yield from trained(without, model, bare, arrays, of_norm, model.prenorm, plain)


def trained(
    backbone: Any, model: Any, given: Any, arrays: dict, of: tuple[str, str], atol: float, names: Callable
) -> Iterator[Row]:
    """Features and adapters' gradients as training computes them. of: their names in the file; names: -> torch's."""
    cotangent = np.swapaxes(arrays["in/cotangent"], 1, 2)
    frames = frames_of(arrays, "main")

    def total(given: Any) -> tuple[jax.Array, jax.Array]:
        options = dict(adapter=model.adapter, adapter_params=given, layers=model.layers, memory=inside.Memory())
        features = resize_in_time(inside.run(backbone, model.params["backbone"], frames, **options), cotangent.shape[1])
        return jnp.sum(features * cotangent), features

    grads, features = jax.jit(jax.grad(total, has_aux=True))(given)
    yield Row(f"out/{of[0]}", np.swapaxes(features, 1, 2), arrays[f"out/{of[0]}"], atol=atol)
    got = names(grads)
    for key, want in common.state_dict(arrays, of[1]).items():
        yield Row(of[1] + key, got[key], want, atol=max(2e-6, 1e-4 * float(np.abs(want).max())))


def _other_names(model: Any, arrays: dict, prefix: str, name: str) -> Iterator[Row]:
    """The same weights by other names give the same parameters."""
    tensors = common.state_dict(arrays, prefix)
    if not tensors:
        return
    got, want = flat(common.backbone_params(tensors, layout_named(name))), flat(model.params["backbone"])
    yield Row(f"{prefix} paths on one side only", np.array(len({*got} ^ {*want})), 0)
    for path in want:
        yield Row(f"{prefix} -> {path}", got[path], want[path])


def _names(path: pathlib.Path, name: str, listed: dict, layout: str) -> Iterator[Row]:
    """A real file's list of names: no tensor is left over, and the size, so the heads, is known."""
    conversion = common.listed_conversion(path, listed)
    of = conversion.geometry["backbone"]
    yield Row(f"{name}: its size is known", np.array(of["size"] is not None), np.array(True))
    kind, sizes = BACKBONES[of["name"]]
    options = {"position_frames": of["position_frames"]} if "position_frames" in of else {}
    yield from common.listed_rows(conversion, name, listed, layout, kind(**sizes[of["size"]], **options))
