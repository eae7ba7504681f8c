"""The authors' own names of TSM and SlowFast, beside mmaction2's, which the reference files have; plain ResNets."""

import jax
import numpy as np
import pytest

from convert.files import Checkpoint, StoredTensor
from convert.layouts import layout_named
from convert.mapping import flat, nested, to_flax, to_torch
from convert.torch_to_flax import prepare, recognise
from tadjax.backbones.slowfast import SlowFast
from tadjax.backbones.tsm import Tsm
from tadjax.workdir import weights

MODELS = {
    "tsm_r18_release": Tsm(depths=(2, 2, 2, 2), bottleneck=False, stem_width=8),
    "tsm_r50_release": Tsm(depths=(3, 2, 2, 2), bottleneck=True, stem_width=8),
    "resnet18": Tsm(depths=(2, 2, 2, 2), bottleneck=False, stem_width=8),
    "resnet50": Tsm(depths=(3, 2, 2, 2), bottleneck=True, stem_width=8),
    "pyslowfast": SlowFast(depths=(2, 2, 3, 2), stem_width=16, lateral_norm=True),
}
NAMES = {
    "tsm_r18_release": {
        "conv1.weight": (8, 3, 7, 7),
        "bn1.running_mean": (8,),
        "layer1.0.conv1.net.weight": (8, 8, 3, 3),
        "layer1.1.conv2.weight": (8, 8, 3, 3),
        "layer2.0.downsample.0.weight": (16, 8, 1, 1),
        "layer2.0.downsample.1.running_var": (16,),
    },
    "tsm_r50_release": {
        "layer1.0.downsample.0.weight": (32, 8, 1, 1),
        "layer1.2.conv1.net.weight": (8, 32, 1, 1),
        "layer4.1.conv3.weight": (256, 64, 1, 1),
        "layer4.1.bn3.bias": (256,),
    },
    "resnet18": {
        "conv1.weight": (8, 3, 7, 7),
        "bn1.weight": (8,),
        "layer1.0.conv1.weight": (8, 8, 3, 3),
        "layer4.0.downsample.1.running_mean": (64,),
    },
    "resnet50": {
        "layer1.0.conv3.weight": (32, 8, 1, 1),
        "layer4.1.bn3.running_var": (256,),
    },
    "pyslowfast": {
        "s1.pathway0_stem.conv.weight": (16, 3, 1, 7, 7),
        "s1.pathway1_stem.bn.running_mean": (2,),
        "s1_fuse.conv_f2s.weight": (4, 2, 7, 1, 1),
        "s4_fuse.bn.weight": (64,),
        "s2.pathway0_res0.branch1.weight": (64, 20, 1, 1, 1),
        "s4.pathway0_res2.branch2.a.weight": (64, 256, 3, 1, 1),
        "s5.pathway1_res1.branch2.c_bn.bias": (64,),
    },
}


def params_of(name):
    """Parameters of which no two numbers are alike."""
    shapes = weights.shapes(jax.eval_shape(lambda: MODELS[name].init(jax.random.key(0))))
    random = np.random.default_rng(0)
    return {"backbone": nested({path: random.random(shape, np.float32) for path, shape in shapes.items()})}


@pytest.mark.parametrize("name", MODELS)
def test_the_authors_names_are_read_and_written(name):
    layout, params = layout_named(name), params_of(name)
    tensors = to_torch(params, layout.rules)
    assert NAMES[name].items() <= {key: tensor.shape for key, tensor in tensors.items()}.items()
    back, report = to_flax(tensors, layout.rules, layout.drops)
    report.check(name)
    assert {*flat(back)} == {*flat(params)}
    for path, array in flat(back).items():
        np.testing.assert_array_equal(array, flat(params)[path])


@pytest.mark.parametrize("name", MODELS)
def test_the_authors_files_are_recognised(name, tmp_path):
    layout = layout_named(name)
    tensors = to_torch(params_of(name), layout.rules)
    prefix = "module." + layout.prefix  # both repositories train in parallel
    extra = {f"{prefix}{next(iter(tensors)).rsplit('.', 1)[0]}.num_batches_tracked": np.zeros((), np.int64)}
    named = {prefix + key: tensor for key, tensor in tensors.items()} | extra
    stored = {k: StoredTensor(a.shape, a.dtype, tmp_path / "x.pth", array=a) for k, a in named.items()}
    conversion = prepare(recognise(Checkpoint((tmp_path / "x.pth",), {layout.wrappers[0]: stored})))
    assert conversion.source.layout.name == name
    assert len(conversion.report.mapped) == len(tensors)
    assert list(conversion.report.dropped.values()) == ["a counter of training steps that inference does not use"]
    assert tuple(conversion.geometry["backbone"]["depths"]) == MODELS[name].depths
