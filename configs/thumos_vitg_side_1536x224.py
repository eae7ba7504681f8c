"""AdaTAD-dagger on THUMOS14, VideoMAEv2 ViT-g, 1536 frames at 224 x 224, adapters beside the last half of the layers.

Published average mAP 74.65 (tIoU 0.3:0.1:0.7: 88.43, 84.72, 77.88, 68.51, 53.72; OpenTAD's results page; the paper has
75.4), 43.6 GB a video (AdaTAD paper).

    python -m tadjax.main --config=configs/thumos_vitg_side_1536x224.py --workdir=RUN
"""

from configs import common


def get_config(variant: str = ""):
    (tiny,) = common.pick(variant, common.TINY)
    config = common.thumos()
    config.backbone.size = "g"
    config.backbone.weights = "weights/vitg"
    config.window.frames = 1536  # two sampled frames a feature step
    config.window.short_side, config.window.size = 256, 224
    config.adaptation.method = "side"
    config.backbone.drop_path = 0.0
    config.adaptation.layers = (20, 39)
    config.adaptation.ratio = 0.125
    config.head.input_dropout = 0.1
    config.optim.adapter_lr = 2e-4
    config.optim.epochs = 50
    config.train.eval_from_epoch = 37
    config.memory.taps = "recompute"
    config.memory.clips_per_group = 8
    return common.tiny(config) if tiny else config
