"""Files of ViT's kin as their authors nest and name them: read, recognised, and written back bit by bit."""

import json

import jax
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from convert import flax_to_torch, torch_to_flax
from convert.files import open_checkpoint
from convert.mapping import TRANSFORMS
from convert.torch_to_flax import detect
from tadjax.backbones.internvideo2 import InternVideo2
from tadjax.errors import WeightsError
from tadjax.workdir.weights import load_backbone
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


def internvideo2():
    """With what pre-training had besides."""
    more = ("clip_pos_embed", "mae_pos_embed", "clip_decoder.0.head.bias", "mae_decoder.0.head.bias")
    return golden("internvideo2") | {name: torch.ones(2) for name in (*more, "final_clip_decoder.norm.bias")}


def videoprism(prefix):
    found = state_dict(read(HERE / "videoprism.npz")[0], "sd/params/")
    return {prefix + key: array for key, array in found.items()}


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
    "InternVideo2, fine-tuned": ("internvideo2", "B14.bin", lambda: {"module": golden("internvideo2")}),
    "InternVideo2, pre-trained": ("internvideo2", "1B.pth", lambda: {"model": under("encoder.", internvideo2())}),
    "InternVideo2, bare": ("internvideo2", "L14.pth", internvideo2),
    "VideoPrism": ("videoprism", "base.npz", lambda: videoprism("params/")),
    "VideoPrism with texts": (
        "videoprism",
        "lvt.npz",
        lambda: (
            videoprism("params/vision_encoder/")
            | {f"params/{name}/x/w": np.ones((2, 3), np.float32) for name in ("auxiliary_encoder", "text_encoder")}
        ),
    ),
    "VideoPrism, Hugging Face": ("videoprism_hf", "model.safetensors", lambda: golden("videoprism", "hf_sd/")),
}
GROUPS = ("ema_encoder", "target_encoder", "model", "module")


def save(content, path):
    if path.suffix == ".npz":
        np.savez(path, **content)
        return
    save_file(content, path) if path.suffix == ".safetensors" else torch.save(content, path)


def tensors_of(path):
    if path.suffix == ".npz":
        return dict(np.load(path))
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


@pytest.mark.parametrize("compressed", [False, True])
def test_archives_of_numpy_are_read_array_by_array_in_any_order(compressed, tmp_path):
    rows = np.arange(6, dtype=np.float32).reshape(2, 3)
    arrays = {"a/rows": rows, "a/columns": np.asfortranarray(rows), "scalar": np.float32(7)}
    (np.savez_compressed if compressed else np.savez)(tmp_path / "x.npz", **arrays)
    tensors = open_checkpoint(tmp_path / "x.npz").groups[""]
    assert {*tensors} == {*arrays}
    assert all((tensor.array is not None) == compressed for tensor in tensors.values())
    for name, array in arrays.items():
        np.testing.assert_array_equal(tensors[name].read(), array)


@pytest.mark.parametrize("content", [b"", b"PK\3\4 and no more", b"no zip at all"])
def test_a_damaged_archive_is_one_error(content, tmp_path):
    (tmp_path / "x.npz").write_bytes(content)
    with pytest.raises(WeightsError, match="x.npz: no archive of numpy arrays, or truncated"):
        open_checkpoint(tmp_path / "x.npz")


def test_an_archive_of_objects_is_refused(tmp_path):
    np.savez(tmp_path / "x.npz", a=np.array([print], object))
    with pytest.raises(WeightsError, match="a.npy holds Python objects"):
        open_checkpoint(tmp_path / "x.npz")


def test_separate_tables_of_positions_are_refused_by_name(tmp_path, capsys):
    tensors = golden("internvideo2")
    del tensors["pos_embed"]
    torch.save(tensors | {"pos_embed_spatial": torch.ones(1, 16, 48)}, tmp_path / "x.pth")
    assert torch_to_flax.main(["--input", str(tmp_path / "x.pth"), "--output", str(tmp_path / "x")]) == 2
    said = capsys.readouterr().err
    assert "missing: pos_embed " in said and "unknown: pos_embed_spatial " in said


def test_the_frames_of_the_table_of_positions_are_told(tmp_path):
    tensors = golden("internvideo2") | {"pos_embed": torch.ones(1, 1 + 16 * 256, 48)}
    torch.save(tensors, tmp_path / "f16.pth")
    run(torch_to_flax, "--input", tmp_path / "f16.pth", "--output", tmp_path / "x")
    found = json.loads((tmp_path / "x" / "weights.json").read_text())["geometry"]["backbone"]
    assert (found["name"], found["position_frames"]) == ("internvideo2", 16)
    wanted = InternVideo2(width=48, blocks=3, heads=3, patch=14, mlp_width=192)
    with pytest.raises(WeightsError, match="change config.backbone.position_frames"):
        load_backbone(tmp_path / "x", jax.eval_shape(wanted.init, jax.random.key(0)))


def test_videoprisms_two_layouts_become_one_another_at_published_head_sizes(tmp_path):
    """Of 64 channels: nothing else tells how many heads there are."""
    published = {
        key: np.repeat(array, 64 // 16, -1) for key, array in videoprism("params/").items() if "self_att" in key
    }
    kernel = published["params/spatial_encoder/transformers_stack/x_layers/self_attention/query/w"]
    there, back = TRANSFORMS["heads"]
    np.testing.assert_array_equal(back(there(kernel)), kernel)
    there, back = TRANSFORMS["heads_out"]
    np.testing.assert_array_equal(back(there(kernel)), kernel)
