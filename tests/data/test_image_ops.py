"""Every pixel operation against its formula, written out in numpy in float64."""

import colorsys
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tadjax.data import image_ops as ops


def picture(seed: int = 0, frames: int = 3, height: int = 20, width: int = 28) -> np.ndarray:
    """Planes uint8 [3, F, H, W]: a slope with noise, so that every operation has something to change."""
    rng = np.random.default_rng(seed)
    slope = np.linspace(20, 200, width)[None, None, None, :]
    return np.clip(slope + rng.normal(0, 40, (3, frames, height, width)), 3, 250).astype(np.uint8)


def apply(name: str, planes: np.ndarray, strength: float = 0.0, place=(0.5, 0.5)) -> np.ndarray:
    operation = jax.jit(ops.OPERATIONS[name])
    return np.asarray(operation(jnp.asarray(planes), jnp.float32(strength), jnp.array(place, jnp.float32)))


def bilinear_at(planes: np.ndarray, y: np.ndarray, x: np.ndarray, outside) -> np.ndarray:
    """Bilinear reading at real positions; outside: a value, or "edge" to repeat the border."""
    h, w = planes.shape[-2:]
    total = np.zeros((*planes.shape[:-2], *y.shape))
    for dy, dx in itertools.product((0, 1), (0, 1)):
        tap_y, tap_x = np.floor(y).astype(int) + dy, np.floor(x).astype(int) + dx
        weight = (1 - np.abs(y - tap_y)) * (1 - np.abs(x - tap_x))
        value = planes[..., np.clip(tap_y, 0, h - 1), np.clip(tap_x, 0, w - 1)].astype(float)
        if outside != "edge":
            inside = (tap_y >= 0) & (tap_y < h) & (tap_x >= 0) & (tap_x < w)
            value = np.where(inside, value, outside)
        total += weight * value
    return total


def crop_resize(planes: np.ndarray, top, left, height, width, size) -> np.ndarray:
    """Bilinear resize of a crop in float64: half-pixel centres, border repeated."""
    crop = planes[..., top : top + height, left : left + width]
    y = np.clip((np.arange(size) + 0.5) * height / size - 0.5, 0, height - 1)
    x = np.clip((np.arange(size) + 0.5) * width / size - 0.5, 0, width - 1)
    return bilinear_at(crop, *np.meshgrid(y, x, indexing="ij"), outside="edge")


def resample(planes, top, left, height, width, size, flip_rows=False, flip_columns=False) -> np.ndarray:
    rows = ops.resize_weights(top, height, jnp.bool_(flip_rows), source=planes.shape[2], size=size)
    columns = ops.resize_weights(left, width, jnp.bool_(flip_columns), source=planes.shape[3], size=size)
    return np.asarray(ops.resample(jnp.asarray(planes.transpose(1, 2, 3, 0)), rows, columns))


@pytest.mark.parametrize("box", [(0, 0, 20, 28), (3, 5, 16, 11), (19, 27, 1, 1), (2, 0, 9, 28)])
@pytest.mark.parametrize("size", [7, 16, 40])
def test_resample_is_the_bilinear_formula(box, size):
    planes = picture()
    want = crop_resize(planes, *box, size)
    # 0.5 of rounding, 2 x 255 / 2**12 of the weights, 1/64 of the 13-bit intermediate
    np.testing.assert_allclose(resample(planes, *box, size), want, rtol=0, atol=0.5 + 0.125 + 0.016)


def test_resample_at_the_same_size_changes_nothing():
    planes = picture(height=24, width=24)
    np.testing.assert_array_equal(resample(planes, 0, 0, 24, 24, 24), planes)


def test_resample_keeps_white_white():
    planes = np.full((3, 2, 20, 28), 255, np.uint8)
    assert (resample(planes, 1, 2, 17, 23, 31) == 255).all()


def test_flips_are_mirrors():
    planes = picture()
    plain = resample(planes, 3, 5, 16, 11, 12)
    np.testing.assert_array_equal(resample(planes, 3, 5, 16, 11, 12, flip_columns=True), plain[..., ::-1])
    np.testing.assert_array_equal(resample(planes, 3, 5, 16, 11, 12, flip_rows=True), plain[..., ::-1, :])


def source_of(name: str, strength: float, height: int, width: int):
    """Where the operation reads every output pixel."""
    center_y, center_x = (height - 1) / 2, (width - 1) / 2
    y, x = np.meshgrid(np.arange(height) - center_y, np.arange(width) - center_x, indexing="ij")
    angle = np.deg2rad(strength)
    if name == "shear_x":
        x = x + np.tan(angle) * y
    elif name == "shear_y":
        y = y + np.tan(angle) * x
    elif name == "translate_x":
        x = x - strength * width
    elif name == "translate_y":
        y = y - strength * height
    else:  # rotate
        x, y = np.cos(angle) * x + np.sin(angle) * y, -np.sin(angle) * x + np.cos(angle) * y
    return y + center_y, x + center_x


