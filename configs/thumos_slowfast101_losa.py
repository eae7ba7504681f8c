"""LoSA on THUMOS14, SlowFast-101 of Kinetics-400, 576 frames at 224 x 224.

Published average mAP 58.2 (tIoU 0.3:0.1:0.7: 74.2, 69.3, 61.2, 49.6, 36.3), 3.5 GB a video, 12 M learnable parameters
without the head (LoSA paper, tables 1, 3 and 4). The paper does not say which layers those are: here the outputs of the
four stages, and a width with which they are 12.06 M.

    python -m tadjax.main --config=configs/thumos_slowfast101_losa.py --workdir=RUN
"""

from configs import common


def get_config(variant: str = ""):
    (tiny,) = common.pick(variant, common.TINY)
    config = common.losa(common.thumos())
    config.window.feature_length = config.head.max_length = 576
    config.adaptation.losa.width = 48
    config.optim.adapter_lr = 1e-4
    common.other_backbone(config, "slowfast101")
    return common.tiny(config) if tiny else config
