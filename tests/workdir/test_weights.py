import json
import os
import pathlib
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import torch

from convert import torch_to_flax
from tadjax.backbones import BACKBONES, make_backbone
from tadjax.backbones.vit import Vit
from tadjax.errors import WeightsError
from tadjax.workdir.weights import check_geometry, load, load_backbone, read_geometry, save
from tests.convert.checkpoints import DEPTH, HEADS, IMAGE, MLP, PATCH, WIDTH, opentad, tensors, under, vit_shapes

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def official():
    return tensors(vit_shapes())


@pytest.fixture(scope="module")
def folder(official, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights")
    torch.save({"module": official}, path / "vit.pth")
    assert torch_to_flax.main(["--input", f"{path}/vit.pth", "--output", f"{path}/vit"]) == 0
    return path / "vit"


def like(dtype=jnp.bfloat16, **changes):
    sizes = dict(width=WIDTH, depth=DEPTH, heads=HEADS, patch=PATCH, mlp_width=MLP) | changes
    params = jax.eval_shape(Vit(**sizes).init, jax.random.key(0))
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, dtype), params)


def test_bfloat16_weights_are_the_rounded_source_bit_by_bit(folder, official):
    params = load_backbone(folder, like())
    for i in range(DEPTH):
        want = official[f"blocks.{i}.attn.qkv.weight"].bfloat16().T  # PyTorch rounds to nearest even, too
        got = params["blocks"]["attention"]["qkv"]["kernel"][i]
        assert got.dtype == jnp.bfloat16
        assert np.array_equal(np.asarray(got).view(np.int16), want.contiguous().view(torch.int16).numpy())
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype(jnp.bfloat16)}


def test_float32_weights_are_the_source(folder, official):
    got = load_backbone(folder, like(jnp.float32))["patch_embed"]["kernel"]
    want = official["patch_embed.proj.weight"].permute(2, 3, 4, 1, 0).numpy()  # [2, p, p, 3, D]
    assert np.array_equal(np.asarray(got), want)


def test_geometry_is_read_off_the_shapes(folder):
    assert read_geometry(folder) == {
        "backbone": dict(
            name="vit", width=24, depth=4, patch=8, tubelet=2, mlp_width=40, size=None, heads=None, mlp_ratio=1.6667
        )
    }


def test_another_geometry_is_one_error_with_both_shapes_and_the_field(folder):
    with pytest.raises(WeightsError) as error:
        load_backbone(folder, like(depth=5, patch=16))
    text = str(error.value)
    assert "\n" not in text
    assert "backbone/patch_embed/kernel is [2, 8, 8, 3, 24] in the weights, [2, 16, 16, 3, 24] in the model" in text
    assert "backbone/blocks/attention/proj/bias is [4, 24] in the weights, [5, 24] in the model" in text
    assert "config.backbone.size" in text


@pytest.mark.parametrize(
    ("path", "stored", "wanted", "field"),
    [
        ("head/classification/out/kernel", (3, 512, 20), (3, 512, 3), "config.data.classes"),
        ("head/start/out/bias", (20,), (3,), "config.data.classes"),  # TriDet's
        ("head/classification/out/kernel", (3, 512, 20), (3, 256, 20), "config.head.width"),
        ("head/regression/out/kernel", (3, 512, 34), (3, 512, 18), "config.head.tridet.bins"),
    ],
)
def test_the_field_to_change_goes_by_the_axis(path, stored, wanted, field):
    with pytest.raises(WeightsError, match=rf"\(change {field}\): {path} is "):
        check_geometry({path: stored}, {path: wanted}, "x")


def test_positions_of_another_picture_are_an_error(tmp_path):
    torch.save({"state_dict": under("module.", opentad(layers=[0]))}, tmp_path / "x.pth")
    assert torch_to_flax.main(["--input", f"{tmp_path}/x.pth", "--output", f"{tmp_path}/x"]) == 0
    load_backbone(tmp_path / "x", like(), image=IMAGE)
    with pytest.raises(WeightsError, match="32 x 32 pixels; config.backbone.image = 224"):
        load_backbone(tmp_path / "x", like(), image=224)


