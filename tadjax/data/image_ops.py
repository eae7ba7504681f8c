"""What augmentation does to pixels: bilinear views, the 15 operations of RandAugment, and colour jitter, in JAX.

The operations are those of RandAugment (Cubuk et al. 2020, section 3) with the pixel arithmetic of Pillow's ImageOps,
ImageEnhance and ImageFilter; resampling follows OpenCV's fixed point, so that a picture comes out bit for bit the
same whatever the device, the batch, or the number of frames that are worked on together.

Everything works on planes, uint8 [3, F, H, W]: frames of one video, all changed alike. (With the three colours last,
neither a CPU's nor a TPU's vector unit is filled.) Statistics (autocontrast, equalize, contrast) are each frame's own.
Strengths are numbers or traced scalars.
"""

import jax
import jax.numpy as jnp

WEIGHT_BITS = 11  # of a resize weight: OpenCV's INTER_RESIZE_COEF_BITS
WARP_BITS = 5  # of a fraction of a pixel in a warp: OpenCV's INTER_BITS
LUMA = (19595, 38470, 7471)  # ITU-R 601 times 2**16, as in Pillow's conversion to "L"


def resize_weights(start, length, flip, *, source: int, size: int) -> jax.Array:
    """Bilinear weights that take `length` pixels from `start` of a line of `source` to `size` pixels.

    Half-pixel centres, no antialiasing, also when shrinking (OpenCV's INTER_LINEAR); the border pixel of the crop is
    repeated, so nothing outside it is read.

    Args:
      start, length: int scalars, pixels. flip: bool scalar; true reverses the result.

    Returns:
      float32 [size, source] of whole numbers; rows sum to 2**WEIGHT_BITS.
    """
    out = jnp.arange(size, dtype=jnp.float32)
    out = jnp.where(flip, size - 1 - out, out)
    position = jnp.clip((out + 0.5) * (length / size) - 0.5, 0, length - 1)
    first = jnp.floor(position)
    second_weight = jnp.round((position - first) * 2**WEIGHT_BITS)
    first = start + first.astype(jnp.int32)
    second = jnp.minimum(first + 1, start + length - 1)
    column = jnp.arange(source)
    first_weight = 2**WEIGHT_BITS - second_weight
    return (first[:, None] == column) * first_weight[:, None] + (second[:, None] == column) * second_weight[:, None]


def resample(frames: jax.Array, rows: jax.Array, columns: jax.Array) -> jax.Array:
    """Applies two `resize_weights` matrices: frames uint8 [F, H, W, 3] -> planes uint8 [3, F, rows, columns].

    Every product and sum is a whole number below 2**24, hence exact in float32 in any order of summation.
    """
    precision = jax.lax.Precision.HIGHEST
    x = frames.transpose(3, 0, 1, 2).astype(jnp.float32)  # [3, F, H, W]
    x = jnp.einsum("cfhw,xw->cfhx", x, columns, precision=precision)  # 8 + 11 bits
    x = jnp.floor((x + 2**5) / 2**6)  # 13 bits, so that the next product has 24
    x = jnp.einsum("yh,cfhx->cfyx", rows, x, precision=precision)
    return jnp.floor((x + 2**15) / 2**16).astype(jnp.uint8)


def warp(planes: jax.Array, matrix: jax.Array) -> jax.Array:
    """Reads every output pixel p at `matrix[:, :2] @ p + matrix[:, 2]` (bilinear; black outside the picture).

    Positions are (x, y) in pixels from the centre of the picture, rounded to 1/32 pixel as in OpenCV's warpAffine.

    Args:
      planes: uint8 [3, F, H, W]. matrix: float32 [2, 3].
    """
    _, f, h, w = planes.shape
    center = jnp.array([(w - 1) / 2, (h - 1) / 2], jnp.float32)
    y, x = jnp.meshgrid(jnp.arange(h) - center[1], jnp.arange(w) - center[0], indexing="ij")
    source_x = matrix[0, 0] * x + matrix[0, 1] * y + matrix[0, 2] + center[0]
    source_y = matrix[1, 0] * x + matrix[1, 1] * y + matrix[1, 2] + center[1]
    one = 2**WARP_BITS
    fixed_x = jnp.round(source_x * one).astype(jnp.int32).reshape(-1)
    fixed_y = jnp.round(source_y * one).astype(jnp.int32).reshape(-1)

    # All planes are read at the same places: one index a pixel, and a long row of numbers behind each.
    pixels = planes.reshape(3 * f, h * w).T
    total = one * one // 2
    for dy in (0, 1):
        for dx in (0, 1):
            tap_x, tap_y = (fixed_x >> WARP_BITS) + dx, (fixed_y >> WARP_BITS) + dy
            weight_x = fixed_x % one if dx else one - fixed_x % one
            weight_y = fixed_y % one if dy else one - fixed_y % one
            inside = (tap_x >= 0) & (tap_x < w) & (tap_y >= 0) & (tap_y < h)
            weight = jnp.where(inside, weight_x * weight_y, 0)
            index = jnp.clip(tap_y, 0, h - 1) * w + jnp.clip(tap_x, 0, w - 1)
            total += weight[:, None] * pixels[index].astype(jnp.int32)
    return (total >> (2 * WARP_BITS)).astype(jnp.uint8).T.reshape(planes.shape)


