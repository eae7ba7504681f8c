"""AdaTAD-dagger on THUMOS14, VideoMAE ViT-S, 768 frames at 160 x 160, adapters beside the last half of the layers.

The settings are OpenTAD's; 1.8 GB a video (AdaTAD paper). No mAP is published with them.

    python -m tadjax.main --config=configs/thumos_vits_side.py --workdir=RUN
"""

from configs import common


def get_config(variant: str = ""):
    (tiny,) = common.pick(variant, common.TINY)
    config = common.thumos()
    config.backbone.size = "s"
    config.backbone.weights = "weights/vits"
    config.adaptation.method = "side"
    config.backbone.drop_path = 0.0
    config.adaptation.layers = (6, 11)
    config.head.input_dropout = 0.1
    config.optim.adapter_lr = 2e-4
    config.memory.taps = "store"  # at this size the second frozen pass costs more than it saves
    return common.tiny(config) if tiny else config
