"""LoSA on THUMOS14, VideoMAEv2 ViT-g, 576 frames at 224 x 224.

Published average mAP 71.0 (tIoU 0.3:0.1:0.7: 85.0, 81.1, 74.5, 65.1, 49.3), 40.6 GB a video, 143 M learnable parameters
(LoSA paper, tables 1, 3 and 4). The paper's ablations are config.adaptation.layers and config.adaptation.losa.*

    python -m tadjax.main --config=configs/thumos_vitg_losa.py --workdir=RUN
"""

from configs import common


def get_config(variant: str = ""):
    (tiny,) = common.pick(variant, common.TINY)
    config = common.losa(common.thumos())
    config.backbone.size = "g"
    config.backbone.weights = "weights/vitg"
    config.window.feature_length = config.head.max_length = 576
    config.optim.adapter_lr = 1e-4
    return common.tiny(config) if tiny else config
