"""Says whether this machine and a config are fit to train, and the command that mends what is not.

python -m tadjax.doctor                                                    # versions, devices, decoding
python -m tadjax.doctor --config=configs/thumos_vitg.py                    # also shared memory, weights, annotations,
                                                                           # videos
python -m tadjax.doctor --config=configs/thumos_vitg.py --memory           # also whether its step fits: compiles it
Any leaf of the config can be overridden, as in training. Exit status 0: nothing is wrong; 1: something is, as printed.
"""

from tadjax import ending

if __name__ == "__main__":
    ending.catch_interrupts()  # before the other imports

import dataclasses
import hashlib
import importlib.metadata
import os
import pathlib
import platform
import re
import shlex
import shutil
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import av
import jax
import numpy as np
from absl import flags
from ml_collections import config_flags

from tadjax.build import build
from tadjax.config import checks as configs
from tadjax.config import command_line
from tadjax.config.schema import FIELDS
from tadjax.data.annotations import FPS_TOLERANCE
from tadjax.data.dataset import Dataset
from tadjax.data.loader import shared_records
from tadjax.data.recipe import rates
from tadjax.data.records import sampling_of, usual_canvas
from tadjax.errors import TadjaxError
from tadjax.prepare.__main__ import DATASETS
from tadjax.profiling.decode_speed import any_video, decoding_processes, decoding_speed
from tadjax.video.folder import some_of
from tadjax.video.frames import probe
from tadjax.workdir import weights

GIB = 2**30
OLDEST_PYTHON = (3, 11)
FEATURES = "python -m tadjax.main --config=... --mode=extract makes one; published sets (docs/data.md) go there"
COMMAND = "python -m tadjax.doctor --config=..."
MARKS = {True: "ok   ", False: "WRONG", None: "     "}


@dataclasses.dataclass(frozen=True)
class Finding:
    """One line of the report: right (True), wrong (False) or neither (None), and the command that mends it."""

    right: bool | None
    text: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{MARKS[self.right]}  {self.text}" + (f"\n       -> {self.remedy}" if self.remedy else "")


def examine(config: Any = None, memory: bool = False, command: str = COMMAND) -> Iterator[Finding]:
    """All findings about this machine and, if given, a config. memory: compile its training step, for minutes.

    command: what was typed, for the line that says how to try the memory.
    """
    yield from versions()
    yield from devices()
    if config is None:
        yield from decoding(None)
        return
    dataset, told = Dataset(config), set()  # what stops one part stops another, too
    for part in (check_config, shared_memory, pretrained, annotations, classifier, decoding):
        try:
            yield from part(dataset)
        except TadjaxError as error:
            if str(error) not in told:
                yield Finding(False, str(error), "" if part is check_config else mending(config, str(error)))
            told.add(str(error))
            if part is check_config:
                return
    yield (
        step_memory(config)
        if memory
        else Finding(
            None,
            "whether the step fits the device's memory: not tried",
            f"{command} --memory",
        )
    )


def versions() -> Iterator[Finding]:
    """Python and the packages of requirements.txt."""
    right = sys.version_info >= OLDEST_PYTHON
    wanted = ".".join(map(str, OLDEST_PYTHON))
    yield Finding(right, f"Python {platform.python_version()}", "" if right else f"install Python {wanted} or newer")
    bad = []
    found = []
    for line in requirements():
        name, low, high = re.fullmatch(r"([\w-]+)>=([\d.]+),<([\d.]+)", line).groups()
        try:
            installed = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            bad.append(f"{name} is missing")
            continue
        found.append(f"{name} {installed}")
        if not _numbers(low) <= _numbers(installed) < _numbers(high):
            bad.append(f"{name} {installed} is outside {low} to {high}")
    yield Finding(not bad, "; ".join(bad) or ", ".join(found), "pip install -r requirements.txt" if bad else "")


