"""Names and shapes of real detectors' checkpoints: each tensor is one of our parameters, and none is left over."""

import json
import pathlib
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from convert.files import Checkpoint, StoredTensor
from convert.torch_to_flax import Conversion, prepare, recognise
from tadjax.adaptation.tia import Tia
from tadjax.backbones.vit import Vit, sine_cosine
from tadjax.heads.actionformer import ActionFormer
from tadjax.workdir import weights
from tests.golden.compare import Row


def matches(name: str, keys: set[str]) -> bool:
    return "checkpoint_keys" in name or all(key.startswith("adatad") for key in keys)


def check(path: pathlib.Path) -> Iterator[Row]:
    for name, listed in json.loads(path.read_text()).items():
        yield from _detector(path, name, listed)


def _detector(path: pathlib.Path, name: str, listed: dict) -> Iterator[Row]:
    tensors = {key: _stored(path, key, entry) for key, entry in listed["tensors"].items()}
    conversion = prepare(recognise(Checkpoint((path,), {"state_dict": tensors})))  # raises if any is unknown or missing
    mapped = {path for path in conversion.shapes if not path.startswith("state/")}
    wanted = weights.shapes(jax.eval_shape(lambda: model_params(conversion)))
    yield Row(f"{name}: parameters on one side only", np.array(len({*wanted} ^ mapped)), 0)
    for parameter in sorted(wanted):
        got = np.array(conversion.shapes.get(parameter, ()))
        yield Row(f"{name}: shape of {parameter}", got, np.array(wanted[parameter]))
    parameters = sum(int(np.prod(e["shape"])) for e in listed["tensors"].values() if e["kind"] == "parameter")
    dropped = [e for k, e in listed["tensors"].items() if k.endswith(("fc_norm.weight", "fc_norm.bias"))]
    ours = sum(int(np.prod(shape)) for shape in wanted.values()) + sum(int(np.prod(e["shape"])) for e in dropped)
    yield Row(f"{name}: elements", np.array(ours), np.array(listed["n_elements_total"]))
    yield Row(f"{name}: elements listed", np.array(parameters), np.array(listed["n_elements_total"]))


def _stored(path: pathlib.Path, key: str, entry: dict) -> StoredTensor:
    """A tensor of which only the shape is known; the positions, which are checked, are made."""
    shape, dtype = tuple(entry["shape"]), np.dtype(entry["dtype"])
    array = sine_cosine(*shape[1:])[None] if key.endswith("pos_embed") else np.broadcast_to(np.zeros((), dtype), shape)
    return StoredTensor(shape, dtype, path, array=array)


def model_params(conversion: Conversion) -> dict:
    """Random parameters of the model that the converted geometry describes."""
    g = conversion.geometry
    dims = {name: g["backbone"][name] for name in ("width", "depth", "patch", "mlp_width")}
    backbone = Vit(**dims, heads=g["backbone"]["heads"] or 1)
    scaled = any(path.endswith("/scale_attention") for path in conversion.shapes)
    levels = g["head"]["levels"]
    head = ActionFormer(
        classes=g["head"]["classes"],
        width=g["head"]["width"],
        convs=tuple(g["head"]["convs"]),
        max_length=2**levels,
        head_convs=g["head"]["head_convs"],
        regression_ranges=((0, 10000),) * levels,
        drop_path=0.1 if scaled else 0.0,
    )
    adapter = Tia(hidden=g["adapter"]["hidden"], kernel=(g["adapter"]["kernel"], 1, 1))
    x, key = jnp.zeros((1, 1, 1, 1, backbone.width)), jax.random.key(0)
    one = adapter.init(key, x)["params"]
    return {
        "backbone": backbone.init(key),
        "adapter": jax.tree.map(lambda a: jnp.stack([a] * g["adapter"]["count"]), one),
        "head": head.init_params(key, g["head"]["feature_width"]),
    }
