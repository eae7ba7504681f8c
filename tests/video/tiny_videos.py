"""Five tiny mp4 files whose frames tell their number, and their annotations."""

import pathlib
from collections.abc import Sequence

import av
import numpy as np

from tadjax.data import records
from tadjax.data.annotations import Video
from tadjax.data.sampling import Sampling
from tadjax.video import folder as video_folder

FRAMES = (40, 25, 64, 33, 50)  # of the five videos, at 10 frames a second
SEGMENTS = ([[0.5, 1.5], [2.0, 3.0]], [[1.0, 2.0]], [[0.5, 1.0], [3.0, 4.5], [5.0, 6.0]], [[1.0, 3.0]], [[2.0, 2.5]])
PORTRAIT = 3  # the video that is higher than wide
SAMPLING = Sampling("random_trunc", feature_length=16, stride=2, crop_ratio=(0.9, 1.0))  # 32 of a video's frames
SLIDING = Sampling("sliding", feature_length=16, stride=1, overlap=0.5)


def gray(frame: int) -> int:
    return 20 + 3 * frame


def number_of(pictures: np.ndarray) -> np.ndarray:
    """Frame numbers [T] of pictures [T, h, w, 3], to 0.7: shades are three levels apart, YUV rounds by one or two."""
    return (pictures.mean(axis=(1, 2, 3)) - gray(0)) / 3


def write_video(path: pathlib.Path, frames: int, width: int = 32, height: int = 24) -> None:
    """Frame i is a plane of gray(i)."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"qp": "0", "g": "10"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for i in range(frames):
            picture = np.full((height, width, 3), gray(i), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        container.mux(stream.encode())


def write_videos(folder: pathlib.Path) -> None:
    for i, frames in enumerate(FRAMES):
        write_video(folder / f"clip{i}.mp4", frames, *((24, 32) if i == PORTRAIT else (32, 24)))


def make_video(index: int) -> Video:
    """The annotations of a video."""
    segments = np.array(SEGMENTS[index], np.float64)
    labels = np.arange(len(segments), dtype=np.int32) % 3
    return Video(f"clip{index}", "training", FRAMES[index] / 10, FRAMES[index], 10.0, segments, labels)


def open_videos(folder: pathlib.Path) -> list[records.Source]:
    videos = [make_video(i) for i in range(len(FRAMES))]
    return records.open_sources(videos, video_folder.find_videos(videos, folder), SAMPLING)


def train_set(sources: Sequence[records.Source], sampling: Sampling = SAMPLING, **options) -> records.TrainSet:
    return records.TrainSet(sources, sampling, **{"seed": 3, "short_side": 24, **options})


def evaluation_set(sources: Sequence[records.Source]) -> records.EvaluationSet:
    return records.EvaluationSet(sources, SLIDING, size=16)