@pytest.mark.parametrize(
    ("name", "strength"),
    [
        ("shear_x", 15.471),
        ("shear_x", -15.471),
        ("shear_y", 15.471),
        ("translate_x", 0.18),
        ("translate_x", -0.18),
        ("translate_y", 0.18),
        ("rotate", 27.0),
        ("rotate", -27.0),
    ],
)
def test_geometric_operations_read_where_they_should(name, strength):
    planes = picture(height=24, width=24)
    y, x = source_of(name, strength, 24, 24)
    steps = 32  # positions are rounded to 1/32 pixel; where that falls by float error on either side, allow both
    want = bilinear_at(planes, np.round(y * steps) / steps, np.round(x * steps) / steps, outside=0)
    got = apply(name, planes, strength)
    differs = np.abs(got - want) > 0.5 + 1e-6
    assert differs.mean() < 0.005, f"{differs.mean():.2%} of the values differ"
    np.testing.assert_allclose(got, bilinear_at(planes, y, x, outside=0), rtol=0, atol=0.5 + 2 * 255 / 64)


def test_translation_to_the_right_and_down_leaves_black_behind():
    planes = np.full((3, 1, 20, 20), 200, np.uint8)
    right = apply("translate_x", planes, 0.2)  # 4 pixels
    assert (right[..., :4] == 0).all()
    assert (right[..., 4:] == 200).all()
    down = apply("translate_y", planes, 0.2)
    assert (down[..., :4, :] == 0).all()
    assert (down[..., 4:, :] == 200).all()


def test_rotation_by_a_quarter_turn_is_exact_and_clockwise():
    planes = picture(height=24, width=24)
    np.testing.assert_array_equal(apply("rotate", planes, 90.0), np.rot90(planes, k=-1, axes=(2, 3)))


def test_posterize_keeps_three_bits():
    planes = picture()
    np.testing.assert_array_equal(apply("posterize", planes, 3), planes & 0b11100000)


def test_solarize_inverts_from_230_on():
    values = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16).repeat(3, axis=0)
    got = apply("solarize", values, 230.4)
    np.testing.assert_array_equal(got, np.where(values >= 230, 255 - values.astype(int), values))


def test_invert():
    planes = picture()
    np.testing.assert_array_equal(apply("invert", planes), 255 - planes)


def reference_luma(planes: np.ndarray) -> np.ndarray:
    red, green, blue = planes.astype(int)
    return (19595 * red + 38470 * green + 7471 * blue + 32768) // 65536


def reference_smooth(planes: np.ndarray) -> np.ndarray:
    out = planes.astype(float)
    h, w = planes.shape[-2:]
    for y, x in itertools.product(range(1, h - 1), range(1, w - 1)):
        patch = planes[..., y - 1 : y + 2, x - 1 : x + 2].astype(int)
        out[..., y, x] = np.floor((patch.sum((-2, -1)) + 4 * patch[..., 1, 1]) / 13 + 0.5)
    return out


@pytest.mark.parametrize("factor", [0.3, 1.0, 1.72])
@pytest.mark.parametrize("name", ["color", "contrast", "brightness", "sharpness"])
def test_enhancements_are_blends_with_their_degenerate_picture(name, factor):
    planes = picture()
    degenerate = {
        "color": reference_luma(planes),
        "contrast": np.floor(reference_luma(planes).mean((-2, -1), keepdims=True) + 0.5),
        "brightness": 0,
        "sharpness": reference_smooth(planes),
    }[name]
    want = np.floor(np.clip(degenerate + factor * (planes - degenerate), 0, 255))
    got = apply(name, planes, factor).astype(int)
    # truncation of float32 against float64: a value on a whole number may fall on either side
    assert np.abs(got - want).max() <= 1
    assert (got != want).mean() < 0.01
    if factor == 1.0:
        np.testing.assert_array_equal(got, planes)


