"""Stored numbers that are no longer those that were written: found when they are loaded, and the array is named."""

import json
import pathlib
import shutil
import zlib

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import torch

from convert import flax_to_torch, torch_to_flax
from tadjax.errors import WeightsError
from tadjax.workdir import checksums, weights
from tadjax.workdir.checkpoint import load_frozen, save_frozen
from tests.convert.checkpoints import tensors, vit_shapes
from tests.workdir.test_weights import like

KERNEL = "backbone/blocks/mlp/fc1/kernel"


@pytest.fixture
def converted(tmp_path):
    """A ViT as torch_to_flax.py writes it, and the numbers of KERNEL."""
    source = tensors(vit_shapes())
    torch.save({"module": source}, tmp_path / "vit.pth")
    assert torch_to_flax.main(["--input", f"{tmp_path}/vit.pth", "--output", f"{tmp_path}/vit"]) == 0
    return tmp_path / "vit", np.stack([source[f"blocks.{i}.mlp.fc1.weight"].numpy().T for i in range(4)])


def flip_a_bit(folder: pathlib.Path, numbers: np.ndarray) -> None:
    """The lowest bit of the exponent of the first of these numbers, wherever they lie in the folder."""
    for file in folder.rglob("*"):
        content = bytearray(file.read_bytes()) if file.is_file() else b""
        if (at := content.find(numbers.tobytes()[:64])) >= 0:
            content[at + 2] ^= 0x80
            file.write_bytes(content)
            return
    raise LookupError


def test_an_array_has_a_checksum_as_it_is_and_one_as_bfloat16(converted):
    folder, kernel = converted
    sums = json.loads((folder / "params.checksums.json").read_text())
    assert set(sums) == set(weights.read_info(folder)["parameters"])
    assert sums[KERNEL] == {
        "float32": zlib.crc32(kernel.tobytes()),
        "bfloat16": zlib.crc32(kernel.astype(ml_dtypes.bfloat16).tobytes()),
    }
    assert checksums.of(np.arange(3)) == {"int64": zlib.crc32(np.arange(3).tobytes())}


def test_checksums_take_no_memory_of_the_device(monkeypatch):
    """Nor does JAX keep what the host has read: of an array over several devices it would."""
    tree = [jnp.full((256, 1024), float(i)) for i in range(8)]  # 1 MiB each
    buffers = {array.unsafe_buffer_pointer() for array in tree}
    extra = []

    def counting(numbers):
        live = {a.unsafe_buffer_pointer(): a.nbytes for a in jax.live_arrays()}
        extra.append(sum(size for at, size in live.items() if at not in before | buffers))
        return plain(numbers)

    before, plain = {a.unsafe_buffer_pointer() for a in jax.live_arrays()}, zlib.crc32
    monkeypatch.setattr(zlib, "crc32", counting)
    checksums.crcs(tree)
    assert extra == [0] * 8


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_a_flipped_bit_in_converted_weights_names_the_array(dtype, converted):
    folder, kernel = converted
    weights.load_backbone(folder, like(dtype))
    flip_a_bit(folder / "params", kernel)
    message = f"vit/params is damaged: the numbers in {KERNEL} are not those that were written"
    with pytest.raises(WeightsError, match=message):
        weights.load_backbone(folder, like(dtype))


def test_damaged_weights_are_not_written_back(converted, capsys):
    folder, kernel = converted
    flip_a_bit(folder / "params", kernel)
    assert flax_to_torch.main(["--input", str(folder), "--output", f"{folder}_again.pth"]) == 2
    assert f"the numbers in {KERNEL} are not" in capsys.readouterr().err
    assert not pathlib.Path(f"{folder}_again.pth").exists()


def test_frozen_weights_of_another_run_are_noticed(tmp_path):
    """What a careless copy does: same shapes, other numbers."""
    frozen = {"backbone": {"kernel": jnp.arange(6, dtype=jnp.bfloat16), "bias": jnp.ones(3)}}
    for name, tree in {"a": frozen, "b": jax.tree.map(lambda x: x.at[0].add(1), frozen)}.items():
        save_frozen(tmp_path / name, tree)
    assert load_frozen(tmp_path / "a", frozen)["backbone"]["bias"].tolist() == [1, 1, 1]
    shutil.rmtree(tmp_path / "a" / "frozen")
    shutil.copytree(tmp_path / "b" / "frozen", tmp_path / "a" / "frozen")
    with pytest.raises(WeightsError, match="a/frozen is damaged: the numbers in backbone/bias, backbone/kernel are"):
        load_frozen(tmp_path / "a", frozen)


def test_what_was_written_before_there_were_checksums_is_read_and_damaged_ones_are_an_error(converted):
    folder, _ = converted
    file = folder / "params.checksums.json"
    content = file.read_text()
    file.write_text(content[: len(content) // 2])
    with pytest.raises(WeightsError, match=r"params.checksums.json is damaged"):
        weights.load_backbone(folder, like())
    file.unlink()
    weights.load_backbone(folder, like())
