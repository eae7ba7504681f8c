"""Videos -> features of the backbone alone, once, for heads that train on a frozen one: one .npy a video.

folder = extract(config, "runs/vitg")            # of all videos of the config's annotations
config.features.path = str(folder)               # from then on training and evaluation read them

The windows are those of evaluation but that they do not overlap: they lie end to end from the video's first frame, so
that a clip (16 sampled frames of a ViT) always begins at the same frames, and steps are interpolated over the whole
video. Videos that are there whole are passed over. Several processes on one folder share the videos out: each file is
locked while it is made, and appears whole or not at all.
"""

import dataclasses
import fcntl
import io
import json
import os
import pathlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, BinaryIO

import jax
import numpy as np

from tadjax.backbones.layers import resize_in_time
from tadjax.build import build
from tadjax.config import checks as configs
from tadjax.data.dataset import Dataset
from tadjax.data.features import RULES, differences, info_path, open_npy, read_rules, rows_of, rules_of, write_json
from tadjax.data.records import sampling_of
from tadjax.data.sampling import Sampling, Window, list_windows
from tadjax.errors import ConfigError, DataError
from tadjax.files import mark_of
from tadjax.inference.predict import find_videos, folder_names
from tadjax.inference.stream import decoding_threads, one_batch_ahead, stream_windows
from tadjax.localizer import Localizer
from tadjax.parallel import mesh as meshes
from tadjax.parallel.shard import spread
from tadjax.training.log import progress
from tadjax.video.frame_index import FrameIndex
from tadjax.video.frames import frame_index
from tadjax.workdir.checkpoint import load_frozen
from tadjax.workdir.run import (
    Params,
    abstract_params,
    backbone_alone,
    check_weights,
    initial_params,
    load_run,
)
from tadjax.workdir.weights import digest


def extract(
    config: Any,
    workdir: str | os.PathLike[str],
    *,
    videos: Sequence[str] = (),
    output: str = "",
    backbone: Params | None = None,
) -> pathlib.Path:
    """Features of all videos; returns their folder (OUTPUT, or WORKDIR/features).

    videos: files, folders or patterns; none for those of the config's annotations, training and evaluation. backbone:
    its parameters; None takes those of the run in `workdir`, else those that the config names.

    Raises DataError that names the videos of which there are none; ConfigError or WeightsError for what is set wrong.
    """
    failures = extract_videos(config, workdir, videos, output, backbone)
    if failures:
        raise DataError("no features of: " + "; ".join(failures))
    return _folder(workdir, output)


def extract_videos(
    config: Any,
    workdir: str | os.PathLike[str],
    videos: Sequence[str] = (),
    output: str = "",
    backbone: Params | None = None,
) -> list[str]:
    """--mode=extract: `extract` that goes on after a bad video; returns a sentence for each, which stderr shows."""
    folder = _folder(workdir, output)
    jobs, failures = _jobs(config, videos, folder)
    for failure in failures:
        print(f"error: {failure}", file=sys.stderr)
    if not jobs:
        return failures
    extractor = Extractor(config, pathlib.Path(workdir).expanduser(), backbone)
    extractor.open(folder)
    failures += extractor.run(jobs)
    found = sum(job.found for job in jobs)
    print(f"{len(jobs) - found - len(extractor.failed)} videos extracted, {found} were there already -> {folder}")
    if failures:
        tried = len(jobs) + len(failures) - len(extractor.failed)
        print(f"error: {len(failures)} of {tried} videos could not be used", file=sys.stderr)
    return failures


@dataclasses.dataclass(eq=False)
class _Job:
    """One video on its way to its file."""

    video: pathlib.Path
    target: pathlib.Path
    index: FrameIndex | None = None
    mark: str = ""  # of the video as it is read
    windows: tuple[Window, ...] = ()
    parts: list[np.ndarray] = dataclasses.field(default_factory=list)  # each window's steps, [T', D]
    substituted: int = 0  # frames that cannot be decoded, for which a neighbour stands in
    lock: BinaryIO | None = None  # on the unfinished file
    found: bool = False  # it was there already

    def take(self, wait: bool) -> bool:
        """Locks the file for this process; False if another one is making it (wait: until it has)."""
        self.target.parent.mkdir(parents=True, exist_ok=True)
        lock = self._unfinished.open("ab")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            lock.close()
            return False
        self.lock = lock
        return True

    def write(self, features: np.ndarray) -> None:
        """The whole file or none, then lets it go."""
        content = io.BytesIO()
        np.save(content, features)  # straight into a file it would not tell that a disk is full
        try:
            self.lock.truncate(0)
            self.lock.write(content.getbuffer())
            self.lock.flush()
            os.fsync(self.lock.fileno())
        except OSError as error:
            error.filename = os.fspath(self.target)
            raise
        self._unfinished.replace(self.target)
        self.lock.close()

    def drop(self) -> None:
        """Lets go of a file that is not to be made."""
        self._unfinished.unlink(missing_ok=True)
        self.lock.close()

    @property
    def _unfinished(self) -> pathlib.Path:
        return self.target.with_name(self.target.name + ".part")


