"""The ViT backbone with adapters inside (AdaTAD) or beside (AdaTAD-dagger): tokens, features, adapters' gradients."""

import dataclasses
import json
import pathlib
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from convert.backbones import MMACTION_VIT, TIA, TIA_SIDE
from convert.mapping import to_flax, to_torch, under
from tadjax.adaptation import inside
from tadjax.adaptation.side import Side
from tadjax.adaptation.tia import Tia
from tadjax.backbones.layers import resize_in_time
from tadjax.backbones.vit import MEAN, STD, Vit
from tests.golden.compare import Row

PREFIX = "model.backbone."
TOKENS = {"atol": 2.5e-5}
FEATURES = {"atol": 5e-6}  # at 2e-5 a wrong LayerNorm epsilon would pass


def matches(name: str, keys: set[str]) -> bool:
    return {"out/feature_map", "out/features", "in/cotangent", "in/frames"} <= keys


@dataclasses.dataclass(frozen=True)
class Model:
    """The reference's model, layer by layer in plain Python."""

    backbone: Vit
    adapter: Tia
    layers: tuple[int, ...]  # adapted
    side: bool

    def outputs(self, params: dict, frames: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Tokens after the positions, after block 0, and at the end: each [B, T', h, w, D]."""
        (stage,) = self.backbone.stages(params["backbone"])
        x = embedded = self.backbone.embed(params["backbone"], frames)
        first, added = None, 0.0
        for layer in range(self.backbone.depth):
            x = stage.block(layer_of(stage.params, layer), x, None)
            if layer in self.layers:
                adapter = layer_of(params["adapter"], self.layers.index(layer))
                if self.side:
                    added = added + self.adapter.apply({"params": adapter}, jax.lax.stop_gradient(x))
                    last = x
                else:
                    x = x + self.adapter.apply({"params": adapter}, x)
            first = x if first is None else first
        return embedded, first, last + added if self.side else x

    def features(self, params: dict, frames: jax.Array, window: int) -> jax.Array:
        """[B, window, D], as training computes them: layers scanned, memory saved."""
        memory = inside.Memory()
        if self.side:
            side = Side(self.adapter, base="listed")
            pooled = side.features(
                self.backbone, params["backbone"], params["adapter"], frames, layers=self.layers, memory=memory
            )
        else:
            trained = dict(adapter=self.adapter, adapter_params=params["adapter"], layers=self.layers)
            pooled = inside.run(self.backbone, params["backbone"], frames, memory=memory, **trained)
        return resize_in_time(pooled, window)


def layer_of(stacked: dict, index: int) -> dict:
    return jax.tree.map(lambda a: a[index], stacked)


def model_of(config: dict, state_dict: dict) -> tuple[Model, dict, tuple]:
    """The model of the file, its parameters, and the table that mapped them."""
    vit = config["backbone"]
    side = vit["type"] == "VisionTransformerLadder"
    rules = under(PREFIX, MMACTION_VIT + (TIA_SIDE if side else TIA))
    params, report = to_flax(state_dict, rules)
    report.check("sd", allow_unknown=True)
    _, width, mlp_width = params["backbone"]["blocks"]["mlp"]["fc1"]["kernel"].shape
    backbone = Vit(width, vit["depth"], vit["num_heads"], vit["patch_size"], mlp_width, vit["img_size"])
    _, kernel, _, hidden = params["adapter"]["dwconv"]["kernel"].shape
    adapter = Tia(hidden=hidden, kernel=(kernel, 1, 1))
    return Model(backbone, adapter, tuple(vit["adapter_index"]), side), params, rules


def check(path: pathlib.Path) -> Iterator[Row]:
    arrays = dict(np.load(path, allow_pickle=False))
    config = json.loads(str(arrays["config"]))
    model, params, rules = model_of(config, {k[3:]: v for k, v in arrays.items() if k.startswith("sd/")})
    yield Row("config/mean", np.array(MEAN), np.array(config["mean"]))
    yield Row("config/std", np.array(STD), np.array(config["std"]))
    frames = arrays["in/frames"][:, 0].transpose(0, 2, 3, 4, 1)  # [B, T, H, W, 3]
    with jax.default_matmul_precision("highest"):
        embedded, first, last = jax.jit(model.outputs)(params, frames)
        steps = arrays["out/feature_map"].shape[2]  # of one clip
        for name, x in {"tokens_after_pos_embed": embedded, "block0_tokens": first}.items():
            yield Row(f"out/{name}", x[:1, :steps].reshape(1, -1, x.shape[-1]), arrays[f"out/{name}"], **TOKENS)
        clips = last.reshape(-1, steps, *last.shape[2:])
        yield Row("out/feature_map", np.moveaxis(clips, -1, 1), arrays["out/feature_map"], **TOKENS)
        yield from _features_and_gradients(model, params, frames, arrays, rules)


def _features_and_gradients(
    model: Model, params: dict, frames: np.ndarray, arrays: dict, rules: tuple
) -> Iterator[Row]:
    cotangent = jnp.swapaxes(arrays["in/cotangent"], 1, 2)

    def total(adapter: dict) -> tuple[jax.Array, jax.Array]:
        features = model.features({**params, "adapter": adapter}, frames, cotangent.shape[1])
        return jnp.sum(features * cotangent), features

    grads, features = jax.jit(jax.grad(total, has_aux=True))(params["adapter"])
    yield Row("out/features", np.swapaxes(features, 1, 2), arrays["out/features"], **FEATURES)
    got = to_torch({"adapter": grads}, rules, adapted=() if model.side else model.layers)
    for key in sorted(k for k in arrays if k.startswith("grad/")):
        atol = max(2e-6, 5e-5 * float(np.abs(arrays[key]).max()))
        yield Row(key, got[key.removeprefix("grad/")], arrays[key], atol)
