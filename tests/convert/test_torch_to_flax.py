import argparse
import hashlib
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import torch

from convert import torch_to_flax
from convert.files import Checkpoint, StoredTensor
from convert.torch_to_flax import detect, prepare
from tests.convert.checkpoints import CLASSES, DEPTH, HIDDEN, MLP, WIDTH, opentad, tensors, under, vit_shapes

ROOT = pathlib.Path(__file__).parents[2]


def run(*args):
    return torch_to_flax.main([str(arg) for arg in args])


def refused(capsys, folder, *args):
    """Runs it on folder/x.pth and returns the error, which is one line and leaves nothing behind."""
    before = sorted(folder.iterdir())
    assert run("--input", folder / "x.pth", "--output", folder / "out", *args) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert sorted(folder.iterdir()) == before
    return lines[0]


def save_vit(folder, **changes):
    state_dict = tensors(vit_shapes())
    state_dict = {key: tensor for key, tensor in (state_dict | changes).items() if tensor is not None}
    torch.save({"module": state_dict}, folder / "x.pth")
    return state_dict


def test_the_report_lists_every_key(tmp_path, capsys):
    save_vit(tmp_path, **{"head.weight": torch.zeros(710, WIDTH)})
    assert run("--input", tmp_path / "x.pth", "--output", tmp_path / "out") == 0
    printed = capsys.readouterr().out
    assert f"{DEPTH} x blocks.*.mlp.fc1.weight [{MLP}, {WIDTH}] float32 -> backbone/blocks/mlp/fc1/kernel" in printed
    assert "head.weight [710, 24] float32 dropped: the classifier of whole clips" in printed
    info = json.loads((tmp_path / "out" / "weights.json").read_text())
    fates = {line["key"]: line for line in info["tensors"]}
    assert set(fates) == set(vit_shapes()) | {"head.weight"}
    assert fates["blocks.2.attn.q_bias"]["mapped"] == "backbone/blocks/attention/q_bias"
    assert fates["head.weight"]["dropped"] == "the classifier of whole clips"
    content = (tmp_path / "x.pth").read_bytes()
    assert info["source"] == [{"file": "x.pth", "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}]


def test_geometry_of_a_detector(tmp_path):
    torch.save({"state_dict": under("module.", opentad(layers=[1, 3]))}, tmp_path / "x.pth")
    geometry = prepare(detect(tmp_path / "x.pth")).geometry
    assert geometry["backbone"]["image"] == 32
    assert geometry["adapter"] == dict(method="tia", count=2, width=WIDTH, hidden=HIDDEN, layers=[1, 3], kernel=3)
    assert geometry["head"] == dict(
        name="actionformer", width=8, classes=CLASSES, head_convs=2, feature_width=WIDTH, convs=[2, 1, 2], levels=3
    )


def test_a_published_size_is_named_and_brings_its_number_of_heads():
    shapes = vit_shapes(width=384, depth=12, patch=16, mlp_width=1536)
    stored = {k: StoredTensor(s, np.dtype(np.float32), pathlib.Path("vit_s.pth")) for k, s in shapes.items()}
    checkpoint = Checkpoint((pathlib.Path("vit_s.pth"),), {"module": stored})
    backbone = prepare(torch_to_flax.recognise(checkpoint)).geometry["backbone"]
    assert (backbone["size"], backbone["heads"], backbone["depth"], backbone["mlp_ratio"]) == ("s", 6, 12, 4.0)


def test_list_prints_what_a_file_holds(tmp_path, capsys):
    torch.save({"module": tensors(vit_shapes()), "optimizer": {"step": torch.zeros(3)}, "epoch": 3}, tmp_path / "x.pth")
    assert run("--list", tmp_path / "x.pth") == 0
    printed = capsys.readouterr().out
    assert "module: 54 tensors" in printed
    assert "optimizer: 1 tensors" in printed
    assert f"{DEPTH} x blocks.*.norm1.weight [{WIDTH}] float32" in printed
    assert "without tensors: epoch" in printed
    assert "layout: videomae" in printed


def test_list_prints_a_file_of_no_known_layout(tmp_path, capsys):
    torch.save({"conv1.weight": torch.zeros(4, 3, 3, 3)}, tmp_path / "x.pth")
    assert run("--list", tmp_path / "x.pth") == 0
    assert "1 x conv1.weight [4, 3, 3, 3] float32" in capsys.readouterr().out


def test_missing_and_unknown_tensors_are_listed(tmp_path, capsys):
    save_vit(tmp_path, **{"blocks.2.norm2.bias": None, "gates.0": torch.zeros(3)})
    error = refused(capsys, tmp_path)
    assert "1 missing: blocks.2.norm2.bias (--allow_missing" in error
    assert "1 unknown: gates.0 (--allow_unknown" in error
    assert "--allow_missing" in refused(capsys, tmp_path, "--allow-unknown")
    args = ("--input", tmp_path / "x.pth", "--output", tmp_path / "out", "--allow-missing", "--allow-unknown")
    assert run(*args) == 0
    info = json.loads((tmp_path / "out" / "weights.json").read_text())
    assert "backbone/blocks/norm2/bias" not in info["parameters"]  # never a layer of made-up numbers
    assert "backbone/blocks/norm2/scale" in info["parameters"]
    fates = {line["key"]: line for line in info["tensors"]}
    assert fates["blocks.0.norm2.bias"]["dropped"] == "other tensors of backbone/blocks/norm2/bias are missing"


def test_a_missing_layer_is_missing_and_does_not_shift_the_others(tmp_path, capsys):
    save_vit(tmp_path, **{key: None for key in vit_shapes() if key.startswith("blocks.1.")})
    assert "13 missing: blocks.1.norm1.weight" in refused(capsys, tmp_path)


def test_a_layer_of_another_shape_names_both(tmp_path, capsys):
    save_vit(tmp_path, **{"blocks.3.mlp.fc1.bias": torch.zeros(48)})
    error = refused(capsys, tmp_path)
    assert f"{tmp_path}/x.pth: blocks.3.mlp.fc1.bias: (48,) does not fit beside blocks.0.mlp.fc1.bias" in error


def test_a_layer_of_another_dtype_names_both(tmp_path, capsys):
    save_vit(tmp_path, **{"blocks.3.mlp.fc1.bias": torch.zeros(MLP, dtype=torch.float16)})
    error = refused(capsys, tmp_path)
    assert f"{tmp_path}/x.pth: blocks.3.mlp.fc1.bias: float16 does not fit beside blocks.0.mlp.fc1.bias" in error


def test_a_tensor_of_another_rank_is_named_with_its_file(tmp_path, capsys):
    save_vit(tmp_path, **{"patch_embed.proj.weight": torch.zeros(WIDTH, 3, 8, 8)})  # of a network of pictures
    assert f"{tmp_path}/x.pth: patch_embed.proj.weight: a tensor of shape (24, 3, 8, 8)" in refused(capsys, tmp_path)


@pytest.mark.parametrize("prefix", ["module._orig_mod.", "_orig_mod.module."])
def test_what_compiling_and_distributing_put_before_names_comes_off_in_either_order(prefix, tmp_path):
    torch.save({"model": under(prefix, tensors(vit_shapes()))}, tmp_path / "x.pth")
    assert set(detect(tmp_path / "x.pth").tensors) == set(vit_shapes())


def test_learned_positions_are_refused(tmp_path, capsys):
    save_vit(tmp_path, pos_embed=torch.randn(1, 128, WIDTH))
    assert "pos_embed is not the sine-cosine table" in refused(capsys, tmp_path)


def test_a_class_token_or_another_clip_length_is_refused(tmp_path, capsys):
    save_vit(tmp_path, pos_embed=torch.randn(1, 129, WIDTH))
    assert "pos_embed has shape (1, 129, 24), which is no table of 8 x g x g positions" in refused(capsys, tmp_path)


def test_another_model_family_is_named_as_such(tmp_path, capsys):
    torch.save({"state_dict": {"backbone.conv1.weight": torch.zeros(4, 3, 3, 3)}}, tmp_path / "x.pth")
    error = refused(capsys, tmp_path)
    assert "another model family" in error
    assert "backbone.conv1.weight" in error


class Malicious:
    def __init__(self, witness):
        self.witness = witness

    def __reduce__(self):
        return (os.mkdir, (self.witness,))


def test_plain_data_of_training_checkpoints_is_no_code(tmp_path):
    content = {"args": argparse.Namespace(lr=np.float64(1e-3)), "best": np.float32(3), "history": np.arange(3)}
    torch.save({"module": tensors(vit_shapes()), **content}, tmp_path / "x.pth")
    assert detect(tmp_path / "x.pth").layout.name == "videomae"


@pytest.mark.parametrize("new_format", [True, False])
def test_pickled_code_is_refused_and_not_run(new_format, tmp_path, capsys):
    witness = tmp_path / "witness"
    content = {"module": tensors(vit_shapes()), "extra": Malicious(str(witness))}
    torch.save(content, tmp_path / "x.pth", _use_new_zipfile_serialization=new_format)
    assert "would run pickled code, which is refused" in refused(capsys, tmp_path)
    assert not witness.exists()


@pytest.mark.parametrize("new_format", [True, False])
@pytest.mark.parametrize("keep", [0.0, 0.01, 0.5, 0.99])
def test_truncated_files_are_one_error(new_format, keep, tmp_path, capsys):
    torch.save({"module": tensors(vit_shapes())}, tmp_path / "x.pth", _use_new_zipfile_serialization=new_format)
    content = (tmp_path / "x.pth").read_bytes()
    (tmp_path / "x.pth").write_bytes(content[: int(keep * len(content))])
    assert "truncated" in refused(capsys, tmp_path) or keep == 0.01


def test_files_that_are_no_checkpoint(tmp_path, capsys):
    (tmp_path / "x.pth").write_text("<html>404 not found</html>\n" * 50)  # what a failed download leaves
    assert "no checkpoint that PyTorch can read" in refused(capsys, tmp_path)
    torch.save(torch.zeros(3), tmp_path / "x.pth")
    assert "not a dictionary of tensors" in refused(capsys, tmp_path)
    (tmp_path / "x.pth").unlink()
    assert "no such file" in refused(capsys, tmp_path)


def test_an_output_that_exists_is_left_alone(tmp_path, capsys):
    save_vit(tmp_path)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious").write_text("x")
    assert "out exists: remove it" in refused(capsys, tmp_path)
    assert (tmp_path / "out" / "precious").read_text() == "x"


def test_a_disk_that_fills_up_leaves_nothing(tmp_path):
    """The limit on file sizes stands in for the disk's end: writes fail in the middle of the parameters."""
    save_vit(tmp_path)
    code = """if True:
        import resource, sys
        from convert.torch_to_flax import main
        resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))
        sys.exit(main())
    """
    done = subprocess.run(
        [sys.executable, "-c", code, "--input", tmp_path / "x.pth", "--output", tmp_path / "out"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2, done.stderr
    assert "could not be written, nothing is left of it" in done.stderr.splitlines()[-1]
    assert [path.name for path in tmp_path.iterdir()] == ["x.pth"]


def test_a_disk_without_room_is_said_before_writing(tmp_path, capsys, monkeypatch):
    save_vit(tmp_path)
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("convert.output.shutil.disk_usage", lambda path: usage)
    assert "0.0 GB are free on this disk" in refused(capsys, tmp_path)


def test_transposed_views_and_old_files_are_read_rightly(tmp_path):
    state_dict = tensors(vit_shapes())
    base = torch.randn(MLP, WIDTH)
    state_dict["blocks.0.mlp.fc2.weight"] = base.T  # a view with strides
    state_dict["blocks.1.norm1.bias"] = base[3]  # a view that starts inside
    for new_format in (True, False):
        torch.save(state_dict, tmp_path / "x.pth", _use_new_zipfile_serialization=new_format)
        stored = detect(tmp_path / "x.pth").tensors
        for key, tensor in state_dict.items():
            assert np.array_equal(stored[key].read(), tensor.numpy()), key
