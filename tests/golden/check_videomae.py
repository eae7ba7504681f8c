"""VideoMAE's own ViT and Hugging Face's, whose weights reach our backbone through two other tables of names."""

import json
import pathlib
from collections.abc import Iterator

import jax
import numpy as np

from convert.backbones import HUGGINGFACE_VIT, VIDEOMAE
from convert.mapping import to_flax, to_torch, under
from tadjax.backbones.vit import MEAN, STD, Block, PatchEmbed, Vit, sine_cosine
from tests.golden.compare import Row

TOKENS = {"atol": 2.5e-5}


def matches(name: str, keys: set[str]) -> bool:
    return {"in/clip", "out/tokens", "out/opentad_feature_map"} <= keys


def check(path: pathlib.Path) -> Iterator[Row]:
    arrays = dict(np.load(path, allow_pickle=False))
    config = json.loads(str(arrays["config"]))
    with jax.default_matmul_precision("highest"):
        yield from _official(arrays, config)
        if "in/hf_pixel_values" in arrays:
            yield from _huggingface_classifier(arrays, config)
        if "in/hfm_pixel_values" in arrays:
            yield from _huggingface_model(arrays, config)


def _load(arrays: dict, prefix: str, rules: tuple) -> tuple[dict, dict]:
    """(backbone parameters, the whole state dict); the way back must give the same bits."""
    state_dict = {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}
    params, report = to_flax(state_dict, rules)
    report.check(prefix, allow_unknown=True)
    for key, tensor in to_torch(params, rules).items():
        if tensor.tobytes() != state_dict[key].tobytes():
            raise ValueError(f"{prefix}{key} does not come back as it was")
    return params["backbone"], state_dict


def _official(arrays: dict, config: dict) -> Iterator[Row]:
    params, state_dict = _load(arrays, "sd/", VIDEOMAE)
    of = config["official"]
    _, width, mlp_width = params["blocks"]["mlp"]["fc1"]["kernel"].shape
    backbone = Vit(width, of["depth"], of["num_heads"], of["patch_size"], mlp_width, of["img_size"])
    clip = arrays["in/clip"].transpose(0, 2, 3, 4, 1) * np.array(STD) + np.array(MEAN)  # the backbone normalises itself

    @jax.jit
    def run(params: dict, frames: jax.Array) -> jax.Array:
        x = backbone.embed(params, frames)
        (stage,) = backbone.stages(params)
        return jax.lax.scan(lambda x, layer: (stage.block(layer, x, None), None), x, stage.params)[0]

    x = np.asarray(run(params, clip.astype(np.float32)))  # [B, T', h, w, D]
    tokens = x.reshape(x.shape[0], -1, width)
    pooled = layer_norm(tokens.mean(1), state_dict["fc_norm.weight"], state_dict["fc_norm.bias"], config["ln_eps"])
    logits = pooled @ state_dict["head.weight"].T + state_dict["head.bias"]
    positions = arrays["out/pos_embed"]
    yield Row("out/pos_embed", sine_cosine(positions.shape[1], width)[None], positions, atol=1e-6)
    yield Row("out/tokens", tokens, arrays["out/tokens"], **TOKENS)
    yield Row("out/opentad_feature_map", np.moveaxis(x, -1, 1), arrays["out/opentad_feature_map"], **TOKENS)
    yield Row("out/pooled", pooled, arrays["out/pooled"], **TOKENS)
    yield Row("out/logits", logits, arrays["out/logits"], **TOKENS)


def _huggingface(arrays: dict, of: dict, prefix: str, rules: tuple) -> tuple[np.ndarray, np.ndarray, dict]:
    """Embeddings and last tokens [B, N, D] by the backbone's parts: these clips need not have 16 frames."""
    params, state_dict = _load(arrays, f"{prefix}_sd/", rules)
    width, patch = of["hidden_size"], of["patch_size"]
    pixels = arrays[f"in/{prefix}_pixel_values"].transpose(0, 1, 3, 4, 2)  # [B, T, H, W, 3], normalised
    x = PatchEmbed(width, patch).apply({"params": params["patch_embed"]}, pixels)
    x = x.reshape(x.shape[0], -1, width)
    embedded = x = x + sine_cosine(x.shape[1], width)
    block = Block(of["num_attention_heads"], of["intermediate_size"])
    x = jax.lax.scan(lambda x, layer: (block.apply({"params": layer}, x), None), x, params["blocks"])[0]
    return np.asarray(embedded), np.asarray(x), state_dict


def _huggingface_classifier(arrays: dict, config: dict) -> Iterator[Row]:
    embedded, tokens, sd = _huggingface(arrays, config["hf"], "hf", under("videomae.", HUGGINGFACE_VIT))
    pooled = layer_norm(tokens.mean(1), sd["fc_norm.weight"], sd["fc_norm.bias"], 1e-5)
    yield Row("out/hf_embeddings", embedded, arrays["out/hf_embeddings"], **TOKENS)
    yield Row("out/hf_tokens", tokens, arrays["out/hf_tokens"], **TOKENS)
    yield Row(
        "out/hf_logits", pooled @ sd["classifier.weight"].T + sd["classifier.bias"], arrays["out/hf_logits"], **TOKENS
    )


def _huggingface_model(arrays: dict, config: dict) -> Iterator[Row]:
    _, tokens, sd = _huggingface(arrays, config["hfm"], "hfm", HUGGINGFACE_VIT)
    got = layer_norm(tokens, sd["layernorm.weight"], sd["layernorm.bias"], config["hfm"]["layer_norm_eps"])
    yield Row("out/hfm_last_hidden_state", got, arrays["out/hfm_last_hidden_state"], **TOKENS)


def layer_norm(x: np.ndarray, scale: np.ndarray, bias: np.ndarray, epsilon: float) -> np.ndarray:
    """The final norms, which the features for localization do without."""
    x = x.astype(np.float64)
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + epsilon) * scale + bias