class Extractor:
    """A backbone on this process's devices, and the rules of the features that it makes."""

    def __init__(self, config: Any, workdir: pathlib.Path, backbone: Params | None = None):
        alone = backbone_alone(config)
        mesh = meshes.make_mesh(alone.mesh, jax.local_devices())
        localizer = build(alone, classes=1)
        if backbone is None:
            backbone = _parameters(config, alone, workdir, localizer, mesh)
        self._params = {"backbone": backbone}
        self._config = alone
        self._sampling = sampling_of(alone, train=False)
        self._sharding = meshes.batch_sharding(mesh)
        self._batch_size = meshes.rounded_up(alone.evaluation.batch_size, mesh)
        self._steps = jax.jit(spread(localizer, mesh).steps)
        self.rules = rules_of(alone, self._sampling, localizer.backbone.width, digest(backbone))
        self.failed: list[str] = []  # a sentence for each video that could not be used

    def open(self, folder: pathlib.Path) -> None:
        """Writes features.json; ConfigError if the folder holds features of other rules."""
        folder.mkdir(parents=True, exist_ok=True)
        there = read_rules(folder)
        if there is None:
            write_json(folder / RULES, self.rules)
        elif there != self.rules:
            raise ConfigError(
                f"{folder} holds features of other settings; give another --output. What differs:\n  "
                + "\n  ".join(differences(self.rules, there))
            )

    def run(self, jobs: Sequence[_Job]) -> list[str]:
        """Makes the files of all jobs; returns a sentence for each video that cannot be used."""
        with progress("extracting", len(jobs)) as advance:
            others = [job for job in self._make(jobs, advance) if job.lock is None]
            for job in others:  # one by one: who holds a file unfinished must not wait for another
                self._make([job], advance, wait=True)
        return self.failed

    def _make(self, jobs: Sequence[_Job], advance: Callable, wait: bool = False) -> Sequence[_Job]:
        """Makes the files that no other process is making (wait: once it has let go of them); returns all jobs."""
        windows = self._windows(jobs, advance, wait)
        for batch, steps in one_batch_ahead(windows, self._batch_size, self._start):
            self._collect(batch, steps, advance)
        return jobs

    def _start(self, batch: list[tuple[_Job, np.ndarray]]) -> jax.Array:
        """Backbone steps of batch_size windows."""
        return self._steps(self._params, jax.device_put(np.stack([frames for _, frames in batch]), self._sharding))

    def _windows(self, jobs: Sequence[_Job], advance: Callable, wait: bool) -> Iterator[tuple[_Job, np.ndarray]]:
        """Frames of all windows of the videos that are not there yet, decoded ahead."""
        config = self._config
        for job in jobs:
            if not job.take(wait):
                continue
            try:
                if self._is_there(job):
                    job.found = True
                    job.drop()
                    advance()
                    continue
                job.index, job.mark = frame_index(job.video), mark_of(job.video)
                job.windows = _end_to_end(self._sampling, len(job.index))
                for window in stream_windows(
                    job.index,
                    self._sampling,
                    size=config.window.size,
                    max_missing=config.data.max_missing,
                    threads=decoding_threads(config.data.workers),
                    cuts=job.windows,
                ):
                    job.substituted += window.substituted
                    yield job, window.frames
            except DataError as error:
                self._fail(job, error, advance)

    def _is_there(self, job: _Job) -> bool:
        """Whether a video's file is whole, and of the video as it is now."""
        try:
            known = json.loads(info_path(job.target).read_text())
            array = open_npy(job.target)
            same = known["mark"] == mark_of(job.video)
        except (OSError, ValueError, KeyError, TypeError, DataError):
            return False
        if not same:
            print(f"{job.video}: the video changed; its features are made anew", file=sys.stderr)
        wanted = (rows_of(self.rules, known["frames"]), self.rules["width"])
        return same and array.shape == wanted and array.dtype == self.rules["dtype"]

    def _collect(self, batch: list[tuple[_Job, np.ndarray]], steps: jax.Array, advance: Callable) -> None:
        for (job, _), part in zip(batch, jax.device_get(steps), strict=False):
            job.parts.append(part)
            if len(job.parts) == len(job.windows):
                try:
                    self._finish(job)
                except DataError as error:
                    self._fail(job, error, advance)
                else:
                    advance()

    def _finish(self, job: _Job) -> None:
        info = job.index.info
        steps = np.concatenate(job.parts)
        features = interpolated(steps, len(job.windows) * self._sampling.feature_length)
        features = features[: rows_of(self.rules, info.frames)].astype(self.rules["dtype"])
        job.parts = []
        if not np.isfinite(features).all():
            raise DataError(
                f"{job.video}: its features are not finite in {self.rules['dtype']}"
                + ("; config.features.dtype='float32' reaches further" if np.isfinite(steps).all() else "")
            )
        about = {
            "video": job.video.name,
            "mark": job.mark,
            "frames": info.frames,
            "fps": info.fps,
            "duration": info.duration,
            "times": None if info.constant_rate else job.index.times.tolist(),
            "substituted": job.substituted,
        }
        write_json(info_path(job.target), about, indent=None)
        job.write(features)

    def _fail(self, job: _Job, error: DataError, advance: Callable) -> None:
        job.parts = []
        job.drop()
        self.failed.append(str(error))
        print(f"error: {error}", file=sys.stderr)
        advance()


