"""Any video file -> detections, subtitles, a timeline, a page. A run's directory is all it needs.

model = tadjax.load("runs/thumos")
found = model.predict("match.mp4", min_score=0.3)
for start, end, label, score in found:
    print(f"{start:.1f} s to {end:.1f} s: {label} ({score:.2f})")
found.save("out")
"""

import contextlib
import dataclasses
import glob
import os
import pathlib
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from tadjax import ending
from tadjax.config import checks as configs
from tadjax.data.annotations import Video, parse_database, read_database
from tadjax.data.records import sampling_of
from tadjax.detections.decode import Detections, postprocess, postprocess_video
from tadjax.detections.fusion import merge_windows
from tadjax.detections.results import write_results
from tadjax.detections.settings import PostSettings
from tadjax.errors import ConfigError, DataError, DiskError, TadjaxError, did_you_mean
from tadjax.files import write_whole
from tadjax.inference.stream import WindowFrames, decoding_threads, one_batch_ahead, stream_windows
from tadjax.parallel import mesh as meshes
from tadjax.parallel.shard import spread
from tadjax.report.exports import clock, to_csv, to_srt, to_vtt
from tadjax.report.page import write_page
from tadjax.report.timeline import Instances, draw_timeline
from tadjax.video.extensions import SOME
from tadjax.video.folder import look_into, passed_over
from tadjax.video.frames import frame_index
from tadjax.video.names import Finder
from tadjax.workdir.run import Run, load_run, on_videos

SHOWN = 10  # detections of a video that the terminal shows


