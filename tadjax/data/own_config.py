"""The config that `prepare custom` writes: AdaTAD, its sizes from the lengths of the instances."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from tadjax.data.annotations import Annotations
from tadjax.data.recipe import instance_lengths, suggest
from tadjax.data.video import VideoInfo
from tadjax.errors import DataError
from tadjax.files import write_whole


def write_config(
    output: Path,
    videos: Path,
    annotations: Annotations,
    subsets: tuple[str, str],
    infos: Sequence[VideoInfo],
    fps: float,
    backbone: str,
) -> Path:
    """A config file to train with, its sizes from the lengths of the instances; returns its path."""
    lengths = instance_lengths(annotations.videos)
    if not len(lengths):
        raise DataError("no annotated segment lies inside its video; are its times in seconds?")
    sizes = suggest(lengths, max(info.duration for info in infos), fps)
    frames = sizes.feature_length * sizes.frames_per_feature
    counts = f"{len(annotations.videos)} videos, {len(lengths)} instances, {len(annotations.classes)} classes"
    seconds = sizes.feature_length * sizes.stride / fps
    title, command = (_in_docstring(text) for text in (output.name, train_command(output / "config.py", output)))
    text = f'''"""AdaTAD on {title}: {counts}.

Written by python -m tadjax.data.prepare custom, its sizes from the lengths of the instances; change what you like.

    {command}
"""

from configs import common


def get_config(variant: str = ""):
    (tiny,) = common.pick(variant, common.TINY)
    config = common.base()
    config.data.name = {output.name!r}
    config.data.annotations = {str(output / "annotations.json")!r}
    config.data.classes = {str(output / "classes.txt")!r}
    config.data.videos = {str(videos)!r}
    config.data.train_subset, config.data.eval_subset = {subsets[0]!r}, {subsets[1]!r}
    config.window.frames = {frames}
    config.window.feature_length = {sizes.feature_length}
    config.window.stride = {sizes.stride}  # a window is {seconds:.1f} s at {fps:g} frames a second
    config.backbone.size = {backbone[-1]!r}
    config.backbone.weights = "weights/{backbone}"  # see README.md for converting published weights
    config.head.max_length = {sizes.feature_length}
    config.head.convs = (2, 2, {sizes.levels - 1})
    config.head.regression_ranges = {sizes.regression_ranges}
    return common.tiny(config) if tiny else config
'''
    path = output / "config.py"
    write_whole(path, text)
    return path


def _in_docstring(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')


def train_command(config: Path, output: Path) -> str:
    """What to type, as a shell takes it."""
    return shlex.join(["python", "-m", "tadjax.main", f"--config={config}", f"--workdir=runs/{output.name}"])
