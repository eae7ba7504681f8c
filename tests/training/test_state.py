"""The train step: what moves, what does not, and what a step that is not finite does."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import thumos_vitg
from convert.mapping import nested
from tadjax.build import build
from tadjax.training.optimizer import group_of, hold, labels, make_optimizer, path_of
from tadjax.training.state import create, make_train_step, moving_average

TRAINED = ("adapter", "head")


@pytest.fixture(scope="module")
def setting():
    config = thumos_vitg.get_config("tiny")
    config.optim.head_lr = config.optim.adapter_lr = 1e-3
    localizer = build(config, classes=3)
    params = localizer.init(jax.random.key(0))
    tx = make_optimizer(config.optim, steps_per_epoch=10)
    rng = np.random.default_rng(0)
    batch = {
        "frames": rng.integers(0, 256, (2, 32, 32, 32, 3), np.uint8),
        "valid": np.arange(32) < np.array([[32], [20]]),
        "segments": np.array([[[2, 9], [12, 30]], [[1, 14], [0, 0]]], np.float32),
        "labels": np.array([[0, 2], [1, 0]], np.int32),
        "segment_valid": np.array([[True, True], [True, False]]),
    }
    return localizer, params, tx, batch


@functools.cache
def compiled(localizer, tx, options):
    return jax.jit(make_train_step(localizer, tx, **{"ema_decay": 0.9, "deterministic": True, **dict(options)}))


def step_of(setting, **options):
    localizer, params, tx, _ = setting
    return create(params, TRAINED, localizer, tx, options.get("ema_decay", 0.9)), compiled(
        localizer, tx, tuple(options.items())
    )


def assert_equal(a, b) -> None:
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_two_equal_halves_accumulate_to_their_gradient(setting):
    """Both micro-batches hold the same records, so their mean gradient is that of one of them."""
    _, _, _, batch = setting
    half = jax.tree.map(lambda a: a[:1], batch)
    twice = jax.tree.map(lambda a: np.concatenate([a[:1], a[:1]]), batch)
    state, whole = step_of(setting)
    _, accumulated = step_of(setting, accumulate=2)
    # The loss normaliser moves with every micro-batch; held still by starting at the number of positives.
    positives = whole(state, half)[0].head_state["loss_normalizer"]
    fixed = state.replace(head_state={"loss_normalizer": (positives - 0.9 * 100) / 0.1})
    one, two = whole(fixed, half)[1], accumulated(fixed, twice)[1]
    np.testing.assert_allclose(two["grad_norm"], one["grad_norm"], rtol=1e-5)
    np.testing.assert_allclose(two["loss"], one["loss"], rtol=1e-6)


def test_the_frozen_backbone_is_returned_untouched(setting):
    state, step = step_of(setting)
    after, _ = step(state, setting[3])
    assert_equal(after.frozen, state.frozen)
    assert int(after.step) == 1
    moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), after.trained, state.trained)
    assert moved["adapter"]["up"]["kernel"] > 1e-5
    assert moved["head"]["classification"]["out"]["kernel"] > 1e-5


def test_full_fine_tuning_moves_the_backbone_at_its_own_rate(setting):
    config = thumos_vitg.get_config("tiny")
    config.adaptation.method = "full"
    config.optim.backbone_lr, config.optim.head_lr, config.optim.warmup_epochs = 1e-4, 0.0, 0
    config.optim.backbone_weight_decay = 0.0
    localizer, tx = build(config, classes=3), make_optimizer(config.optim, steps_per_epoch=10)
    state = create(localizer.init(jax.random.key(0)), ("backbone", "head"), localizer, tx, 0.9)
    after, _ = compiled(localizer, tx, ())(state, setting[3])
    assert after.frozen == {}
    assert_equal(after.trained["head"], state.trained["head"])
    # Adam's first step is of the learning rate's size wherever there is a gradient.
    moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), after.trained, state.trained)["backbone"]
    for of_part in (moved["patch_embed"], *(moved["blocks"][name] for name in ("norm1", "attention", "norm2", "mlp"))):
        assert max(jax.tree.leaves(of_part)) == pytest.approx(1e-4, rel=0.01)


def test_a_step_that_is_not_finite_changes_only_the_counters(setting):
    state, step = step_of(setting)
    state = step(state, setting[3])[0]
    broken = jax.tree.map(jnp.copy, state.trained)
    broken["head"]["regression"]["scale"] = broken["head"]["regression"]["scale"] * jnp.inf
    bad = state.replace(trained=broken)
    after, metrics = step(bad, setting[3])
    assert (int(metrics["skipped"]), int(metrics["updates"])) == (1, 1)
    assert int(after.step) == 2
    assert_equal(after.trained, bad.trained)
    assert_equal(after.optimizer, bad.optimizer)
    assert_equal(after.head_state, bad.head_state)
    again, metrics = step(after, setting[3])
    assert (int(metrics["skipped"]), int(metrics["updates"])) == (2, 1)
    healed, metrics = step(again.replace(trained=state.trained), setting[3])
    assert (int(metrics["skipped"]), int(metrics["updates"])) == (0, 1)
    assert np.isfinite(float(metrics["loss"]))


def test_the_average_moves_by_its_decay(setting):
    state, step = step_of(setting)
    first = step(state, setting[3])[0]
    second = step(first, setting[3])[0]
    before, moved = jax.device_get((first.ema, second.trained))
    assert_equal(second.ema, jax.tree.map(lambda a, b: np.float32(0.9) * a + np.float32(1 - 0.9) * b, before, moved))


def test_products_of_the_average_are_rounded_before_their_sum():
    """A sum that is compiled plainly becomes a multiply-add, which rounds once: 25,045 of the numbers differ then."""
    rng = np.random.default_rng(0)
    average = rng.normal(size=100_000).astype(np.float32)
    new = (average + 1e-4 * rng.normal(size=100_000)).astype(np.float32)
    want = np.float32(0.999) * average + np.float32(1 - 0.999) * new
    np.testing.assert_array_equal(jax.jit(moving_average, static_argnums=2)(average, new, 0.999), want)
    plain = jax.jit(lambda a, b: 0.999 * a + (1 - 0.999) * b)(average, new)
    assert np.sum(plain != want) > 10_000, "these compiler settings, or this CPU, could not show it"


def test_no_average_is_kept_where_there_is_to_be_none(setting):
    state, step = step_of(setting, ema_decay=0.0)
    after, _ = jax.eval_shape(step, state, setting[3])
    assert (state.ema, after.ema) == ({}, {})


def test_every_trained_parameter_has_one_group(setting):
    _, params, _, _ = setting
    groups = labels({name: params[name] for name in TRAINED})
    assert set(jax.tree.leaves(groups)) == {"adapter", "head_decay", "head_no_decay"}
    assert group_of("backbone/blocks/norm1/scale") == "backbone"
    assert group_of("head/regression/scale") == "head_no_decay"
    assert group_of("head/projection/stem_0/mlp/fc1/kernel") == "head_decay"
    with pytest.raises(ValueError, match="no optimizer group covers the trained parameter neck/kernel"):
        group_of("neck/kernel")


def test_random_draws_differ_from_step_to_step_and_repeat_by_seed(setting):
    state, step = step_of(setting, deterministic=False, rng_seed=5)
    _, other = step_of(setting, deterministic=False, rng_seed=6)
    loss = float(step(state, setting[3])[1]["loss"])
    assert float(step(state, setting[3])[1]["loss"]) == loss
    assert float(other(state, setting[3])[1]["loss"]) != loss
    later = state.replace(step=state.step + 1)
    assert float(step(later, setting[3])[1]["loss"]) != loss


def test_full_fine_tuning_leaves_norms_that_are_not_a_vits():
    config = thumos_vitg.get_config("tiny")
    names = ("conv/kernel", "norm/scale", "norm/bias", "norm/mean", "norm/var")
    params = nested({f"backbone/stem/conv1/{name}": np.ones(3, np.float32) for name in names})
    tx = make_optimizer(config.optim, steps_per_epoch=10)
    updates, _ = tx.update(params, tx.init(params), params)
    gradients = jax.grad(lambda params: sum(jnp.sum(leaf) for leaf in jax.tree.leaves(hold(params))))(params)
    for tree in (updates, gradients):
        for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
            assert np.any(leaf) != ("/norm/" in path_of(path)), path_of(path)