@dataclasses.dataclass(frozen=True)
class Filter:
    """Which detections are wanted: score at least `min_score`, labels among `labels` (() is all), the `top_k` best."""

    min_score: float = 0.0
    top_k: int = 100  # of a video; 0 is all
    labels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.min_score <= 1:
            raise ConfigError(f"min_score is {self.min_score}; scores lie between 0 and 1")
        if self.top_k < 0:
            raise ConfigError(f"top_k is {self.top_k}; it is how many detections of a video to keep, 0 for all")

    def check(self, classes: Sequence[str]) -> None:
        """Raises ConfigError where a wanted label is no class of the model, with the closest that is."""
        for label in self.labels:
            if label not in classes:
                hint = did_you_mean(label, classes) or f"its classes are {', '.join(classes[:20])}"
                raise ConfigError(f"the model knows no label {label!r}; {hint}")

    def __call__(self, found: Detections, classes: Sequence[str]) -> Detections:
        """`found` is sorted, best first, and stays so."""
        keep = found.scores >= self.min_score
        if self.labels:
            keep &= np.isin(found.labels, [classes.index(label) for label in self.labels])
        found = found[keep]
        return found[: self.top_k] if self.top_k else found


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What was found in one video, best first; iterates over (start s, end s, label, score)."""

    path: pathlib.Path
    name: str  # of the video: the file's, without folder and extension
    duration: float  # seconds from 0 of a player's clock, on which all seconds are, to the end of the last picture
    fps: float
    start: float  # second at which the first picture is shown: not 0 where the sound begins earlier
    detections: Detections
    classes: tuple[str, ...]
    substituted: int  # times that a frame could not be decoded and a neighbour stood in (windows overlap)

    def __len__(self) -> int:
        return len(self.detections)

    def __iter__(self) -> Iterator[tuple[float, float, str, float]]:
        found = self.detections
        for (start, end), label, score in zip(
            found.segments.tolist(), found.labels, found.scores.tolist(), strict=True
        ):
            yield start, end, self.classes[label], score

    def save(self, folder: str | os.PathLike[str], truth: Instances | None = None) -> pathlib.Path:
        """Writes detections.json, .csv, .srt, .vtt, timeline.png, timeline.svg and report.html; returns the folder.

        truth: ground truth to draw beside them, labels in the order of `classes`. Raises DataError where the folder
        cannot be written, DiskError where the disk takes nothing more.
        """
        folder = pathlib.Path(folder).expanduser()
        found, classes = self.detections, self.classes
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_results(folder / "detections.json", {self.name: found}, classes)
            write_whole(folder / "detections.csv", to_csv(self.name, found, classes))
            write_whole(folder / "detections.srt", to_srt(found, classes))
            write_whole(folder / "detections.vtt", to_vtt(found, classes))
            for kind in ("png", "svg"):
                draw_timeline(self.name, self.duration, truth, found, classes, folder / f"timeline.{kind}")
            write_page(folder / "report.html", self.path, self.duration, self.fps, truth, found, classes)
        except OSError as error:
            kind = DiskError if error.errno in ending.FULL else DataError
            raise kind(f"{folder}: the predictions cannot be written ({error.strerror or error})") from error
        return folder


class Predictor:
    """A trained model and its classes, ready for any number of videos."""

    def __init__(self, run: Run):
        config = run.config
        mesh = meshes.make_mesh(config.mesh)
        self.classes = run.classes
        self._params = run.params
        self._config = config
        self._sampling = sampling_of(config, train=False)
        self._settings = PostSettings(**config.post)
        self._sharding = meshes.batch_sharding(mesh)
        self._batch_size = meshes.rounded_up(config.evaluation.batch_size, mesh)
        self._candidates = jax.jit(spread(run.localizer, mesh).candidates)

    def predict(
        self,
        video: str | os.PathLike[str],
        *,
        min_score: float = 0.0,
        top_k: int = 100,
        labels: Iterable[str] = (),
        progress: bool | None = None,
    ) -> Prediction:
        """Detections of a video file of any length, at bounded memory.

        min_score, top_k (0: all), labels (none: all): which detections are wanted. progress: show a bar in video time;
        None: on a terminal. Raises DataError for what is no readable video, ConfigError for a wrong filter.
        """
        wanted = Filter(min_score, top_k, tuple(labels))
        wanted.check(self.classes)
        path = pathlib.Path(video).expanduser()
        index = frame_index(path)
        info = index.info
        parts: list[Detections] = []
        substituted = 0
        stream = stream_windows(
            index,
            self._sampling,
            size=self._config.window.size,
            max_missing=self._config.data.max_missing,
            threads=decoding_threads(self._config.data.workers),
        )
        duration = info.start + info.duration
        with _bar(path.name, duration, progress) as advance:
            for batch, candidates in one_batch_ahead(stream, self._batch_size, self._start):
                parts += self._collect(batch, candidates, path)
                substituted += sum(window.substituted for window in batch)
                advance(batch)
        found = merge_windows(parts, self._settings) if self._sliding else Detections.concatenate(parts)
        found = wanted(found, self.classes)
        return Prediction(path, video_name(path), duration, info.fps, info.start, found, self.classes, substituted)

    @property
    def _sliding(self) -> bool:
        return self._sampling.method == "sliding"

    def _start(self, batch: list[WindowFrames]) -> dict[str, jax.Array]:
        """Candidates of batch_size windows."""
        arrays = {name: np.stack([getattr(window, name) for window in batch]) for name in ("frames", "valid")}
        return self._candidates(self._params, jax.device_put(arrays, self._sharding))

    def _collect(self, batch: list[WindowFrames], candidates: dict, path: pathlib.Path) -> list[Detections]:
        rows = jax.device_get(candidates)
        to_detections = postprocess if self._sliding else postprocess_video
        try:
            return [
                to_detections(
                    *(rows[name][row] for name in ("segments", "scores", "valid")), window.grid, self._settings
                )
                for row, window in enumerate(batch)
            ]
        except TadjaxError as error:
            raise DataError(f"{path}: {error}") from error


def load(workdir: str | os.PathLike[str], config: Any = None) -> Predictor:
    """The best checkpoint of a run, on this machine's devices; `config` instead of the run's own, if given.

    Raises ConfigError, DataError or WeightsError, naming what the directory lacks.
    """
    workdir = pathlib.Path(workdir).expanduser()
    config = (configs.load(workdir / "config.json") if config is None else config).copy_and_resolve_references()
    configs.check(config)
    with config.unlocked():  # how the run's machine shared its work out says nothing about this one
        config.mesh.update(dict.fromkeys(config.mesh, 1))
        config.mesh.data = -1
        config.memory.attention = "auto"
    run = load_run(config, workdir)
    return Predictor(on_videos(run) if config.features.path else run)


def predict_files(
    config: Any,
    workdir: pathlib.Path,
    videos: Sequence[str],
    *,
    wanted: Filter = Filter(),
    output: str = "",
    ground_truth: str = "",
) -> list[str]:
    """--mode=predict: writes OUTPUT/NAME/... for every video (OUTPUT: WORKDIR/predictions); returns the failures.

    videos: files, folders, or glob patterns. A video that cannot be used is one sentence on stderr, and the rest goes
    on. Of several videos OUTPUT/results.json holds all detections.
    """
    paths, failures = find_videos(videos)
    for failure in failures:
        print(f"error: {failure}", file=sys.stderr)
    if not paths:
        return failures
    root = pathlib.Path(output).expanduser() if output else workdir / "predictions"
    predictor = load(workdir, config)
    wanted.check(predictor.classes)
    truths = truths_of(paths, ground_truth, predictor.classes, config) if ground_truth else {}
    results = {}
    for path, name in zip(paths, folder_names(paths), strict=True):
        try:
            found = predictor.predict(path, **dataclasses.asdict(wanted))
            found = dataclasses.replace(found, name=name)
            folder = found.save(root / name, on_clock(truths.get(path), found.start))
        except DiskError:  # the next video's would not be written either
            raise
        except TadjaxError as error:
            failures.append(str(error))
            print(f"error: {error}", file=sys.stderr)
            continue
        results[name] = found.detections
        print(summary(found, folder), flush=True)
    if len(results) > 1:
        write_results(root / "results.json", results, predictor.classes)
        print(f"all detections: {root / 'results.json'}")
    if failures and results:
        print(f"error: {len(failures)} of {len(failures) + len(results)} videos could not be used", file=sys.stderr)
    return failures


def find_videos(videos: Sequence[str]) -> tuple[list[pathlib.Path], list[str]]:
    """The files that FILE, DIR or GLOB arguments mean, each once, in order; and a sentence for each that means none.

    What else a folder holds, subfolders too, is named on stderr.
    """
    paths, failures = [], []
    for pattern in map(os.path.expanduser, videos):
        if os.path.isdir(pattern):
            found, others = look_into(pathlib.Path(pattern))
            failure = f"{pattern}: the folder holds no video file ({SOME})"
            if others and found:
                print(passed_over(pathlib.Path(pattern), others), file=sys.stderr)
            if inside := [other for other in others if other.endswith("/")]:
                failure += f"; for those of subfolders, such as {inside[0]}, give {shlex.quote(f'{pattern}/**/*.mp4')}"
        else:
            named = [pattern] if os.path.exists(pattern) else sorted(glob.glob(pattern, recursive=True))
            found = [path for path in named if os.path.isfile(path)]
            failure = f"{pattern}: no such video file, and no file's name fits it as a pattern"
        paths += found
        failures += [] if found else [failure]
    return [pathlib.Path(path) for path in dict.fromkeys(map(os.path.abspath, paths))], failures


def video_name(path: pathlib.Path) -> str:
    """A file's name without its extension, as data sets name videos; any text, whatever bytes the name has."""
    stem = path.stem if path.stem.strip(".") else path.name
    return os.fsencode(stem).decode("utf-8", "replace")


