import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from convert import flax_to_torch, torch_to_flax
from convert.layouts import LAYOUTS
from convert.torch_to_flax import detect
from tests.convert.checkpoints import all_layouts, bits, contents, opentad, tensors, under, vit_shapes

CASES = all_layouts()


def save(content, path):
    save_file(content, path) if path.suffix == ".safetensors" else torch.save(content, path)


def load(path):
    return load_file(path) if path.suffix == ".safetensors" else torch.load(path)


def run(tool, *args):
    assert tool.main([str(arg) for arg in args]) == 0


def assert_same(got, want):
    assert sorted(got) == sorted(want)
    for key in want:
        assert (got[key].dtype, got[key].shape) == (want[key].dtype, want[key].shape), key
        assert bits(got[key]) == bits(want[key]), key


@pytest.mark.parametrize("case", CASES)
def test_every_tensor_of_every_layout_comes_back_bit_by_bit(case, tmp_path):
    layout, name, content = CASES[case]
    save(content, tmp_path / name)
    run(torch_to_flax, "--input", tmp_path / name, "--output", tmp_path / "weights")
    run(flax_to_torch, "--input", tmp_path / "weights", "--output", tmp_path / f"back_{name}")
    info = json.loads((tmp_path / "weights" / "weights.json").read_text())
    assert info["layout"] == layout
    assert info["counts"]["unknown"] == info["counts"]["missing"] == 0
    assert info["counts"]["mapped"] + info["counts"]["dropped"] == len(contents(content))
    assert_same(contents(load(tmp_path / f"back_{name}")), contents(content))


# Round trips of these are in test_other_backbones.py, test_i3d.py and test_vit_family.py, and of OpenTAD's detectors in
# test_detectors.py.
ELSEWHERE = {"r2plus1d", "tsm_r18", "tsm_r50", "tsm_r18_release", "tsm_r50_release", "slowfast", "pyslowfast", "swin"}
ELSEWHERE |= (
    {"resnet18", "resnet50", "i3d", "i3d_port", "vjepa2", "vjepa21", "vjepa2_hf", "internvideo2", "videoprism"}
    | {"videoprism_hf"}
    | {layout.name for layout in LAYOUTS if layout.name.startswith("opentad_")}
)


def test_all_layouts_are_covered():
    assert {layout for layout, _, _ in CASES.values()} | ELSEWHERE == {layout.name for layout in LAYOUTS}


def test_a_sharded_hugging_face_model_equals_the_whole_one(tmp_path):
    _, _, whole = CASES["hugging face, safetensors"]
    names = sorted(whole)
    shards = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for shard, keys in shards.items():
        save_file({key: whole[key] for key in keys}, tmp_path / shard)
    index = {"metadata": {}, "weight_map": {key: shard for shard, keys in shards.items() for key in keys}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    run(torch_to_flax, "--input", tmp_path / "model.safetensors.index.json", "--output", tmp_path / "weights")
    run(flax_to_torch, "--input", tmp_path / "weights", "--output", tmp_path / "back.safetensors")
    assert_same(load_file(tmp_path / "back.safetensors"), whole)


def test_official_weights_become_an_mmaction_backbone_and_return(tmp_path):
    """Names change, numbers do not; the fixed positions that mmaction2 keeps are made."""
    official = tensors(vit_shapes())
    torch.save({"model": official}, tmp_path / "vit.pth")
    run(torch_to_flax, "--input", tmp_path / "vit.pth", "--output", tmp_path / "a")
    run(flax_to_torch, "--input", tmp_path / "a", "--output", tmp_path / "my.pth", "--layout", "mmaction")
    mmaction = torch.load(tmp_path / "my.pth")["state_dict"]
    assert "backbone.blocks.3.mlp.layers.0.0.weight" in mmaction
    assert mmaction["backbone.pos_embed"].shape == (1, 8 * 28 * 28, 24)  # 224 pixels in patches of 8
    run(torch_to_flax, "--input", tmp_path / "my.pth", "--output", tmp_path / "b")
    run(flax_to_torch, "--input", tmp_path / "b", "--output", tmp_path / "back.pth", "--layout", "videomae")
    back = torch.load(tmp_path / "back.pth")["module"]
    assert_same({key: back[key] for key in official}, official)


def test_the_moving_average_is_preferred_and_the_raw_weights_can_be_asked_for(tmp_path):
    averaged = under("module.", opentad(layers=[0, 1, 2, 3]))
    raw = {key: tensor + 1 for key, tensor in averaged.items()}
    torch.save({"state_dict": raw, "state_dict_ema": averaged}, tmp_path / "epoch_1.pth")
    key = "module.neck.fpn_norms.0.bias"
    assert detect(tmp_path / "epoch_1.pth").wrapper == "state_dict_ema"
    source = detect(tmp_path / "epoch_1.pth", wrapper="state_dict")
    assert bits(source.tensors["neck.fpn_norms.0.bias"].read()) == bits(raw[key])


def test_half_precision_stays_what_it_was(tmp_path):
    _, name, content = CASES["official, bfloat16"]
    torch.save(content, tmp_path / name)
    run(torch_to_flax, "--input", tmp_path / name, "--output", tmp_path / "weights")
    parameters = json.loads((tmp_path / "weights" / "weights.json").read_text())["parameters"]
    assert {dtype for _, dtype in parameters.values()} == {"bfloat16"}


def test_family_name_finds_the_layout_that_fits(tmp_path):
    for side, name in ((0, "AdaTAD"), (2, "AdaTAD-dagger")):
        torch.save(CASES[name][2], tmp_path / f"{side}.pth")
        run(torch_to_flax, "--input", tmp_path / f"{side}.pth", "--output", tmp_path / str(side))
        args = ["--input", tmp_path / str(side), "--output", tmp_path / f"back{side}.pth", "--layout", "opentad"]
        run(flax_to_torch, *args)
        assert_same(contents(torch.load(tmp_path / f"back{side}.pth")), contents(CASES[name][2]))
