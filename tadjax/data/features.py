"""Features on disk: a folder with one .npy a video, [T, C] or [C, T], and what says which second row i stands for.

Two kinds. Folders that `--mode=extract` wrote state their own rules,

    FOLDER/features.json      of which backbone, weights and pictures; representation, stride, offset, width, dtype
    FOLDER/NAME.npy           float16 or float32 [T, C]
    FOLDER/NAME.info.json     of the video: frames, frame rate, duration, and frame times if the rate varies

and those that people share (I3D, TSP, SlowFast, VideoMAE ...) state none: the config does. Either way row i stands at
(i * stride + offset) / fps seconds, or, where a whole video is resized to a window, at its share of the duration.
"""

import json
import math
import os
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tadjax.data.annotations import Video
from tadjax.data.sampling import Sample, Sampling
from tadjax.errors import ConfigError, DataError
from tadjax.files import write_whole
from tadjax.video.frames import VideoInfo

RULES = "features.json"
FORMAT = 1
NAMED = 3  # examples that a message about many videos gives


def info_path(features: Path) -> Path:
    """Where what is known of a feature file's video stands."""
    return features.with_name(features.name.removesuffix(".npy") + ".info.json")


def differences(ours: dict[str, Any], theirs: dict[str, Any], but: Sequence[str] = ()) -> list[str]:
    """A line for each rule in which two folders differ."""
    names = [name for name in ours if name not in but and theirs.get(name) != ours[name]]
    return [f"{name}: {theirs.get(name)!r} there, {ours[name]!r} here" for name in names]


def _form(path: Path) -> str:
    """A path as it is compared: a Mac writes é as two letters."""
    return unicodedata.normalize("NFC", str(path))


def is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31


