"""AdaTAD on THUMOS14, VideoMAEv2 ViT-g, 1536 frames at 224 x 224, adapters in the last half of the layers.

Published average mAP 77.07 (tIoU 0.3:0.1:0.7: 89.93, 86.83, 81.24, 69.97, 57.36)
(OpenTAD's results page).

    python -m tadjax.main --config=configs/thumos_vitg_1536x224.py --workdir=RUN
"""

from configs import common


def get_config(variant: str = ""):
    (tiny,) = common.pick(variant, common.TINY)
    config = common.thumos()
    config.backbone.size = "g"
    config.backbone.weights = "weights/vitg"
    config.window.frames = 1536  # two sampled frames a feature step
    config.window.short_side, config.window.size = 256, 224
    config.adaptation.layers = (20, 39)
    config.optim.adapter_lr = 2e-4
    config.optim.epochs = 50
    config.train.eval_from_epoch = 37
    # With these, adapters on all 40 layers fit a 16 GB chip. "offload" computes less, and takes 40 GiB of the host.
    config.memory.remat, config.memory.kept_inputs = "nested_offload", 4
    config.memory.clips_per_group = 8
    return common.tiny(config) if tiny else config
