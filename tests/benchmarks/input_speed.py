"""Decoding for the flagship's windows, against the published pipeline: decord, and augmentation on the CPU."""

import importlib.util
import json
import pathlib
import tempfile
import time

import numpy as np

from tests.benchmarks import run
from tests.memory import peak_bytes

SIZES = ((320, 240), (1280, 720))
FPS, FRAMES = 30, 3600
INDICES = np.arange(200, 200 + 4 * 768, 4)  # a window of 768 frames, every fourth of the video's
SHORT_SIDE, SIZE = 182, 160
ROUNDS = 3


def main() -> None:
    """768 frames, every fourth, short side 182, of 30 fps H.264; CPU seconds of one process, the best of three."""
    pipelines = {"ours": ours, "decord": decord, "decord, augmented": augmented}
    missing = [name for name in ("decord", "cv2") if importlib.util.find_spec(name) is None]
    if missing:
        print(f"without {' and '.join(missing)} (pip install decord opencv-python-headless) only ours is timed")
        pipelines = {"ours": ours}
    print(f"{'':26}{'CPU s':>8}{'frames/s a core':>17}{'peak MB':>9}{'times ours':>12}{'memory':>8}")
    with tempfile.TemporaryDirectory() as folder:
        for width, height in SIZES:
            path = make_video(pathlib.Path(folder) / f"{width}x{height}.mp4", width, height)
            found: dict[str, list[tuple[float, float]]] = {name: [] for name in pipelines}
            for _ in range(ROUNDS):  # in turn, so that what else the machine does hits all alike
                for name, pipeline in pipelines.items():
                    found[name].append(measured(pipeline.__name__, path))
            base_seconds, base_memory = (min(column) for column in zip(*found["ours"], strict=True))
            for name, values in found.items():
                seconds, memory = (min(column) for column in zip(*values, strict=True))
                print(
                    f"{f'{width}x{height} {name}':26}{seconds:8.2f}{len(INDICES) / seconds:17.0f}{memory:9.0f}"
                    f"{seconds / base_seconds:12.1f}{memory / base_memory:8.1f}"
                )


def make_video(path: pathlib.Path, width: int, height: int) -> pathlib.Path:
    """Two minutes of a textured picture that pans, under noise: about as hard to decode as a film."""
    import av

    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (height // 8 + 64, width // 8 + 64, 3))
    picture = np.kron(coarse, np.ones((8, 8, 1))).astype(np.int16)
    grain = rng.integers(-12, 13, (8, height, width, 3), np.int16)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"crf": "23", "preset": "veryfast", "g": "250"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for i in range(FRAMES):
            top, left = int(200 + 150 * np.sin(i / 90)), int(200 + 150 * np.cos(i / 70))
            frame = np.clip(picture[top : top + height, left : left + width] + grain[i % 8], 0, 255).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
        container.mux(stream.encode())
    return path


def measured(pipeline: str, path: pathlib.Path) -> tuple[float, float]:
    """(CPU seconds, peak MB) of a pipeline in a process of its own."""
    code = f"from tests.benchmarks import input_speed; input_speed.report(input_speed.{pipeline}, {str(path)!r})"
    return tuple(json.loads(run("-c", code).splitlines()[-1]))


def report(pipeline, path: str) -> None:
    start = time.process_time()
    frames = pipeline(path)
    seconds = time.process_time() - start
    assert len(frames) == len(INDICES), frames.shape
    print(json.dumps([seconds, peak_bytes() / 2**20]))


def ours(path: str) -> np.ndarray:
    """What the loader decodes; the augmentation is the device's."""
    from tadjax.video.frames import read_frames

    return read_frames(path, INDICES, short_side=SHORT_SIDE).frames


def decord(path: str) -> np.ndarray:
    """The published pipeline as far as ours goes: decode, then resize on the CPU."""
    from decord import VideoReader

    return resized(VideoReader(path, num_threads=1).get_batch(INDICES).asnumpy())


def augmented(path: str) -> np.ndarray:
    """... and further: random resized crop, flip and colour jitter. Its RandAugment is left out, in its favour."""
    import cv2

    rng = np.random.default_rng(0)
    frames = decord(path)
    height, width = frames.shape[1:3]
    side = int(0.8 * height)
    top, left = rng.integers(0, height - side), rng.integers(0, width - side)
    brightness, contrast, saturation = rng.uniform(0.5, 1.5, 3)
    hue = rng.uniform(-18, 18)
    out = np.empty((len(frames), SIZE, SIZE, 3), np.uint8)
    for i, frame in enumerate(frames):
        picture = cv2.resize(frame[top : top + side, left : left + side][:, ::-1], (SIZE, SIZE)).astype(np.float32)
        picture *= brightness
        picture += (1 - contrast) * (picture.mean() - picture)
        grey = picture @ np.array([0.299, 0.587, 0.114], np.float32)
        picture = saturation * picture + (1 - saturation) * grey[..., None]
        hsv = cv2.cvtColor(np.clip(picture, 0, 255).astype(np.uint8), cv2.COLOR_RGB2HSV)
        hsv[..., 0] = (hsv[..., 0] + hue) % 180
        out[i] = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    return out


def resized(frames: np.ndarray) -> np.ndarray:
    import cv2

    cv2.setNumThreads(1)
    scale = SHORT_SIDE / min(frames.shape[1:3])
    size = round(frames.shape[2] * scale), round(frames.shape[1] * scale)
    return np.stack([cv2.resize(frame, size) for frame in frames])