def test_one_collection_of_a_detector_is_read_alone(tmp_path):
    detector = opentad(layers=[1, 3])
    torch.save({"state_dict": under("module.", detector)}, tmp_path / "x.pth")
    assert torch_to_flax.main(["--input", f"{tmp_path}/x.pth", "--output", f"{tmp_path}/x"]) == 0
    adapter = {"down": {"kernel": (2, 24, 6), "bias": (2, 6)}, "dwconv": {"kernel": (2, 3, 1, 6), "bias": (2, 6)}}
    adapter |= {"mid": {"kernel": (2, 6, 6), "bias": (2, 6)}, "up": {"kernel": (2, 6, 24), "bias": (2, 24)}}
    adapter = jax.tree.map(lambda shape: jax.ShapeDtypeStruct(shape, jnp.float32), adapter | {"alpha": (2, 1)},
                           is_leaf=lambda x: isinstance(x, tuple))  # fmt: skip
    got = load(tmp_path / "x", {"adapter": adapter})
    assert set(got) == {"adapter"}
    want = detector["backbone.model.backbone.blocks.3.adapter.down_proj.weight"].T.numpy()
    assert np.array_equal(np.asarray(got["adapter"]["down"]["kernel"][1]), want)
    assert read_geometry(tmp_path / "x")["adapter"]["layers"] == [1, 3]


@pytest.mark.parametrize("name", sorted({*BACKBONES} - {"vit"}))
def test_every_backbones_weights_are_read_and_another_size_is_refused(name, tmp_path):
    shapes = jax.eval_shape(make_backbone(name, "tiny", jnp.float32).init, jax.random.key(0))
    random = np.random.default_rng(0)
    params = jax.tree.map(lambda a: random.standard_normal(a.shape).astype(np.float32), shapes)
    save(tmp_path / "x", {"backbone": params}, {"backbone": {"name": name}}, "made here")
    got = load_backbone(
        tmp_path / "x", jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, jnp.bfloat16), shapes), 224
    )
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b.astype(jnp.bfloat16)), got, params)
    other = next(size for size in BACKBONES[name][1] if size != "tiny")
    wanted = jax.eval_shape(make_backbone(name, other, jnp.float32).init, jax.random.key(0))
    with pytest.raises(WeightsError, match=r"\(change config.backbone.(name or config.backbone.)?size.*in the model"):
        load_backbone(tmp_path / "x", wanted)


def test_a_folder_without_weights_says_how_to_make_them(tmp_path):
    with pytest.raises(WeightsError, match="weights.json does not exist: make it with convert/torch_to_flax.py"):
        load_backbone(tmp_path, like())
    (tmp_path / "weights.json").write_text('{"format": 1, "geom')
    with pytest.raises(WeightsError, match="is damaged"):
        load_backbone(tmp_path, like())


def test_damaged_parameters_are_one_error(folder, tmp_path):
    (tmp_path / "weights.json").write_text((folder / "weights.json").read_text())
    with pytest.raises(WeightsError, match="params is damaged"):
        load_backbone(tmp_path, like())


def test_weights_come_sharded_to_the_devices(folder, official):
    """Four devices of this process's CPU: each holds a quarter of the width, none holds all of it."""
    code = f"""
        import jax, jax.numpy as jnp, numpy as np
        from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
        from tadjax.workdir.weights import load_backbone
        from tests.workdir.test_weights import like
        sharding = NamedSharding(Mesh(np.array(jax.devices()), ("fsdp",)), P(None, None, "fsdp"))
        def sharded(a):
            spec = sharding if len(a.shape) == 3 else NamedSharding(sharding.mesh, P())
            return jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=spec)
        kernel = load_backbone({str(folder)!r}, jax.tree.map(sharded, like()))["blocks"]["mlp"]["fc1"]["kernel"]
        shards = [list(s.data.shape) for s in kernel.addressable_shards]
        import json; print(json.dumps([shards, np.asarray(kernel).view(np.int16).tolist()]))
    """
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, env=environment, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    shards, values = json.loads(done.stdout)
    assert shards == [[4, 24, 10]] * 4
    want = np.stack([official[f"blocks.{i}.mlp.fc1.weight"].numpy().T for i in range(DEPTH)])
    assert np.array_equal(np.array(values, np.int16), want.astype(ml_dtypes.bfloat16).view(np.int16))
