import numpy as np
import pytest

from convert.backbones import HUGGINGFACE_VIT
from convert.layouts import LAYOUTS
from convert.mapping import TRANSFORMS, Drop, Rule, flat, nested, plan, to_flax, to_torch
from tadjax.errors import WeightsError

SHAPES = {
    "same": (3, 4),
    "linear": (3, 4),
    "pointwise": (3, 4, 1),
    "conv1d": (3, 4, 5),
    "conv2d": (3, 4, 5, 6),
    "conv2d_frame": (3, 4, 5, 6),
    "conv3d": (3, 4, 5, 6, 7),
    "channels": (1, 4, 1),
    "channels5d": (1, 1, 1, 1, 4),
    "vector": (1, 1, 4),
    "table": (1, 5, 4),
    "patches": (2 * 2 * 3, 4),
    "heads": (2, 3, 64),
    "heads_out": (2, 5, 3, 64),
}
FLAX = {
    "same": (3, 4),
    "channels": (4,),
    "channels5d": (4,),
    "vector": (4,),
    "table": (5, 4),
    "patches": (1, 2, 2, 3, 4),
    "heads": (2, 192),
    "heads_out": (2, 192, 5),
    "conv2d_frame": (1, 5, 6, 4, 3),
    "linear": (4, 3),
    "pointwise": (4, 3),
    "conv1d": (5, 4, 3),
    "conv2d": (5, 6, 4, 3),
    "conv3d": (5, 6, 7, 4, 3),
}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_transforms_put_channels_last_and_are_inverses(name):
    kind = name.removesuffix("_stacked")
    tensor = np.random.default_rng(0).normal(size=SHAPES[kind])
    ours, theirs = TRANSFORMS[name]
    assert ours(tensor).shape == ((1,) if name != kind else ()) + FLAX[kind]
    assert np.array_equal(theirs(ours(tensor)), tensor)


def test_layers_stack_in_the_order_of_their_numbers():
    """Twelve layers: as text, 10 stands before 2."""
    state_dict = {f"blocks.{i}.w": np.full(2, i) for i in (10, 11, *range(10))}
    params, report = to_flax(state_dict, [Rule("blocks.{layer}.w", "blocks/w")])
    assert params["blocks"]["w"][:, 0].tolist() == list(range(12))
    assert report.missing == report.unknown == []


def test_adapted_layers_stack_ascending_and_are_named():
    state_dict = {f"blocks.{i}.a": np.full(2, i) for i in (11, 3, 9)}
    params, report = to_flax(state_dict, [Rule("blocks.{adapted}.a", "adapter/a")])
    assert params["adapter"]["a"][:, 0].tolist() == [3, 9, 11]
    assert report.adapted == [3, 9, 11]
    assert sorted(to_torch(params, [Rule("blocks.{adapted}.a", "adapter/a")], report.adapted)) == sorted(state_dict)
    with pytest.raises(WeightsError, match="3 layers are stacked, but 2 are named"):
        to_torch(params, [Rule("blocks.{adapted}.a", "adapter/a")], [1, 2])


def test_query_key_and_value_stand_side_by_side():
    layer = "encoder.layer.0.attention.attention"
    state_dict = {f"{layer}.{name}.weight": np.full((2, 2), i) for i, name in enumerate(("query", "key", "value"))}
    rules = [rule for rule in HUGGINGFACE_VIT if rule.part != (0, 1)]
    params, _ = to_flax(state_dict, rules)
    assert flat(params)["backbone/blocks/attention/qkv/kernel"].tolist() == [[[0, 0, 1, 1, 2, 2]] * 2]


def test_every_key_is_mapped_dropped_or_unknown():
    rules, drops = [Rule("a.weight", "a/kernel", "linear")], [Drop("head.*", "classifier")]
    _, report = plan(["a.weight", "head.weight", "a.bias"], rules, drops)
    assert report.mapped == {"a.weight": "a/kernel"}
    assert report.dropped == {"head.weight": "classifier"}
    assert report.unknown == ["a.bias"]


def test_optional_tensors_are_all_there_or_none():
    rules = [Rule("b.{i}.w", "b_{i}/w"), Rule("b.{i}.scale", "b_{i}/scale", optional=True)]
    assert plan(["b.0.w", "b.1.w"], rules)[1].missing == []
    assert plan(["b.0.w", "b.1.w", "b.1.scale"], rules)[1].missing == ["b.0.scale"]


def test_a_scalar_stays_a_scalar():
    rules = [Rule("n", "state/n"), Rule("scale.{layer}.scale", "head/scale")]
    state_dict = {"n": np.int64(100), "scale.0.scale": np.float32(2), "scale.1.scale": np.float32(3)}
    params, _ = to_flax(state_dict, rules)
    assert params["state"]["n"].shape == () and params["head"]["scale"].tolist() == [2, 3]
    back = to_torch(params, rules)
    assert {key: (tensor.shape, tensor.dtype) for key, tensor in back.items()} == {
        "n": ((), np.int64),
        "scale.0.scale": ((), np.float32),
        "scale.1.scale": ((), np.float32),
    }


def test_a_kernel_of_another_rank_is_an_error_that_names_it():
    with pytest.raises(WeightsError, match=r"patch.weight: a tensor of shape \(4, 3, 16, 16\) cannot become a/kernel"):
        to_flax({"patch.weight": np.zeros((4, 3, 16, 16))}, [Rule("patch.weight", "a/kernel", "conv3d")])


def test_flat_and_nested_are_inverses():
    params = {"a": {"b": {"c": 1}, "d": 2}, "e": 3}
    assert flat(params) == {"a/b/c": 1, "a/d": 2, "e": 3}
    assert nested(flat(params)) == params


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_no_table_names_a_tensor_or_a_place_twice(layout):
    places = [(rule.flax, rule.part) for rule in layout.rules]
    assert len(set(places)) == len(places)
    names = [name for rule in layout.rules for name in (rule.torch, rule.alias) if name]
    assert len(set(names)) == len(names)
    assert {rule.transform for rule in layout.rules} <= set(TRANSFORMS)


def test_the_rest_of_a_layer_is_stacked_from_block_1_on():
    rules = (
        Rule("layer.0.weight", "first", "linear"),
        Rule("layer.{rest}.weight", "rest", "linear"),
    )
    source = {f"layer.{i}.weight": np.full((2, 3 + (i == 0)), float(i), np.float32) for i in range(3)}
    params, report = to_flax(source, rules)
    assert params["first"].shape == (4, 2)
    np.testing.assert_array_equal(params["rest"][:, 0, 0], [1, 2])
    assert not report.missing
    back = to_torch(params, rules)
    assert {*back} == {*source}
    for key, tensor in back.items():
        np.testing.assert_array_equal(tensor, source[key])


def test_a_gap_in_the_rest_of_a_layer_is_missing():
    rules = (Rule("layer.0.weight", "first"), Rule("layer.{rest}.weight", "rest"))
    source = {f"layer.{i}.weight": np.zeros(2, np.float32) for i in (0, 2, 3)}
    _, report = to_flax(source, rules)
    assert report.missing == ["layer.1.weight"]
