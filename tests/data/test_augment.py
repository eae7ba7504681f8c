"""One draw a video: what is drawn, that all frames share it, and that nothing but the seed decides it."""

import functools
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tadjax.data import augment as augmentation
from tadjax.data.augment import NAMES, RANDAUGMENT, Augmentation, augment, draw
from tadjax.errors import ConfigError
from tests.data.test_image_ops import crop_resize

PLAIN = Augmentation(policy="none", crop=False, flip=0.0, jitter=False)
augment_jit = jax.jit(augment, static_argnames=("size", "settings"))


def canvases(sizes, frames: int = 6, height: int = 24, width: int = 40, padding: int = 0, seed: int = 0) -> np.ndarray:
    """uint8 [B, T, H, W, 3]: noise over a slope at the top left, `padding` beyond."""
    rng = np.random.default_rng(seed)
    out = np.full((len(sizes), frames, height, width, 3), padding, np.uint8)
    for canvas, (h, w) in zip(out, sizes, strict=True):
        slope = np.linspace(30, 180, w)[None, None, :, None]
        canvas[:, :h, :w] = np.clip(slope + rng.normal(0, 40, (frames, h, w, 3)), 0, 255)
    return out


def run(frames, sizes, seeds, settings, size=16, portrait=None) -> np.ndarray:
    portrait = np.zeros(len(sizes), bool) if portrait is None else np.asarray(portrait)
    sizes, seeds = np.asarray(sizes, np.int32), np.asarray(seeds, np.uint32)
    return np.asarray(augment_jit(frames, sizes, portrait, seeds, size=size, settings=settings))


@functools.cache
def many_draws(settings: Augmentation, height: int = 182, width: int = 243, count: int = 4000):
    one = functools.partial(draw, height=jnp.int32(height), width=jnp.int32(width), settings=settings)
    return jax.tree.map(np.asarray, jax.jit(jax.vmap(one))(jnp.arange(count, dtype=jnp.uint32)))


# ---- what is drawn


def test_random_crops_have_the_published_distribution():
    boxes = many_draws(Augmentation()).box
    top, left, height, width = boxes.T
    assert (top >= 0).all() and (left >= 0).all()
    assert (top + height <= 182).all() and (left + width <= 243).all()
    area, aspect = height * width / (182 * 243), width / height
    assert area.min() > 0.078 and area.max() <= 1  # 0.08 before rounding to pixels
    assert 0.735 < aspect.min() < 0.77 and 1.30 < aspect.max() < 1.36
    # Candidates that do not fit are drawn again, so the mean area lies below (0.08 + 1) / 2: compare with a simulation.
    rng = np.random.default_rng(0)
    want_area, want_log_aspect = [], []
    for _ in range(20_000):
        a, r = rng.uniform(0.08, 1) * 182 * 243, np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
        w, h = round(np.sqrt(a * r)), round(np.sqrt(a / r))
        if w <= 243 and h <= 182:
            want_area.append(w * h / (182 * 243))
            want_log_aspect.append(np.log(w / h))
    assert abs(area.mean() - np.mean(want_area)) < 0.015
    assert abs(np.log(aspect).mean() - np.mean(want_log_aspect)) < 0.01
    assert np.quantile(area, 0.1) == pytest.approx(np.quantile(want_area, 0.1), abs=0.02)
    assert np.quantile(area, 0.9) == pytest.approx(np.quantile(want_area, 0.9), abs=0.02)
    # the place is uniform: on average the crop is centred
    assert abs((top + height / 2).mean() - 91) < 1.5
    assert abs((left + width / 2).mean() - 121.5) < 2.0


def test_crop_falls_back_to_the_centre_square():
    wide = many_draws(Augmentation(min_area=0.99), height=20, width=200, count=50)
    np.testing.assert_array_equal(wide.box, np.tile([0, 90, 20, 20], (50, 1)))


def test_half_of_the_videos_are_flipped():
    assert abs(many_draws(Augmentation()).flip.mean() - 0.5) < 0.03
    assert not many_draws(PLAIN).flip.any()
    assert many_draws(Augmentation(flip=1.0)).flip.all()


def test_randaugment_draws_two_different_of_fifteen_operations_evenly():
    drawn = many_draws(Augmentation())
    assert drawn.operations.shape == (4000, 2)
    assert (drawn.operations[:, 0] < drawn.operations[:, 1]).all()  # different, in the order of the list
    share = np.bincount(drawn.operations.ravel(), minlength=len(NAMES)) / 4000
    assert len(RANDAUGMENT) == 15
    np.testing.assert_allclose(share[:15], 2 / 15, atol=0.025)
    assert share[NAMES.index("identity")] == 0


