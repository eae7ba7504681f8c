"""LoFi-E2E on ActivityNet-1.3 with TSM-R50: configs/anet_tsm18_lofi.py, with its words, on a larger encoder.

Published average mAP of the low budget, 25 snippets of 112 x 112 pixels (LoFi-E2E paper): 34.23.

    python -m tadjax.main --config=configs/anet_tsm50_lofi.py:low --workdir=RUN
"""

from configs import anet_tsm18_lofi


def get_config(variant: str = ""):
    config = anet_tsm18_lofi.get_config(variant)
    if config.backbone.size == "r18":
        config.backbone.size = "r50"
        config.memory.clips_per_group = 1  # its activations are some five times as large
    config.backbone.weights = config.backbone.weights.replace("r18", "r50")
    return config
