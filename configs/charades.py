"""AdaTAD on Charades, 512 frames at 160 x 160. --config=configs/charades.py:WORDS, words in any order.

vits vitb vitl vith vitg            backbone; VideoMAEv2 for vitg, VideoMAE for the others
tiny                                the tiny twin, for a CPU
The first word of a row is the default; tiny has none.

Published average mAP, tIoU 0.1:0.1:0.9 (OpenTAD's results page): vits 24.14, vitb 27.99, vitl 32.31, vith 33.94,
vitg 37.56.

    python -m tadjax.main --config=configs/charades.py:vitl --workdir=RUN
"""

from configs import common
from tadjax.config.schema import defaults

ADAPTER_LR = {"vits": 4e-4, "vitb": 4e-4, "vitl": 2e-4, "vith": 1e-4, "vitg": 8e-5}


def get_config(variant: str = ""):
    size, tiny = common.pick(variant, common.SIZES, common.TINY)
    config = defaults()
    config.data.name = "charades"
    config.data.annotations = "data/charades/annotations.json"
    config.data.classes = "data/charades/classes.txt"
    config.data.videos = "data/charades/videos"
    config.data.train_subset, config.data.eval_subset = "training", "testing"
    config.data.fps = 30.0
    config.window.frames = config.window.feature_length = 512
    config.window.keep_ratio = 0.5
    config.backbone.size = size[-1]
    config.backbone.weights = f"weights/{size}"
    config.memory.clips_per_group = 4 if size == "vitg" else 0
    config.head.convs = (2, 2, 7)
    config.head.max_length = 512
    config.head.absolute_position = True
    config.head.regression_ranges = (
        *((0, 4), (4, 8), (8, 16), (16, 32), (32, 64), (64, 128)),
        *((128, 256), (256, 10000)),
    )
    config.head.input_dropout = 0.3
    config.optim.batch_size = 16
    config.optim.adapter_lr = ADAPTER_LR[size]
    config.optim.schedule_epochs = config.optim.epochs = 20
    config.train.eval_from_epoch, config.train.eval_every_epochs = 7, 1
    config.post.sigma = 0.3
    config.post.max_seg_num = 1000
    config.evaluation.tiou = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    return common.tiny(config) if tiny else config