def test_randaugment_strengths_at_magnitude_nine():
    drawn = many_draws(Augmentation())
    seen = {}
    for operation, strength in zip(drawn.operations.ravel(), drawn.strengths.ravel(), strict=True):
        seen.setdefault(NAMES[operation], []).append(float(strength))
    want = {"shear_x": 15.471, "shear_y": 15.471, "translate_x": 0.18, "translate_y": 0.18, "rotate": 27.0}
    for name, strength in want.items():  # either direction
        assert sorted(set(np.round(seen[name], 4))) == [-strength, strength], name
        assert abs(np.mean(np.sign(seen[name]))) < 0.15
    want = {"posterize": 3, "solarize": 230.4, "color": 1.72, "contrast": 1.72, "brightness": 1.72, "sharpness": 1.72}
    for name, strength in (want | {"cutout": 0.18}).items():
        assert set(np.round(seen[name], 4)) == {strength}, name


def test_color_jitter_is_uniform_in_its_range_and_in_every_order():
    drawn = many_draws(Augmentation())
    for column, (low, high) in enumerate([(0.5, 1.5), (0.5, 1.5), (0.5, 1.5), (-0.1, 0.1)]):
        factor = drawn.factors[:, column]
        assert low <= factor.min() < low + 0.01 * (high - low)
        assert high - 0.01 * (high - low) < factor.max() <= high
        assert abs(factor.mean() - (low + high) / 2) < 0.02 * (high - low)
    orders, counts = np.unique(drawn.order, axis=0, return_counts=True)
    assert len(orders) == 24
    np.testing.assert_allclose(counts / 4000, 1 / 24, atol=0.015)


def test_autoaugment_draws_sub_policies_with_their_probabilities():
    drawn = many_draws(Augmentation(policy="autoaugment"))
    share = np.bincount(drawn.operations.ravel(), minlength=len(NAMES)) / 4000
    want = np.zeros(len(NAMES))
    for pair in augmentation.AUTOAUGMENT:
        for name, probability, _ in pair:
            want[NAMES.index(name)] += probability / 25
            want[NAMES.index("identity")] += (1 - probability) / 25
    np.testing.assert_allclose(share, want, atol=0.03)
    rotations = drawn.strengths[drawn.operations == NAMES.index("rotate")]
    np.testing.assert_allclose(np.unique(np.abs(rotations)), [10, 26.6667, 30], atol=1e-3)
    colors = drawn.strengths[drawn.operations == NAMES.index("color")]
    np.testing.assert_allclose(np.unique(colors), [0.2, 0.6, 0.8, 1.0, 1.2, 1.4, 1.8], atol=1e-6)


# ---- what is done with it


