"""AdaTAD on EPIC-Kitchens-100, VideoMAE ViT-L fine-tuned on it, 6144 frames at 160 x 160.

verb noun                           what is localized: 97 verbs or 293 nouns; each has its own weights of ViT-L
vitl slowfast50                     backbone; SlowFast R50 as PySlowFast trained it on EPIC-Kitchens, both tasks at once
vjepa2_l vjepa2_h vjepa2_g          or V-JEPA 2, pre-trained only
vjepa21_b vjepa21_l vjepa21_g vjepa21_G     or V-JEPA 2.1, pre-trained only
internvideo2_s internvideo2_b internvideo2_l internvideo2_1b    or InternVideo2, not fine-tuned on this data set
videoprism_b videoprism_l           or VideoPrism, pre-trained only
tiny                                the tiny twin, for a CPU
The first word of a row is the default; tiny has none.

Published average mAP, tIoU 0.1:0.1:0.5 (OpenTAD's results page): verb 29.69 (33.02, 32.43, 30.51, 27.80, 24.69), noun
29.44 (33.88, 32.41, 30.58, 27.66, 22.67). No setting is published of slowfast50, which has ViT-L's.
Nor is any result of V-JEPA, InternVideo2 and VideoPrism, which have ViT-L's, too (configs/thumos.py says why).

    python -m tadjax.main --config=configs/epic.py:noun --workdir=RUN
"""

from configs import common
from tadjax.config.schema import defaults


def get_config(variant: str = ""):
    task, backbone, tiny = common.pick(variant, ("verb", "noun"), ("vitl", "slowfast50", *common.VIT_KIN), common.TINY)
    config = defaults()
    config.data.name = f"epic-kitchens-100-{task}"
    config.data.annotations = f"data/epic/annotations_{task}.json"
    config.data.classes = f"data/epic/classes_{task}.txt"
    config.data.videos = "data/epic/videos"
    config.data.train_subset, config.data.eval_subset = "train", "val"
    config.data.fps = 30.0
    config.window.frames = 6144  # eight sampled frames a feature step
    config.window.stride = 16
    config.window.keep_ratio = 0.3
    config.window.filter_segments = True
    config.backbone.size = "l"
    config.backbone.weights = f"weights/vitl_epic_{task}"
    config.head.attention_window = 9
    config.head.regression_ranges = ((0, 4), (2, 8), (4, 16), (8, 32), (16, 64), (32, 10000))
    config.head.label_smoothing = 0.1 if task == "noun" else 0.0
    config.head.reg_loss_weight = 0.5
    config.head.loss_normalizer = 250.0
    config.head.input_dropout = 0.2
    # With --config.head.name=tridet, the settings published with it.
    config.head.tridet.window, config.head.tridet.k = (1, 4.0) if task == "noun" else (5, 2.0)
    config.head.tridet.mlp_width, config.head.tridet.iou_power = 1024, 0.25
    config.optim.adapter_lr = 8e-5
    config.optim.schedule_epochs, config.optim.epochs = 250, 35
    config.train.eval_from_epoch = 19
    config.post.pre_nms_topk = 5000
    config.post.sigma = 0.4
    config.post.min_score = 0.001
    config.post.voting_thresh = 0.75
    config.evaluation.tiou = (0.1, 0.2, 0.3, 0.4, 0.5)
    if backbone == "slowfast50":
        common.other_backbone(config, backbone)
        config.backbone.size = "r50_pyslowfast"
        config.backbone.weights = "weights/slowfast50_epic"
    if backbone in common.VIT_KIN:
        common.vit_kin(config, backbone)
        config.memory.clips_per_group = 4 if backbone in common.LARGE else 0
    return common.tiny(config) if tiny else config
