"""What a field of the config may be, each by itself: RULES, one line a field. Imports no JAX, to be fast.

A rule is given a value and returns what is wrong with it, as the end of a sentence, or None.
"""

import sys
from collections.abc import Callable
from typing import Any

from tadjax.errors import did_you_mean

# What tadjax/backbones has, by config.backbone.name: the sizes, and the frames that a window is a multiple of.
BACKBONE_SIZES = {
    "vit": ("s", "b", "l", "h", "g", "tiny", "demo"),
    "vjepa2": ("l", "h", "g", "tiny"),
    "vjepa21": ("b", "l", "g", "G", "tiny"),
    "internvideo2": ("s", "b", "l", "1b", "tiny"),
    "videoprism": ("b", "l", "tiny"),
    "slowfast": ("r50", "r101", "r50_4x16", "r50_pyslowfast", "r101_pyslowfast", "tiny"),
    "swin": ("t", "s", "b", "tiny"),
    "tsm": ("r18", "r50", "tiny"),
    "r2plus1d": ("18", "34", "18_torchvision", "tiny"),
    "i3d": ("rgb", "tiny"),
}
# Backbones whose clips do not see each other, and the frames of a clip where config.backbone.clip_frames is 0.
CLIP_FRAMES = {"vit": 16, "vjepa2": 16, "vjepa21": 16, "internvideo2": 8, "videoprism": 16, "tsm": 8}
CLIP_FRAMES_OF_SIZE = {("videoprism", "l"): 8}
# Those whose clips may have other frames: a multiple of these.
CLIP_TUBELETS = {"vjepa2": 2, "vjepa21": 2, "internvideo2": 1, "videoprism": 1}
STEP_FRAMES = {"slowfast": 8, "swin": 2, "r2plus1d": 8, "i3d": 8}  # backbones that see the whole window
# Layers of one kind of transformer block, over clips.
KIN = ("vit", "vjepa2", "vjepa21", "internvideo2", "videoprism")
DROP_PATH = (*KIN, "swin")  # backbones with stochastic depth
PER_LEVEL = ("head.attention_window", "head.tridet.window")  # fields of one integer, or of one a level
BESIDE = ("side", "losa", "unipt")  # methods that take what they need from a frozen backbone's layers
ONLY_VIT = ("longlora", "st_adapter", "aim", "unipt")  # methods that look into a vit's blocks

Rule = Callable[[Any], str | None]


def clip_frames(config: Any) -> int:
    """Frames of a clip of config.backbone; 0 for a backbone that sees the whole window."""
    name, size = config.backbone.name, config.backbone.size
    return config.backbone.clip_frames or CLIP_FRAMES_OF_SIZE.get((name, size)) or CLIP_FRAMES.get(name, 0)


def one_of(*choices: Any, what: str = "") -> Rule:
    """One of the choices; `what` says of what they are."""

    def rule(value: Any) -> str | None:
        if value in choices:
            return None
        hint = did_you_mean(str(value), map(str, choices))
        listed = ", ".join([*map(repr, choices), *([what] if what else [])])
        return f"must be one of {listed}" + (f"; {hint}" if hint else "")

    return rule


def within(low: float, high: float = float("inf"), *, above: bool = False) -> Rule:
    """low <= value <= high, or low < value where `above`."""

    def rule(value: Any) -> str | None:
        if (value > low if above else value >= low) and value <= high:
            return None
        lower = f"above {low:g}" if above else f"at least {low:g}"
        return f"must be {lower}" + (f" and at most {high:g}" if high != float("inf") else "")

    return rule


def each(low: float, high: float = float("inf"), *, whole: bool = False) -> Rule:
    """A tuple of numbers, low <= number <= high; integers where `whole`."""

    def rule(value: Any) -> str | None:
        if all(is_number(n) and low <= n <= high and not (whole and isinstance(n, float)) for n in value):
            return None
        upper = f" and at most {high:g}" if high != float("inf") else ""
        return f"must be a tuple of {'integers' if whole else 'numbers'} of at least {low:g}{upper}"

    return rule


