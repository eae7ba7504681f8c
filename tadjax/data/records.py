"""Records: which window of which video is number n, and what the model is given for it.

Training is one endless stream of records. Epoch e is a permutation of all training windows (with random truncation and
resize one a video), drawn from (seed, e); record n of the stream is entry n % R of the permutation of epoch n // R,
where R windows make an epoch. Where its window lies and how it is augmented follows from (seed, e, window). So every
record is a pure function of (seed, n): there is no state to save, and nothing depends on who loads it. Each epoch holds
every window exactly once; the boundary between two epochs may fall inside a batch.

Evaluation lists every window of every video once, in the order of the annotations.
"""

import dataclasses
import math
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track

from tadjax.data import sampling as windows
from tadjax.data.annotations import FPS_TOLERANCE, Video
from tadjax.data.built import PackedVideo
from tadjax.data.features import FeatureFolder
from tadjax.data.sampling import GroundTruth, Sampling, Window
from tadjax.data.timeline import Grid, Timeline, timeline_of
from tadjax.data.window_cache import WindowCache
from tadjax.errors import ConfigError, DataError
from tadjax.files import mark_of
from tadjax.video.folder import some_of
from tadjax.video.frames import Frames, VideoInfo, displayed_size, frame_index, read_frames

Record = dict[str, np.ndarray]


# What random numbers are for; the first entropy word, so that the streams differ.
_ORDER, _PLACE, _AUGMENT = 1, 2, 3


@dataclass(frozen=True, eq=False)
class Source:
    """One video and all that is known of it before decoding."""

    index: int  # into the annotations' videos
    name: str
    path: str  # of its file; of a packed video, what messages call it
    info: VideoInfo
    timeline: Timeline
    truth: GroundTruth
    packed: PackedVideo | None = None
    kept: WindowCache | None = None  # where its windows are kept once they are decoded

    def read_frames(
        self,
        indices: np.ndarray,
        cache_dir: str | os.PathLike[str] | None,
        *,
        short_side: int,
        center_crop: int | None = None,
        max_missing: float = 0.05,
        out: np.ndarray | None = None,
    ) -> Frames:
        """As `tadjax.video.frames.read_frames`, wherever the frames lie."""
        options = {"short_side": short_side, "center_crop": center_crop, "max_missing": max_missing}

        def decode(out: np.ndarray | None) -> Frames:
            if self.packed is not None:
                return self.packed.read_frames(indices, out=out, **options)
            return read_frames(self.path, indices, cache_dir=cache_dir, out=out, **options)

        if self.kept is None:
            return decode(out)
        size = displayed_size(self.info, short_side, center_crop)
        out = np.empty((len(indices), *size, 3), np.uint8) if out is None else out
        file = self.path if self.packed is None else os.path.join(self.packed.folder, "dataset_info.json")
        name = f"{self.path} {options} {indices.tolist()}"
        return self.kept.frames(name, size, out, decode, (self.path, mark_of(file)))


@dataclass(frozen=True)
class EvaluationWindow:
    """One window of the evaluation: feature step t of it stands at second `grid.to_seconds(t)` of the video."""

    video: int  # index into the annotations' videos
    name: str
    grid: Grid


def open_sources(
    videos: Sequence[Video],
    paths: Sequence[str | os.PathLike[str] | PackedVideo],
    sampling: Sampling,
    cache_dir: str | os.PathLike[str] | None = None,
    *,
    fps: float = 0.0,
    features: FeatureFolder | None = None,
) -> list[Source]:
    """Indexes every file once by demuxing it (kept in `cache_dir`): frame count, size and, if it varies, frame rate.

    fps: of the annotated seconds, where the recipe states one; the files must have it, too. features: the paths are its
    files, not videos. Of packed videos all of this is known. A file that was re-encoded at another rate than the
    annotated one counts its own frames.

    So a missing or unreadable file is known before training starts, not hours later: one DataError names them all.
    """

    def open_source(index: int) -> Source | DataError:
        video, path = videos[index], str(paths[index])
        packed = paths[index] if isinstance(paths[index], PackedVideo) else None
        try:
            if features is None:
                file = packed or frame_index(path, cache_dir)
                info, times = file.info, None if file.info.constant_rate else file.times
                _check_rate(path, info, fps)
            else:
                info, times = features.describe(Path(path))
            known = dataclasses.replace(video, frames=0, fps=0.0) if _re_encoded(video, info) else video
            timeline = timeline_of(
                known, fps=fps or None, file_frames=info.frames, file_fps=info.fps, frame_times=times
            )
            truth = windows.ground_truth(sampling, timeline, video)
        except DataError as error:
            return error
        return Source(index, video.name, path, info, timeline, truth, packed)

    with ThreadPoolExecutor(8) as pool:  # mostly waiting for the disk
        opened = track(
            pool.map(open_source, range(len(videos))),
            "indexing videos",
            len(videos),
            console=Console(stderr=True),
            disable=not sys.stderr.isatty(),
            transient=True,
        )
        results = list(opened)
    failures = [str(result) for result in results if isinstance(result, DataError)]
    if len(failures) == 1:
        raise DataError(failures[0])
    if failures:
        raise DataError(f"{len(failures)} of {len(videos)} videos cannot be used: {some_of(failures)}")
    return results


