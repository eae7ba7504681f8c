"""Heads on SlowFast features of EPIC-Kitchens-100 (2304 channels): --config=configs/epic_slowfast.py:WORDS, any order.

verb noun                           what is localized
actionformer tridet                 head
tiny                                the tiny twin, for a CPU
The first word of a row is the default; tiny has none.

`config.features.path` is a folder with one .npy [T, 2304] a video: 32 frames every 16 of videos of 30 frames a second
(OpenTAD's `slowfast_fps30_stride16_clip32`). Long videos are evaluated in overlapping windows, not at once.
Published average mAP, tIoU 0.1:0.1:0.5 (OpenTAD's results page): actionformer verb 24.93, noun 22.33; tridet verb
24.97, noun 21.51.

    python -m tadjax.main --config=configs/epic_slowfast.py:noun --workdir=RUN
"""

from configs import common, epic


def get_config(variant: str = ""):
    task, head, tiny = common.pick(variant, ("verb", "noun"), ("actionformer", "tridet"), common.TINY)
    config = common.on_features(epic.get_config(task), "data/epic/slowfast_features", width=2304)
    config.window.frames = config.window.feature_length = config.head.max_length = 2304
    config.window.offset = 16
    config.head.name = head
    config.head.reg_loss_weight = 1.0
    config.head.input_dropout = 0.0
    epochs = 25 if (task, head) == ("verb", "tridet") else 20
    config.optim.schedule_epochs = config.optim.epochs = epochs
    config.train.eval_from_epoch, config.train.eval_every_epochs = 12, 1
    return common.tiny(config) if tiny else config