def folder_names(paths: Sequence[pathlib.Path]) -> list[str]:
    """A name for the results of each video: its own, and where two are the same, with extension and number."""
    taken: dict[str, pathlib.Path] = {}
    for path in paths:
        name = video_name(path)
        if name in taken:
            name = f"{name}_{path.suffix.lstrip('.')}" if path.suffix else name
        unique, number = name, 2
        while unique in taken:
            unique, number = f"{name}_{number}", number + 1
        taken[unique] = path
    return list(taken)


def truths_of(
    paths: Sequence[pathlib.Path], file: str, classes: Sequence[str], config: Any
) -> dict[pathlib.Path, Video]:
    """The ground truth of video files, of those that an annotation file has: found as in training, by name.

    A file that two names could mean, or a name that could mean two of the files, has none; stderr says so.
    """
    root = pathlib.Path(os.path.commonpath([path.parent for path in paths]))
    finder = Finder({path.relative_to(root).as_posix(): path for path in paths}, root)
    found: dict[pathlib.Path, list[tuple[str, Video]]] = {}
    for name, truth in read_truths(file, classes, config).items():
        folder, _, last = name.rpartition("/")
        prefixed = f"{folder}/{config.data.prefix}{last}" if folder else config.data.prefix + last
        candidates = finder.candidates(prefixed) or finder.candidates(name)
        if len(candidates) > 1:
            print(f"{file}: {name!r} could be {' or '.join(candidates)}: its truth is not shown", file=sys.stderr)
        elif candidates:
            found.setdefault(finder.files[candidates[0]], []).append((name, truth))
    for path, truths in found.items():
        if len(truths) > 1:
            names = ", ".join(repr(name) for name, _ in truths)
            print(f"{file}: {names} could all be {path}: no truth is shown", file=sys.stderr)
    return {path: truths[0][1] for path, truths in found.items() if len(truths) == 1}


