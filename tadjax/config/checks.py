"""Checks a config before anything is loaded, and says in words what is wrong with it. Imports no JAX, to be fast."""

import json
import os
import pathlib
import sys
from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict

from tadjax.config import recipes
from tadjax.config.backbones import (
    BACKBONE_SIZES,
    BESIDE,
    CLIP_FRAMES,
    CLIP_TUBELETS,
    DROP_PATH,
    KIN,
    ONLY_VIT,
    STEP_FRAMES,
    clip_frames,
)
from tadjax.config.rules import Field, is_number, one_of, path
from tadjax.config.schema import FIELDS, MAY_CHANGE
from tadjax.errors import ConfigError, did_you_mean, similar
from tadjax.files import write_whole
from tadjax.training import fidelity


def fields(config: ConfigDict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted name, value) of every leaf."""
    for name, value in config.items():
        if isinstance(value, ConfigDict):
            yield from fields(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def check(config: ConfigDict) -> None:
    """Raises ConfigError that lists every wrong field of `config`.

    Names, types, rules of each field, then what must agree between fields. Touches no file and no device. In fields
    that name files, the home folder takes the place of `~` from then on.
    """
    _expand_home(config)
    given = dict(fields(config))
    wrong = [_unknown(name) for name in given if name not in FIELDS]
    missing = [f"config.{name}" for name in FIELDS if name not in given]
    if missing:
        several = f", {missing[1]} ... ({len(missing)} fields) are" if missing[1:] else " is"
        wrong.append(
            f"{missing[0]}{several} missing: was this config.json written by an earlier version? Give --config"
        )
    for name, value in given.items():
        if name not in FIELDS:
            continue
        field = FIELDS[name]
        problem = _type_problem(value, field) or (field.rule and field.rule.problem(value))
        if problem:
            wrong.append(f"config.{name} = {value!r}: {problem}")
    wrong = wrong or list(_disagreements(config))
    if wrong:
        more = [f"and {len(wrong) - 20} more"] if len(wrong) > 20 else []
        raise ConfigError("\n".join(wrong[:20] + more))


def _expand_home(config: ConfigDict) -> None:
    for name in (name for name, field in FIELDS.items() if field.rule is path):
        section, _, leaf = name.partition(".")
        given = config.get(section)
        if isinstance(given, ConfigDict) and isinstance(given.get(leaf), str) and given[leaf].startswith("~"):
            given[leaf] = os.path.expanduser(given[leaf])


def check_names(names: list[str]) -> None:
    """Raises ConfigError if one of the dotted names (without "config.") is no field, with the closest that is."""
    wrong = [_unknown(name) for name in names if name not in FIELDS]
    if wrong:
        raise ConfigError("\n".join(wrong))


def check_overrides(argv: list[str]) -> None:
    """Raises ConfigError if an argument --config.NAME=VALUE sets what is no field, or --config=FILE names no file."""
    given = [arg.lstrip("-").partition("=")[::2] for arg in argv[1:] if arg.startswith("-")]
    check_names([name.removeprefix("config.") for name, _ in given if name.startswith("config.")])
    for name, value in given:
        path = pathlib.Path(value.partition(":")[0])
        if name == "config" and value and not path.exists():
            there = {other.name: str(other) for other in sorted(path.parent.glob("*.py"))}
            there |= {name: name for name in recipes.names()}
            hint = did_you_mean(path.name, there, there.get)
            raise ConfigError(f"--config: No such file or directory: {str(path)!r}" + (f"; {hint}" if hint else ""))


HOST_FRAMES = 16  # that wait in the host's memory together (tadjax/adaptation/host_frames.py)
LOADING_ERRORS = (AttributeError, OSError, SyntaxError, NameError, TypeError, ValueError)


def loading_failure(error: Exception) -> str:
    """What went wrong where a file given as --config could not be loaded (one of LOADING_ERRORS), in one line."""
    return "--config: " + " ".join(str(error).split()).rpartition("earlier failure to load: ")[2]


def _unknown(name: str) -> str:
    """The message for a field that does not exist: the closest ones by the last part, else by the whole name."""
    section, _, leaf = name.rpartition(".")
    siblings = {n.rpartition(".")[2]: n for n in FIELDS if n.rpartition(".")[0] == section}
    if similar(leaf, siblings):
        hint = did_you_mean(leaf, siblings, lambda sibling: f"config.{siblings[sibling]}")
    else:
        hint = did_you_mean(name, FIELDS, lambda other: f"config.{other}")
    return f"config.{name}: no such field" + (f"; {hint}" if hint else "")


def _type_problem(value: Any, field: Field) -> str | None:
    """What is wrong with the type, as the end of a sentence."""
    default = field.default
    if isinstance(default, bool) or isinstance(value, bool):
        return None if isinstance(default, bool) and isinstance(value, bool) else f"must be {field.kind}"
    if isinstance(default, (tuple, list)):
        return None if isinstance(value, (tuple, list)) else f"must be {field.kind}"
    if isinstance(default, float):
        return None if is_number(value) else "must be a number"
    if isinstance(value, type(default)):
        return None
    if field.per_level and isinstance(value, (tuple, list)):
        whole = all(isinstance(v, int) and not isinstance(v, bool) for v in value)
        return None if whole else "must be an integer or a tuple of integers"
    return f"must be {field.kind}"


def _disagreements(config: ConfigDict) -> Iterator[str]:
    """What no field has wrong alone."""
    window, head, optim = config.window, config.head, config.optim
    if config.features.path or window.representation == "snippet":
        pass  # window.frames says nothing
    elif window.frames % window.feature_length:
        yield (
            f"config.window.frames = {window.frames} is no multiple of config.window.feature_length = "
            f"{window.feature_length}: every feature step stands for the same number of sampled frames"
        )
    elif "resize" not in (window.sampling, window.eval_sampling) and window.stride % (
        window.frames // window.feature_length
    ):
        yield (
            f"config.window.stride = {window.stride} is no multiple of the {window.frames // window.feature_length} "
            "sampled frames per feature step (window.frames / window.feature_length)"
        )
    yield from _of_features(config) if config.features.path else _of_backbone(config)
    yield from _of_fidelities(config)
    if window.size > window.short_side:
        yield f"config.window.size = {window.size} is larger than config.window.short_side = {window.short_side}"
    if head.max_length < window.feature_length:
        yield (
            f"config.head.max_length = {head.max_length} is below config.window.feature_length = "
            f"{window.feature_length}"
        )
    if len(head.convs) != 3:
        yield f"config.head.convs = {head.convs}: three numbers are needed (embedding, stem, branch)"
    elif len(head.regression_ranges) != head.convs[2] + 1:
        yield (
            f"config.head.regression_ranges has {len(head.regression_ranges)} entries, but config.head.convs = "
            f"{head.convs} makes {head.convs[2] + 1} levels (branch blocks + 1)"
        )
    elif head.max_length % 2 ** head.convs[2]:
        yield (
            f"config.head.max_length = {head.max_length} cannot be halved {head.convs[2]} times "
            f"(config.head.convs = {head.convs}); take a multiple of {2 ** head.convs[2]}"
        )
    if head.width % head.heads:
        yield f"config.head.width = {head.width} is no multiple of config.head.heads = {head.heads}"
    if head.name == "gtad" and not config.data.class_agnostic:
        yield "config.head.name = 'gtad' makes proposals without classes: set config.data.class_agnostic = True"
    if head.name == "gtad" and head.gtad.durations > window.feature_length:
        yield (
            f"config.head.gtad.durations = {head.gtad.durations} is above config.window.feature_length = "
            f"{window.feature_length}: no proposal is longer than the window"
        )
    if head.name == "gtad" and head.gtad.neighbours > window.feature_length:
        yield (
            f"config.head.gtad.neighbours = {head.gtad.neighbours} is above config.window.feature_length = "
            f"{window.feature_length}: a step has no more neighbours than there are steps"
        )
    if optim.batch_size % optim.accumulate:
        yield (
            f"config.optim.batch_size = {optim.batch_size} is no multiple of config.optim.accumulate = "
            f"{optim.accumulate}"
        )
    if optim.schedule == "cosine" and optim.warmup_epochs >= optim.schedule_epochs:
        yield (
            f"config.optim.warmup_epochs = {optim.warmup_epochs} leaves nothing of config.optim.schedule_epochs = "
            f"{optim.schedule_epochs}"
        )
    if config.adaptation.kernel and (
        len(config.adaptation.kernel) != 3 or any(k % 2 == 0 for k in config.adaptation.kernel)
    ):
        yield f"config.adaptation.kernel = {config.adaptation.kernel}: () or three odd numbers (time, height, width)"
    if config.classifier.path and not config.data.class_agnostic:
        yield (
            f"config.classifier.path = {config.classifier.path!r}: labels come from the video classifier only with "
            "config.data.class_agnostic = True; this model knows its own"
        )
    memory, adaptation = config.memory, config.adaptation
    if adaptation.method == "side" and tuple(adaptation.kernel[1:]) not in ((), (1, 1)) and memory.clips_per_group:
        yield (
            f"config.adaptation.kernel = {adaptation.kernel} reaches over space; beside the backbone that needs the "
            "whole window at once: config.memory.clips_per_group = 0"
        )
    if adaptation.losa.width % 4:
        yield f"config.adaptation.losa.width = {adaptation.losa.width} is no multiple of the 4 attention heads"
    if sum(n == -1 for n in (config.mesh.data, config.mesh.clip, config.mesh.fsdp)) > 1:
        yield "config.mesh: only one of data, clip and fsdp can be -1 (what is left)"


def _of_fidelities(config: ConfigDict) -> Iterator[str]:
    """What the schedule of low-fidelity training cannot do."""
    lofi = config.lofi
    wrong = fidelity.disagreements(config)
    yield from wrong
    if any(not isinstance(lr, (int, float)) or lr <= 0 for lr in lofi.head_lrs):
        yield f"config.lofi.head_lrs = {lofi.head_lrs}: learning rates, all above 0"
    if "head" in lofi.stages and config.adaptation.method not in ("none", "full"):
        yield (
            f"config.adaptation.method = {config.adaptation.method!r}: the last stage of config.lofi.stages works on "
            "features of the backbone alone; the method must be 'full' (or 'none')"
        )
    for name, at in fidelity.configs(config).items() if not wrong else ():
        if name != "full":
            yield from (f"config.lofi.schedule = {lofi.schedule!r}, at {name}: {line}" for line in _disagreements(at))


def _of_features(config: ConfigDict) -> Iterator[str]:
    """What cannot be where features on disk stand in the backbone's place."""
    if config.adaptation.method != "none":
        yield (
            f"config.adaptation.method = {config.adaptation.method!r}: config.features.path leaves no backbone to "
            "adapt; it must be 'none'"
        )


