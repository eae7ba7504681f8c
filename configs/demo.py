"""AdaTAD on the demo data set: six actions that differ in motion alone, a ViT small enough for two CPU cores.

`make demo` makes the data and the backbone's weights, and trains this and its head-only twin:

    python -m tadjax.main --config=configs/demo.py --workdir=runs/demo/adatad
    python -m tadjax.main --config=configs/demo.py:head_only --workdir=runs/demo/head_only

Variants: head_only (frozen backbone, no adapters), side (AdaTAD-dagger) and losa, which differ in the method alone,
LoSA also in the learning rate; tiny; lofi and acp, which python -m tadjax.demo --lofi compares (LoFi-E2E: the head's
last stage on the features of an encoder trained at low fidelity; and the same stage on the features of the encoder as
it was pre-trained); and i3d, AdaTAD on I3D, which make real trains from Kinetics' weights and from random ones.
"""

from configs import common
from tadjax.config.schema import defaults

METHODS = ("adatad", "head_only", "side", "losa", "lofi", "acp", "i3d")


def get_config(variant: str = ""):
    config = defaults()
    config.dtype = "float32"
    config.data.name = "demo"
    config.data.annotations = "runs/demo/data/annotations.json"
    config.data.classes = "runs/demo/data/classes.txt"
    config.data.videos = "runs/demo/data/videos"
    config.data.workers = 1

    window = config.window
    window.frames, window.feature_length = 256, 128  # two sampled frames a feature step
    window.stride = 6  # so every third frame of the video is sampled
    window.overlap = 0.25
    window.short_side, window.size = 72, 64
    config.augment.policy = "none"  # shearing or rotating the picture would change what an action is
    config.augment.min_area = 0.6

    config.backbone.size = "demo"
    config.backbone.image = 64
    config.backbone.weights = "runs/demo/weights"
    config.backbone.drop_path = 0.0
    config.memory.remat = "none"  # the model is small: nothing needs to be computed twice

    head = config.head
    head.width, head.max_length = 96, 128
    head.convs = (2, 2, 3)
    head.regression_ranges = ((0, 4), (4, 8), (8, 16), (16, 10000))
    head.loss_normalizer = 20.0
    head.drop_path = 0.0

    optim = config.optim
    optim.head_lr, optim.adapter_lr = 1e-3, 2e-3
    optim.epochs = optim.schedule_epochs = 40
    optim.warmup_epochs = 2
    optim.ema_decay = 0.98
    config.train.eval_from_epoch, config.train.eval_every_epochs = 20, 20
    config.train.checkpoint_every = 100

    method, tiny = common.pick(variant, METHODS, common.TINY)
    config.memory.taps = "store"
    if method in ("lofi", "acp"):
        stages(config, with_encoder=method == "lofi")
    else:
        config.adaptation.method = {"adatad": "tia", "i3d": "tia", "head_only": "none"}.get(method, method)
    if method == "i3d":
        i3d(config)
    if method == "losa":
        optim.adapter_lr = 5e-4  # at 2e-3 its features move too fast for the head
    return common.tiny(config) if tiny else config


def i3d(config) -> None:
    """AdaTAD on I3D, in the minutes that two cores have: fewer epochs, adapters after the last four blocks."""
    config.backbone.name, config.backbone.size, config.backbone.image = "i3d", "rgb", 224
    config.backbone.weights = "runs/real/weights"
    config.adaptation.layers = (5, 8)
    config.optim.epochs = config.optim.schedule_epochs = 10
    config.optim.ema_decay = 0.9
    config.train.eval_from_epoch, config.train.eval_every_epochs = 10, 10


def stages(config, with_encoder: bool) -> None:
    """LoFi-E2E, or its last stage alone."""
    lofi = config.lofi
    config.adaptation.method = "full" if with_encoder else "none"
    lofi.schedule = "st" if with_encoder else "full"  # one fidelity: compiling takes longer than training here
    lofi.stages = ("warmup", "encoder", "head") if with_encoder else ("head",)
    lofi.side_multiple = 16  # the ViT's patch
    config.optim.backbone_lr, config.optim.backbone_weight_decay = 5e-4, 0.05
    config.optim.epochs = config.optim.schedule_epochs = 15
    lofi.head_optim.update(config.optim.to_dict())
    lofi.head_optim.epochs = lofi.head_optim.schedule_epochs = 30
    lofi.warmup_epochs = 2
    config.train.eval_from_epoch, config.train.eval_every_epochs = 30, 30