def ranges(value: Any) -> str | None:
    """Pairs of numbers, ascending."""
    pairs = all(isinstance(pair, (tuple, list)) and len(pair) == 2 and all(map(is_number, pair)) for pair in value)
    return None if pairs and all(low < high for low, high in value) else "must be pairs of ascending numbers"


def pair_within(low: float, high: float) -> Rule:
    def rule(value: Any) -> str | None:
        if len(value) == 0 or (len(value) == 2 and each(low, high)(value) is None and value[0] <= value[1]):
            return None
        return f"must be () or two numbers, ascending, from {low:g} to {high:g}"

    return rule


def subset_of(*choices: Any) -> Rule:
    def rule(value: Any) -> str | None:
        if len(value) and all(value.count(v) == 1 and v in choices for v in value):
            return None
        return f"must be some of {', '.join(repr(c) for c in choices)}, each once"

    return rule


def in_order(*choices: Any) -> Rule:
    def rule(value: Any) -> str | None:
        if tuple(value) == tuple(choice for choice in choices if choice in value):
            return None
        return f"must be some of {', '.join(repr(c) for c in choices)}, in this order, or none"

    return rule


def devices(value: int) -> str | None:
    return None if value > 0 or value == -1 else "must be a positive number of devices, or -1 for what is left"


