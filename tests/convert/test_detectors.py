"""Every detector that OpenTAD's names can make, each backbone with each head, by its own names there and back."""

import dataclasses
import itertools

import jax
import numpy as np
import pytest
import torch

from configs import thumos_vits
from convert.files import Checkpoint, StoredTensor
from convert.flax_to_torch import Stored, choose_layout, to_state_dict
from convert.layouts import BACKBONES, HEADS, layout_named
from convert.mapping import flat, to_flax, to_torch
from convert.torch_to_flax import prepare, recognise
from tadjax.adaptation import stacks
from tadjax.adaptation.tia import Tia
from tadjax.backbones import make_backbone
from tadjax.backbones.tsm import Tsm
from tadjax.heads import make_head
from tests.golden.compare import HERE, failures

MODELS = {
    **dict.fromkeys(("adatad", "adatad_side", "vit"), make_backbone("vit", "tiny", np.float32)),
    **{name: make_backbone(name, "tiny", np.float32) for name in ("slowfast", "swin", "r2plus1d")},
    "tsm_r18": Tsm(depths=(2, 2, 2, 2), bottleneck=False, stem_width=8),
    "tsm_r50": Tsm(depths=(3, 2, 2, 2), bottleneck=True, stem_width=8),
}
LAYERS = (1, 3)  # adapted
NAMES = {  # some tensors of each part, as OpenTAD's modules are called
    "": (),
    "adatad": ("backbone.model.backbone.blocks.3.adapter.gamma", "backbone.model.backbone.blocks.0.mlp.layers.1.bias"),
    "adatad_side": ("backbone.model.backbone.ladders.adapters.1.up_proj.bias",),
    "vit": ("backbone.model.backbone.patch_embed.projection.weight", "backbone.model.backbone.blocks.2.attn.v_bias"),
    "slowfast": ("backbone.model.backbone.slow_path.layer1_lateral.conv.weight",),
    "swin": ("backbone.model.backbone.layers.2.downsample.norm.bias", "backbone.model.backbone.norm3.weight"),
    "r2plus1d": ("backbone.model.backbone.stem.4.running_mean",),
    "tsm_r18": ("backbone.model.backbone.layer1.0.conv1.conv.net.weight",),
    "tsm_r50": ("backbone.model.backbone.layer2.0.downsample.bn.running_var",),
    "actionformer": ("projection.branch.0.attn.key_conv.conv.weight", "rpn_head.scale.2.scale"),
    "tridet": ("projection.branch.1.convkw.bias", "rpn_head.cls_end_head.weight"),
    "gtad": ("neck.sconvs.4.weight", "roi_head.proposal_head.head.3.bias"),
}


def filled(shapes, seed):
    """Arrays of these shapes, of which no two numbers are alike."""
    random = np.random.default_rng(seed)
    return jax.tree.map(lambda a: random.random(a.shape, np.float32), shapes)


def adapter(key, x):
    return Tia(ratio=0.25, kernel=(3, 1, 1)).init(key, x)["params"]


@pytest.fixture(scope="module")
def parts():
    """Parameters of each backbone, with its adapters, and of each head."""
    found, key = {"": {}}, jax.random.key(0)
    for name, backbone in MODELS.items():
        tree = {"backbone": jax.eval_shape(backbone.init, key)}
        if BACKBONES[name].adapter:
            tree["adapter"] = jax.eval_shape(lambda b=backbone: stacks.init(key, b, LAYERS, adapter))
        found[name] = filled(tree, 0)
    options = thumos_vits.get_config("tiny").head.to_dict()
    for name in HEADS:
        head = make_head(options | {"name": name}, 1, np.float32)
        found[name] = filled({"head": jax.eval_shape(lambda h=head: h.init_params(key, 32))}, 1)
    return found


