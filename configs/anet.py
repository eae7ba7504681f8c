"""AdaTAD on ActivityNet-1.3: every published setting. --config=configs/anet.py:WORDS, words in any order.

vits vitb vitl vith vitg            backbone; VideoMAEv2 for vitg, VideoMAE for the others
slowfast50 slowfast101 swint swinb  or SlowFast R50, R101 (8x8), Video Swin-T, -B, of Kinetics-400
i3d                                 or I3D, RGB, of Kinetics-400
vjepa2_l vjepa2_h vjepa2_g          or V-JEPA 2
vjepa21_b vjepa21_l vjepa21_g vjepa21_G     or V-JEPA 2.1
internvideo2_s internvideo2_b internvideo2_l internvideo2_1b    or InternVideo2, its first stage or distilled
videoprism_b videoprism_l           or VideoPrism
adatad frozen finetune              adapters inside (AdaTAD), head alone, everything
160 224                             side of the pictures in pixels; 224 adapts the last half of vitg's layers
cuhk internvideo internvideo2 cls   whose video labels the class-agnostic detections get; cls: the head's own
tiny                                the tiny twin, for a CPU
The first word of a row is the default; tiny has none.

Every video, however long, is 768 frames and 192 feature steps. Published average mAP, tIoU 0.5:0.05:0.95 (OpenTAD's
results page), with the labels of CUHK: vits 37.81, vitb 38.35, vitl 39.21, vith 39.31, vitg 39.77, vitg,224 39.86; with
InternVideo's vitg,224,internvideo 41.85, vitg,224,internvideo2 42.90; with its own vitl,224,cls 39.15. No result is
published of frozen, of finetune, and of SlowFast and Swin, of which slowfast101,finetune,224 and swint,finetune,224 are
OpenTAD's settings and the others nobody's. None is published of V-JEPA, InternVideo2
and VideoPrism, which take AdaTAD's settings of a ViT as they are (configs/thumos.py says why); those of a billion
parameters adapt the last half at 224, as vitg. The labels matter only in evaluation: one run serves all classifiers.

    python -m tadjax.main --config=configs/anet.py:vitg,224 --workdir=RUN
    python -m tadjax.main --config=configs/anet.py:vitg,224,internvideo2 --workdir=RUN --mode=evaluate
"""

from configs import common
from tadjax.config.schema import defaults

METHODS = ("adatad", "frozen", "finetune")
CLASSIFIERS = {
    "cuhk": ("cuhk", "cuhk_val_simp_7.json"),
    "internvideo": ("internvideo", "new_3ensemble_uniformerv2_large_only_global_anet_16x10x3.json"),
    "internvideo2": ("internvideo", "anet_UMTv2_6B_k710+K40_f16_frozenTuning.json_converted.json"),
}


def get_config(variant: str = ""):
    sides, labels = ("160", "224"), (*CLASSIFIERS, "cls")
    sizes = (*common.SIZES, *common.OTHER_BACKBONES, *common.VIT_KIN)
    size, method, side, labels, tiny = common.pick(variant, sizes, METHODS, sides, labels, common.TINY)
    config = defaults()
    config.data.name = "activitynet-1.3"
    config.data.annotations = "data/anet/annotations.json"
    config.data.classes = "data/anet/classes.txt"
    config.data.videos = "data/anet/videos"
    config.data.blocked = "data/anet/blocked.txt"
    config.data.prefix = "v_"
    config.data.class_agnostic = True
    config.window.sampling = config.window.eval_sampling = "resize"
    config.window.frames = 768
    config.window.feature_length = 192  # four sampled frames a feature step
    config.window.whole_frames = False
    config.window.filter_segments = True
    config.window.crop_ratio = ()
    config.backbone.size = size[-1]
    config.backbone.weights = f"weights/{size}"
    config.memory.clips_per_group = 4 if size in common.LARGE else 0
    config.head.width = 256
    config.head.absolute_position = True
    config.head.max_length = 192
    config.head.label_smoothing = 0.1
    config.head.reg_loss_weight = 2.0
    config.head.loss_normalizer = 200.0
    # With --config.head.name=tridet, the settings published with it; with gtad, proposals up to the whole video.
    config.head.tridet.window, config.head.tridet.k = 15, 1.3
    config.head.tridet.mlp_width, config.head.tridet.bins = 2048, 12
    config.head.tridet.iou_power = 1.0
    config.head.tridet.init_std, config.head.tridet.input_noise = 0.2, 0.5
    config.head.gtad.durations = 192
    config.head.gtad.roi_size, config.head.gtad.context_size, config.head.gtad.map_kernel = 32, 4, 1
    config.optim.batch_size = 16
    config.optim.head_lr = 1e-3
    config.optim.schedule_epochs = config.optim.epochs = 15
    config.train.eval_from_epoch, config.train.eval_every_epochs = 8, 1
    config.post.min_score = 0.001
    config.post.max_seg_num = 100
    config.post.multiclass = False
    config.post.voting_thresh = 0.9
    config.evaluation.tiou = tuple(round(0.5 + 0.05 * i, 2) for i in range(10))
    if side == "224":
        config.window.short_side, config.window.size = 256, 224
        if size in common.LARGE:
            _, _, depth = common.VIT_KIN.get(size, ("vit", "g", 40))
            config.adaptation.layers = (depth // 2, depth - 1)
    if method == "frozen":
        common.frozen(config)
    if method == "finetune":
        config.adaptation.method = "full"
        config.head.input_dropout = 0.2
    if labels == "cls":
        config.data.class_agnostic = False
        config.head.width = 512
        config.head.reg_loss_weight = 1.0
        config.optim.adapter_lr = 8e-5
        config.optim.schedule_epochs = 20
        config.train.eval_from_epoch = 10
        config.post.sigma = 0.75
        config.post.multiclass = True
    else:
        layout, file = CLASSIFIERS[labels]
        config.classifier.layout = layout
        config.classifier.path = f"data/anet/classifiers/{file}"
    if size in common.OTHER_BACKBONES:
        common.other_backbone(config, size)
        if method == "finetune":
            config.head.input_dropout = 0.0
            config.optim.batch_size = 8
    if size in common.VIT_KIN:
        common.vit_kin(config, size)
    return common.tiny(config) if tiny else config
