"""Heads on SlowFast-R101 features of HACS segments (2304 channels): --config=configs/hacs_slowfast.py:WORDS.

actionformer tridet                 head; ActionFormer's labels are those of TCANet's video classifier
tiny                                the tiny twin, for a CPU
The first word of a row is the default; tiny has none.

`config.features.path` is a folder with one .npy [T, 2304] a video: 32 frames every 8 of videos of 15 frames a second,
fine-tuned on HACS (TCANet's; OpenTAD's `slowfast101_15fps_stride8_len32_hacs`). A window is 512 s.
Published average mAP, tIoU 0.5:0.05:0.95 (OpenTAD's results page): actionformer 37.71, tridet 38.47. There is no
published setting of AdaTAD on HACS; configs/hacs_tsm18_lofi.py trains an encoder on it.

    python -m tadjax.main --config=configs/hacs_slowfast.py:tridet --workdir=RUN
"""

from configs import common
from tadjax.config.schema import defaults


def get_config(variant: str = ""):
    head, tiny = common.pick(variant, ("actionformer", "tridet"), common.TINY)
    config = defaults()
    config.data.name = "hacs"
    config.data.annotations = "data/hacs/annotations.json"
    config.data.classes = "data/hacs/classes.txt"
    config.data.blocked = "data/hacs/slowfast_features/missing_files.txt"  # the feature set says which it lacks
    config.data.fps = 15.0
    common.on_features(config, "data/hacs/slowfast_features", width=2304)
    window = config.window
    window.frames = window.feature_length = 960
    window.stride, window.offset = 8, 16
    window.overlap = 0.0
    window.keep_ratio = 0.5
    window.whole_frames = False
    window.filter_segments = True

    config.head.name = head
    config.head.max_length = 960
    config.head.absolute_position = True
    config.head.label_smoothing = 0.1
    config.head.loss_normalizer = 400.0
    config.optim.batch_size = 16
    config.optim.head_lr, config.optim.head_weight_decay = 1e-3, 0.03
    config.train.eval_from_epoch, config.train.eval_every_epochs = 8, 1
    config.post.sigma = 0.75
    config.post.min_score = 0.001
    config.evaluation.tiou = tuple(round(0.5 + 0.05 * i, 2) for i in range(10))
    if head == "actionformer":
        config.data.class_agnostic = True
        config.classifier.layout = "tcanet"
        config.classifier.path = "data/hacs/classifiers/validation94.32.json"
        config.classifier.topk = 3
        config.head.width = 256
        with config.ignore_type():  # one window a level
            config.head.attention_window = (13, 13, 13, 13, 13, -1)
        config.head.input_dropout = 0.1
        config.optim.schedule_epochs = config.optim.epochs = 15
        config.post.max_seg_num = 100
    else:
        config.head.width = 1024
        config.head.input_dropout = 0.0
        config.head.tridet.window, config.head.tridet.k = 3, 1.2
        config.head.tridet.mlp_width, config.head.tridet.bins = 1024, 14
        config.head.tridet.iou_power = 1.0
        config.head.tridet.kernel_size, config.head.tridet.boundary_kernel_size = 5, 1
        config.head.tridet.init_std, config.head.tridet.input_noise = 0.1, 0.2
        config.optim.clip_norm = 0.5
        config.optim.warmup_epochs = 7
        config.optim.schedule_epochs = config.optim.epochs = 11
        config.optim.min_lr = 5e-4
        config.post.max_seg_num = 250
        config.post.voting_thresh = 0.95
    return common.tiny(config) if tiny else config
