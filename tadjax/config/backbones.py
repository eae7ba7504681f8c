"""What the checks of a config must know of backbones and methods. Imports no JAX, to be fast."""

# What tadjax/backbones has, by config.backbone.name: the sizes, and the frames that a window is a multiple of.
BACKBONE_SIZES = {
    "vit": ("s", "b", "l", "h", "g", "tiny", "demo"),
    "slowfast": ("r50", "r101", "r50_4x16", "r50_pyslowfast", "r101_pyslowfast", "tiny"),
    "swin": ("t", "s", "b", "tiny"),
    "tsm": ("r18", "r50", "tiny"),
    "r2plus1d": ("18", "34", "18_torchvision", "tiny"),
    "i3d": ("rgb", "tiny"),
}
CLIP_FRAMES = {"vit": 16, "tsm": 8}  # backbones whose clips do not see each other
STEP_FRAMES = {"slowfast": 8, "swin": 2, "r2plus1d": 8, "i3d": 8}  # backbones that see the whole window
DROP_PATH = ("vit", "swin")  # backbones with stochastic depth
BESIDE = ("side", "losa", "unipt")  # methods that take what they need from a frozen backbone's layers
ONLY_VIT = ("longlora", "st_adapter", "aim", "unipt")  # methods that look into a vit's blocks
