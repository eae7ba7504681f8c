"""Heads on I3D features of THUMOS14 (two-stream, 2048 channels, every 4th frame): --config=configs/thumos_i3d.py:WORDS.

actionformer tridet                 head
tiny                                the tiny twin, for a CPU
The first word of a row is the default; tiny has none.

The baseline that end-to-end training is measured against. `config.features.path` is the folder that ActionFormer's
release links (`i3d_features`, one .npy a video). The settings are OpenTAD's for these features (RandomTrunc of 2304 of
them), but that long videos are evaluated in overlapping windows, not at once.
Published average mAP, tIoU 0.3:0.1:0.7 (OpenTAD's results page): actionformer 68.44, tridet 69.60.

    python -m tadjax.main --config=configs/thumos_i3d.py:tridet --workdir=RUN
"""

from configs import common


def get_config(variant: str = ""):
    head, tiny = common.pick(variant, ("actionformer", "tridet"), common.TINY)
    config = common.on_features(common.thumos(), "data/thumos14/i3d_features", width=2048)
    config.window.frames = config.window.feature_length = config.head.max_length = 2304
    config.window.stride = 4
    config.window.offset = 8  # a feature is of 16 frames
    config.window.keep_ratio = 0.5
    config.head.name = head
    config.head.attention_window = 19
    config.head.input_dropout = 0.2
    config.head.tridet.input_noise = 0.0005
    config.optim.schedule_epochs = config.optim.epochs = 35
    config.train.eval_from_epoch, config.train.eval_every_epochs = 30, 1
    config.post.sigma = 0.5
    config.post.min_score = 0.001
    if head == "tridet":
        config.optim.head_weight_decay = 0.025
        config.optim.warmup_epochs = 20
        config.optim.schedule_epochs = config.optim.epochs = 40
    return common.tiny(config) if tiny else config