def requirements() -> list[str]:
    """Lines "name>=low,<high": of requirements.txt in a checkout, else of the installed package."""
    file = pathlib.Path(__file__).parents[1] / "requirements.txt"
    if file.exists():
        return file.read_text().split()
    wanted = [line.partition(";") for line in importlib.metadata.requires("tadjax") or ()]
    return [re.sub(r"(<[\d.]+),(>=[\d.]+)", r"\2,\1", line.strip()) for line, _, when in wanted if "extra" not in when]


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.match(r"\d+(\.\d+)*", version)[0].split("."))


def devices() -> Iterator[Finding]:
    """What JAX computes on, and whether an accelerator is there that it does not see."""
    found = jax.devices()
    limit = (found[0].memory_stats() or {}).get("bytes_limit") if found[0].platform != "cpu" else None
    memory = f", {limit / GIB:.1f} GiB each" if limit else ""
    text = f"JAX computes on {len(found)} x {found[0].device_kind} ({found[0].platform}{memory})"
    hidden, remedy = _hidden_accelerator() if found[0].platform == "cpu" else ("", "")
    if hidden and os.environ.get("JAX_PLATFORMS", "") == "cpu":
        remedy = "unset JAX_PLATFORMS"
    yield Finding(not hidden, text + (f", though {hidden} is there" if hidden else ""), remedy)
    if found[0].platform == "cpu" and not hidden:
        yield Finding(None, "no accelerator: enough for tests, tiny twins and prediction with small backbones")


def _hidden_accelerator() -> tuple[str, str]:
    if pathlib.Path("/dev/nvidia0").exists():
        return "an NVIDIA GPU", 'pip install -U "jax[cuda13]"'
    if pathlib.Path("/dev/accel0").exists() or any(pathlib.Path("/dev").glob("vfio/[0-9]*")):
        return "a TPU", 'pip install -U "jax[tpu]"'
    return "", ""


def check_config(dataset: Dataset) -> Iterator[Finding]:
    """Every field, as training checks them."""
    configs.check(dataset.config)
    yield Finding(True, f"config: every field is right ({len(FIELDS)} fields)")


def shared_memory(dataset: Dataset) -> Iterator[Finding]:
    """Decoded windows wait in /dev/shm; containers often have 64 MB of it."""
    if not pathlib.Path("/dev/shm").exists():
        return
    needed, free = shared_bytes(dataset), shutil.disk_usage("/dev/shm").free
    text = (
        f"/dev/shm has {free / GIB:.1f} GiB free; decoded windows wait there, up to {needed / GIB:.1f} GiB, those of "
        "training also while it is evaluated"
    )
    remedy = "docker run --shm-size=..., or --config.data.workers and --config.data.prefetch lower"
    yield Finding(free >= needed, text, "" if free >= needed else remedy)


def shared_bytes(dataset: Dataset) -> int:
    """The most that lies in /dev/shm: training's workers keep theirs full while evaluation's are at work."""
    config, features = dataset.config, dataset.features
    data = config.data

    def of_windows(train: bool, batch_size: int, picture: tuple[int, int]) -> int:
        sampling = sampling_of(config, train)
        window = sampling.frames * picture[0] * picture[1] * 3
        if features is not None:
            window = sampling.feature_length * features.width * 4
        return window * shared_records(data.workers, data.prefetch, batch_size)

    training = of_windows(True, config.optim.batch_size, usual_canvas(config.window.short_side))
    return training + of_windows(False, config.evaluation.batch_size, (config.window.size, config.window.size))


