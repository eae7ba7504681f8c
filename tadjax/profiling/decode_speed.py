"""How fast this machine decodes what training asks for."""

import contextlib
import os
import pathlib
import time
from typing import Any

import numpy as np

from tadjax.data.records import sampling_of
from tadjax.errors import DataError
from tadjax.video.folder import videos_in
from tadjax.video.frames import probe, read_frames


def any_video(config: Any) -> pathlib.Path | None:
    """The first video by name of the config's folder that can be read; None without one."""
    folder = pathlib.Path(config.data.videos) if config.data.videos else None
    if folder is None or not folder.is_dir():
        return None
    for path in videos_in(folder):
        with contextlib.suppress(DataError):
            probe(path)
            return path
    return None


def decoding_speed(path: pathlib.Path, config: Any = None) -> tuple[float, int]:
    """(sampled frames a second, every which frame is one) of one process that reads a window of a video."""
    info = probe(path)
    stride, wanted, side = 4, 256, 182
    if config is not None:
        sampling = sampling_of(config, train=False)
        resized = sampling.method == "resize"
        stride = max(1, info.frames // config.window.frames) if resized else sampling.frame_stride
        wanted, side = config.window.frames, config.window.short_side
    indices = np.arange(0, info.frames, stride)[:wanted]
    start = time.perf_counter()
    read_frames(path, indices, short_side=side, max_missing=1.0)
    return len(indices) / (time.perf_counter() - start), stride


def decoding_processes(config: Any) -> int:
    """How many processes of the loader decode at once on this machine."""
    return max(1, min(config.data.workers, os.cpu_count()))
