"""The config that `prepare custom` writes: AdaTAD, fitted to the actions, the number of windows and the device."""

import dataclasses
import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from tadjax.data.annotations import Video
from tadjax.data.recipe import instance_lengths, schedule, suggest
from tadjax.errors import DataError
from tadjax.video.frames import VideoInfo

GIB = 2**30
BACKBONES = ("vits", "vitb", "vitl", "vith", "vitg")
PICTURE, SHORT_SIDE = 160, 182  # pixels: what AdaTAD shows its backbone on THUMOS14, and what it decodes for that
FEW_WINDOWS = 100  # below, a smaller head and mild augmentation: there are not the steps to learn from strong ones
HEAD_WIDTH = 256  # of these, but no more than twice the backbone's
STORED = 30  # numbers a token, unit of width and block that are kept for the backward pass without remat, about


@dataclasses.dataclass(frozen=True)
class Machine:
    """What prepares, and will most likely train."""

    accelerated: bool
    gib: float  # memory of a device, or of the machine without one
    devices: int
    cores: int


@dataclasses.dataclass(frozen=True)
class Backbone:
    """A ViT by the key of its size, with its weights."""

    size: str
    weights: str
    image: int = 224  # pixels, that it was pre-trained on


def this_machine() -> Machine:
    """Looked up with JAX, which must not take the memory of a device for that."""
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    import jax

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        found = jax.local_devices()
        limit = (found[0].memory_stats() or {}).get("bytes_limit", 16 * GIB)
    except RuntimeError:  # a device that another program holds
        found, limit = [], 0
    if found and found[0].platform != "cpu":
        return Machine(True, limit / GIB, len(found), cores)
    return Machine(False, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB, 1, cores)


def choose_backbone(wanted: str, machine: Machine) -> Backbone:
    """What --backbone says, or what suits the machine. DataError for what is neither a size nor a folder of weights."""
    if not wanted:
        wanted = "vits" if not machine.accelerated or machine.gib < 12 else "vitb" if machine.gib < 36 else "vitl"
    if wanted in BACKBONES:
        return Backbone(wanted[-1], f"weights/{wanted}")
    if not Path(wanted).is_dir():
        raise DataError(f"--backbone={wanted}: is none of {', '.join(BACKBONES)}, and no folder of converted weights")
    from tadjax.backbones.vit import SIZES
    from tadjax.workdir.weights import read_geometry

    geometry = read_geometry(wanted).get("backbone", {})
    for size, facts in SIZES.items():
        alike = all(geometry.get(name) == facts[name] for name in ("width", "depth", "patch"))
        if alike and geometry.get("name", "vit") == "vit":  # V-JEPA's shapes are a ViT's, too
            return Backbone(size, wanted, geometry.get("image", 224))
    raise DataError(f"--backbone={wanted}: holds no weights of a vit ({geometry}); set config.backbone yourself")


def config_text(
    output: Path,
    videos: Path,
    subsets: Mapping[str, Sequence[Video]],
    classes: Sequence[str],
    infos: Sequence[VideoInfo],
    fps: float,
    backbone: str = "",
    machine: Machine | None = None,
) -> str:
    """A config file to train with. subsets: the one to train on, then the one to evaluate on, if that is another."""
    train, evaluation = next(iter(subsets)), list(subsets)[-1]
    annotated = [video for of_subset in subsets.values() for video in of_subset]
    lengths = instance_lengths(annotated)
    if not len(lengths):
        raise DataError("no annotated segment lies inside its video; are its times in seconds?")
    sizes = suggest(lengths, max(info.duration for info in infos), fps)
    frames, seconds = sizes.feature_length * sizes.frames_per_feature, sizes.feature_length * sizes.stride / fps
    machine = machine or this_machine()
    model = choose_backbone(backbone, machine)
    windows = sum(1 for video in subsets[train] if len(video.labels))
    counts = f"{len(annotated)} videos, {len(lengths)} instances, {len(classes)} classes"
    title, command = (_in_docstring(text) for text in (output.name, train_command(output / "config.py", output)))
    text = f'''"""AdaTAD on {title}: {counts}.

Written by python -m tadjax.prepare custom: sizes from the lengths of the instances, the schedule from the number
of windows, backbone and memory from the machine. Change what you like: an edited file is not written over.

    {command}
"""

from configs import common

from tadjax.config.schema import defaults


def get_config(variant: str = ""):
    (tiny,) = common.pick(variant, common.TINY)
    config = defaults()
    config.data.name = {output.name!r}
    config.data.annotations = {str(output / "annotations.json")!r}
    config.data.classes = {str(output / "classes.txt")!r}
    config.data.videos = {str(videos)!r}
    config.data.train_subset, config.data.eval_subset = {train!r}, {evaluation!r}
    config.window.frames = {frames}
    config.window.feature_length = {sizes.feature_length}
    config.window.stride = {sizes.stride}  # a window is {seconds:.1f} s at {fps:g} frames a second
    config.head.max_length = {sizes.feature_length}
    config.head.convs = (2, 2, {sizes.levels - 1})
    config.head.regression_ranges = {sizes.regression_ranges}

'''
    lines = [*_machine_lines(model, machine, frames), "", *_schedule_lines(windows, model, machine)]
    lines += ["return common.tiny(config) if tiny else config"]
    return text + "".join(f"    {line}".rstrip() + "\n" for line in lines)


