"""LoFi-E2E on ActivityNet-1.3: TSM-R18 and G-TAD, in three stages. --config=configs/anet_tsm18_lofi.py:WORDS

c_long c_short s t st low   fidelity of the end-to-end stage (tadjax/training/fidelity.py)
acp imagenet                no such stage: G-TAD on the encoder as it is, pre-trained on Kinetics, on ImageNet alone
acp+                        the encoder fine-tuned as a classifier of ActivityNet's actions instead
e2e25 frozen25              25 snippets in training and evaluation; end to end, and G-TAD alone
search                      the last stage with five learning rates, 2, 5, 10, 20 and 50 e-4; the best one counts
tiny                        the tiny twin, for a CPU

Published average mAP, tIoU 0.5:0.05:0.95 (LoFi-E2E paper): c_long 34.43, c_short 34.38, s 34.12, t 34.32, st 34.12, low
33.99; acp 33.59, acp+ 33.84, imagenet 32.16; e2e25 32.21, frozen25 31.02. Batches of 16, 100 snippets of 8 frames (64
video frames, every eighth), 224 x 224.

Where the paper is silent this is a guess: the epochs of the stages, the cycle of c_long, the augmentation, G-TAD's
settings (they are those of its authors), whose video labels the detections get (CUHK's).

    python -m tadjax.main --config=configs/anet_tsm18_lofi.py --workdir=RUN
    python -m tadjax.main --config=configs/anet_tsm18_lofi.py:acp --workdir=RUN_ACP
"""

from configs import anet, common

FIDELITIES = ("c_long", "c_short", "s", "t", "st", "low")
BASELINES = ("acp", "acp+", "imagenet", "e2e25", "frozen25")
STAGES = {
    "acp": ("head",),
    "imagenet": ("head",),
    "acp+": ("classify", "head"),
    "e2e25": ("warmup", "encoder"),
    "frozen25": ("head",),
}
SEARCHED = (2e-4, 5e-4, 1e-3, 2e-3, 5e-3)


def get_config(variant: str = ""):
    method, search, tiny = common.pick(variant, FIDELITIES + BASELINES, ("", "search"), common.TINY)
    config = anet.get_config()
    snippets(config, 25 if method.endswith("25") else 100, frames=8, stride=8)
    config.window.short_side, config.window.size = 256, 224
    config.augment.policy, config.augment.jitter = "none", False
    config.augment.min_area = 0.25
    config.backbone.name, config.backbone.size = "tsm", "r18"
    config.backbone.drop_path = 0.0
    config.backbone.weights = "weights/tsm_r18_imagenet" if method == "imagenet" else "weights/tsm_r18"
    config.adaptation.method = "full" if method in FIDELITIES or method == "e2e25" else "none"
    # Five snippets of each video go through the encoder at once, forward and backward, before the next five do: nothing
    # else of it need be kept.
    config.memory.remat, config.memory.clips_per_group = "none", 5

    head = config.head
    head.name, head.width = "gtad", 256
    head.gtad.durations = config.window.feature_length  # every pair of a start and an end
    head.gtad.original = True

    recipe(config)
    config.lofi.schedule = method if method in FIDELITIES else "full"
    config.lofi.stages = STAGES.get(method, ("warmup", "encoder", "head"))
    config.lofi.head_lrs = SEARCHED if search else ()
    config.post.sigma = 0.84
    config.post.min_score, config.post.voting_thresh = 0.0, 0.0
    return common.tiny(config) if tiny else config


def snippets(config, length: int, frames: int, stride: int) -> None:
    """Windows of `length` snippets of so many frames, `stride` apart in the video."""
    config.window.frames = config.window.feature_length = length
    config.window.representation = "snippet"
    config.window.snippet_frames, config.window.snippet_stride = frames, stride


def recipe(config) -> None:
    """End to end: SGD; head alone: G-TAD's own recipe. Batches of 16."""
    optim, head_optim = config.optim, config.lofi.head_optim
    optim.optimizer = "sgd"
    optim.head_lr = optim.backbone_lr = optim.adapter_lr = 0.1
    optim.epochs = 15
    optim.schedule, optim.step_epochs, optim.step_factor = "step", 5, 0.5
    head_optim.update(optim.to_dict())
    head_optim.optimizer = "adam"
    head_optim.head_lr = 1e-3
    head_optim.epochs, head_optim.step_factor = 10, 0.1
    config.lofi.classify_epochs = config.lofi.warmup_epochs = 5
    for one in (optim, head_optim):
        one.batch_size = 16
        one.head_weight_decay = one.backbone_weight_decay = one.adapter_weight_decay = 1e-4
        one.clip_norm = one.ema_decay = 0.0
        one.warmup_epochs = 0
    config.train.eval_from_epoch, config.train.eval_every_epochs = 1, 1