def interpolated(steps: np.ndarray, length: int) -> np.ndarray:
    """A video's backbone steps [T', D] at its feature steps [length, D], as a window's are: tadjax/localizer.py."""
    return steps if len(steps) == length else np.asarray(resize_in_time(steps[None], length)[0])


def _end_to_end(sampling: Sampling, frames: int) -> tuple[Window, ...]:
    """Windows that cover a video without overlap, the last one filled up beyond its end."""
    if sampling.method == "resize":
        return list_windows(sampling, frames)
    steps, length = -(-frames // sampling.stride), sampling.feature_length
    return tuple(Window(start, min(length, steps - start)) for start in range(0, steps, length))


def _folder(workdir: str | os.PathLike[str], output: str) -> pathlib.Path:
    return (pathlib.Path(output) if output else pathlib.Path(workdir) / "features").expanduser()


def _jobs(config: Any, videos: Sequence[str], folder: pathlib.Path) -> tuple[list[_Job], list[str]]:
    """What is to be done, and a sentence for each of `videos` that names no file."""
    if videos:
        paths, failures = find_videos(videos)
        names = folder_names(paths)
    else:
        data, dataset = config.data, Dataset(config)
        found = [video for annotations in dataset.subsets.values() for video in annotations.videos]
        paths, failures = dataset.find_videos(found), []
        if any(not isinstance(path, pathlib.Path) for path in paths):
            raise ConfigError(f"config.data.tfds = {data.tfds} embeds its videos; --mode=extract takes video files")
        names = [os.path.splitext(path.relative_to(data.videos))[0] for path in paths]
    return [_Job(path, folder / f"{name}.npy") for path, name in zip(paths, names, strict=True)], failures


def _parameters(
    config: Any, alone: Any, workdir: pathlib.Path, localizer: Localizer, mesh: jax.sharding.Mesh
) -> Params:
    """The backbone that the run in `workdir` trained or began with; without a run, the one that the config names."""
    if config.adaptation.method == "full_tia":
        raise ConfigError(
            "config.adaptation.method = 'full_tia': this backbone was trained with adapters inside and means nothing "
            "without them; features are those of the backbone alone"
        )
    if "backbone" in configs.trained_collections(config) and (workdir / "checkpoints").exists():
        return load_run(config, workdir).params["backbone"]
    if (workdir / "frozen").exists():
        return load_frozen(workdir, {"backbone": abstract_params(alone, localizer, mesh)["backbone"]})["backbone"]
    check_weights(alone)
    return initial_params(alone, localizer, mesh)["backbone"]