def test_autocontrast_stretches_every_channel_of_every_frame():
    planes = picture()
    low, high = planes.min((2, 3), keepdims=True).astype(int), planes.max((2, 3), keepdims=True).astype(int)
    got = apply("autocontrast", planes)
    np.testing.assert_array_equal(got, (planes - low) * 255 // (high - low))
    np.testing.assert_array_equal(got.min((2, 3)), 0)
    np.testing.assert_array_equal(got.max((2, 3)), 255)


def reference_equalize(plane: np.ndarray) -> np.ndarray:
    histogram = np.bincount(plane.ravel(), minlength=256)
    filled = histogram[histogram > 0]
    step = (filled.sum() - filled[-1]) // 255
    if step == 0:
        return plane
    table, below = np.zeros(256, int), step // 2
    for value in range(256):
        table[value] = min(below // step, 255)
        below += histogram[value]
    return table[plane]


def test_equalize_is_pillows():
    planes = picture(height=40, width=48)
    want = np.array([[reference_equalize(plane) for plane in channel] for channel in planes])
    np.testing.assert_array_equal(apply("equalize", planes), want)
    assert want.std() > planes.std()  # it spreads the values


@pytest.mark.parametrize("histogram", [ops._histogram_by_scatter, ops._histogram_by_comparison])
def test_histograms_of_every_platform(histogram):
    values = np.random.default_rng(5).choice(
        np.array([0, 1, 15, 16, 128, 254, 255], np.uint8), 70000, p=[0.7] + [0.05] * 6
    )
    np.testing.assert_array_equal(jax.jit(histogram)(values), np.bincount(values, minlength=256))


@pytest.mark.parametrize("name", ["autocontrast", "equalize"])
def test_one_single_value_stays(name):
    planes = np.full((3, 2, 20, 20), 77, np.uint8)
    np.testing.assert_array_equal(apply(name, planes), planes)


def test_cutout_is_a_grey_square_of_18_percent_clipped_at_the_edge():
    planes = np.full((3, 2, 100, 100), 10, np.uint8)
    middle = apply("cutout", planes, 0.18, place=(0.5, 0.4))
    want = planes.copy()
    want[..., 31:49, 41:59] = 128
    np.testing.assert_array_equal(middle, want)
    corner = apply("cutout", planes, 0.18, place=(1.0, 0.0))
    want = planes.copy()
    want[..., :9, 91:] = 128
    np.testing.assert_array_equal(corner, want)


def test_every_operation_treats_all_frames_alike():
    planes = picture(frames=1).repeat(3, axis=1)
    strengths = {"posterize": 3, "solarize": 100, "rotate": 20, "shear_x": 15, "shear_y": -15, "cutout": 0.3}
    for name in ops.OPERATIONS:
        got = apply(name, planes, strengths.get(name, 0.6), place=(0.3, 0.8))
        np.testing.assert_array_equal(got, got[:, :1].repeat(3, axis=1), err_msg=name)


def jitter(which: int, planes: np.ndarray, factor: float) -> np.ndarray:
    return np.asarray(jax.jit(ops.JITTERS[which])(jnp.asarray(planes, jnp.float32), jnp.float32(factor)))


def test_jitter_of_brightness_contrast_and_saturation():
    x = picture().astype(float)
    gray = 0.2989 * x[0] + 0.587 * x[1] + 0.114 * x[2]
    mean = gray.mean((-2, -1), keepdims=True)
    for factor in (0.5, 1.0, 1.37):
        for which, want in enumerate((factor * x, factor * x + (1 - factor) * mean, factor * x + (1 - factor) * gray)):
            np.testing.assert_allclose(jitter(which, x, factor), np.clip(want, 0, 255), rtol=0, atol=1e-3)


@pytest.mark.parametrize("turn", [-0.1, 0.0, 0.037, 0.1, 0.5])
def test_jitter_of_hue_is_colorsys(turn):
    corners = np.array(list(itertools.product((0, 255), repeat=3))).T  # all saturated colours, black and white
    x = np.concatenate([picture().reshape(3, -1), corners], axis=1)[:, None, None, :]
    want = np.empty(x.shape)
    for i, rgb in enumerate(x[:, 0, 0].T / 255):
        hue, saturation, value = colorsys.rgb_to_hsv(*rgb)
        want[:, 0, 0, i] = np.array(colorsys.hsv_to_rgb((hue + turn) % 1, saturation, value)) * 255
    np.testing.assert_allclose(jitter(3, x, turn), want, rtol=0, atol=1e-3)


def test_color_jitter_runs_in_the_given_order_and_rounds_once():
    planes = picture()
    factors = [1.3, 0.6, 1.4, 0.08]
    for order in ((0, 1, 2, 3), (3, 1, 0, 2)):
        x = planes
        for which in order:
            x = jitter(which, x, factors[which])
        got = np.asarray(ops.color_jitter(jnp.asarray(planes), jnp.array(factors), jnp.array(order)))
        assert np.abs(got - x).max() <= 0.5 + 1e-3
    neutral = ops.color_jitter(jnp.asarray(planes), jnp.array([1.0, 1.0, 1.0, 0.0]), jnp.arange(4))
    np.testing.assert_array_equal(neutral, planes)
