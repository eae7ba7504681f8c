"""Heads on TSP features of ActivityNet-1.3 (R(2+1)D-34, 512 channels): --config=configs/anet_tsp.py:WORDS, any order.

actionformer tridet                 head; ActionFormer sees videos resized to 192 steps, TriDet as they are, up to 768
tiny                                the tiny twin, for a CPU
The first word of a row is the default; tiny has none.

`config.features.path` is a folder with one .npy [T, 512] a video, v_NAME.npy, a feature every 16 frames of videos of 15
frames a second (OpenTAD's `anet_tsp_npy_unresize`). The labels are CUHK's video classifier's.
Published average mAP, tIoU 0.5:0.05:0.95 (OpenTAD's results page): actionformer 37.07, tridet 36.96.

    python -m tadjax.main --config=configs/anet_tsp.py --workdir=RUN
"""

from configs import anet, common


def get_config(variant: str = ""):
    head, tiny = common.pick(variant, ("actionformer", "tridet"), common.TINY)
    config = common.on_features(anet.get_config("cuhk"), "data/anet/tsp_features", width=512)
    config.head.name = head
    config.window.keep_ratio, config.window.crop_ratio = 0.5, (0.9, 1.0)
    config.head.input_dropout = 0.2
    config.post.sigma = 0.75
    if head == "actionformer":
        config.window.frames = 192
        with config.ignore_type():  # one window a level
            config.head.attention_window = (7, 7, 7, 7, 7, -1)
    else:
        config.data.fps = 15.0
        config.window.sampling, config.window.eval_sampling = "random_trunc", "sliding"
        config.window.frames = config.window.feature_length = config.head.max_length = 768
        config.window.stride, config.window.offset = 16, 8
        config.head.reg_loss_weight = 1.0
        config.head.loss_normalizer = 400.0
        config.optim.head_weight_decay = 0.04
        config.optim.clip_norm = 0.4
        config.optim.warmup_epochs, config.optim.min_lr = 10, 5e-5
        config.post.sigma = 0.7
        config.post.max_seg_num = 200
        config.post.voting_thresh = 0.95
    return common.tiny(config) if tiny else config