def _batch_size(machine: Machine) -> int:
    """Two windows, as published; but one a device at least."""
    return max(2, machine.devices)


def _machine_lines(model: Backbone, machine: Machine, frames: int) -> list[str]:
    """Backbone, picture and memory."""
    from tadjax.backbones.vit import SIZES

    size, facts = min(PICTURE, model.image), SIZES[model.size]
    size -= size % facts["patch"]
    short_side = 2 * round(size * SHORT_SIDE / PICTURE / 2)
    windows = _batch_size(machine) / machine.devices
    tokens = windows * frames / 2 * (size // facts["patch"]) ** 2
    stored = tokens * facts["width"] * facts["depth"] * STORED * (2 if machine.accelerated else 4) / GIB
    where = f"{machine.devices} x {machine.gib:.0f} GiB" if machine.accelerated else "no accelerator"
    lines = [] if machine.accelerated else ['config.dtype = "float32"  # "bfloat16" on an accelerator; there was none']
    lines += [
        f"config.data.workers = {max(1, min(8, machine.cores - 1))}",
        f"config.backbone.size = {model.size!r}",
        f"config.backbone.weights = {model.weights!r}  # docs/weights.md says how published weights are converted",
        f"config.backbone.image = {model.image}",
        f"config.window.short_side, config.window.size = {short_side}, {size}",
    ]
    if stored < machine.gib / 4:
        lines.append(f'config.memory.remat = "none"  # about {stored:.1f} GiB of activations ({where}); "block": less')
    if model.size == "g":
        lines.append("config.memory.clips_per_group = 4")
    return lines


def _schedule_lines(windows: int, model: Backbone, machine: Machine) -> list[str]:
    """How long to train, and what depends on the number of windows."""
    from tadjax.backbones.vit import SIZES

    batch = _batch_size(machine)
    plan = schedule(windows, batch)
    narrow = model.size in ("s", "tiny", "demo")  # whose adapters were published with twice the rate
    adapter_rate = 2 * plan.learning_rate if narrow else min(plan.learning_rate, 4e-4)
    lines = [
        "optim = config.optim",
        f"optim.batch_size = {batch}",
        f"optim.epochs = optim.schedule_epochs = {plan.epochs}  # {plan.steps} steps for {windows} windows an epoch",
        f"optim.warmup_epochs = {plan.warmup_epochs}",
        f"optim.head_lr, optim.adapter_lr = {plan.learning_rate:g}, {adapter_rate:g}",
        f"optim.ema_decay = {plan.ema_decay:g}  # what is evaluated averages about a twelfth of the steps",
        f"config.train.eval_from_epoch, config.train.eval_every_epochs = "
        f"{plan.eval_from_epoch}, {plan.eval_every_epochs}",
    ]
    if windows < FEW_WINDOWS:
        width = min(HEAD_WIDTH, 2 * SIZES[model.size]["width"])
        lines += [
            f"config.head.width = {width}  # few windows: a smaller head, and mild augmentation",
            'config.augment.policy, config.augment.min_area = "none", 0.6',
        ]
    return lines


def _in_docstring(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')


def train_command(config: Path, output: Path) -> str:
    """What to type, as a shell takes it."""
    return shlex.join(["python", "-m", "tadjax.main", f"--config={config}", f"--workdir=runs/{output.name}"])