def shear_x(planes: jax.Array, degrees) -> jax.Array:
    return warp(planes, jnp.array([[1, jnp.tan(jnp.deg2rad(degrees)), 0], [0, 1, 0]], jnp.float32))


def shear_y(planes: jax.Array, degrees) -> jax.Array:
    return warp(planes, jnp.array([[1, 0, 0], [jnp.tan(jnp.deg2rad(degrees)), 1, 0]], jnp.float32))


def translate_x(planes: jax.Array, share) -> jax.Array:
    """Moves the picture to the right by a share of its width."""
    return warp(planes, jnp.array([[1, 0, -share * planes.shape[-1]], [0, 1, 0]], jnp.float32))


def translate_y(planes: jax.Array, share) -> jax.Array:
    """Moves the picture down by a share of its height."""
    return warp(planes, jnp.array([[1, 0, 0], [0, 1, -share * planes.shape[-2]]], jnp.float32))


def rotate(planes: jax.Array, degrees) -> jax.Array:
    """Turns the picture clockwise about its centre."""
    cos, sin = jnp.cos(jnp.deg2rad(degrees)), jnp.sin(jnp.deg2rad(degrees))
    return warp(planes, jnp.array([[cos, sin, 0], [-sin, cos, 0]], jnp.float32))


def posterize(planes: jax.Array, bits) -> jax.Array:
    """Keeps the highest `bits` (1 to 8) of every value."""
    dropped = (8 - jnp.asarray(bits)).astype(jnp.uint8)
    return (planes >> dropped) << dropped


def solarize(planes: jax.Array, threshold) -> jax.Array:
    """Inverts the values at or above the threshold (a fraction of it is dropped)."""
    return jnp.where(planes >= jnp.floor(threshold), 255 - planes, planes)


def invert(planes: jax.Array) -> jax.Array:
    return 255 - planes


def luma(planes: jax.Array) -> jax.Array:
    """Grey value, int32 [F, H, W], of uint8 planes."""
    red, green, blue = planes.astype(jnp.int32)
    return (LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue + 2**15) >> 16


def blend(degenerate: jax.Array, planes: jax.Array, factor) -> jax.Array:
    """`degenerate` at factor 0, `planes` at 1, beyond it at more; clipped and truncated as in Pillow's Image.blend."""
    x = degenerate + jnp.float32(factor) * (planes.astype(jnp.int32) - degenerate)
    return jnp.clip(x, 0, 255).astype(jnp.uint8)


def enhance_color(planes: jax.Array, factor) -> jax.Array:
    return blend(luma(planes), planes, factor)


def enhance_contrast(planes: jax.Array, factor) -> jax.Array:
    pixels = planes.shape[-2] * planes.shape[-1]
    mean = (2 * luma(planes).sum((-2, -1), keepdims=True) + pixels) // (2 * pixels)  # rounded
    return blend(mean, planes, factor)


def enhance_brightness(planes: jax.Array, factor) -> jax.Array:
    return blend(jnp.int32(0), planes, factor)


def enhance_sharpness(planes: jax.Array, factor) -> jax.Array:
    """Away from Pillow's SMOOTH filter (3 x 3 ones with 5 in the middle, by 13); the border keeps its values."""
    x = planes.astype(jnp.int32)
    box = x[..., :-2, :] + x[..., 1:-1, :] + x[..., 2:, :]
    box = box[..., :-2] + box[..., 1:-1] + box[..., 2:]
    smooth = (2 * (box + 4 * x[..., 1:-1, 1:-1]) + 13) // 26  # rounded
    return blend(x.at[..., 1:-1, 1:-1].set(smooth), planes, factor)


def autocontrast(planes: jax.Array) -> jax.Array:
    """Stretches every channel of every frame to 0..255; one that holds a single value stays."""
    x = planes.astype(jnp.int32)
    low, high = x.min((-2, -1), keepdims=True), x.max((-2, -1), keepdims=True)
    stretched = (x - low) * 255 // jnp.maximum(high - low, 1)
    return jnp.where(high > low, stretched, x).astype(jnp.uint8)