def _of_backbone(config: ConfigDict) -> Iterator[str]:
    """What config.backbone has no size, clips, or stochastic depth for."""
    name, size, window = config.backbone.name, config.backbone.size, config.window
    snippets = window.representation == "snippet"
    frames, field = (window.snippet_frames, "snippet_frames") if snippets else (window.frames, "frames")
    groups = config.memory.clips_per_group
    if size not in BACKBONE_SIZES[name]:
        rule = one_of(*BACKBONE_SIZES[name], what=f"the sizes of {name}")
        yield f"config.backbone.size = {size!r}: {rule.problem(size)}"
    if config.backbone.clip_frames % CLIP_TUBELETS.get(name, sys.maxsize):
        yield f"config.backbone.clip_frames = {config.backbone.clip_frames}: " + (
            f"{name} takes a multiple of {CLIP_TUBELETS[name]}" if name in CLIP_TUBELETS else f"{name} has its own; 0"
        )
    if name != "internvideo2":
        for option, default in {"position_frames": 8, "gelu": "tanh", "layer": -1}.items():
            if config.backbone[option] != default:
                value = config.backbone[option]
                yield f"config.backbone.{option} = {value!r} is for internvideo2; set it to {default!r}"
    clip = clip_frames(config)
    if clip and frames % clip:
        yield f"config.window.{field} = {frames} is no multiple of {clip}, the frames of one clip"
    elif snippets and groups and window.feature_length % groups:
        yield (
            f"config.memory.clips_per_group = {groups}: the {window.feature_length} snippets of a window are no whole "
            "number of groups"
        )
    elif not snippets and clip and groups and frames // clip % groups:
        yield (
            f"config.memory.clips_per_group = {groups}: the {frames // clip} clips of config.window.frames = {frames} "
            "are no whole number of groups"
        )
    if config.memory.frames == "host" and (name not in KIN or snippets or config.adaptation.method not in BESIDE):
        yield (
            "config.memory.frames = 'host' is for methods that fetch a group of clips at a time: config.adaptation."
            f"method {', '.join(BESIDE)}, of {', '.join(KIN)}, in the frame representation; set it to 'device'"
        )
    elif config.memory.frames == "host" and (groups * clip % HOST_FRAMES or frames % HOST_FRAMES):
        yield (
            f"config.memory.frames = 'host': groups of {groups} clips of {clip} frames; it takes whole {HOST_FRAMES}s "
            "of frames"
        )
    if name == "videoprism" and config.memory.attention == "cudnn":
        yield "config.memory.attention = 'cudnn' has no capped logits, as videoprism needs them: take 'auto'"
    if name in KIN and config.memory.attention == "cudnn" and config.dtype == "float32":
        yield "config.memory.attention = 'cudnn' takes no float32: set config.dtype = 'bfloat16', or take 'auto'"
    shares = config.mesh.clip
    if shares > 1 and not snippets and clip and frames // clip % shares:
        yield (
            f"config.mesh.clip = {shares}: the {frames // clip} clips of config.window.frames = {frames} cannot be "
            "shared out evenly"
        )
    if name in STEP_FRAMES and frames % STEP_FRAMES[name]:
        yield f"config.window.{field} = {frames} is no multiple of {STEP_FRAMES[name]}, as {name} needs it"
    if name in STEP_FRAMES and groups and not snippets:
        yield f"config.memory.clips_per_group = {groups}: {name} has no clips, it sees the whole window; set it to 0"
    if name not in DROP_PATH and config.backbone.drop_path:
        yield f"config.backbone.drop_path = {config.backbone.drop_path}: {name} has no stochastic depth; set it to 0"
    if name != "vit" and config.adaptation.method in ONLY_VIT:
        yield f"config.adaptation.method = {config.adaptation.method!r} is for the blocks of a vit, not of {name}"
    if snippets and config.adaptation.method not in ("none", "full", "tia", "full_tia"):
        yield (
            f"config.adaptation.method = {config.adaptation.method!r} looks at whole windows: with "
            "config.window.representation = 'snippet' it must be none, full, tia or full_tia"
        )
    if snippets and config.mesh.clip != 1:
        yield f"config.mesh.clip = {config.mesh.clip}: snippets are spread over data alone; it must be 1"
    if name != "vit" and config.adaptation.base != "last":
        yield f"config.adaptation.base = {config.adaptation.base!r}: for the blocks of a vit; set it to 'last'"
    if name not in CLIP_FRAMES and config.adaptation.losa.short_range_clips >= 0:
        yield f"config.adaptation.losa.short_range_clips: {name} has no clips, it sees the whole window; set it to -1"


