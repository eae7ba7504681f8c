import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tadjax.errors import ConfigError
from tadjax.heads import HEADS
from tadjax.heads.actionformer import ActionFormer, Projection, TransformerBlock
from tadjax.heads.positions import position_table, resize_table
from tests.golden.compare import HERE, failures

RANGES = ((0, 6), (6, 10000))
FEATURE_WIDTH = 6


def tiny(**changes) -> ActionFormer:
    settings = {"classes": 3, "width": 8, "convs": (1, 1, 1), "heads": 2, "max_length": 32, "head_convs": 1}
    return ActionFormer(**(settings | {"regression_ranges": RANGES} | changes))


@functools.cache
def params_of(head: ActionFormer) -> dict:
    """Parameters away from their initial values, so that every part of the network matters."""
    rng = np.random.default_rng(0)

    def draw(path: tuple, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        noise = rng.normal(size=leaf.shape).astype(np.float32)
        if path[-1].key == "kernel":
            return noise / np.sqrt(np.prod(leaf.shape[:-1]), dtype=np.float32)
        return 0.3 * noise + (1 if "scale" in path[-1].key else 0)

    shapes = jax.eval_shape(lambda: head.init_params(jax.random.key(0), FEATURE_WIDTH))
    return jax.tree.map_with_path(draw, shapes)


def batch(lengths=(32, 20), length=32, segments=4, seed=0):
    rng = np.random.default_rng(seed)
    count = len(lengths)
    start = rng.uniform(0, 12, (count, segments))
    targets = {
        "segments": np.stack([start, start + rng.uniform(2, 12, (count, segments))], axis=-1).astype(np.float32),
        "labels": rng.integers(0, 3, (count, segments)),
        "segment_valid": np.ones((count, segments), bool),
    }
    features = rng.normal(size=(count, length, FEATURE_WIDTH)).astype(np.float32)
    return features, np.arange(length) < np.array(lengths)[:, None], targets


@functools.cache
def jitted(head: ActionFormer):
    """losses, gradients and state of a training step without dropout, and candidates."""

    def loss(params, features, valid, targets):
        losses, state = head.losses(params, head.init_state(), features, valid, targets)
        return losses["loss"], (losses, state)

    return jax.jit(jax.value_and_grad(loss, has_aux=True)), jax.jit(head.candidates)


@pytest.mark.parametrize(
    "path",
    [  # the two others have attention within windows and over all steps
        pytest.param(path, id=path.stem, marks=[pytest.mark.slow] if path.stem == "actionformer" else [])
        for path in sorted(HERE.glob("actionformer*.npz"))
    ],
)
def test_equals_the_published_code(path: pathlib.Path):
    """Full and local attention; options: absolute positions, windows by level, smoothing, no stem, similar segments."""
    assert failures(path) == []


# ---- masks and padding ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("window", [-1, 5])
def test_padding_reaches_valid_outputs_only_through_the_first_convolution(window):
    head = tiny(attention_window=window)
    features, valid, _ = batch(lengths=(32, 20))
    _, candidates = jitted(head)
    before = candidates(params_of(head), features, valid)

    beyond = features.copy()
    beyond[1, 21:] = 1e3  # all padded steps but the one next to the valid part
    after = candidates(params_of(head), beyond, valid)
    for name in ("segments", "scores"):
        np.testing.assert_array_equal(after[name][after["valid"]], before[name][before["valid"]])

    beside = features.copy()
    beside[1, 20] = 1e3
    after = candidates(params_of(head), beside, valid)
    np.testing.assert_array_equal(after["scores"][0], before["scores"][0])
    assert np.abs(np.asarray(after["scores"] - before["scores"])[np.asarray(before["valid"])]).max() > 1e-3


def test_reach_of_the_first_convolution_is_one_step():
    projection = Projection(8, (1, 0, 0), 2, (-1,), 32, False, 0.0, 0.0, 0.0, jnp.float32)
    features, valid, _ = batch(lengths=(32, 20))
    variables = projection.init(jax.random.key(0), features, valid, False, True)
    changed = np.where(valid[..., None], features, features + 1)
    (before,), _ = projection.apply(variables, features, valid, False, True)
    (after,), _ = projection.apply(variables, changed, valid, False, True)
    steps = np.argwhere(np.any(np.asarray(before) != np.asarray(after), axis=-1))
    np.testing.assert_array_equal(steps, [[1, 19]])  # the last valid step of the padded sample
    assert not np.any(np.asarray(after)[~valid])


def test_shorter_sequences_are_padded_with_zeros_to_max_length():
    head = tiny()
    features, valid, _ = batch(lengths=(20, 13), length=20)
    _, candidates = jitted(head)
    short = candidates(params_of(head), features, valid)
    padding = ((0, 0), (0, 12))
    whole = candidates(params_of(head), np.pad(features, (*padding, (0, 0))), np.pad(valid, padding))
    assert short["segments"].shape == (2, 32 + 16, 2)
    for name in short:
        np.testing.assert_array_equal(short[name], whole[name])


@pytest.mark.parametrize(
    ("convs", "window", "max_length", "multiple", "length", "points"),
    [
        ((2, 2, 5), -1, 768, 32, 769, 800 * 63 // 32),  # THUMOS14: to multiples of the largest stride
        ((2, 2, 5), (7, 7, 7, 7, 7, -1), 192, 96, 200, 288 * 63 // 32),  # ActivityNet-1.3
        ((2, 2, 5), 9, 2304, 256, 2305, 2560 * 63 // 32),  # EPIC-Kitchens-100
        ((2, 2, 9), (17,) * 7 + (-1,) * 3, 2048, 1024, 900, 2048 * 1023 // 512),  # Ego4D, ten levels
    ],
)
def test_padded_lengths_of_the_published_settings(convs, window, max_length, multiple, length, points):
    ranges = ((0, 10000),) * (convs[2] + 1)
    head = ActionFormer(
        classes=5, width=8, convs=convs, attention_window=window, max_length=max_length, regression_ranges=ranges
    )
    assert head.length_multiple == multiple
    params = jax.eval_shape(lambda: head.init_params(jax.random.key(0), 4))
    features, valid = jax.ShapeDtypeStruct((1, length, 4), jnp.float32), jax.ShapeDtypeStruct((1, length), bool)
    found = jax.eval_shape(head.candidates, params, features, valid)
    assert found["segments"].shape == (1, points, 2) and found["scores"].shape == (1, points, 5)


def test_per_level_windows_reach_the_right_blocks():
    """With windows that cover every level's whole sequence, local and full attention are the same head."""
    head, covering, narrow = tiny(), tiny(attention_window=(65, 33), max_length=64), tiny(attention_window=(-1, 3))
    features, valid, _ = batch()
    run = jax.jit(lambda h: h.apply({"params": params_of(head)}, features, valid), static_argnums=0)
    full, covered, narrowed = run(head), run(covering), run(narrow)
    for level, mask in enumerate(full.valid):
        for got, want in ((covered.logits, full.logits), (covered.offsets, full.offsets)):
            np.testing.assert_allclose(got[level][mask], want[level][mask], atol=1e-5)
    np.testing.assert_array_equal(narrowed.features[0], full.features[0])
    assert np.abs(narrowed.features[1] - full.features[1]).max() > 1e-3


def test_samples_of_a_batch_do_not_see_each_other():
    head = tiny()
    features, valid, _ = batch(lengths=(32, 20, 7))
    _, candidates = jitted(head)
    whole = candidates(params_of(head), features, valid)
    for b in range(3):
        order = np.roll(np.arange(3), b)
        rolled = candidates(params_of(head), features[order], valid[order])
        np.testing.assert_allclose(rolled["scores"][np.argmax(order == 0)], whole["scores"][0], atol=1e-6)
    alone = jax.jit(head.candidates)(params_of(head), features[2:], valid[2:])
    np.testing.assert_allclose(alone["segments"][0], whole["segments"][2], atol=1e-5)


# ---- losses ---------------------------------------------------------------------------------------------------------


def finite(tree) -> bool:
    return all(np.all(np.isfinite(x)) for x in jax.tree.leaves(tree))


def test_batch_without_ground_truth_has_a_classification_loss_only():
    head = tiny()
    features, valid, targets = batch()
    step, _ = jitted(head)
    targets["segment_valid"][:] = False
    (loss, (losses, state)), grads = step(params_of(head), features, valid, targets)
    assert losses["regression"] == 0 and losses["classification"] > 0 and loss == losses["classification"]
    assert finite(grads) and not any(np.any(g) for g in jax.tree.leaves(grads["regression"]))
    np.testing.assert_allclose(state["loss_normalizer"], 0.9 * 100 + 0.1, rtol=1e-6)


def test_batch_without_a_valid_step_has_no_loss_and_no_gradient():
    head = tiny()
    features, valid, targets = batch()
    step, _ = jitted(head)
    (loss, _), grads = step(params_of(head), features, np.zeros_like(valid), targets)
    assert loss == 0 and finite(grads) and not any(np.any(g) for g in jax.tree.leaves(grads))


def test_sample_without_a_valid_step_adds_nothing():
    head = tiny()
    features, valid, targets = batch(lengths=(32, 0))
    step, _ = jitted(head)
    (loss, (_, state)), grads = step(params_of(head), features, valid, targets)
    other = {k: v.copy() for k, v in targets.items()}
    other["segments"][1] += 3
    (again, (_, again_state)), again_grads = step(params_of(head), features, valid, other)
    assert loss == again and state == again_state and finite(grads)
    jax.tree.map(np.testing.assert_array_equal, grads, again_grads)


def test_order_of_the_ground_truth_does_not_matter():
    head = tiny()
    features, valid, targets = batch()
    step, _ = jitted(head)
    (loss, _), grads = step(params_of(head), features, valid, targets)
    order = [2, 0, 3, 1]
    (permuted, _), permuted_grads = step(params_of(head), features, valid, {k: v[:, order] for k, v in targets.items()})
    assert loss == permuted
    jax.tree.map(np.testing.assert_array_equal, grads, permuted_grads)


def test_weight_and_normalizer_scale_the_losses():
    """The moving normaliser divides after its update; in evaluation the batch's own positives do."""
    head, heavier = tiny(), tiny(reg_loss_weight=2.0)
    features, valid, targets = batch()
    arguments = (params_of(head), head.init_state(), features, valid, targets)
    run = jax.jit(lambda h, train: h.losses(*arguments, train=train), static_argnums=(0, 1))
    (train, state), (evaluated, kept) = run(head, True), run(head, False)
    positives = (float(state["loss_normalizer"]) - 90) / 0.1
    assert positives == pytest.approx(round(positives), abs=1e-3) and positives > 5
    for name, value in evaluated.items():
        np.testing.assert_allclose(value * positives, train[name] * state["loss_normalizer"], rtol=1e-4)
    assert kept == head.init_state()
    np.testing.assert_allclose(run(heavier, False)[0]["regression"], 2 * evaluated["regression"], rtol=1e-6)


def test_bfloat16_computes_near_float32_with_float32_results():
    head, low = tiny(), tiny(dtype=jnp.bfloat16)
    params = params_of(head)
    features, valid, targets = batch()
    run = jax.jit(lambda h, x: h.losses(params, h.init_state(), x, valid, targets)[0]["loss"], static_argnums=0)
    want, got = run(head, features), run(low, features.astype(jnp.bfloat16))
    assert got.dtype == jnp.float32 and want != got
    np.testing.assert_allclose(got, want, rtol=0.02)


def test_predictors_keep_the_bits_of_float32_on_every_chip():
    """By default a TPU rounds what a float32 convolution multiplies to bfloat16, a GPU to TF32."""
    head = tiny(dtype=jnp.bfloat16)
    text = jax.jit(head.candidates).lower(params_of(head), *batch()[:2]).as_text()
    predictors = [line for line in text.splitlines() if "stablehlo.convolution" in line and "bf16" not in line]
    assert len(predictors) == 2 * head.levels
    assert all("precision HIGHEST" in line for line in predictors)


# ---- dropout, drop path ---------------------------------------------------------------------------------------------


def test_randomness_comes_from_the_key_alone():
    head = tiny(convs=(1, 0, 1), drop_path=0.5, input_dropout=0.3, proj_dropout=0.2)
    features, valid, targets = batch()
    params, state = params_of(head), head.init_state()
    run = jax.jit(
        lambda rng, train: head.losses(params, state, features, valid, targets, rng=rng, train=train)[0],
        static_argnums=1,
    )
    a, same, b = (run(jax.random.key(seed), True)["loss"] for seed in (1, 1, 2))
    assert a == same and a != b
    assert run(None, True)["loss"] not in (a, b)
    assert run(jax.random.key(1), False)["loss"] == run(None, False)["loss"]


def test_drop_path_leaves_out_branches_of_whole_samples():
    block = TransformerBlock(heads=2, window=-1, stride=1, drop_path=0.4, dropout=0.0, dtype=jnp.float32)
    x = jnp.broadcast_to(jax.random.normal(jax.random.key(1), (1, 8, 4)), (400, 8, 4))
    valid = jnp.ones((400, 8), bool)
    params = jax.tree.map(lambda p: p + 0.3, block.init(jax.random.key(0), x[:1], valid[:1], True))
    out, _ = jax.jit(block.apply, static_argnums=3)(params, x, valid, False, rngs={"dropout": jax.random.key(2)})
    kinds, counts = np.unique(np.round(np.asarray(out).reshape(400, -1), 4), axis=0, return_counts=True)
    # Attention kept or not, times MLP kept or not; each is kept with probability 0.6.
    assert len(kinds) == 4
    np.testing.assert_allclose(np.sort(counts) / 400, [0.16, 0.24, 0.24, 0.36], atol=0.07)


def test_input_dropout_takes_whole_channels_over_all_steps():
    projection = Projection(8, (0, 0, 0), 2, (-1,), 32, False, 0.0, 0.25, 0.0, jnp.float32)
    x, valid = jnp.ones((50, 16, 40)), jnp.ones((50, 16), bool)
    (out,), _ = projection.apply({}, x, valid, True, False, rngs={"dropout": jax.random.key(0)})
    assert np.all(out == out[:, :1])
    assert set(np.unique(out)) == {0, np.float32(1 / 0.75)} and np.mean(out == 0) == pytest.approx(0.25, abs=0.03)


# ---- positions ------------------------------------------------------------------------------------------------------


def test_position_table_by_its_definition():
    table = position_table(50, 6)
    for t, c in [(0, 0), (0, 1), (7, 2), (49, 5)]:
        angle = t / 10000 ** (2 * (c // 2) / 6)
        assert table[t, c] == pytest.approx((np.sin(angle), np.cos(angle))[c % 2] / np.sqrt(6), abs=1e-6)


@pytest.mark.parametrize("length", [8, 12, 20, 64])
def test_resized_table_is_linear_interpolation(length):
    table = position_table(8, 4)
    centres = (np.arange(length) + 0.5) * 8 / length - 0.5
    want = np.stack([np.interp(centres, np.arange(8), column) for column in table.T], axis=-1)
    np.testing.assert_allclose(resize_table(table, length), want, atol=1e-6)


def test_positions_are_added_to_valid_steps_only_and_stretched_in_evaluation_only():
    head = tiny(absolute_position=True, convs=(1, 0, 1))
    params = params_of(head)
    features, valid, targets = batch(lengths=(64, 20), length=64)
    run = jax.jit(lambda h: h.apply({"params": params}, features, valid).features[0], static_argnums=0)
    added = run(head) - run(head.clone(absolute_position=False))
    np.testing.assert_allclose(added[0], resize_table(position_table(32, 8), 64), atol=1e-6)
    assert np.all(added[1, 20:] == 0)
    with pytest.raises(ConfigError, match=r"64 feature steps is longer than head\.max_length = 32"):
        head.losses(params, head.init_state(), features, valid, targets)


# ---- parameters and settings ----------------------------------------------------------------------------------------


def test_parameters_start_as_published():
    head = ActionFormer(classes=20, width=64, convs=(1, 0, 1), regression_ranges=RANGES)
    params = jax.jit(head.init_params, static_argnums=1)(jax.random.key(0), 100)
    block = params["projection"]["branch_0"]
    uniform = {  # bound 1 / sqrt(fan in)
        (3 * 100) ** -0.5: params["projection"]["embed_0"]["conv"]["kernel"],
        3**-0.5: block["attention"]["query_conv"]["kernel"],
        64**-0.5: block["mlp"]["fc1"]["kernel"],
        256**-0.5: block["mlp"]["fc2"]["kernel"],
        (3 * 64) ** -0.5: params["classification"]["out"]["kernel"],
    }
    for bound, kernel in uniform.items():
        assert bound * 0.95 < np.abs(kernel).max() <= bound
        assert np.std(kernel) == pytest.approx(bound / 3**0.5, rel=0.1)
    np.testing.assert_allclose(params["classification"]["out"]["bias"], -np.log(99), rtol=1e-6)
    assert 0 < np.abs(params["regression"]["out"]["bias"]).max() <= (3 * 64) ** -0.5
    np.testing.assert_array_equal(params["regression"]["scale"], np.ones(2))
    np.testing.assert_array_equal(block["scale_attention"], np.full(64, np.float32(1e-4)))
    for name in ("query", "key", "value", "proj"):
        assert not np.any(block["attention"][name]["bias"])
    assert not np.any(block["mlp"]["fc1"]["bias"]) and np.all(block["norm1"]["scale"] == 1)


def test_parameter_count_of_the_published_thumos_head():
    """The default settings on ViT-S features: 229 tensors of 26,695,708 parameters in the published checkpoint."""
    head = HEADS["actionformer"](classes=20)
    params = jax.eval_shape(lambda: head.init_params(jax.random.key(0), 384))
    sizes = [x.size for x in jax.tree.leaves(params)]
    assert sum(sizes) == 26_695_708
    assert len(sizes) == 229 - 5  # the six level scales are one array


def test_blocks_without_drop_path_have_no_layer_scale():
    params = params_of(tiny(drop_path=0.0))
    assert not {"scale_attention", "scale_mlp"} & set(params["projection"]["stem_0"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"regression_ranges": RANGES[:1]}, "head.regression_ranges has 1 entries, but .* makes 2 levels"),
        ({"attention_window": (3, 3, 3)}, "head.attention_window has 3 entries, but .* makes 2 levels"),
        ({"attention_window": 4}, "head.attention_window: 4 is neither -1 .* nor an odd number"),
        ({"heads": 3}, "head.width = 8 is not a multiple of head.heads = 3"),
        ({"max_length": 31}, "head.max_length = 31 is not a multiple of 2, .* 32 would do"),
        ({"attention_window": 7, "max_length": 32}, "head.max_length = 32 is not a multiple of 12, .* 36 would do"),
        ({"class_prior": 0.0}, "head.class_prior = 0.0 is not a probability"),
    ],
)
def test_settings_that_cannot_work_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        tiny(**changes)
