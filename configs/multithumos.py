"""AdaTAD on MultiTHUMOS: THUMOS14's videos, 65 actions. --config=configs/multithumos.py:WORDS, words in any order.

vits vitb vitl vith vitg            backbone; VideoMAEv2 for vitg, VideoMAE for the others
768x160 1536x224                    sampled frames a window, and their side in pixels; 1536x224 was published of vitg
tiny                                the tiny twin, for a CPU
The first word of a row is the default; tiny has none.

Published average mAP, tIoU 0.1:0.1:0.9 (OpenTAD's results page): vits 40.77, vitb 42.76, vitl 45.15, vith 46.02, vitg
46.74, vitg,1536x224 48.73.

    python -m tadjax.main --config=configs/multithumos.py:vitl --workdir=RUN
"""

from configs import common

LAYERS = {"vits": 12, "vitb": 12, "vitl": 24, "vith": 32, "vitg": 40}


def get_config(variant: str = ""):
    size, frames, tiny = common.pick(variant, common.SIZES, ("768x160", "1536x224"), common.TINY)
    config = common.thumos()
    config.data.name = "multithumos"
    config.data.annotations = "data/multithumos/annotations.json"
    config.data.classes = "data/multithumos/classes.txt"
    config.backbone.size = size[-1]
    config.backbone.weights = f"weights/{size}"
    config.memory.clips_per_group = 4 if size == "vitg" else 0
    config.head.convs = (3, 0, 5)
    config.optim.adapter_lr = 1e-4 if size in ("vith", "vitg") else 4e-4
    config.optim.epochs = 80
    config.train.eval_from_epoch = 49
    config.post.pre_nms_topk = config.post.max_seg_num = 8000
    config.post.sigma = 0.5
    config.evaluation.tiou = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    if frames == "1536x224":
        config.window.frames = 1536  # two sampled frames a feature step
        config.window.short_side, config.window.size = 256, 224
        config.adaptation.layers = (LAYERS[size] // 2, LAYERS[size] - 1)
        config.memory.remat, config.memory.kept_inputs = ("nested_offload", 4) if size == "vitg" else ("nested", 0)
        config.memory.clips_per_group = 8
    return common.tiny(config) if tiny else config
