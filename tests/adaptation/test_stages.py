"""Adapters inside and beside backbones of several stages and ViT's kin, against plain code, layer after layer."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tadjax.adaptation import inside, stacks
from tadjax.adaptation.inside import Memory
from tadjax.adaptation.losa import Losa
from tadjax.adaptation.side import Side
from tadjax.adaptation.tia import Tia
from tadjax.backbones import make_backbone
from tadjax.backbones.layers import resize_in_time
from tadjax.backbones.vit import feature_map
from tadjax.workdir import weights
from tests.adaptation import tiny
from tests.backbones.test_contract import params_of

KIN = ("vjepa2", "vjepa21", "internvideo2", "videoprism")
NAMES = ("slowfast", "swin", "tsm", "r2plus1d", *KIN)
FRAMES = np.random.default_rng(0).integers(0, 256, (1, 16, 32, 32, 3), np.uint8)
TIA, SIDE, LOSA = Tia(), Side(Tia()), Losa(width=8, image=48, frames=16)
LAYERS = {"tia": (1, 2, 4), "side": (0, 2, 4), "losa": (0, 2, 3)}  # of 5; LoSA's without the last


@functools.cache
def setting(name):
    """(backbone, its parameters, adapters of each method away from their start)."""
    backbone = make_backbone(name, "tiny", jnp.float32)
    shapes = {
        "tia": jax.eval_shape(
            lambda k: stacks.init(k, backbone, LAYERS["tia"], lambda k, x: TIA.init(k, x)["params"]), jax.random.key(0)
        ),
        "side": jax.eval_shape(lambda k: SIDE.init(k, backbone, LAYERS["side"]), jax.random.key(0)),
        "losa": jax.eval_shape(lambda k: LOSA.init(k, backbone, LAYERS["losa"]), jax.random.key(0)),
    }
    random = np.random.default_rng(1)
    draw = functools.partial(jax.tree.map, lambda a: 0.2 * random.standard_normal(a.shape).astype(np.float32))
    return backbone, params_of(backbone), draw(shapes)


def one_layer(params, given, name, backbone):
    """{layer: its own adapter parameters} of what is stacked by stage."""
    stages = backbone.stages(params)
    by_stage, of_layer, layers = stacks.split(given, len(stages)), {}, iter(LAYERS[name])
    if name == "losa":
        layers = iter((*LAYERS[name], backbone.depth - 1))
    for stack in by_stage.values():
        for i in range(jax.tree.leaves(stack)[0].shape[0]):
            of_layer[next(layers)] = jax.tree.map(lambda a, i=i: a[i], stack)
    return of_layer


def plain_tia(backbone, params, given):
    adapters = one_layer(params, given, "tia", backbone)
    x, layer = backbone.embed(params, FRAMES), 0
    for stage in backbone.stages(params):
        for i in range(jax.tree.leaves(stage.params)[0].shape[0]):
            x = stage.block(jax.tree.map(lambda a, i=i: a[i], stage.params), x, None)
            if layer in adapters:
                y = feature_map(x) + TIA.apply({"params": adapters[layer]}, feature_map(x))
                x = (y, *x[1:]) if isinstance(x, tuple) else y
            layer += 1
    return backbone.pool(x)


def plain_side(backbone, params, given):
    outputs = tiny.seen_outputs(backbone, params, FRAMES)
    y = backbone.pool(tiny.layer_outputs(backbone, params, FRAMES)[-1])
    for layer, adapter in one_layer(params, given, "side", backbone).items():
        x = TIA.clone(width=backbone.width).apply({"params": adapter}, outputs[layer])
        y = y + resize_in_time(x.mean((2, 3)), y.shape[1])
    return y


def plain_losa(backbone, params, given):
    outputs = tiny.seen_outputs(backbone, params, FRAMES)
    f_n, taps = backbone.pool(tiny.layer_outputs(backbone, params, FRAMES)[-1]), []
    times = one_layer(params, given["time"], "losa", backbone) if "time" in given else {}
    for layer, conv in one_layer(params, given["conv"], "losa", backbone).items():
        f = LOSA.convolve(conv, outputs[layer])
        taps.append(times[layer] @ f if layer in times else f)
    return LOSA.fuse(given, jnp.stack(taps[:-1]), taps[-1], f_n, None)


PLAIN = {"tia": plain_tia, "side": plain_side, "losa": plain_losa}


def ours(backbone, params, given, method, memory):
    if method == "tia":
        options = dict(adapter=TIA, adapter_params=given, layers=LAYERS["tia"], memory=memory)
        return inside.run(backbone, params, FRAMES, **options)
    beside = {"side": SIDE, "losa": LOSA}[method]
    return beside.features(backbone, params, given, FRAMES, layers=LAYERS[method], memory=memory)


def with_gradients(features, given, methods=tuple(LAYERS)):
    """{method: (features, gradients)}, all in one program. features: (method, its adapters) -> [B, T', D]."""

    def loss(given):
        found = {method: features(method, given[method]) for method in methods}
        return sum((weighted(y) ** 2).sum() for y in found.values()), found

    (_, found), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))({m: given[m] for m in methods})
    return {method: (found[method], grads[method]) for method in methods}


def weighted(y):
    return y * np.random.default_rng(2).standard_normal(y.shape).astype(np.float32)


