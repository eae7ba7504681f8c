"""AdaTAD on THUMOS14, VideoMAE ViT-S, 768 frames at 160 x 160.

Published average mAP 69.03 (tIoU 0.3:0.1:0.7: 83.90, 79.01, 72.38, 61.57, 48.27); 2.5 GB a video (OpenTAD's
results page; AdaTAD paper).

    python -m tadjax.main --config=configs/thumos_vits.py --workdir=RUN
"""

from configs import common


def get_config(variant: str = ""):
    (tiny,) = common.pick(variant, common.TINY)
    config = common.thumos()
    config.backbone.size = "s"
    config.backbone.weights = "weights/vits"
    config.optim.adapter_lr = 2e-4
    return common.tiny(config) if tiny else config
