"""Videos of any codec and container whose pictures carry their own frame number."""

from fractions import Fraction

import av
import numpy as np

BITS = 10


def picture(number: int, width: int, height: int) -> np.ndarray:
    """uint8 [height, width, 3]: a moving gradient and, as ten dark or bright columns in the lower half, the number."""
    y, x = np.mgrid[:height, :width]
    rgb = np.stack([(3 * x + 5 * number) % 256, (4 * y + 3 * number) % 256, (x + y) % 256], -1).astype(np.uint8)
    for bit in range(BITS):
        columns = slice(bit * width // BITS, (bit + 1) * width // BITS)
        rgb[height // 2 :, columns] = 230 if number >> bit & 1 else 25
    return rgb


def number_of(rgb: np.ndarray) -> int:
    """The number that `picture` drew, whatever coding and scaling did to it."""
    height, width = rgb.shape[:2]
    row = rgb[height * 3 // 4].mean(-1)
    return sum(1 << bit for bit in range(BITS) if row[int((bit + 0.5) * width / BITS)] > 128)


def make(
    path,
    frames: int,
    *,
    codec="libx264",
    size=(160, 96),
    rate=25,
    pts=None,
    time_base=None,
    pixels="yuv420p",
    rotation=0,
    container=None,
    bit_rate=None,
    first=0,
    format=None,
    **options,
):
    """A video file of `frames` pictures, the first of number `first`; `pts` in units of `time_base` (default: even)."""
    rate = Fraction(rate)
    with av.open(str(path), "w", format=format, options=container or {}) as output:
        stream = output.add_stream(codec, rate=rate)
        stream.width, stream.height = size
        stream.pix_fmt = pixels
        stream.codec_context.thread_count = 1
        stream.codec_context.options = {k.replace("_", "-"): str(v) for k, v in options.items()}
        if bit_rate:
            stream.bit_rate = bit_rate
        if time_base:
            stream.codec_context.time_base = time_base
        if rotation:
            stream.set_display_rotation(rotation)
        for i in range(frames):
            frame = av.VideoFrame.from_ndarray(picture(first + i, *size), format="rgb24")
            frame.pts, frame.time_base = (i, 1 / rate) if pts is None else (int(pts[i]), time_base)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return str(path)
