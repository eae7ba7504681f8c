"""Files of ViT's kin as their authors nest and name them: read, recognised, and written back bit by bit."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from convert import flax_to_torch, torch_to_flax
from convert.torch_to_flax import detect
from tests.convert.checkpoints import bits
from tests.golden.backbone import read, state_dict
from tests.golden.compare import HERE


def golden(name, prefix="sd/"):
    tensors = state_dict(read(HERE / f"{name}.npz")[0], prefix)
    return {key: torch.from_numpy(array.copy()) for key, array in tensors.items() if ".adapter." not in key}


def under(prefix, tensors):
    return {prefix + key: tensor for key, tensor in tensors.items()}


def vjepa2(**more):
    """As the authors write it: the trained encoder, and its moving average, which differs."""
    ours = under("module.backbone.", golden("vjepa2") | more)
    trained = {key: tensor + 1 for key, tensor in ours.items()}
    predictor = {"module.backbone.predictor_embed.weight": torch.ones(2, 2)}
    return {"encoder": trained, "predictor": predictor, "target_encoder": ours, "epoch": 3}


def vjepa2_hf(**more):
    return golden("vjepa2", "hf_sd/") | {"predictor.layer.0.norm1.bias": torch.ones(2)} | more


CASES = {
    "V-JEPA 2": ("vjepa2", "vitl.pt", vjepa2),
    "V-JEPA 2 with a table": ("vjepa2", "vitl.pt", lambda: vjepa2(pos_embed=torch.ones(1, 8, 48))),
    "V-JEPA 2, Hugging Face": ("vjepa2_hf", "model.safetensors", vjepa2_hf),
    "V-JEPA 2, a classifier": (
        "vjepa2_hf",
        "model.safetensors",
        lambda: under("vjepa2.", vjepa2_hf()) | {"classifier.bias": torch.ones(3), "pooler.x.bias": torch.ones(3)},
    ),
    "V-JEPA 2, early names": (
        "vjepa2_hf",
        "model.safetensors",
        lambda: {k.replace("attention.", "attention.attention."): t for k, t in vjepa2_hf().items()},
    ),
    "V-JEPA 2.1, distilled": (
        "vjepa21",
        "vitb.pt",
        lambda: {"ema_encoder": under("module.backbone.", golden("vjepa2_1"))},
    ),
    "V-JEPA 2.1": ("vjepa21", "vitg.pt", lambda: {"target_encoder": under("module.backbone.", golden("vjepa2_1"))}),
}
GROUPS = ("ema_encoder", "target_encoder")


def save(content, path):
    save_file(content, path) if path.suffix == ".safetensors" else torch.save(content, path)


def tensors_of(path):
    content = load_file(path) if path.suffix == ".safetensors" else torch.load(path)
    return next((content[name] for name in GROUPS if name in content), content)


def run(tool, *arguments):
    assert tool.main([str(argument) for argument in arguments]) == 0


@pytest.mark.parametrize("case", CASES)
def test_every_tensor_comes_back_bit_by_bit(case, tmp_path):
    layout, name, make = CASES[case]
    save(make(), tmp_path / name)
    run(torch_to_flax, "--input", tmp_path / name, "--output", tmp_path / "weights")
    run(flax_to_torch, "--input", tmp_path / "weights", "--output", tmp_path / f"back_{name}")
    info = json.loads((tmp_path / "weights" / "weights.json").read_text())
    assert info["layout"] == layout
    assert info["counts"]["unknown"] == info["counts"]["missing"] == 0
    got, want = tensors_of(tmp_path / f"back_{name}"), tensors_of(tmp_path / name)
    assert sorted(got) == sorted(want)
    assert all(got[key].dtype == want[key].dtype and bits(got[key]) == bits(want[key]) for key in want)


def test_the_trained_encoder_can_be_asked_for(tmp_path):
    torch.save(vjepa2(), tmp_path / "vitl.pt")
    assert detect(tmp_path / "vitl.pt").wrapper == "target_encoder"
    read_, want = detect(tmp_path / "vitl.pt", wrapper="encoder"), golden("vjepa2")["norm.bias"]
    np.testing.assert_array_equal(read_.tensors["norm.bias"].read(), want + 1)


def test_transformers_names_become_the_authors(tmp_path):
    save_file(vjepa2_hf(), tmp_path / "model.safetensors")
    run(torch_to_flax, "--input", tmp_path / "model.safetensors", "--output", tmp_path / "x")
    run(flax_to_torch, "--input", tmp_path / "x", "--output", tmp_path / "vitl.pt", "--layout", "vjepa2")
    got, want = torch.load(tmp_path / "vitl.pt")["target_encoder"], under("module.backbone.", golden("vjepa2"))
    assert sorted(got) == sorted(want) and all(bits(got[key]) == bits(want[key]) for key in want)


@pytest.mark.parametrize(("case", "lacking"), [("V-JEPA 2", "norm1.bias"), ("V-JEPA 2.1", "norms_block.2.weight")])
def test_a_tensor_that_is_missing_is_named(case, lacking, tmp_path, capsys):
    content = CASES[case][2]()
    group = content["target_encoder"]
    del group[next(key for key in group if key.endswith(lacking))]
    torch.save(content, tmp_path / "x.pt")
    assert torch_to_flax.main(["--input", str(tmp_path / "x.pt"), "--output", str(tmp_path / "x")]) == 2
    assert lacking in capsys.readouterr().err
