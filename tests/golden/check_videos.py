"""Real video files against what other readers (PyAV from the start, decord) saw of them: videos.json.

The files are looked for beside the JSON file and in ../shared/videos.
"""

import json
import pathlib
from collections.abc import Iterator

import numpy as np

from tadjax.errors import DataError
from tadjax.video.frames import probe, read_frames, times
from tests.golden.compare import Row

REFERENCE = pathlib.Path(__file__).with_name("videos.json")
VIDEOS = pathlib.Path(__file__).parents[3] / "shared" / "videos"


def matches(name: str, keys: set[str]) -> bool:
    return bool(keys) and all(pathlib.Path(key).suffix in (".mp4", ".mkv", ".mov", ".avi", ".webm") for key in keys)


def check(path: pathlib.Path) -> Iterator[Row]:
    for name, reference in json.loads(path.read_text()).items():
        file = next((d / name for d in (path.parent, VIDEOS) if (d / name).exists()), None)
        if file is not None:
            yield from check_video(file, reference)


def check_video(file: pathlib.Path, reference: dict) -> Iterator[Row]:
    """Frame count, size, presentation times and the mean RGB of frames of one file."""
    name = file.name
    if "open_error" in reference["pyav"]:
        try:
            frames = probe(file).frames
        except DataError:
            frames = 0
        yield Row(f"{name} frames", frames, 0)
        return
    info = probe(file)
    # The other readers' stream is the first of its file, FFmpeg's own choice (which decord makes, too) is the best.
    pyav = reference["pyav"]
    upright = (pyav["width"], pyav["height"])[:: -1 if pyav["rotation"] % 180 else 1]
    same_stream = upright == (info.width, info.height)
    means = (pyav if same_stream else reference["decord"])["mean_rgb_of_frames"]
    if pyav["decode_error"] is None:  # else the references stop where the damage is, or believe the header
        yield Row(f"{name} frames", info.frames, reference["decord"]["len"])
    if same_stream and pyav["pts_s"] is not None:
        seconds = np.sort(pyav["pts_s"])  # of packed B-frames they come in no order
        yield Row(f"{name} seconds", times(file)[: len(seconds)], seconds - seconds[0], atol=1e-6)
    indices = [int(i) for i, *_ in means]
    got = [read_frames(file, [i], max_missing=0).frames[0].mean((0, 1)) for i in indices]
    yield Row(f"{name} mean RGB", np.array(got), np.array([rgb for _, *rgb in means]), atol=6e-4)  # they keep 3 digits
