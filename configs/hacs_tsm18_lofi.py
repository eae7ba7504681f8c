"""LoFi-E2E on HACS segments: configs/anet_tsm18_lofi.py, with its words, on other data.

Published average mAP, tIoU 0.5:0.05:0.95 (LoFi-E2E paper): c_long 24.62, c_short 24.60, s 24.25, t 24.36, st 24.36; acp
23.00, acp+ 23.31; e2e25 19.94, frozen25 18.49. The video labels are TCANet's (HACS), which the paper does not say.

    python -m tadjax.main --config=configs/hacs_tsm18_lofi.py --workdir=RUN
"""

from configs import anet_tsm18_lofi


def get_config(variant: str = ""):
    config = anet_tsm18_lofi.get_config(variant)
    config.data.name = "hacs"
    config.data.annotations = "data/hacs/annotations.json"
    config.data.classes = "data/hacs/classes.txt"
    config.data.videos = "data/hacs/videos"
    config.data.blocked = "data/hacs/blocked.txt"
    config.classifier.layout, config.classifier.topk = "tcanet", 3
    config.classifier.path = "data/hacs/classifiers/validation94.32.json"
    return config
