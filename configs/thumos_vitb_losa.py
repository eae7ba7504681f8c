"""LoSA on THUMOS14, VideoMAE ViT-B, 576 frames at 224 x 224.

Published average mAP 67.3 (tIoU 0.3:0.1:0.7: 81.1, 77.0, 70.2, 61.1, 46.9), 6.5 GB a video
(LoSA paper, tables 1, 3 and 4). The paper's ablations are config.adaptation.layers and config.adaptation.losa.*

    python -m tadjax.main --config=configs/thumos_vitb_losa.py --workdir=RUN
"""

from configs import common


def get_config(variant: str = ""):
    (tiny,) = common.pick(variant, common.TINY)
    config = common.losa(common.thumos())
    config.backbone.size = "b"
    config.backbone.weights = "weights/vitb"
    config.window.feature_length = config.head.max_length = 576
    config.optim.adapter_lr = 1e-4
    return common.tiny(config) if tiny else config
