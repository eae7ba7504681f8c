"""What the checks of a config must know of backbones and methods. Imports no JAX, to be fast."""

from typing import Any

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
BESIDE = ("side", "losa", "unipt")  # methods that take what they need from a frozen backbone's layers
ONLY_VIT = ("longlora", "st_adapter", "aim", "unipt")  # methods that look into a vit's blocks


def clip_frames(config: Any) -> int:
    """Frames of a clip of config.backbone; 0 for a backbone that sees the whole window."""
    name, size = config.backbone.name, config.backbone.size
    return config.backbone.clip_frames or CLIP_FRAMES_OF_SIZE.get((name, size)) or CLIP_FRAMES.get(name, 0)
