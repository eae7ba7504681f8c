"""Seconds, video frames and feature steps: where each stands on the time axis of a video and of its windows.

Units: seconds are float64; frames and feature steps may be fractions.

There is one clock. A second is what a player shows: the presentation time in the container, after its edit list. In MP4
and Matroska the clock's 0 is the container's own; MPEG's clocks begin anywhere, and there (and in all other containers)
0 is where the first stream, of sound or pictures, starts. So frame 0 stands at `start`, which is 0 but in files whose
pictures come later than that (`VideoInfo.start`). Detections are given on this clock, and annotations of your own
videos are read on it (prepare custom writes "first_picture", the start of the annotated file, into annotations.json).
Re-encoded files keep the start.

Data sets of publishers say nothing of "first_picture". Their seconds count from the first picture, and frame n stands
at n / fps, whatever the file's container says: published results rest on that.
"""

from dataclasses import dataclass, field

import numpy as np

from tadjax.data.annotations import Video
from tadjax.errors import DataError


@dataclass(frozen=True)
class Timeline:
    """How seconds and frames of one video correspond.

    With `frame_times` (variable frame rate) frame i stands at start + frame_times[i]; otherwise at start + i / fps.
    Between frames, and beyond the first and the last one, time runs on evenly.
    """

    duration: float  # seconds from the first picture to the end of the last
    frames: int = 0  # 0: unknown
    declared_fps: float | None = None  # None: frames / duration
    frame_times: np.ndarray | None = field(default=None, compare=False, repr=False)  # float64 [frames], seconds, rising
    start: float = 0.0  # second at which the first picture is shown

    def __post_init__(self) -> None:
        if not self.duration > 0:
            raise DataError(f"a video lasts {self.duration} s; its duration must be positive")
        if self.declared_fps is None and self.frames < 1:
            raise DataError("a video's frame rate is unknown: neither its frame count nor its fps is given")
        if self.declared_fps is not None and not self.declared_fps > 0:
            raise DataError(f"a video has {self.declared_fps} frames a second; fps must be positive")
        times = self.frame_times
        if times is not None and (len(times) != self.frames or np.any(np.diff(times) <= 0)):
            raise DataError(f"frame_times must hold one rising time for each of the {self.frames} frames")

    @property
    def fps(self) -> float:
        return self.frames / self.duration if self.declared_fps is None else self.declared_fps

    @property
    def end(self) -> float:
        """The second at which the last picture ends."""
        return self.start + self.duration

    def to_seconds(self, frames: np.ndarray) -> np.ndarray:
        """Times at which (fractions of) frames stand; floats keep their precision, integers become float64."""
        if self.frame_times is None:
            return np.asarray(frames) / self.fps + self.start
        beyond = np.minimum(frames, 0) + np.maximum(frames - (self.frames - 1.0), 0)
        return np.interp(frames, np.arange(self.frames), self.frame_times) + beyond / self.fps + self.start

    def to_frames(self, seconds: np.ndarray) -> np.ndarray:
        """The inverse of `to_seconds`."""
        seconds = np.asarray(seconds) - self.start
        if self.frame_times is None:
            return seconds * self.fps
        beyond = np.minimum(seconds - self.frame_times[0], 0) + np.maximum(seconds - self.frame_times[-1], 0)
        return np.interp(seconds, self.frame_times, np.arange(self.frames)) + beyond * self.fps


def timeline_of(
    video: Video,
    *,
    fps: float | None = None,
    file_frames: int = 0,
    file_fps: float = 0.0,
    frame_times: np.ndarray | None = None,
) -> Timeline:
    """The timeline of an annotated video, from the best that is known of it.

    In this order: `frame_times`, the presentation times of its file, where the frame rate varies; `fps`, where the
    recipe states one for the whole data set; the annotated frame count, as published numbers rest on it even where the
    file has some frames more or less; the annotated fps; the file's own frame count and fps.
    """
    duration, start = video.duration, video.start or 0.0
    if frame_times is not None:
        return Timeline(duration, len(frame_times), len(frame_times) / duration, frame_times, start)
    if fps:
        return Timeline(duration, int(duration * fps), float(fps), start=start)
    if video.frames:
        return Timeline(duration, video.frames, start=start)
    if video.fps:
        return Timeline(duration, int(duration * video.fps), video.fps, start=start)
    if not file_fps > 0:
        raise DataError(f'video {video.name!r}: has neither "frame" nor "fps" in the annotations, nor fps in its file')
    return Timeline(duration, file_frames or int(duration * file_fps), file_fps, start=start)


@dataclass(frozen=True)
class Grid:
    """The time axis of one window: the one conversion between its feature steps and seconds, each way.

    frames:   seconds = start + (step * stride + window_start_frame + offset_frames) / fps
    resized:  seconds = start + step / feature_length * duration                              (stride 0)
    """

    timeline: Timeline
    feature_length: int
    stride: int  # video frames between two feature steps; 0: the whole video stretched over feature_length steps
    window_start_frame: int = 0
    offset_frames: int = 0

    def to_seconds(self, steps: np.ndarray) -> np.ndarray:
        """Feature steps -> seconds, any shape, clipped to the video (heads also point outside it)."""
        if self.stride:
            frames = steps * self.stride + self.window_start_frame + self.offset_frames
            seconds = self.timeline.to_seconds(frames)
        elif self.timeline.frame_times is None:
            seconds = steps / self.feature_length * self.timeline.duration + self.timeline.start
        else:
            seconds = self.timeline.to_seconds(steps / self.feature_length * self.timeline.frames)
        return np.clip(seconds, self.timeline.start, self.timeline.end)

    def to_steps(self, seconds: np.ndarray) -> np.ndarray:
        """Seconds -> feature steps, any shape; the inverse of `to_seconds` within the video."""
        if self.stride:
            return self.frames_to_steps(self.timeline.to_frames(seconds))
        if self.timeline.frame_times is None:
            return (seconds - self.timeline.start) / self.timeline.duration * self.feature_length
        return self.timeline.to_frames(seconds) / self.timeline.frames * self.feature_length

    def frames_to_steps(self, frames: np.ndarray) -> np.ndarray:
        return (frames - self.window_start_frame - self.offset_frames) / self.stride