def differences(ours: ConfigDict, theirs: ConfigDict) -> list[str]:
    """Fields in which two configs differ, beyond those that change nothing of what is computed."""
    a, b = _plain(ours), _plain(theirs)
    names = [name for name in sorted({*a, *b}) if name not in MAY_CHANGE]
    return [f"{name}: {b.get(name)!r} there, {a.get(name)!r} here" for name in names if a.get(name) != b.get(name)]


def _plain(config: ConfigDict) -> dict[str, Any]:
    """Fields as JSON would give them back (tuples as lists)."""
    return json.loads(json.dumps(dict(fields(config))))


def save(config: ConfigDict, path: pathlib.Path) -> None:
    write_whole(path, json.dumps(config.to_dict(), indent=2) + "\n")


def load(path: pathlib.Path) -> ConfigDict:
    """The config of a run directory; ConfigError if it cannot be read."""
    try:
        content = json.loads(path.read_text())
        if not isinstance(content, dict):
            raise ValueError("it holds no JSON object")
        return ConfigDict(content)
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist: is {path.parent} the --workdir of a run?") from None
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise ConfigError(f"{path} is damaged: {error}") from None


def trained_collections(config: ConfigDict) -> tuple[str, ...]:
    """Which of "backbone", "adapter", "head" the config trains."""
    trained = {"none": ("head",), "full": ("backbone", "head"), "full_tia": ("adapter", "backbone", "head")}
    return trained.get(config.adaptation.method, ("adapter", "head"))