def pretrained(dataset: Dataset) -> Iterator[Finding]:
    """What the backbone starts from, and whether its shapes are the config's; or the features in its place."""
    config, backbone, features = dataset.config, dataset.config.backbone, dataset.features
    if features is not None and not features.path.is_dir():
        yield Finding(False, f"config.features.path: {features.path} is no folder", FEATURES)
        return
    if features is not None:
        told = f"features.json: {features.rules['rule']}" if features.rules else "a published set, as the config says"
        yield Finding(True, f"features of {features.width} channels in {features.path}, {told}")
        return
    if backbone.random_init:
        yield Finding(None, "the backbone starts from random weights, as config.backbone.random_init = True says")
        return
    convert = "python convert/torch_to_flax.py --input CHECKPOINT --output"
    if not backbone.weights:
        text = "config.backbone.weights names no pre-trained weights: training will not start"
        yield Finding(False, text, f"{convert} weights/NAME")
        return
    try:
        info = weights.read_info(backbone.weights)
    except TadjaxError as error:
        yield Finding(
            False, str(error), "make demo" if backbone.size == "demo" else f"{convert} {shlex.quote(backbone.weights)}"
        )
        return
    geometry = info["geometry"].get("backbone", {})
    facts = ", ".join(f"{name} {value}" for name, value in geometry.items())
    try:
        weights.check_image(geometry, backbone.image, backbone.weights)
        shapes = jax.eval_shape(build(config, 1, "cpu").init, jax.random.key(0))["backbone"]
        stored = {
            path: tuple(shape) for path, (shape, _) in info["parameters"].items() if path.split("/")[0] == "backbone"
        }
        weights.check_geometry(stored, weights.shapes({"backbone": shapes}), backbone.weights)
    except TadjaxError as error:
        remedy = f"--config.backbone.{{name,size,image}} of these weights ({facts}), or {convert} weights/OTHER"
        yield Finding(False, str(error), remedy)
        return
    files = ", ".join(f"{file['file']} (sha256 {file['sha256'][:12]})" for file in info.get("source", ()))
    yield Finding(True, f"weights {backbone.weights}: {facts}; from {files or info.get('layout', 'an unnamed source')}")


def annotations(dataset: Dataset) -> Iterator[Finding]:
    """Annotations and videos of both subsets: present, readable, and how many."""
    config, data = dataset.config, dataset.config.data
    classes, subsets = dataset.classes, dataset.subsets
    source = data.tfds or f"{data.annotations} ({digest(data.annotations)})"
    yield Finding(True, f"annotations {source}, {len(classes)} classes")
    for subset, found in subsets.items():
        instances = sum(len(video.labels) for video in found.videos)
        remedy = "--config.data.train_subset=... --config.data.eval_subset=..., of which each has instances"
        text = f"{subset}: {len(found.videos)} videos, {instances} instances"
        yield Finding(bool(instances), text, "" if instances else remedy)
        for line in found.summary():
            yield Finding(None, line)
        try:
            paths = dataset.find(found.videos)
        except TadjaxError as error:
            yield Finding(False, str(error), mending(config, str(error)))
            continue
        if dataset.features is None and dataset.built is None:
            yield from frame_rates(config, subset, paths)


def frame_rates(config: Any, subset: str, paths: Sequence[pathlib.Path]) -> Iterator[Finding]:
    """Frame rates that are not the config's, which training refuses, or that differ; as the files' headers say."""
    with ThreadPoolExecutor(8) as pool:
        found = {path: rate for path, rate in zip(paths, pool.map(_header_rate, paths), strict=True) if rate}
    wanted = config.data.fps
    others = [path for path, rate in found.items() if wanted and abs(rate / wanted - 1) > FPS_TOLERANCE]
    if others:
        text = f"{subset}: {len(others)} of {len(found)} videos are not at config.data.fps = {wanted:g}: "
        yield Finding(False, text + some_of(list(map(str, others))), f"--reencode FOLDER --fps {wanted:g}, of prepare")
    elif config.window.sampling != "resize":
        for line in rates(list(found.values())):
            yield Finding(None, f"{subset}: {line}")


def _header_rate(path: pathlib.Path) -> float:
    """Frames a second, as a file's header has it, which need not be read whole for that; 0 of one that says none."""
    try:
        with av.open(str(path)) as container:
            return float(container.streams.video[0].average_rate or 0)
    except (av.error.FFmpegError, OSError, IndexError):
        return 0.0


def classifier(dataset: Dataset) -> Iterator[Finding]:
    """The external video classifier's scores: readable, and there for every video that is evaluated."""
    path = dataset.config.classifier.path
    if not path:
        return
    videos = dataset.evaluation.videos
    try:
        found = dataset.classifier
        for video in videos:
            found.of_video(video.name)
    except TadjaxError as error:
        yield Finding(False, str(error), "--config.classifier.path=FILE (docs/data.md says which), or '' for none")
        return
    text = f"video classifier {path} ({digest(path)}): {len(found.classes)} classes, scores of all {len(videos)} videos"
    yield Finding(True, text)


