"""Augmentation on the accelerator: one draw a video, the same for all its frames.

The published end-to-end recipes (AdaTAD's code release; LoSA): random resized crop, horizontal flip, RandAugment
(Cubuk et al. 2020) or AutoAugment (Cubuk et al. 2019), colour jitter. `draw` decides, from one seed a video; `augment`
carries it out on a batch inside jit. The pixel arithmetic is in image_ops.py.

Frames stay uint8 and are worked on a few at a time, so that a window of 1,536 frames costs little more memory than
its input and its output.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tadjax.data import image_ops
from tadjax.errors import ConfigError

ASPECT = (3 / 4, 4 / 3)  # width by height of the random crop
CROP_TRIES = 10  # before the centre square is taken
JITTER = (0.5, 0.5, 0.5, 0.1)  # reach of brightness, contrast and saturation about 1, of hue (in turns) about 0
FRAMES_AT_ONCE = 32
NAMES = tuple(image_ops.OPERATIONS)
RANDAUGMENT = tuple(name for name in NAMES if name != "identity")
POLICY_NUMBERS = 4 * len(RANDAUGMENT)  # random numbers set aside for a policy, whichever it is


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """What is drawn; the fields are those of `config.augment`. Hashable: a static argument of jit."""

    policy: str = "randaugment"  # randaugment, autoaugment or none
    crop: bool = True  # random resized crop; otherwise the centre square
    min_area: float = 0.08  # smallest area of the random crop, as a share of the picture
    flip: float = 0.5  # probability of a horizontal flip
    operations: int = 2  # of RandAugment, drawn a video
    magnitude: float = 9  # of RandAugment, 0 to 10
    jitter: bool = True  # brightness, contrast, saturation and hue

    def __post_init__(self):
        def check(field, right, what):
            if not right:
                raise ConfigError(f"augment.{field} is {getattr(self, field)!r}; it must be {what}")

        check("policy", self.policy in ("randaugment", "autoaugment", "none"), "randaugment, autoaugment or none")
        check("min_area", 0 < self.min_area <= 1, "above 0 and at most 1")
        check("flip", 0 <= self.flip <= 1, "a probability, 0 to 1")
        check("operations", 0 <= self.operations <= len(RANDAUGMENT), f"0 to {len(RANDAUGMENT)}")
        check("magnitude", 0 <= self.magnitude <= 10, "0 to 10")


class Draw(NamedTuple):
    """What happens to one video: all that is random. N operations, applied one after the other."""

    box: jax.Array  # int32 [4]: top, left, height, width of the crop in pixels of the upright picture
    flip: jax.Array  # bool
    operations: jax.Array  # int32 [N], indices into NAMES
    strengths: jax.Array  # float32 [N], in the units of the operation
    places: jax.Array  # float32 [N, 2], where cut-out falls
    factors: jax.Array  # float32 [4], of image_ops.JITTERS
    order: jax.Array  # int32 [4], a permutation


def draw(seed: jax.Array, height: jax.Array, width: jax.Array, settings: Augmentation) -> Draw:
    """Draws for one video, a pure function of its arguments.

    Args:
      seed: uint32 scalar. height, width: int scalars, of the upright picture in pixels.
    """
    # One call gives all the numbers: every call of the generator adds a good part of a second of compilation. The
    # generator is named, so that a user's jax_default_prng_impl does not change what a seed means.
    uniform = jax.random.uniform(jax.random.key(seed, impl="threefry2x32"), (2 * CROP_TRIES + 11 + POLICY_NUMBERS,))
    pieces = np.cumsum([CROP_TRIES, CROP_TRIES, 2, 1, 4, 4])
    area, aspect, place, flip, factors, order, policy = jnp.split(uniform, pieces)
    if settings.crop:
        box = _random_box(area, aspect, place, height, width, settings.min_area)
    else:
        box = _center_box(height, width)
    operations, strengths, places = _POLICIES[settings.policy](policy, settings)
    factors = jnp.array([1, 1, 1, 0], jnp.float32) + jnp.array(JITTER, jnp.float32) * (2 * factors - 1)
    return Draw(box, flip[0] < settings.flip, operations, strengths, places, factors, jnp.argsort(order))


def _center_box(height, width) -> jax.Array:
    side = jnp.minimum(height, width)
    return jnp.stack([(height - side) // 2, (width - side) // 2, side, side]).astype(jnp.int32)


def _random_box(area, aspect, place, height, width, min_area) -> jax.Array:
    """The first of ten candidates that fits: area uniform, aspect log-uniform, place uniform (Inception's crop).

    area, aspect: float32 [10]; place: float32 [2]; all uniform in [0, 1).
    """
    area = (min_area + (1 - min_area) * area) * height * width
    low, high = np.log(ASPECT)
    aspect = jnp.exp(low + (high - low) * aspect)
    widths = jnp.maximum(jnp.round(jnp.sqrt(area * aspect)), 1).astype(jnp.int32)
    heights = jnp.maximum(jnp.round(jnp.sqrt(area / aspect)), 1).astype(jnp.int32)
    fits = (widths <= width) & (heights <= height)
    first = jnp.argmax(fits)
    h, w = heights[first], widths[first]
    top = jnp.minimum(jnp.floor(place[0] * (height - h + 1)).astype(jnp.int32), height - h)
    left = jnp.minimum(jnp.floor(place[1] * (width - w + 1)).astype(jnp.int32), width - w)
    return jnp.where(fits.any(), jnp.stack([top, left, h, w]), _center_box(height, width))


def _randaugment(uniform, settings: Augmentation):
    """N different operations at one magnitude, in the order of the list; geometric ones in either direction."""
    which, sign, place = jnp.split(uniform, np.cumsum([len(RANDAUGMENT), settings.operations]))
    level = settings.magnitude / 10
    strength = {
        "shear_x": 17.19 * level,  # degrees (0.3 rad)
        "shear_y": 17.19 * level,
        "translate_x": 0.2 * level,  # share of the side
        "translate_y": 0.2 * level,
        "rotate": 30 * level,  # degrees
        "posterize": max(1, int(4 * level)),  # bits kept
        "solarize": 256 * level,  # threshold
        "color": 0.1 + 1.8 * level,  # factors
        "contrast": 0.1 + 1.8 * level,
        "brightness": 0.1 + 1.8 * level,
        "sharpness": 0.1 + 1.8 * level,
        "cutout": 0.2 * level,  # share of the side
    }
    strengths = jnp.array([strength.get(name, 0.0) for name in RANDAUGMENT], jnp.float32)
    signed = jnp.array([name in _SIGNED for name in RANDAUGMENT])
    n = settings.operations
    operations = jnp.sort(jnp.argsort(which)[:n])
    sign = jnp.where((sign < 0.5) & signed[operations], -1.0, 1.0)
    return operations, strengths[operations] * sign, place[: 2 * n].reshape(n, 2)


_SIGNED = ("shear_x", "shear_y", "translate_x", "translate_y", "rotate")

# AutoAugment's ImageNet policy (Cubuk et al. 2019, appendix): each line one sub-policy, of which one is drawn a video;
# (operation, probability, magnitude 0 to 9) twice.
AUTOAUGMENT = (
    (("posterize", 0.4, 8), ("rotate", 0.6, 9)),
    (("solarize", 0.6, 5), ("autocontrast", 0.6, 5)),
    (("equalize", 0.8, 8), ("equalize", 0.6, 3)),
    (("posterize", 0.6, 7), ("posterize", 0.6, 6)),
    (("equalize", 0.4, 7), ("solarize", 0.2, 4)),
    (("equalize", 0.4, 4), ("rotate", 0.8, 8)),
    (("solarize", 0.6, 3), ("equalize", 0.6, 7)),
    (("posterize", 0.8, 5), ("equalize", 1.0, 2)),
    (("rotate", 0.2, 3), ("solarize", 0.6, 8)),
    (("equalize", 0.6, 8), ("posterize", 0.4, 6)),
    (("rotate", 0.8, 8), ("color", 0.4, 0)),
    (("rotate", 0.4, 9), ("equalize", 0.6, 2)),
    (("equalize", 0.0, 7), ("equalize", 0.8, 8)),
    (("invert", 0.6, 4), ("equalize", 1.0, 8)),
    (("color", 0.6, 4), ("contrast", 1.0, 8)),
    (("rotate", 0.8, 8), ("color", 1.0, 2)),
    (("color", 0.8, 8), ("solarize", 0.8, 7)),
    (("sharpness", 0.4, 7), ("invert", 0.6, 8)),
    (("shear_x", 0.6, 5), ("equalize", 1.0, 9)),
    (("color", 0.4, 0), ("equalize", 0.6, 3)),
    (("equalize", 0.4, 7), ("solarize", 0.2, 4)),
    (("solarize", 0.6, 5), ("autocontrast", 0.6, 5)),
    (("invert", 0.6, 4), ("equalize", 1.0, 8)),
    (("color", 0.6, 4), ("contrast", 1.0, 8)),
    (("equalize", 0.8, 8), ("equalize", 0.6, 3)),
)


def _autoaugment_strength(name: str, magnitude: int) -> float:
    """The paper's ranges in ten steps; colour, contrast and sharpness as the distance from factor 1."""
    level = magnitude / 9
    return {
        "shear_x": 17.19 * level,
        "rotate": 30 * level,
        "posterize": 8 - round(4 * level),
        "solarize": 255 * (1 - level),
        "color": 0.9 * level,
        "contrast": 0.9 * level,
        "sharpness": 0.9 * level,
    }.get(name, 0.0)


def _autoaugment(uniform, settings: Augmentation):
    del settings  # the policy was found once; it has no knobs
    names, probabilities, magnitudes = zip(*(step for pair in AUTOAUGMENT for step in pair), strict=True)
    table = jnp.array([NAMES.index(name) for name in names], jnp.int32).reshape(-1, 2)
    strength = [_autoaugment_strength(*step) for step in zip(names, magnitudes, strict=True)]
    strength = jnp.array(strength, jnp.float32).reshape(-1, 2)
    factor_like = jnp.array([name in ("color", "contrast", "sharpness") for name in NAMES])
    signed = jnp.array([name in _SIGNED for name in NAMES]) | factor_like
    row = (uniform[0] * len(AUTOAUGMENT)).astype(jnp.int32)
    operations, strengths = table[row], strength[row]
    sign = jnp.where((uniform[1:3] < 0.5) & signed[operations], -1.0, 1.0)
    strengths = strengths * sign + factor_like[operations]
    used = uniform[3:5] < jnp.array(probabilities, jnp.float32).reshape(-1, 2)[row]
    return jnp.where(used, operations, NAMES.index("identity")), strengths, jnp.zeros((2, 2))


def _no_policy(uniform, settings: Augmentation):
    del uniform, settings
    return jnp.zeros((0,), jnp.int32), jnp.zeros((0,), jnp.float32), jnp.zeros((0, 2), jnp.float32)


_POLICIES = {"randaugment": _randaugment, "autoaugment": _autoaugment, "none": _no_policy}


def augment(
    frames: jax.Array,
    frame_size: jax.Array,
    portrait: jax.Array,
    seeds: jax.Array,
    *,
    size: int,
    settings: Augmentation,
) -> jax.Array:
    """Training views of a batch of canvases.

    It loops over videos and chunks of frames, and a loop cannot be split over devices automatically: on several devices
    call it inside `shard_map`, with `frames` split over videos, time, or both, and the other arguments over videos.
    Frames do not see each other, so the result is the same.

    Args:
      frames: uint8 [B, T, Hc, Wc, 3], the picture at the top left of the canvas, whatever else beyond it.
      frame_size: int32 [B, 2], height and width of the picture as it lies on the canvas.
      portrait: bool [B], true where the picture lies on the canvas transposed.
      seeds: uint32 [B].
      size: side of the result in pixels.

    Returns:
      uint8 [B, T, size, size, 3], upright.
    """

    upright = jnp.where(portrait[:, None], frame_size[:, ::-1], frame_size)
    drawn = jax.vmap(functools.partial(draw, settings=settings))(seeds, upright[:, 0], upright[:, 1])
    operations = list(image_ops.OPERATIONS.values())

    def some_frames(frames, portrait, drawn):
        x = _view(frames, drawn.box, drawn.flip, portrait, size)
        if drawn.operations.size:

            def operate(i, x):
                return jax.lax.switch(drawn.operations[i], operations, x, drawn.strengths[i], drawn.places[i])

            x = jax.lax.fori_loop(0, len(drawn.operations), operate, x)
        if settings.jitter:
            x = image_ops.color_jitter(x, drawn.factors, drawn.order)
        return x.transpose(1, 2, 3, 0)

    return _in_chunks(some_frames, frames, portrait, drawn)


def _view(frames, box, flip, portrait, size: int) -> jax.Array:
    """Crop, resize, flip and put upright: frames uint8 [F, Hc, Wc, 3] -> planes uint8 [3, F, size, size]."""
    _, canvas_height, canvas_width, _ = frames.shape
    top, left, height, width = jnp.where(portrait, box[jnp.array([1, 0, 3, 2])], box)
    rows = image_ops.resize_weights(top, height, flip & portrait, source=canvas_height, size=size)
    columns = image_ops.resize_weights(left, width, flip & ~portrait, source=canvas_width, size=size)
    x = image_ops.resample(frames, rows, columns)
    return jax.lax.cond(portrait, lambda x: x.swapaxes(2, 3), lambda x: x, x)


def _in_chunks(function, frames: jax.Array, *of_video) -> jax.Array:
    """Maps `function(frames [F, ...], *of_video)` over [B, T, ...]: a few frames at once, one video at a time.

    One loop over all chunks: only the operations that a video drew are computed (vmap would compute all of them and
    select), and no more than a chunk is ever held in another form than uint8.
    """
    b, t = frames.shape[:2]
    chunk = max(n for n in range(1, min(t, FRAMES_AT_ONCE) + 1) if t % n == 0)
    of_chunk = jax.tree.map(lambda x: jnp.repeat(x, t // chunk, axis=0), of_video)
    chunks = frames.reshape(b * t // chunk, chunk, *frames.shape[2:])
    out = jax.lax.map(lambda arguments: function(arguments[0], *arguments[1]), (chunks, of_chunk))
    return out.reshape(b, t, *out.shape[2:])