def is_number(value: Any) -> bool:
    """Whether it is one that a float can hold, and neither infinite nor NaN."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


positive, share = within(0, above=True), within(0, 1)

RULES: dict[str, Rule] = {
    "seed": within(0, 2**31 - 1),
    "dtype": one_of("bfloat16", "float32"),
    "data.fps": within(0, 1000),
    "data.cache_gib": within(0, above=True),
    "data.max_missing": share,
    "data.workers": within(0, 256),
    "data.prefetch": within(1, 64),
    "data.device_batches": within(0, 64),
    "features.layout": one_of("time_first", "channels_first"),
    "features.stride": within(0),
    "features.width": within(0),
    "features.dtype": one_of("float16", "float32"),
    "window.sampling": one_of("random_trunc", "sliding", "resize"),
    "window.eval_sampling": one_of("sliding", "resize"),
    "window.frames": positive,
    "window.feature_length": positive,
    "window.stride": positive,
    "window.representation": one_of("frame", "snippet"),
    "window.snippet_frames": positive,
    "window.snippet_stride": positive,
    "window.overlap": within(0, 0.95),
    "window.train_overlap": within(0, 0.95),
    "window.coverage": one_of("full", "reference"),
    "window.keep_ratio": share,
    "window.crop_ratio": pair_within(0, 1),
    "window.ioa_threshold": share,
    "window.min_length": share,
    "window.short_side": positive,
    "window.size": positive,
    "augment.policy": one_of("randaugment", "autoaugment", "none"),
    "augment.min_area": within(0, 1, above=True),
    "augment.flip": share,
    "augment.operations": within(0, 15),
    "augment.magnitude": within(0, 10),
    "backbone.name": one_of(*BACKBONE_SIZES),
    "backbone.image": positive,
    "backbone.clip_frames": within(0),
    "backbone.position_frames": positive,
    "backbone.gelu": one_of("tanh", "erf"),
    "backbone.drop_path": within(0, 0.9),
    "adaptation.method": one_of(
        "none", "full", "tia", "full_tia", "side", "losa", "longlora", "st_adapter", "aim", "unipt"
    ),
    "adaptation.base": one_of("last", "listed"),
    "adaptation.kernel": each(1, whole=True),
    "adaptation.layers": each(0, whole=True),
    "adaptation.st_width": positive,
    "adaptation.group_steps": positive,
    "adaptation.ratio": within(0, 1, above=True),
    "adaptation.losa.width": within(0),
    "adaptation.losa.ranges": subset_of("short", "long"),
    "adaptation.losa.gate": one_of("zero", "one", "random", "cosine"),
    "adaptation.losa.short_range_clips": within(-1),
    "adaptation.losa.positions": one_of("none", "sincos"),
    "head.name": one_of("actionformer", "tridet", "gtad", "classifier"),
    "head.width": positive,
    "head.heads": positive,
    "head.convs": each(0, whole=True),
    "head.regression_ranges": ranges,
    "head.max_length": positive,
    "head.head_convs": within(0),
    "head.center_sample_radius": positive,
    "head.label_smoothing": share,
    "head.reg_loss_weight": positive,
    "head.loss_normalizer": positive,
    "head.loss_normalizer_momentum": share,
    "head.class_prior": within(0, 1, above=True),
    "head.drop_path": within(0, 0.9),
    "head.proj_dropout": within(0, 0.9),
    "head.input_dropout": within(0, 0.9),
    "head.tridet.k": positive,
    "head.tridet.mlp_width": positive,
    "head.tridet.bins": positive,
    "head.tridet.iou_power": within(0),
    "head.tridet.kernel_size": within(1),
    "head.tridet.boundary_kernel_size": within(1),
    "head.tridet.input_noise": within(0),
    "head.tridet.init_std": within(0),
    "head.gtad.durations": positive,
    "head.gtad.groups": positive,
    "head.gtad.neighbours": positive,
    "head.gtad.roi_size": positive,
    "head.gtad.context_size": positive,
    "head.gtad.extend": within(0),
    "head.gtad.aligned_width": positive,
    "head.gtad.map_width": positive,
    "head.gtad.map_convs": within(0),
    "head.gtad.map_kernel": one_of(1, 3),
    "optim.optimizer": one_of("adamw", "adam", "sgd"),
    "optim.momentum": within(0, 0.9999),
    "optim.batch_size": positive,
    "optim.accumulate": positive,
    "optim.head_lr": within(0),
    "optim.head_weight_decay": within(0),
    "optim.adapter_lr": within(0),
    "optim.adapter_weight_decay": within(0),
    "optim.backbone_lr": within(0),
    "optim.backbone_weight_decay": within(0),
    "optim.clip_norm": within(0),
    "optim.schedule": one_of("cosine", "step"),
    "optim.step_epochs": positive,
    "optim.step_factor": within(0, 1, above=True),
    "optim.warmup_epochs": within(0),
    "optim.schedule_epochs": positive,
    "optim.epochs": positive,
    "optim.min_lr": within(0),
    "optim.ema_decay": within(0, 1),
    "lofi.schedule": one_of("full", "s", "t", "st", "low", "c_short", "c_long"),
    **{f"lofi.{name}": each(0) for name in ("s", "t", "st", "low", "head_lrs")},
    "lofi.side_multiple": positive,
    "lofi.cycle_batches": positive,
    "lofi.cycle_epochs": positive,
    "lofi.stages": in_order("classify", "warmup", "encoder", "head"),
    "lofi.classify_epochs": positive,
    "lofi.warmup_epochs": positive,
    "train.eval_from_epoch": within(0),
    "train.eval_every_epochs": positive,
    "train.checkpoint_every": positive,
    "train.keep_last": positive,
    "train.keep_best": within(0),
    "train.log_every": positive,
    "train.max_skipped": positive,
    "train.spike_factor": within(0),
    "mesh.data": devices,
    "mesh.clip": devices,
    "mesh.fsdp": devices,
    "memory.remat": one_of("none", "block", "nested", "offload", "nested_offload"),
    "memory.kept_inputs": within(0),
    "memory.frames": one_of("device", "host"),
    "memory.clips_per_group": within(0),
    "memory.stream": one_of("float32", "bfloat16"),
    "memory.taps": one_of("store", "store_int8", "recompute", "offload"),
    "memory.attention": one_of("auto", "xla", "chunked", "cudnn", "splash"),
    "post.pre_nms_topk": positive,
    "post.pre_nms_thresh": share,
    "post.nms": one_of("none", "hard", "soft_hard", "linear", "gaussian", "improved_gaussian"),
    "post.sigma": positive,
    "post.iou_threshold": share,
    "post.min_score": share,
    "post.max_seg_num": positive,
    "post.voting_thresh": share,
    "evaluation.rules": one_of("opentad", "activitynet", "epic"),
    "evaluation.tiou": each(0, 1),
    "evaluation.recall_kx": each(1, whole=True),
    "evaluation.batch_size": positive,
    "classifier.layout": one_of("cuhk", "internvideo", "tcanet", "untrimmednet", "plain"),
    "classifier.topk": positive,
}
RULES |= {f"lofi.head_{name}": rule for name, rule in RULES.items() if name.startswith("optim.")}