def test_without_augmentation_it_is_the_resized_centre_square():
    sizes = [(24, 40), (20, 31), (17, 17)] * 4
    frames = canvases(sizes)
    got = run(frames, sizes, np.arange(12), PLAIN)
    for view, canvas, (h, w) in zip(got, frames, sizes, strict=True):
        side = min(h, w)
        want = crop_resize(canvas.transpose(3, 0, 1, 2), (h - side) // 2, (w - side) // 2, side, side, 16)
        np.testing.assert_allclose(view.transpose(3, 0, 1, 2), want, rtol=0, atol=0.65)


def test_crop_and_flip_are_those_that_were_drawn():
    settings = Augmentation(policy="none", jitter=False)
    sizes, seeds = [(20, 31)] * 12, np.arange(12)
    frames = canvases(sizes)
    got = run(frames, sizes, seeds, settings)
    flips = 0
    for view, canvas, seed in zip(got, frames, seeds, strict=True):
        drawn = draw(jnp.uint32(seed), 20, 31, settings)
        want = crop_resize(canvas.transpose(3, 0, 1, 2), *np.asarray(drawn.box), 16)
        want = want[..., ::-1] if drawn.flip else want
        flips += bool(drawn.flip)
        np.testing.assert_allclose(view.transpose(3, 0, 1, 2), want, rtol=0, atol=0.65)
    assert 0 < flips < 12


@pytest.mark.parametrize("policy", ["randaugment", "autoaugment"])
def test_all_frames_of_a_video_are_changed_alike(policy):
    sizes = [(20, 31)] * 12
    frames = canvases(sizes)[:, :1].repeat(6, axis=1)
    got = run(frames, sizes, np.arange(12), Augmentation(policy=policy))
    np.testing.assert_array_equal(got, got[:, :1].repeat(6, axis=1))


def test_statistics_are_each_frames_own():
    """So a frame comes out the same whatever frames are beside it."""
    sizes = [(20, 31)] * 12
    frames = canvases(sizes)
    together = run(frames, sizes, np.arange(12), Augmentation())
    alone = run(frames[:, 2:3], sizes, np.arange(12), Augmentation())
    np.testing.assert_array_equal(together[:, 2:3], alone)


def test_the_seed_alone_decides():
    sizes = [(20, 31), (24, 40), (22, 22), (24, 33)] * 3
    seeds = [7, 2**32 - 1, 123, 7, *range(8)]
    frames = canvases(sizes)
    together = run(frames, sizes, seeds, Augmentation())
    order = np.random.default_rng(0).permutation(12)
    shuffled = run(frames[order], [sizes[i] for i in order], [seeds[i] for i in order], Augmentation())
    np.testing.assert_array_equal(shuffled, together[order])
    for i in range(12):
        alone = run(frames[i : i + 1], sizes[i : i + 1], seeds[i : i + 1], Augmentation())
        np.testing.assert_array_equal(alone, together[i : i + 1])
    other = run(frames, sizes, np.arange(100, 112), Augmentation())
    assert (np.abs(other.astype(int) - together).mean((1, 2, 3, 4)) > 5).all()


def test_the_chunking_does_not_matter(monkeypatch):
    sizes = [(20, 31)] * 12
    arguments = canvases(sizes), np.array(sizes, np.int32), np.zeros(12, bool), np.arange(12, dtype=np.uint32)
    whole = run(arguments[0], sizes, arguments[3], Augmentation())
    for frames_at_once in (1, 4):  # 4 does not divide 6: 3 are taken
        monkeypatch.setattr(augmentation, "FRAMES_AT_ONCE", frames_at_once)
        parts = jax.jit(functools.partial(augment, size=16, settings=Augmentation()))(*arguments)
        np.testing.assert_array_equal(parts, whole)


def test_what_lies_beyond_the_picture_is_never_seen():
    sizes = [(20, 31), (24, 33), (11, 19)] * 4
    black, white = canvases(sizes, padding=0), canvases(sizes, padding=255)
    assert (black != white).any()
    for settings in (Augmentation(), PLAIN):
        got = [run(frames, sizes, np.arange(12), settings) for frames in (black, white)]
        np.testing.assert_array_equal(*got)


def test_a_portrait_picture_comes_out_upright():
    """Transposed on its canvas or upright on a high one: the same view, flip included."""
    upright = canvases([(40, 24)] * 12, height=40, width=24)
    transposed = upright.swapaxes(2, 3)
    for settings in (Augmentation(), PLAIN):
        want = run(upright, [(40, 24)] * 12, np.arange(12), settings)
        got = run(transposed, [(24, 40)] * 12, np.arange(12), settings, portrait=[True] * 12)
        # The two passes of the resize swap their order, which rounds differently before the operations.
        assert (np.abs(got.astype(int) - want) > 1).mean() < 0.01
    np.testing.assert_allclose(got.astype(int), want, rtol=0, atol=1)


def test_the_published_settings_change_every_video():
    sizes = [(24, 40)] * 12
    got = run(canvases(sizes), sizes, np.arange(12), Augmentation())
    assert got.dtype == np.uint8 and got.shape == (12, 6, 16, 16, 3)
    plain = run(canvases(sizes), sizes, np.arange(12), PLAIN)
    assert (np.abs(got.astype(int) - plain).mean((1, 2, 3, 4)) > 3).all()


def test_memory_between_uint8_and_uint8_does_not_grow_with_the_window():
    def temporary_bytes(frames):
        shapes = (
            jax.ShapeDtypeStruct((1, frames, 24, 40, 3), jnp.uint8),
            jax.ShapeDtypeStruct((1, 2), jnp.int32),
            jax.ShapeDtypeStruct((1,), jnp.bool_),
            jax.ShapeDtypeStruct((1,), jnp.uint32),
        )
        compiled = augment_jit.lower(*shapes, size=16, settings=Augmentation()).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    short, long = temporary_bytes(64), temporary_bytes(512)
    assert long - short < 64 * 1024  # in float32 the 448 frames more would be 1.4 MB


SHARDED = """
import jax, numpy as np
from jax.sharding import AxisType, PartitionSpec as P
from tadjax.data.augment import Augmentation, augment

frames = np.random.default_rng(0).integers(0, 256, (4, 8, 24, 40, 3), dtype=np.uint8)
arguments = frames, np.full((4, 2), (24, 40), np.int32), np.zeros(4, bool), np.arange(4, dtype=np.uint32)

def views(*arguments):
    return augment(*arguments, size=16, settings=Augmentation())

mesh = jax.make_mesh((2, 2), ("data", "clip"), axis_types=(AxisType.Auto,) * 2)
specs = P("data", "clip"), P("data"), P("data"), P("data")
sharded = jax.jit(jax.shard_map(views, mesh=mesh, in_specs=specs, out_specs=P("data", "clip")))
text = sharded.lower(*arguments).compile().as_text()
assert not any(word in text for word in ("all-gather", "all-reduce", "all-to-all", "collective-permute"))
np.testing.assert_array_equal(sharded(*arguments), jax.jit(views)(*arguments))
print("equal on", len(jax.devices()))
"""


def test_split_over_devices_it_is_the_same_without_communication():
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu"}
    result = subprocess.run([sys.executable, "-c", SHARDED], capture_output=True, text=True, env=environment)
    assert result.stdout == "equal on 4\n", result.stderr[-2000:]


@pytest.mark.parametrize(
    ("field", "value", "right"),
    [
        ("policy", "randaug", "randaugment, autoaugment or none"),
        ("min_area", 0.0, "above 0 and at most 1"),
        ("flip", 1.5, "a probability"),
        ("operations", 16, "0 to 15"),
        ("magnitude", 11, "0 to 10"),
    ],
)
def test_wrong_settings_are_named(field, value, right):
    with pytest.raises(ConfigError, match=rf"augment\.{field} is .*{right}"):
        Augmentation(**{field: value})