def _check_rate(path: str, info: VideoInfo, fps: float) -> None:
    """Frames are counted at the recipe's rate: a file with another one would show other moments."""
    if fps and info.constant_rate and abs(info.fps / fps - 1) > FPS_TOLERANCE:
        raise DataError(
            f"{path}: has {info.fps:.4g} frames a second, config.data.fps says {fps:g}; re-encode the videos "
            f"(python -m tadjax.prepare NAME --reencode FOLDER --fps {fps:g})"
        )


def _re_encoded(video: Video, info: VideoInfo) -> bool:
    """Whether the annotations count the frames of a file of another rate than this one."""

    def differ(annotated: float, found: float) -> bool:
        return annotated > 0 and abs(found / annotated - 1) > FPS_TOLERANCE

    other_count = not video.frames or differ(video.frames, info.frames)
    return info.fps > 0 and differ(video.fps, info.fps) and other_count


def usual_canvas(short_side: int) -> tuple[int, int]:
    """(height, width) of the canvas on which training pictures lie, where none of the videos is wider than 16:9."""
    return short_side, math.ceil(short_side * 16 / 9)


class TrainSet:
    """The training stream. `len` is R, the records of an epoch; `record(n)` is record n of the stream, n = 0, 1, ...

    Videos without a segment are left out. `max_segments` is M, the most segments that any window can hold; `widest` the
    video whose pictures just fit the `canvas`, (height, width), which every batch has.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        sampling: Sampling,
        *,
        seed: int,
        short_side: int,
        max_missing: float = 0.05,
        max_segments: int | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        features: FeatureFolder | None = None,
    ):
        self.sources = tuple(source for source in sources if len(source.truth.labels))
        self.sampling = sampling
        self.seed = seed
        self.short_side = short_side
        self._max_missing = max_missing
        self._cache_dir = cache_dir
        self._features = features
        self._windows = [(source, window) for source in self.sources for window in self._list(source)]
        if not self._windows:
            raise DataError(f"none of the {len(sources)} training videos has a window with a segment to learn from")
        self.widest = max(self.sources, key=self._long_side)
        self.canvas = short_side, self._long_side(self.widest)
        if max_segments is None:
            bounds = (windows.max_segments(sampling, _frames_to_cover(sampling, s), s.truth) for s in self.sources)
            max_segments = max([1, *bounds])
        self.max_segments = max_segments

    def _list(self, source: Source) -> tuple[Window, ...]:
        return windows.list_windows(self.sampling, _frames_to_cover(self.sampling, source), source.truth)

    def _long_side(self, source: Source) -> int:
        """Pixels of a video's pictures as they lie on the canvas; features have none."""
        return self.short_side if self._features is not None else max(displayed_size(source.info, self.short_side))

    def __len__(self) -> int:
        return len(self._windows)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of a record's frames."""
        return self.sampling.frames, *self.canvas, 3

    def order(self, epoch: int) -> np.ndarray:
        """int64 [R]: the windows of an epoch in the order in which they come.

        Sorting the words of a SeedSequence: numpy promises that these stay the same from version to version, which it
        does not for `Generator.permutation`.
        """
        words = np.random.SeedSequence((_ORDER, self.seed, epoch)).generate_state(len(self), np.uint64)
        return np.argsort(words, kind="stable")

    def locate(self, n: int) -> tuple[int, Source, Window]:
        """(epoch, video, window) of record n of the stream."""
        epoch, position = divmod(n, len(self))
        return epoch, *self._windows[self.order(epoch)[position]]

    def record(self, n: int) -> Record:
        """Record n of the stream.

        Returns:
          frames: uint8 [T, canvas height, canvas width, 3], the picture in the top left corner, zeros elsewhere; a
            portrait video lies transposed.
          frame_size: int32 [2], (height, width) of the picture as it lies there. portrait: bool.
          valid: bool [L]. segments: float32 [M, 2], feature steps. labels: int32 [M]. segment_valid: bool [M].
          video: int32, index into the annotations' videos. augment_seed: uint32.
          substituted: int32, frames that could not be decoded and for which a neighbour stands in.
          Of features, instead of frames, frame_size and portrait: features, float32 [L, C].

        Raises:
          DataError: frames that cannot be decoded, or more segments than M.
        """
        epoch, source, window = self.locate(n)
        identity = (self.seed, epoch, source.index, window.start)
        draws = np.random.default_rng((_PLACE, *identity))
        sample = _sample(self.sampling, source, window, draws)
        return {
            **self._content(source, sample),
            "valid": sample.valid,
            **self._pad(source, sample.segments, sample.labels),
            "video": np.int32(source.index),
            "augment_seed": np.random.SeedSequence((_AUGMENT, *identity)).generate_state(1, np.uint32)[0],
        }

    def _content(self, source: Source, sample: windows.Sample) -> Record:
        """What the window shows: pictures, or features on disk."""
        if self._features is not None:
            return _stored(self._features, source, self.sampling, sample)
        portrait = source.info.height > source.info.width
        canvas = np.zeros((self.sampling.frames, *self.canvas, 3), np.uint8)
        frames = source.read_frames(
            sample.frame_indices,
            self._cache_dir,
            short_side=self.short_side,
            max_missing=self._max_missing,
            out=canvas.swapaxes(1, 2) if portrait else canvas,
        )
        size = displayed_size(source.info, self.short_side)
        return {
            "frames": canvas,
            "frame_size": np.array(size[::-1] if portrait else size, np.int32),
            "portrait": np.bool_(portrait),
            "substituted": np.int32(frames.substituted),
        }

    def _pad(self, source: Source, segments: np.ndarray, labels: np.ndarray) -> Record:
        m = len(labels)
        if m > self.max_segments:
            raise DataError(f"{source.path}: a window holds {m} segments, but max_segments is {self.max_segments}")
        padding = self.max_segments - m
        return {
            "segments": np.pad(segments, ((0, padding), (0, 0))),
            "labels": np.pad(labels, (0, padding)),
            "segment_valid": np.arange(self.max_segments) < m,
        }