@pytest.mark.parametrize(("backbone", "head"), list(itertools.product(["", *BACKBONES], HEADS)))
def test_every_pair_is_recognised_and_comes_back_bit_by_bit(backbone, head, parts, tmp_path):
    name = "opentad_" + (f"{backbone}_{head}".removesuffix("_actionformer") if backbone else head)
    layout, params = layout_named(name), parts[backbone] | parts[head]
    arrays = flat(params)
    tensors = to_torch(params, layout.rules, LAYERS)
    assert {*NAMES[backbone], *NAMES[head]} <= set(tensors)
    stored = {f"module.{k}": StoredTensor(a.shape, a.dtype, tmp_path, array=a) for k, a in tensors.items()}
    conversion = prepare(recognise(Checkpoint((tmp_path / "x.pth",), {"state_dict_ema": stored})))
    assert conversion.source.layout.name == name
    assert set(conversion.report.mapped) == set(tensors) and not conversion.report.dropped
    assert conversion.shapes == {path: array.shape for path, array in arrays.items()}
    assert conversion.geometry["head"]["name"] == head
    back, _ = to_flax(tensors, layout.rules)
    for path, array in flat(back).items():
        np.testing.assert_array_equal(array, arrays[path])
    run = Stored(arrays, {}, {"adapted": LAYERS, "geometry": conversion.geometry})
    assert choose_layout("opentad", run).name == name  # what a run of them is written as


def test_a_swin_trained_here_is_written_with_the_offsets_of_its_windows(parts):
    """The published module holds them as a buffer of each block, and is loaded strictly."""
    run = Stored(flat(parts["swin"] | parts["actionformer"]), {}, {"adapted": LAYERS, "geometry": {}})
    tensors = to_state_dict(run, layout_named("opentad_swin"))
    tables = [name for name in tensors if name.endswith("relative_position_bias_table")]
    assert len(tables) == sum(MODELS["swin"].depths)
    for table in tables:
        index = tensors[table.replace("bias_table", "index")]
        assert (index.dtype, index.shape, len(tensors[table])) == (torch.int64, (8 * 7 * 7, 8 * 7 * 7), 15 * 13 * 13)
    for one, other in ((0, 0), (0, 391), (391, 0), (5 * 49 + 3 * 7 + 6, 2 * 49 + 6 * 7)):
        t, h, w = (a - b for a, b in np.unravel_index((one, other), (8, 7, 7)))
        assert index[one, other] == ((t + 7) * 13 + h + 6) * 13 + w + 6


@pytest.mark.parametrize("head", HEADS)
def test_files_of_the_published_detectors_convert_and_propose_the_same(head):
    """The published classes' own state dicts; lengths below and beyond the padding, one video shorter than the other.

    TriDet's windows differ by level there: 43 steps are padded to 48, which its global branch sees.
    """
    assert failures(HERE / f"detector_{head}.npz") == []


@pytest.mark.parametrize("convs", [1, 2, 4])
def test_any_number_of_map_convolutions_comes_back(convs):
    """G-TAD's last layer is numbered after the convolutions before it."""
    head = make_head(thumos_vits.get_config("tiny").head.to_dict() | {"name": "gtad"}, 1, np.float32)
    head = dataclasses.replace(head, map_convs=convs)
    params = filled({"head": jax.eval_shape(lambda: head.init_params(jax.random.key(0), 32))}, 1)
    rules = layout_named("opentad_gtad").rules
    tensors = to_torch(params, rules)
    layers = {name.split(".")[3] for name in tensors if name.startswith("roi_head.proposal_head.head.")}
    assert layers == {str(i) for i in range(convs + 1)}
    assert tensors[f"roi_head.proposal_head.head.{convs}.weight"].shape[0] == 2
    back, report = to_flax(tensors, rules)
    report.check("the same tensors")
    jax.tree.map(np.testing.assert_array_equal, back, params)

    _, report = to_flax(tensors | {"roi_head.proposal_head.head.7.weight": np.zeros((2, 8, 1, 1))}, rules)
    assert report.unknown == ["roi_head.proposal_head.head.7.weight"]
