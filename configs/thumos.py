"""AdaTAD on THUMOS14: every published setting. --config=configs/thumos.py:WORDS, words in any order, joined by commas.

vits vitb vitl vith vitg            backbone; VideoMAEv2 for vitg, VideoMAE for the others
slowfast50 slowfast101 swint swinb  or SlowFast R50, R101 (8x8), Video Swin-T, -B, of Kinetics-400
i3d                                 or I3D, RGB, of Kinetics-400: one step in 8 frames, made longer by interpolation
vjepa2_l vjepa2_h vjepa2_g          or V-JEPA 2
vjepa21_b vjepa21_l vjepa21_g vjepa21_G     or V-JEPA 2.1
internvideo2_s internvideo2_b internvideo2_l internvideo2_1b    or InternVideo2, its first stage or distilled
videoprism_b videoprism_l           or VideoPrism
adatad side frozen finetune         adapters inside (AdaTAD), beside (AdaTAD-dagger), head alone, everything
768x160 1536x224 1024x224           sampled frames a window, and their side in pixels
tiny                                the tiny twin, for a CPU
The first word of a row is the default; tiny has none.

Published average mAP, tIoU 0.3:0.1:0.7 (OpenTAD's results page): vits 69.03, vitb 71.14, vitl 73.51, vith 74.95,
vitg 75.06, vitg,1536x224 77.07, vitg,side,1536x224 74.65. Settings without a result are published of vits,side, and
of frozen and finetune for every size, and of slowfast101 and swint with finetune,1024x224. The AdaTAD paper has
slowfast50 66.0 (finetune 64.3, features 62.3) and swinb 63.7 (60.4, 55.1), but not their adapters' learning rates.
Other combinations are possible, but nobody's recipe: so is i3d, whose weights anyone can have (`make real`); it takes
AdaTAD's settings, and its last half, from Mixed_4d on, is what side adapts.
No result is published, by anyone, of V-JEPA, InternVideo2 and VideoPrism end to end. Their words take AdaTAD's settings
of a ViT as they are, those of vitg from a billion parameters on: the same frames, sides, learning rates and stochastic
depth, for want of anything better known, and the last half where that is adapted. Sides of VideoPrism are the nearest
whole numbers of its patches, 162 and 216. Features are what the authors read: of V-JEPA and VideoPrism after the last
norm, of InternVideo2, which has none, the last block's. Clips have the frames of the pre-training: 16 of V-JEPA (whose
last stage saw 64: config.backbone.clip_frames), 8 of InternVideo2, though these were spread over seconds, 16 or 8 of
VideoPrism. Of the last two each frame is a step, so that no step is interpolated, at over twice the operations.

frozen and finetune in the snippet representation: --config.window.representation=snippet, in which every feature step
is 16 frames that the backbone sees alone. frozen on features that are extracted once (--mode=extract):
--config.features.path=RUN/features.

    python -m tadjax.main --config=configs/thumos.py:vitb,side --workdir=RUN
"""

from collections.abc import Callable

from ml_collections import ConfigDict

from configs import common

METHODS = ("adatad", "side", "frozen", "finetune")
ADAPTED_FROM = {"vits": 6, "vitb": 6, "vitl": 12, "vith": 16, "vitg": 20}  # the last half of the layers
ADAPTED_FROM |= {"slowfast50": 8, "slowfast101": 16, "swint": 6, "swinb": 12, "i3d": 4}
ADAPTED_FROM |= {word: depth // 2 for word, (_, _, depth) in common.VIT_KIN.items()}
LAYERS = {"slowfast101": 33, "i3d": 9}  # where that is not twice as many


def with_words(words: str) -> Callable[..., ConfigDict]:
    """The get_config of a file that stands for these words; its own variant adds others."""
    return lambda variant="": get_config(",".join(filter(None, (words, variant))))


def get_config(variant: str = ""):
    sizes, windows = (*common.SIZES, *common.OTHER_BACKBONES, *common.VIT_KIN), ("768x160", "1536x224", "1024x224")
    size, method, frames, tiny = common.pick(variant, sizes, METHODS, windows, common.TINY)
    config = common.thumos()
    config.backbone.size = size[-1]
    config.backbone.weights = f"weights/{size}"
    config.optim.adapter_lr = 2e-4 if size == "vits" else 1e-4
    large = size in common.LARGE
    config.memory.clips_per_group = 4 if large else 0
    if large and method == "adatad":
        config.memory.remat, config.memory.kept_inputs = "nested", 28
    last_half = (ADAPTED_FROM[size], LAYERS.get(size, 2 * ADAPTED_FROM[size]) - 1)
    if frames == "1536x224":
        config.window.frames = 1536  # two sampled frames a feature step
        config.window.short_side, config.window.size = 256, 224
        config.adaptation.layers = last_half
        config.optim.adapter_lr = 2e-4
        config.optim.epochs = 50
        config.train.eval_from_epoch = 37
        if method == "adatad":
            config.memory.remat, config.memory.kept_inputs = ("nested_offload", 4) if large else ("nested", 0)
        config.memory.clips_per_group = 8
    if frames == "1024x224":
        config.window.frames = 1024  # two sampled frames a feature step
        config.window.feature_length = config.head.max_length = 512
        config.window.short_side, config.window.size = 256, 224
        config.memory.clips_per_group = 8
        config.optim.schedule_epochs = 1500
        config.post.min_score = 0.001
    if method == "side":
        config.adaptation.method = "side"
        config.adaptation.layers = last_half
        config.adaptation.ratio = 0.125 if large else 0.25
        config.backbone.drop_path = 0.0
        config.head.input_dropout = 0.1
        config.memory.taps = "store" if size == "vits" else "recompute"  # small: a second frozen pass costs more
        config.memory.clips_per_group = 8 if large else 0
    if method == "frozen":
        common.frozen(config)
        config.post.sigma = 0.5
        config.post.min_score = 0.001
    if method == "finetune":
        config.adaptation.method = "full"
    if method in ("frozen", "finetune"):
        config.train.eval_from_epoch, config.train.eval_every_epochs = 39, 5
    if size in common.OTHER_BACKBONES:
        common.other_backbone(config, size)
    if size in common.VIT_KIN:
        common.vit_kin(config, size)
    return common.tiny(config) if tiny else config
