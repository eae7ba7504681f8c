"""What a run's data was when it began, so that the same command can say that it changed."""

import hashlib
import json
import pathlib
from concurrent.futures import ThreadPoolExecutor

from tadjax.data.dataset import Dataset
from tadjax.errors import DataError
from tadjax.files import mark_of, read_json, write_whole
from tadjax.video.folder import some_of
from tadjax.workdir.checkpoint import METRIC

FILE = "data.json"  # in the workdir: a mark of every file, by what it is


def changes(dataset: Dataset, workdir: pathlib.Path) -> list[str]:
    """A line where the data is not what the run in `workdir` began with. Where none has begun, writes down what it is.

    Texts count as changed by their content, videos (or their features) by size, time, first and last bytes.
    """
    path = workdir / FILE
    before = read_json(path) if path.exists() else None
    try:
        now = _marks(dataset)
    except DataError as error:
        return [] if before is None else [f"{workdir}: the data changed since this run began: {error}"]
    if before is None:
        write_whole(path, json.dumps(now, indent=1) + "\n")
        return []
    different = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    if not different:
        return []
    return [f"{workdir}: the data changed since this run began: {len(different)} files, {some_of(different)}"]


def finished(workdir: pathlib.Path) -> dict[str, float] | None:
    """The last evaluation of a run that has done all its steps; None for any other."""
    path = workdir / "metrics.json"
    if not path.exists():
        return None
    metrics = read_json(path)
    step = metrics.pop("step")
    return metrics if step == 0 or (workdir / "checkpoints" / str(step)).is_dir() else None


def told(workdir: pathlib.Path, metrics: dict[str, float]) -> str:
    """A line about a finished run."""
    score = f" with an average mAP of {metrics[METRIC]:.2f}" if METRIC in metrics else ""
    return f"{workdir}: this run is finished{score}, and nothing is left to train; another --workdir begins anew"


def _marks(dataset: Dataset) -> dict[str, str]:
    data = dataset.config.data
    texts = {f"config.data.{field}": data[field] for field in ("annotations", "classes", "blocked")}
    texts["config.data.tfds"] = data.tfds and str(pathlib.Path(data.tfds) / "dataset_info.json")
    found, files = {name: _content(path) for name, path in texts.items() if path}, {}
    for annotations in dataset.subsets.values():
        videos = annotations.videos
        files |= {video.name: path for video, path in zip(videos, dataset.find(videos), strict=True)}
    named = [name for name in sorted(files) if isinstance(files[name], pathlib.Path)]  # others lie in data.tfds
    with ThreadPoolExecutor(8) as pool:  # mostly waiting for the disk
        marks = list(pool.map(lambda name: _mark(files[name]), named))
    return found | dict(zip(named, marks, strict=True))


def _content(path: str) -> str:
    try:
        return hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()[:16]
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error


def _mark(path: pathlib.Path) -> str:
    try:
        return mark_of(path)
    except OSError as error:
        return f"cannot be read ({error.strerror})"
