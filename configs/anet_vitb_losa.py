"""LoSA on ActivityNet-1.3, VideoMAE ViT-B, 576 frames at 224 x 224.

Published average mAP 38.1 (tIoU 0.5, 0.75, 0.95: 57.7, 38.6, 8.1) (LoSA paper, table 2). What the paper does not say
(the number of feature steps, the head, the source of the labels) is as in configs/anet.py.

    python -m tadjax.main --config=configs/anet_vitb_losa.py --workdir=RUN
"""

from configs import anet, common


def get_config(variant: str = ""):
    (tiny,) = common.pick(variant, common.TINY)
    config = common.losa(anet.get_config("vitb"))  # three sampled frames a feature step
    config.optim.adapter_lr = 1e-3
    config.optim.warmup_epochs = 5
    return common.tiny(config) if tiny else config