def read_truths(path: str, classes: Sequence[str], config: Any) -> dict[str, Video]:
    """The ground truth of all videos of an annotation file, by name, labels in the order of the model's classes."""
    database = read_database(path)
    subsets = sorted({entry["subset"] for entry in database.values() if isinstance(entry, dict) and "subset" in entry})
    annotations = parse_database(database, subsets, None if config.data.class_agnostic else classes, path)
    videos = annotations.videos
    if config.data.class_agnostic:
        videos = [dataclasses.replace(video, labels=np.zeros_like(video.labels)) for video in videos]
    return {video.name: video for video in videos}


def on_clock(truth: Video | None, start: float) -> Video | None:
    """Ground truth on the clock of a file whose first picture is shown at second `start`."""
    if truth is None or truth.start is not None:
        return truth
    return dataclasses.replace(truth, segments=truth.segments + start)


def summary(found: Prediction, folder: pathlib.Path) -> str:
    """What the terminal shows of a video: its best detections, and where the rest is."""
    lines = [f"{found.path.name}  {clock(found.duration)}  {len(found)} detections -> {folder / 'report.html'}"]
    if found.substituted:
        lines.append(f"  a frame could not be decoded and a neighbour stood in, {found.substituted} times")
    for start, end, label, score in list(found)[:SHOWN]:
        lines.append(f"  {clock(start):>9} - {clock(end):>9}  {score:.3f}  {label}")
    if len(found) > SHOWN:
        lines.append(f"  ... and {len(found) - SHOWN} more (--min_score, --top_k and --labels choose)")
    return "\n".join(lines)


@contextlib.contextmanager
def _bar(title: str, duration: float, wanted: bool | None) -> Iterator[Callable[[list[WindowFrames]], None]]:
    """A progress bar in video time; call what it yields with the windows that are done."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.fields[at]} / " + clock(duration)),
        TimeRemainingColumn(),
    )
    shown = sys.stderr.isatty() if wanted is None else wanted
    with Progress(*columns, console=Console(stderr=True), disable=not shown, transient=True) as bar:
        task = bar.add_task(title, total=duration, at=clock(0))

        def advance(windows: list[WindowFrames]) -> None:
            last = windows[-1]
            done = float(last.grid.to_seconds(np.float64(np.count_nonzero(last.valid))))
            bar.update(task, completed=done, at=clock(done))

        yield advance
