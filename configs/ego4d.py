"""AdaTAD on Ego4D moment queries, InternVideo's ViT-L fine-tuned on them, 7200 frames at 192 x 192.

vitl                                backbone
vjepa2_l vjepa2_h vjepa2_g          or V-JEPA 2, pre-trained only
vjepa21_b vjepa21_l vjepa21_g vjepa21_G     or V-JEPA 2.1, pre-trained only
internvideo2_s internvideo2_b internvideo2_l internvideo2_1b    or InternVideo2, not fine-tuned on this data set
videoprism_b videoprism_l           or VideoPrism, pre-trained only
tiny                                the tiny twin, for a CPU

Published average mAP 28.41 (tIoU 0.1:0.1:0.5: 33.69, 31.19, 28.37, 26.12, 22.67; OpenTAD's results page). No result is
published of V-JEPA, InternVideo2 and VideoPrism, which have ViT-L's settings and adapt their last half, as ViT-L does
(configs/thumos.py says why).

    python -m tadjax.main --config=configs/ego4d.py --workdir=RUN
"""

from configs import common
from tadjax.config.schema import defaults


def get_config(variant: str = ""):
    backbone, tiny = common.pick(variant, ("vitl", *common.VIT_KIN), common.TINY)
    config = defaults()
    config.data.name = "ego4d-mq"
    config.data.annotations = "data/ego4d/annotations.json"
    config.data.classes = "data/ego4d/classes.txt"
    config.data.videos = "data/ego4d/videos"
    config.data.train_subset, config.data.eval_subset = "train", "val"
    config.window.frames = 7200
    config.window.feature_length = 1800  # four sampled frames a feature step
    config.window.stride = 8
    config.window.overlap = 0.0  # a window holds a whole video of 8 minutes at 30 frames a second
    config.window.keep_ratio = 0.3
    config.window.short_side, config.window.size = 220, 192
    config.backbone.size = "l"
    config.backbone.weights = "weights/vitl_ego4d"
    config.adaptation.layers = (12, 23)
    config.head.convs = (2, 2, 9)
    with config.ignore_type():  # one window a level: the last three are short enough to attend to everything
        config.head.attention_window = (17, 17, 17, 17, 17, 17, 17, -1, -1, -1)
    config.head.max_length = 2048
    config.head.absolute_position = True
    config.head.regression_ranges = (
        *((0, 4), (2, 8), (4, 16), (8, 32), (16, 64)),
        *((32, 128), (64, 256), (128, 512), (256, 1024), (512, 10000)),
    )
    config.head.filter_similar_gt = False
    config.head.proj_dropout = 0.1
    config.head.input_dropout = 0.2
    config.optim.adapter_lr = 4e-4
    config.optim.schedule_epochs, config.optim.epochs = 25, 20
    config.train.eval_from_epoch, config.train.eval_every_epochs = 12, 1
    config.post.pre_nms_topk = 5000
    config.post.sigma = 2.0
    config.post.min_score = 0.001
    config.post.voting_thresh = 0.95
    config.evaluation.tiou = (0.1, 0.2, 0.3, 0.4, 0.5)
    config.evaluation.recall_kx = (1, 5)
    if backbone in common.VIT_KIN:
        common.vit_kin(config, backbone)
        config.memory.clips_per_group = 5 if backbone in common.LARGE else 0
        depth = common.VIT_KIN[backbone][2]
        config.adaptation.layers = (depth // 2, depth - 1)
    return common.tiny(config) if tiny else config