def rows_of(rules: dict[str, Any], frames: int) -> int:
    """Rows that a video of so many frames has in a folder with these rules."""
    return rules["resized_to"] or -(-frames // rules["stride"])


def read_rules(folder: Path) -> dict[str, Any] | None:
    """features.json of a folder; None if it has none. DataError if it is damaged or of another version."""
    try:
        rules = json.loads((folder / RULES).read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{folder / RULES} is damaged: {error}; extract the features again") from error
    if not isinstance(rules, dict) or rules.get("format") != FORMAT:
        raise DataError(f"{folder / RULES} is not of format {FORMAT}, which this version reads: extract again")
    for name in ("resized_to", "stride", "offset", "width"):
        if not is_count(rules.get(name)):
            raise DataError(f'{folder / RULES}: "{name}" is {rules.get(name)!r:.80}, not a whole number: extract again')
    if not (rules["width"] and (rules["stride"] or rules["resized_to"])):
        raise DataError(f'{folder / RULES}: "width", and "stride" or "resized_to", must be above 0: extract again')
    return rules


def rules_of(config: Any, sampling: Sampling, width: int, weights: str) -> dict[str, Any]:
    """features.json for what `--mode=extract` makes: all that the numbers in the files depend on.

    sampling: the evaluation's. width: C. weights: a hash of the backbone's parameters.
    """
    resizes = sampling.method == "resize"
    return {
        "format": FORMAT,
        "rule": _in_words(sampling),
        "backbone": _of_backbone(config.backbone),
        "weights_sha256": weights,
        "representation": config.window.representation,
        "snippet_frames": sampling.snippet_frames,
        "snippet_stride": sampling.snippet_stride if sampling.snippet_frames else 0,
        "frames_per_feature": sampling.frames_per_feature,
        "window_features": sampling.feature_length,
        "resized_to": sampling.feature_length if resizes else 0,
        "stride": 0 if resizes else sampling.stride,
        "offset": 0 if resizes else sampling.offset_frames,
        "fps": config.data.fps,
        "picture": config.window.size,
        "width": width,
        "dtype": config.features.dtype,
        "layout": "time_first",
    }


def _of_backbone(backbone: Any) -> dict[str, Any]:
    """What it is, and those of its options that are set."""
    usual = {"clip_frames": 0, "position_frames": 8, "gelu": "tanh", "layer": -1}
    options = {name: backbone[name] for name, value in usual.items() if backbone[name] != value}
    return {name: backbone[name] for name in ("name", "size", "image")} | options


def _in_words(sampling: Sampling) -> str:
    """Which frames a row is of, and which second it stands for."""
    if sampling.method == "resize":
        place = f"row i stands for part i of {sampling.feature_length} equal parts of the video"
        centre = "that part's middle"
    else:
        place = f"row i stands at frame f = {sampling.stride} i + {sampling.offset_frames}, at second f / fps"
        centre = "f"
    if sampling.snippet_frames:
        n = sampling.snippet_frames
        frames = (
            f"it is of {n} frames alone, {sampling.snippet_stride} apart, number {n // 2} of them (from 0) at {centre}"
        )
        padding = "outside the video its first or last frame is repeated"
    else:
        frames = (
            f"it is of windows of {sampling.frames} sampled frames, {sampling.frames_per_feature} a row, which lie end "
            "to end, interpolated linearly from the backbone's steps over the whole video"
        )
        padding = "the last window is filled up with the last sampled frame"
    return f"{place}; {frames}; {padding}"


def open_npy(path: Path) -> np.ndarray:
    """The array of a .npy file, not yet read from disk. DataError if it is not there, damaged, or not [T, C]."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise DataError(f"{path} does not exist") from None
    except Exception as error:  # on garbage the parser of numpy's header may raise anything
        raise DataError(f"{path} is no whole .npy file of numbers: {error or type(error).__name__}") from error
    if not isinstance(array, np.ndarray) or array.ndim != 2 or not np.issubdtype(array.dtype, np.floating):
        found = f"{array.dtype} {list(array.shape)}" if isinstance(array, np.ndarray) else "an archive"
        raise DataError(f"{path} holds {found}; features are floating point numbers with two axes, time and channels")
    if 0 in array.shape:
        raise DataError(f"{path} is empty: {list(array.shape)}")
    return array


@dataclass(frozen=True)
class FeatureFolder:
    """How one folder's files are found and read; travels to the loader's workers."""

    path: Path
    stride: int  # video frames between two feature steps of a window
    every: int = 1  # rows of a file a feature step, of which the first is taken
    prefix: str = ""
    suffix: str = ""
    channels_first: bool = False
    width: int = 0  # C; 0: not known yet
    rules: dict[str, Any] | None = None

    def file(self, name: str) -> Path:
        """The file of a video; a name may hold subfolders, the prefix stands before its last part."""
        parent, _, last = name.rpartition("/")
        return self.path / parent / f"{self.prefix}{last}{self.suffix}.npy"

    def find(self, videos: Sequence[Video]) -> list[Path]:
        """The files of all videos, in order, in whatever Unicode form their names are. DataError names the missing."""
        if not self.path.is_dir():
            raise DataError(f"config.features.path: {self.path} is no folder; --mode=extract makes one")
        paths = [self.file(video.name) for video in videos]
        if others := {path.parent for path in paths if not path.is_file()}:
            there = {_form(path): path for folder in others if folder.is_dir() for path in folder.iterdir()}
            paths = [path if path.is_file() else there.get(_form(path), path) for path in paths]
        missing = [str(path) for path in paths if not path.is_file()]
        if missing:
            more = f"; and {len(missing) - NAMED} more" if len(missing) > NAMED else ""
            raise DataError(
                f"config.features.path = {self.path}: {len(missing)} of {len(videos)} videos have no features: "
                f"{'; '.join(missing[:NAMED])}{more}. Extract them (--mode=extract), list the videos in the file of "
                "config.data.blocked, or set config.data.prefix and config.features.suffix as the files are named"
            )
        return paths

    def open(self, path: Path) -> np.ndarray:
        """The features of a video, [T, C], not yet read from disk. DataError if they are not as they should be."""
        array = open_npy(path)
        array = array.T if self.channels_first else array
        if self.width and array.shape[1] != self.width:
            turned = "channels_first" if not self.channels_first else "time_first"
            hint = f"; config.features.layout = {turned!r} would fit" if array.shape[0] == self.width else ""
            raise DataError(
                f"{path} has {array.shape[1]} channels, not {self.width} "
                f"({f'as {RULES} says' if self.rules else 'config.features.width, or the first file'}){hint}"
            )
        return array

    def describe(self, path: Path) -> tuple[VideoInfo, np.ndarray | None]:
        """(what is known of a file's video, its frame times if the rate varies).

        Of a published file the frames are those that its rows stand for; its frame rate is 0, not known.
        """
        rows = len(self.open(path))
        if self.rules is None:
            return VideoInfo(-(-rows // self.every) * self.stride, 0.0, 0.0, 0, 0, 0, True, "features"), None
        try:
            known = json.loads(info_path(path).read_text())
            frames, times = known["frames"], known["times"]
            fps, duration = (float(known[name]) for name in ("fps", "duration"))
            times = None if times is None else np.array(times, np.float64)
            if not (is_count(frames) and math.isfinite(fps + duration) and min(fps, duration) >= 0):
                raise ValueError(f"{frames!r} frames, {fps} a second, {duration} s")
            if times is not None and not (times.shape == (frames,) and np.isfinite(times).all()):
                raise ValueError(f'"times" are not the seconds of {frames} frames')
        except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            raise DataError(f"{info_path(path)} is missing or damaged ({error}): extract the video again") from error
        if rows != rows_of(self.rules, frames):
            wanted = rows_of(self.rules, frames)
            raise DataError(f"{path} has {rows} rows, but its video's {frames} frames make {wanted}: extract it again")
        return VideoInfo(frames, fps, duration, 0, 0, 0, times is None, "features"), times

    def window(self, path: Path, sampling: Sampling, sample: Sample) -> np.ndarray:
        """The features of one window, float32 [feature_length, C]; zeros where there is no video, as published."""
        array = self.open(path)
        found = np.zeros((sampling.feature_length, array.shape[1]), np.float32)
        if sampling.method == "resize":
            whole = resized(np.asarray(array, np.float32), sampling.feature_length)
            found[sample.valid] = whole[sample.first :][: np.count_nonzero(sample.valid)]
        else:
            found[sample.valid] = array[sample.frame_indices[sample.valid] // self.stride * self.every]
        if not np.isfinite(found).all():
            raise DataError(f"{path} holds features that are not finite numbers")
        return found


def feature_folder(config: Any) -> FeatureFolder | None:
    """The features that a config reads in place of videos; None if it reads videos.

    Raises ConfigError where the config's time axis is not that on which the features were extracted.
    """
    options, window = config.features, config.window
    if not options.path:
        return None
    path = Path(options.path)
    rules = read_rules(path)
    stride = options.stride or (rules or {}).get("stride") or window.stride
    resizes = "resize" in (window.sampling, window.eval_sampling)
    if rules is not None:
        wrong = []
        if rules["resized_to"] and not resizes:
            wrong.append(
                f"they are whole videos resized to {rules['resized_to']} steps; config.window.sampling and "
                "config.window.eval_sampling must be 'resize'"
            )
        elif not rules["resized_to"] and not resizes:
            if rules["offset"] != window.offset:
                wrong.append(f"their offset is {rules['offset']} frames, config.window.offset = {window.offset}")
            if stride != rules["stride"]:
                wrong.append(f"their stride is {rules['stride']} frames, config.features.stride = {stride}")
        if options.layout != "time_first" or options.suffix:
            wrong.append("config.features.layout must be 'time_first' and config.features.suffix ''")
        if wrong:
            raise ConfigError(f"config.features.path = {path}, by its {RULES}: {'; '.join(wrong)}")
    if not resizes and window.stride % stride:
        raise ConfigError(
            f"config.window.stride = {window.stride} is no multiple of the {stride} video frames between two features "
            f"of config.features.path = {path}"
        )
    folder = FeatureFolder(
        path=path,
        stride=window.stride,
        every=1 if resizes else window.stride // stride,
        prefix=config.data.prefix,
        suffix=options.suffix,
        channels_first=options.layout == "channels_first",
        rules=rules,
    )
    return _with_width(folder, options.width)


def _with_width(folder: FeatureFolder, width: int) -> FeatureFolder:
    """With C: as features.json states it, the config, or else the first file."""
    if folder.rules is not None:
        if width and width != folder.rules["width"]:
            raise ConfigError(
                f"config.features.width = {width}, but {folder.path / RULES} says {folder.rules['width']}; 0 takes that"
            )
        width = folder.rules["width"]
    if not width:
        first = min(folder.path.glob("**/*.npy"), default=None)
        if first is None:
            raise DataError(f"config.features.path: {folder.path} holds no .npy file; --mode=extract makes them")
        width = folder.open(first).shape[1]
    return FeatureFolder(**{**vars(folder), "width": width})


def resized(features: np.ndarray, length: int) -> np.ndarray:
    """A whole video's features [T, C], linearly interpolated to [length, C], as OpenTAD's ResizeFeat does.

    RoI-align over time: a step is the mean of ceil(T / length) points spread evenly over its share of the video, with
    half-pixel centres; beyond the first and the last row their values go on. For T <= length that is one point a step.
    """
    rows = len(features)
    if rows == length:
        return features
    points = -(-rows // length)
    at = (np.arange(length * points) + 0.5) * (rows / (length * points)) - 0.5
    at = np.clip(at, 0, rows - 1)
    below = np.minimum(at.astype(np.int64), max(rows - 2, 0))
    above = np.minimum(below + 1, rows - 1)
    share = (at - below).astype(np.float32)[:, None]
    values = (1 - share) * features[below] + share * features[above]  # [length * points, C]
    return values.reshape(length, points, -1).mean(axis=1)


def write_json(path: str | os.PathLike[str], content: Any, indent: int | None = 1) -> None:
    """Writes a file that appears whole or not at all."""
    write_whole(path, json.dumps(content, indent=indent) + "\n")