def mending(config: Any, problem: str) -> str:
    """What mends a problem of a config's annotations or videos: an override, or a run of tadjax.prepare."""
    data = config.data
    if "no video is in subset" in problem:
        return "--config.data.train_subset=... --config.data.eval_subset=..., as the annotations name them"
    there = pathlib.Path(data.annotations).is_file()
    if data.name == "demo" and not there:
        return "make demo"
    for name, known in DATASETS.items():
        if pathlib.Path(data.annotations) == pathlib.Path(known.root) / known.annotations:
            source = "" if there else " --source DIR    # DIR: the publisher's annotation files"
            return f"python -m tadjax.prepare {name}{source}"
    if data.blocked and "config.data.blocked" in problem:
        return "--config.data.blocked=''"
    given = shlex.join(["--videos", data.videos or "DIR", "--annotations", data.annotations if there else "FILE"])
    return f"python -m tadjax.prepare custom {given} --output DIR"


def decoding(dataset: Dataset | None) -> Iterator[Finding]:
    """How fast one process decodes what a training window needs: a video of the data set, else a made one."""
    config = dataset.config if dataset else None
    with ending.temporary_folder() as folder:
        path = None if config is None else any_video(config)
        made = path is None
        if made:
            path = pathlib.Path(folder) / "made.mp4"
            _make_video(path)
        info = probe(path)
        rate, stride = decoding_speed(path, config)
    name = "a made video of 320 x 240" if made else f"{path.name}, {info.width} x {info.height} {info.codec}"
    text = f"decoding: {rate:.0f} sampled frames a second and process (every {stride}. of {name})"
    if config is not None:
        processes = decoding_processes(config)
        step = config.optim.batch_size * config.window.frames / rate / processes
        text += f"; a batch every {step:.1f} s with {processes} processes"
    yield Finding(None, text)


def _make_video(path: pathlib.Path) -> None:
    """10 s of 320 x 240, a moving pattern, as cameras encode: H.264, a key frame each second."""
    pattern = np.random.default_rng(0).integers(0, 256, (240, 320, 3), np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"preset": "veryfast", "g": "30"})
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        for frame in range(300):
            picture = np.roll(pattern, 2 * frame, axis=1)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        container.mux(stream.encode())


def step_memory(config: Any) -> Finding:
    """Whether the training step fits, from compiling it for the devices at hand."""
    from tadjax.profiling.profile import profile

    with ending.temporary_folder() as folder:
        numbers = profile(config, pathlib.Path(folder), None)
    return Finding(bool(numbers["fits"]), numbers["verdict"])


def digest(path: str) -> str:
    """Start of a file's SHA-256: two machines that print the same read the same."""
    with open(path, "rb") as file:
        return f"sha256 {hashlib.file_digest(file, 'sha256').hexdigest()[:12]}"


def main(argv: list[str]) -> int:
    """The command line; returns the exit status."""
    if {"--help", "-h"} & set(argv):
        print(__doc__.strip())
        return 0
    values = flags.FlagValues()
    config = config_flags.DEFINE_config_file("config", None, "A file of configs/.", flag_values=values)
    memory = flags.DEFINE_bool("memory", False, "Compile the training step.", flag_values=values)
    try:
        rest = command_line.parse(argv, values, config)
    except TadjaxError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if len(rest) > 1:
        print(f"error: unexpected arguments {' '.join(rest[1:])}", file=sys.stderr)
        return 2

    def report() -> int:
        wrong = 0
        for finding in examine(config.value, memory.value, shlex.join(["python", "-m", "tadjax.doctor", *argv[1:]])):
            print(finding, flush=True)
            wrong += finding.right is False
        print(f"{wrong} thing{'s' * (wrong != 1)} to mend" if wrong else "nothing is wrong")
        return 1 if wrong else 0

    return ending.run(report)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
