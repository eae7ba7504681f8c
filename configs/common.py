"""What recipes share. Every field, its default and its meaning: docs/config.md (tadjax/config/schema.py)."""

from ml_collections import ConfigDict

from tadjax.config.schema import defaults
from tadjax.errors import ConfigError, did_you_mean

SIZES = ("vits", "vitb", "vitl", "vith", "vitg")
# Words for the other backbones: config.backbone.name and size.
OTHER_BACKBONES = {
    "slowfast50": ("slowfast", "r50"),
    "slowfast101": ("slowfast", "r101"),
    "swint": ("swin", "t"),
    "swinb": ("swin", "b"),
    "i3d": ("i3d", "rgb"),
}
# ViT's kin: sides of the pictures that they were trained with, and words for config.backbone.name, size, and layers.
IMAGES = {"vjepa2": 256, "vjepa21": 256, "internvideo2": 224, "videoprism": 288}
_LAYERS = {
    "vjepa2": {"l": 24, "h": 32, "g": 40},
    "vjepa21": {"b": 12, "l": 24, "g": 40, "G": 48},
    "internvideo2": {"s": 12, "b": 12, "l": 24, "1b": 40},
    "videoprism": {"b": 16, "l": 28},
}
VIT_KIN = {f"{name}_{size}": (name, size, n) for name, of in _LAYERS.items() for size, n in of.items()}
LARGE = ("vitg", *(word for word, (_, _, depth) in VIT_KIN.items() if depth >= 40))  # a billion parameters and more
TINY = ("", "tiny")


def thumos() -> ConfigDict:
    """THUMOS14: 200 training and 213 test videos, 20 actions. OpenTAD's annotation file, where the subsets are called
    training and validation."""
    config = defaults()
    config.data.name = "thumos14"
    config.data.annotations = "data/thumos14/annotations.json"
    config.data.classes = "data/thumos14/classes.txt"
    config.data.videos = "data/thumos14/videos"
    return config


def other_backbone(config: ConfigDict, word: str) -> ConfigDict:
    """Any config with one of OTHER_BACKBONES, which see the window as a whole."""
    config.backbone.name, config.backbone.size = OTHER_BACKBONES[word]
    config.backbone.weights = f"weights/{word}"
    if config.backbone.name in ("slowfast", "i3d"):
        config.backbone.drop_path = 0.0
    config.memory.clips_per_group = 0
    return config


def vit_kin(config: ConfigDict, word: str) -> ConfigDict:
    """A config of a ViT with one of VIT_KIN in its place."""
    config.backbone.name, config.backbone.size, _ = VIT_KIN[word]
    config.backbone.weights = f"weights/{word}"
    config.backbone.image = IMAGES[config.backbone.name]
    if config.backbone.name == "videoprism":  # whole patches of 18 pixels: 162, 198 and 216 for 160, 192 and 224
        config.window.size = round(config.window.size / 18) * 18
        config.window.short_side = max(config.window.short_side, config.window.size)
    return config


def losa(config: ConfigDict) -> ConfigDict:
    """LoSA, with the input and the augmentation of its paper: 576 frames at 224 x 224."""
    config.window.frames = 576
    config.window.short_side, config.window.size = 256, 224
    config.augment.policy, config.augment.jitter = "autoaugment", False
    config.adaptation.method, config.adaptation.layers = "losa", ()
    config.memory.taps, config.memory.clips_per_group = "recompute", 6
    return config


def frozen(config: ConfigDict) -> ConfigDict:
    """Head alone: the backbone gives features, of plain centre crops, as all published baselines of that kind do."""
    config.adaptation.method = "none"
    config.backbone.drop_path = 0.0
    config.window.short_side = config.window.size
    config.augment.policy, config.augment.crop = "none", False
    config.augment.flip, config.augment.jitter = 0.0, False
    config.head.input_dropout = 0.2
    return config


def on_features(config: ConfigDict, path: str, width: int) -> ConfigDict:
    """Head alone, on a published set of features: one .npy [T, width] a video in the folder `path`."""
    frozen(config)
    config.adaptation.layers = ()
    config.features.path, config.features.width = path, width
    return config


def pick(variant: str, *choices: tuple[str, ...]) -> tuple[str, ...]:
    """One word of every tuple of choices, from a variant such as "vitb,side", whose words come in any order.

    Where the variant names none, the first. Raises ConfigError for any other word, with the closest that is one.
    """
    words = [word for word in variant.split(",") if word]
    known = [word for group in choices for word in group if word]
    picked = tuple(next((word for word in group if word in words), group[0]) for group in choices)
    for word in words:
        if word not in known:
            hint = did_you_mean(word, known) or f"there are {', '.join(known)}"
            raise ConfigError(f"variant {variant!r}: {word!r} is none of this config's variants; {hint}")
        if word not in picked:
            raise ConfigError(f"variant {variant!r}: {word!r} cannot stand beside another of its kind; give one")
    return picked


def tiny(config: ConfigDict) -> ConfigDict:
    """The tiny twin of any config: the same program, small enough for a CPU minute. Used by the tests."""
    window = config.window
    frames_per_feature = window.frames // window.feature_length
    window.feature_length = 32
    window.frames = 32 * frames_per_feature
    window.short_side, window.size = 36, 32
    config.dtype = "float32"
    config.backbone.size = "tiny"
    config.backbone.random_init = True
    if len(config.adaptation.layers):
        config.adaptation.layers = (2, 3)  # the tiny backbone's last half
    config.memory.clips_per_group = min(config.memory.clips_per_group, 1)
    config.head.width, config.head.max_length, config.head.tridet.mlp_width = 32, 32, 32
    config.head.gtad.durations, config.head.gtad.aligned_width, config.head.gtad.map_width = 16, 32, 16
    config.head.convs, config.head.head_convs = (1, 1, 2), 1  # compiling a block takes longer than running it
    config.head.regression_ranges = ((0, 4), (4, 8), (8, 10000))
    if config.head.attention_window != -1:
        with config.ignore_type():  # one number or one a level
            config.head.attention_window = 5
    for optim in (config.optim, config.lofi.head_optim):
        optim.batch_size, optim.accumulate = 2, 1
        optim.epochs, optim.warmup_epochs = 1, 0
    config.lofi.warmup_epochs = config.lofi.classify_epochs = 1
    config.train.eval_from_epoch = 0
    config.data.workers = 0
    return config