class EvaluationSet:
    """Every window of every video once. `windows[i]` says where window i lies, `record(i)` decodes it.

    From `len` on, the number of windows, `record` gives padding, which fills the last batch.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        sampling: Sampling,
        *,
        size: int,
        max_missing: float = 0.05,
        cache_dir: str | os.PathLike[str] | None = None,
        features: FeatureFolder | None = None,
    ):
        if sampling.method not in ("sliding", "resize"):
            raise ConfigError(f"config.window.eval_sampling is {sampling.method!r}; it must be 'sliding' or 'resize'")
        self.sources = tuple(sources)
        self.sampling = sampling
        self.size = size
        self._max_missing = max_missing
        self._cache_dir = cache_dir
        self._features = features
        self._windows = [
            (source, window)
            for source in self.sources
            for window in windows.list_windows(sampling, _frames_to_cover(sampling, source))
        ]
        self.windows = tuple(
            EvaluationWindow(source.index, source.name, _sample(sampling, source, window).grid)
            for source, window in self._windows
        )

    def __len__(self) -> int:
        return len(self._windows)

    def record(self, i: int) -> Record:
        """Window i.

        Returns:
          frames: uint8 [T, size, size, 3], the short side scaled to `size` and the centre cut out.
          valid: bool [L]. video: int32. window: int32, i. substituted: int32. real: bool, false for padding (video and
          window are -1 there, and all steps valid: a head may have no answer to a window without any).
          Of features, instead of frames: features, float32 [L, C].

        Raises:
          DataError: frames that cannot be decoded.
        """
        if i >= len(self):
            return self._padding()
        source, window = self._windows[i]
        sample = _sample(self.sampling, source, window)
        return {
            **self._content(source, sample),
            "valid": sample.valid,
            "video": np.int32(source.index),
            "window": np.int32(i),
            "real": np.bool_(True),
        }

    def _content(self, source: Source, sample: windows.Sample) -> Record:
        """What the window shows: pictures, or features on disk."""
        if self._features is not None:
            return _stored(self._features, source, self.sampling, sample)
        frames = source.read_frames(
            sample.frame_indices,
            self._cache_dir,
            short_side=self.size,
            center_crop=self.size,
            max_missing=self._max_missing,
        )
        return {"frames": frames.frames, "substituted": np.int32(frames.substituted)}

    def _padding(self) -> Record:
        if self._features is None:
            empty = {"frames": np.zeros((self.sampling.frames, self.size, self.size, 3), np.uint8)}
        else:
            empty = {"features": np.zeros((self.sampling.feature_length, self._features.width), np.float32)}
        return {
            **empty,
            "valid": np.ones(self.sampling.feature_length, bool),
            "video": np.int32(-1),
            "window": np.int32(-1),
            "substituted": np.int32(0),
            "real": np.bool_(False),
        }


def training_set(
    config: Any,
    videos: Sequence[Video],
    paths: Sequence[Path | PackedVideo],
    cache_dir: str | os.PathLike[str] | None = None,
    features: FeatureFolder | None = None,
) -> TrainSet:
    """The training stream that a config describes, of videos that lie at `paths`, or their features."""
    sampling = sampling_of(config, train=True)
    return TrainSet(
        _open(config, videos, paths, sampling, features, cache_dir),
        sampling,
        seed=config.seed,
        short_side=config.window.short_side,
        max_missing=config.data.max_missing,
        cache_dir=cache_dir,
        features=features,
    )


def evaluation_set(
    config: Any,
    videos: Sequence[Video],
    paths: Sequence[Path | PackedVideo],
    cache_dir: str | os.PathLike[str] | None = None,
    features: FeatureFolder | None = None,
) -> EvaluationSet:
    """The evaluation windows that a config describes, of videos that lie at `paths`, or their features."""
    sampling = sampling_of(config, train=False)
    return EvaluationSet(
        _open(config, videos, paths, sampling, features, cache_dir),
        sampling,
        size=config.window.size,
        max_missing=config.data.max_missing,
        cache_dir=cache_dir,
        features=features,
    )


def _open(
    config: Any,
    videos: Sequence[Video],
    paths: Sequence[Path | PackedVideo],
    sampling: Sampling,
    features: FeatureFolder | None,
    cache_dir: str | os.PathLike[str] | None,
) -> list[Source]:
    sources = open_sources(videos, paths, sampling, cache_dir, fps=config.data.fps, features=features)
    if config.data.cache and sampling.method != "random_trunc":  # which draws other windows each epoch
        kept = WindowCache(config.data.cache, config.data.cache_gib * 2**30)
        sources = [dataclasses.replace(source, kept=kept) for source in sources]
    return sources


def sampling_of(config: Any, train: bool) -> Sampling:
    """`config.window` as arguments of the sampling."""
    window = config.window
    stored = bool(config.features.path)  # one row a feature step, whatever frames it was made of
    snippets = window.representation == "snippet" and not stored
    method = window.sampling if train else window.eval_sampling
    crops = method != "resize" or stored  # a share of a resized video: published for features alone
    return Sampling(
        method=method,
        feature_length=window.feature_length,
        frames_per_feature=1 if snippets or stored else window.frames // window.feature_length,
        stride=window.stride,
        offset_frames=window.offset,
        overlap=window.train_overlap if train else window.overlap,
        coverage=window.coverage,
        ioa_threshold=window.ioa_threshold,
        keep_ratio=window.keep_ratio,
        crop_ratio=tuple(window.crop_ratio) if crops else (),
        whole_frames=window.whole_frames,
        filter_gt=window.filter_segments,
        min_length=window.min_length,
        class_agnostic=config.data.class_agnostic,
        snippet_frames=window.snippet_frames if snippets else 0,
        snippet_stride=window.snippet_stride,
    )


def _frames_to_cover(sampling: Sampling, source: Source) -> int:
    """Published window lists rest on the annotated frame count; so that no frame is left out, the file's counts."""
    published = sampling.method == "sliding" and sampling.coverage == "reference"
    return source.timeline.frames if published else source.info.frames


def _sample(
    sampling: Sampling, source: Source, window: Window, draws: np.random.Generator | None = None
) -> windows.Sample:
    truth = source.truth if draws is not None else None
    try:
        return windows.sample(sampling, source.timeline, source.info.frames, window=window, truth=truth, draws=draws)
    except DataError as error:
        raise DataError(f"{source.path}: {error}") from error


def _stored(features: FeatureFolder, source: Source, sampling: Sampling, sample: windows.Sample) -> Record:
    return {"features": features.window(Path(source.path), sampling, sample), "substituted": np.int32(0)}