def equalize(planes: jax.Array) -> jax.Array:
    """Flattens the histogram of every channel of every frame (Pillow's ImageOps.equalize)."""

    def one_plane(x):  # uint8 [H * W]
        histogram = jax.lax.platform_dependent(x, tpu=_histogram_by_comparison, default=_histogram_by_scatter)
        brightest = 255 - jnp.argmax(histogram[::-1] > 0)
        step = (x.size - histogram[brightest]) // 255
        below = jnp.cumsum(histogram) - histogram
        table = jnp.minimum((step // 2 + below) // jnp.maximum(step, 1), 255).astype(jnp.uint8)
        return jnp.where(step > 0, table[x], x)  # unchanged where almost all pixels are of the brightest value

    flat = planes.reshape(-1, planes.shape[-2] * planes.shape[-1])
    return jax.vmap(one_plane)(flat).reshape(planes.shape)


def _histogram_by_scatter(x: jax.Array) -> jax.Array:
    """How many of uint8 [n] have each value, int32 [256]."""
    return jnp.zeros(256, jnp.int32).at[x].add(1)


def _histogram_by_comparison(x: jax.Array) -> jax.Array:
    """The same: TPUs compare a thousand pairs at once, but scatter number after number."""
    return (x[:, None] == jnp.arange(256, dtype=x.dtype)).sum(0, dtype=jnp.int32)


def cutout(planes: jax.Array, share, place) -> jax.Array:
    """Fills a square of `share` of the side, centred at place = (x, y) in 0..1, with grey 128; clipped at the edge."""
    h, w = planes.shape[-2:]
    inside = True
    for axis, length, position in ((0, h, place[1]), (1, w, place[0])):
        first = jnp.floor(jnp.maximum((position - share / 2) * length, 0))
        stop = jnp.floor((position + share / 2) * length)
        index = jax.lax.broadcasted_iota(jnp.int32, (h, w), axis)
        inside = inside & (index >= first) & (index < stop)
    return jnp.where(inside, jnp.uint8(128), planes)


# name -> (planes, strength, place) -> planes. The order is that in which the published recipe applies what it drew.
OPERATIONS = {
    "shear_x": lambda planes, strength, place: shear_x(planes, strength),
    "shear_y": lambda planes, strength, place: shear_y(planes, strength),
    "translate_x": lambda planes, strength, place: translate_x(planes, strength),
    "translate_y": lambda planes, strength, place: translate_y(planes, strength),
    "rotate": lambda planes, strength, place: rotate(planes, strength),
    "posterize": lambda planes, strength, place: posterize(planes, strength),
    "solarize": lambda planes, strength, place: solarize(planes, strength),
    "color": lambda planes, strength, place: enhance_color(planes, strength),
    "contrast": lambda planes, strength, place: enhance_contrast(planes, strength),
    "brightness": lambda planes, strength, place: enhance_brightness(planes, strength),
    "sharpness": lambda planes, strength, place: enhance_sharpness(planes, strength),
    "autocontrast": lambda planes, strength, place: autocontrast(planes),
    "equalize": lambda planes, strength, place: equalize(planes),
    "invert": lambda planes, strength, place: invert(planes),
    "cutout": cutout,
    "identity": lambda planes, strength, place: planes,
}


def _gray(x: jax.Array) -> jax.Array:
    return 0.2989 * x[0] + 0.587 * x[1] + 0.114 * x[2]


def jitter_brightness(x: jax.Array, factor) -> jax.Array:
    return jnp.clip(factor * x, 0, 255)


def jitter_contrast(x: jax.Array, factor) -> jax.Array:
    mean = _gray(x).mean((-2, -1), keepdims=True)
    return jnp.clip(factor * x + (1 - factor) * mean, 0, 255)


def jitter_saturation(x: jax.Array, factor) -> jax.Array:
    return jnp.clip(factor * x + (1 - factor) * _gray(x), 0, 255)


def jitter_hue(x: jax.Array, turn) -> jax.Array:
    """Turns the hue by a share of the full circle; value and saturation (of HSV) stay."""
    red, green, blue = x
    value = jnp.maximum(jnp.maximum(red, green), blue)  # not x.max(0): twice as slow on a CPU
    chroma = value - jnp.minimum(jnp.minimum(red, green), blue)
    difference = jnp.where(value == red, green - blue, jnp.where(value == green, blue - red, red - green))
    sector = jnp.where(value == red, 0.0, jnp.where(value == green, 2.0, 4.0))
    hue = sector + difference / jnp.where(chroma > 0, chroma, 1) + 6 * turn  # red at 0, green at 2, blue at 4
    hue = hue - 6 * jnp.floor(hue / 6)
    drops = (2 - jnp.abs(hue - 3), jnp.abs(hue - 2) - 1, jnp.abs(hue - 4) - 1)
    return jnp.stack([value - chroma * jnp.clip(drop, 0, 1) for drop in drops])


JITTERS = (jitter_brightness, jitter_contrast, jitter_saturation, jitter_hue)


def color_jitter(planes: jax.Array, factors: jax.Array, order: jax.Array) -> jax.Array:
    """The four of JITTERS with factors float32 [4], in the order int32 [4]: uint8 -> uint8, rounded once at the end."""
    x = jax.lax.fori_loop(
        0, 4, lambda i, x: jax.lax.switch(order[i], JITTERS, x, factors[order[i]]), planes.astype(jnp.float32)
    )
    return jnp.round(x).astype(jnp.uint8)