@functools.cache
def reference(name):
    backbone, params, given = setting(name)
    return with_gradients(lambda method, adapters: PLAIN[method](backbone, params, adapters), given)


SLOW = pytest.mark.slow
SOME = ("slowfast", *(pytest.param(name, marks=SLOW) for name in NAMES[1:]))


@pytest.mark.parametrize("name", SOME)
def test_adapters_equal_plain_autodiff(name):
    backbone, params, given = setting(name)
    found = with_gradients(lambda method, adapters: ours(backbone, params, adapters, method, Memory()), given)
    for method, (want, want_grads) in reference(name).items():
        got, got_grads = found[method]
        assert got.shape == (1, backbone.steps(16), backbone.width)
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5 * float(jnp.abs(want).max()), err_msg=method)
        assert tiny.largest_difference(got_grads, want_grads) < 1e-4, method


@pytest.mark.parametrize(
    "storage", ["store", pytest.param("store_int8", marks=SLOW), pytest.param("offload", marks=SLOW)]
)
def test_every_storage_of_two_pathways_agrees(storage):
    backbone, params, given = setting("slowfast")
    methods, memory = ("side", "losa"), Memory(taps=storage)
    found = with_gradients(lambda method, adapters: ours(backbone, params, adapters, method, memory), given, methods)
    for method in methods:
        tolerance = 5e-2 if storage == "store_int8" else 1e-4
        assert tiny.largest_difference(found[method][1], reference("slowfast")[method][1]) < tolerance, method


@SLOW
@pytest.mark.parametrize("remat", ["none", "nested", "offload"])
@pytest.mark.parametrize("name", NAMES)
def test_every_way_of_keeping_activations_agrees(name, remat):
    backbone, params, given = setting(name)
    options = dict(methods=("tia",))
    found = with_gradients(lambda _, adapters: ours(backbone, params, adapters, "tia", Memory(remat)), given, **options)
    assert tiny.largest_difference(found["tia"][1], reference(name)["tia"][1]) < 1e-4


@SLOW
@pytest.mark.parametrize("name", NAMES)
def test_gradients_of_full_fine_tuning_equal_plain_autodiff(name):
    backbone, params, _ = setting(name)
    with_scan = lambda p: inside.run(backbone, p, FRAMES, memory=Memory(), frozen=False)  # noqa: E731
    plain = lambda p: backbone.pool(run_layers_of(backbone, p))  # noqa: E731
    got, want = (jax.jit(jax.grad(lambda p, f=f: (weighted(f(p)) ** 2).sum()))(params) for f in (with_scan, plain))
    assert tiny.largest_difference(got, want) < 1e-4


def run_layers_of(backbone, params):
    x = backbone.embed(params, FRAMES)
    for stage in backbone.stages(params):
        for i in range(jax.tree.leaves(stage.params)[0].shape[0]):
            x = stage.block(jax.tree.map(lambda a, i=i: a[i], stage.params), x, None)
    return x


def test_no_gradient_reaches_the_backbone_beside_it():
    backbone, params, given = setting("slowfast")
    grads = jax.jit(jax.grad(lambda p: ours(backbone, p, given["side"], "side", Memory()).sum()))(params)
    assert all(np.all(np.asarray(g) == 0) for g in jax.tree.leaves(grads))


def test_the_stacks_of_a_backbone_of_one_stage_have_no_names():
    assert stacks.split(stacks.join({0: "stack"}, 1), 1) == {0: "stack"}
    assert stacks.join({0: "a", 2: "b"}, 3) == {"stage0": "a", "stage2": "b"}
    assert stacks.split({"stage2": "b", "stage0": "a"}, 3) == {0: "a", 2: "b"}
    assert stacks.places([1, 2, 1], (0, 2, 3)) == {0: [0], 1: [1], 2: [0]}


@pytest.mark.parametrize("name", NAMES)
def test_steps_and_stages_are_told_without_running(name):
    backbone, params, _ = setting(name)
    pooled = jax.eval_shape(lambda: backbone.pool(tiny.layer_outputs(backbone, params, FRAMES)[-1]))
    assert pooled.shape == (1, backbone.steps(16), backbone.width)
    outputs = jax.eval_shape(lambda: [feature_map(x) for x in tiny.layer_outputs(backbone, params, FRAMES)])
    told = [of.shape for of in stacks.outline(backbone) for _ in range(of.depth)]
    assert told == [x.shape for x in outputs]


@pytest.mark.parametrize(
    ("name", "size", "method", "published"),
    [
        ("slowfast", "r50", "tia", 11.4e6),  # AdaTAD's table of backbones: adapters alone, on the slow pathway
        ("swin", "b", "tia", 3.9e6),
        ("slowfast", "r101", "losa", 12e6),  # LoSA's table of parameters, without the head
    ],
)
def test_learnable_parameters_as_published(name, size, method, published):
    backbone = make_backbone(name, size, jnp.float32, feature_length=576)
    if method == "tia":
        layers = tuple(range(backbone.depth))
        init = functools.partial(stacks.init, init_layer=lambda k, x: TIA.init(k, x)["params"])
    else:
        layers, init = (2, 6, 29), Losa(width=48, frames=576).init
    shapes = jax.eval_shape(lambda key: init(key, backbone, layers), jax.random.key(0))
    count = sum(np.prod(shape) for shape in weights.shapes(shapes).values())
    assert abs(count / published - 1) < 0.02, count
