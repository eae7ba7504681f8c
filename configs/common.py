"""Every field of a config, with its default and its meaning. A recipe starts from `base()` and changes some lines.

Unless said otherwise the defaults are those of AdaTAD on THUMOS14 (OpenTAD's published settings). Any leaf can be
overridden on the command line: --config.optim.head_lr=2e-4
"""

from ml_collections import ConfigDict

from tadjax.errors import ConfigError, did_you_mean

SIZES = ("vits", "vitb", "vitl", "vith", "vitg")
# Words for the other backbones: config.backbone.name and size.
OTHER_BACKBONES = {
    "slowfast50": ("slowfast", "r50"),
    "slowfast101": ("slowfast", "r101"),
    "swint": ("swin", "t"),
    "swinb": ("swin", "b"),
    "i3d": ("i3d", "rgb"),
}
# ViT's kin: sides of the pictures that they were trained with, and words for config.backbone.name, size, and layers.
IMAGES = {"vjepa2": 256, "vjepa21": 256, "internvideo2": 224, "videoprism": 288}
_LAYERS = {
    "vjepa2": {"l": 24, "h": 32, "g": 40},
    "vjepa21": {"b": 12, "l": 24, "g": 40, "G": 48},
    "internvideo2": {"s": 12, "b": 12, "l": 24, "1b": 40},
    "videoprism": {"b": 16, "l": 28},
}
VIT_KIN = {f"{name}_{size}": (name, size, n) for name, of in _LAYERS.items() for size, n in of.items()}
LARGE = ("vitg", *(word for word, (_, _, depth) in VIT_KIN.items() if depth >= 40))  # a billion parameters and more
TINY = ("", "tiny")


def base() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0
    config.dtype = "bfloat16"  # of the computation; trained weights, norms, softmax and losses are float32 in any case

    config.data = data = ConfigDict()
    data.name = "custom"
    data.annotations = ""  # ActivityNet-style JSON
    data.classes = (
        ""  # file with one class a line, in the order of the labels; "" derives them (sorted) from the annotations
    )
    data.videos = ""  # folder with one file a video, named as in the annotations, with any usual extension
    data.tfds = ""  # folder written by python -m tadjax.data.builders: instead of annotations, classes, embedded videos
    data.cache = ""  # folder for decoded windows that come again (all but random_trunc's); "" decodes them each time
    data.cache_gib = 50.0  # room for them; what does not fit is decoded each time
    data.prefix = ""  # what stands before the video's name in the file name ("v_" for ActivityNet)
    data.blocked = ""  # file of videos left out of training and evaluation, one name a line (or .json: a list)
    data.train_subset = "training"
    data.eval_subset = "validation"
    data.fps = (
        0.0  # frames a second that the annotated seconds refer to; 0 takes it from the annotations, else the file
    )
    data.class_agnostic = False  # one class "action"; labels come from an external video classifier
    data.max_missing = 0.05  # share of a window's frames that may fail to decode (the nearest earlier frame stands in)
    data.workers = 8  # decoding processes on this host; 0 decodes in the main process
    data.prefetch = 2  # windows a worker prepares ahead, in shared memory (/dev/shm)
    # Training batches that wait on the devices besides the one in use. 0 needs the least memory: a batch then goes
    # there when the step before it has ended, a few frames at a time, and the devices do nothing else meanwhile.
    data.device_batches = 1

    # Features on disk in the place of videos: the head alone is trained. What --mode=extract writes, or a published set
    # (then window.stride, window.offset and data.fps say which second a feature stands for); tadjax/data/features.py
    config.features = features = ConfigDict()
    features.path = ""  # folder with one .npy a video, data.prefix + name + suffix + .npy; "" decodes videos
    features.suffix = ""
    features.layout = "time_first"  # [T, C], or channels_first: [C, T]
    features.stride = 0  # video frames between two stored features, window.stride or a part of it; 0 = the same
    features.width = 0  # C; 0 takes it from features.json, else from the first file
    features.dtype = "float16"  # of the files that --mode=extract writes: float16 or float32

    config.window = window = ConfigDict()
    window.sampling = "random_trunc"  # in training: random_trunc, sliding, or resize (the whole video to one window)
    window.eval_sampling = "sliding"  # in evaluation and prediction: sliding or resize
    # Sampled frames that go through the backbone at once. Unused with snippets and with features on disk.
    window.frames = 768
    window.feature_length = 768  # feature steps that the head sees; frames_per_feature = frames / feature_length
    window.stride = 4  # video frames between two feature steps (unused by resize)
    window.offset = 0  # video frames between a feature step's position and the first frame it covers
    # frame: the backbone sees the window's frames as one sequence; snippet: for every feature step a short snippet
    # centred on it, alone, whose features are averaged
    window.representation = "frame"
    window.snippet_frames = 16
    window.snippet_stride = 1  # video frames between two frames of a snippet
    window.overlap = 0.5  # of two successive evaluation windows, as a share of the window
    window.train_overlap = 0.25  # the same for sampling="sliding"
    window.coverage = "full"  # full: every frame lies in an evaluation window; reference: as OpenTAD lists windows
    window.keep_ratio = 0.75  # share of a segment that must lie in the training window for it to be kept
    # In training, of a video no longer than the window (and of one whose features are resized), the share that is
    # kept; () keeps all.
    window.crop_ratio = (0.9, 1.0)
    window.ioa_threshold = 0.75  # sliding training windows keep segments of which more than this share lies inside
    window.whole_frames = True  # annotated seconds are cut to whole frames (all but ActivityNet)
    window.filter_segments = False  # leave out training segments that are empty or, with resize, up to min_length long
    window.min_length = 0.01  # share of the video
    window.short_side = 182  # of the decoded training frames, before augmentation
    window.size = 160  # of the picture that the backbone sees

    config.augment = augment = ConfigDict()  # see tadjax/data/augment.py
    augment.policy = "randaugment"  # randaugment, autoaugment or none
    augment.crop = True  # random resized crop; otherwise the centre square
    augment.min_area = 0.08  # smallest area of the random crop, as a share of the picture
    augment.flip = 0.5  # probability of a horizontal flip; 0 where left and right tell actions apart
    augment.operations = 2  # of RandAugment, drawn a video
    augment.magnitude = 9  # of RandAugment, 0 to 10
    augment.jitter = True  # brightness, contrast, saturation and hue

    config.backbone = backbone = ConfigDict()
    backbone.name = "vit"  # vit, vjepa2, vjepa21, internvideo2, videoprism, slowfast, swin, tsm, r2plus1d or i3d
    backbone.size = "g"  # a key of SIZES in tadjax/backbones/NAME.py
    # Pixels; side of the pictures that the weights were pre-trained on: of vit's position table, and of LoSA's grids.
    backbone.image = 224
    # Stochastic depth, rising linearly over the layers; also in frozen layers, as published. 0 but for vit and swin.
    backbone.drop_path = 0.1
    # Frames of a clip, all of whose tokens see each other; 0 = what the weights were trained with: 16 of vit (where it
    # cannot be set), vjepa2 and vjepa21 (which also saw 64), 8 of internvideo2, 16 of videoprism b and 8 of l.
    backbone.clip_frames = 0
    backbone.position_frames = 8  # internvideo2: of the table of positions; 16 in files that end in f16
    backbone.gelu = "tanh"  # internvideo2: or erf; see tadjax/backbones/internvideo2.py, also for the next
    backbone.layer = -1  # internvideo2: the last layer that is run, from the end
    backbone.weights = ""  # folder written by convert/torch_to_flax.py
    backbone.random_init = False  # True: start from random weights on purpose

    config.adaptation = adaptation = ConfigDict()
    # none (head-only), full (fine-tuning), tia (AdaTAD), side (AdaTAD-dagger), losa; and what they are compared with:
    # full_tia, longlora, st_adapter, aim, unipt
    adaptation.method = "tia"
    # Adapted layers, from 0: () all, (first, last) a range with both ends, or a list of three or more. LoSA's end one
    # before the last, whose output they attend to; () is then, but for vit, the last layer of each stage below.
    adaptation.layers = ()
    adaptation.ratio = 0.25  # bottleneck width by the layer's width
    adaptation.kernel = (3, 1, 1)  # of the depth-wise convolution over (time, height, width); () for a plain adapter
    adaptation.residual = True  # around the depth-wise convolution
    adaptation.base = "last"  # side: the adapters' sum is added to the last layer, or to the last "listed" (OpenTAD)
    adaptation.st_width = 384  # st_adapter: bottleneck width
    adaptation.group_steps = 16  # longlora: backbone steps that attend to each other
    adaptation.losa = losa = ConfigDict()  # the paper's ablations; see tadjax/adaptation/losa.py
    losa.width = 0  # of the taps and of the cross-attentions; 0 = about 0.34 of the backbone's width
    losa.ranges = ("short", "long")  # or one of them
    losa.fusion = True  # False: the plain sum of the adapted features and the last layer's
    losa.gate = "zero"  # what the layers' gates start from: zero, one, random; or cosine (similarity, not learned)
    losa.short_range_clips = -1  # clips on either side that the short range reaches; -1 = the window, as published
    losa.positions = "none"  # or sincos: temporal positions added to queries and keys

    config.head = head = ConfigDict()
    head.name = "actionformer"  # actionformer, tridet, gtad or classifier (of steps); each takes the fields that it has
    head.width = 512
    head.convs = (2, 2, 5)  # embedding convolutions, stem blocks, branch (stride 2) blocks; levels = branch blocks + 1
    head.heads = 4  # of attention; ActionFormer only, like the next
    head.attention_window = -1  # feature steps a position attends to; -1 all; one number or one a level
    head.max_length = 768  # the sequence is padded to this length
    head.absolute_position = False
    head.head_convs = 2
    head.regression_ranges = ((0, 4), (4, 8), (8, 16), (16, 32), (32, 64), (64, 10000))  # feature steps, one a level
    head.center_sample_radius = 1.5
    head.filter_similar_gt = True  # all instances within 1e-3 of the shortest at a point give it their class
    head.label_smoothing = 0.0
    head.reg_loss_weight = 1.0
    head.loss_normalizer = 100.0
    head.loss_normalizer_momentum = 0.9
    head.class_prior = 0.01
    head.drop_path = 0.1
    head.proj_dropout = 0.0  # ActionFormer only, like the next
    head.input_dropout = 0.0
    head.tridet = tridet = ConfigDict()  # see tadjax/heads/tridet.py
    tridet.window = 1  # kernel of Conv_w; odd, one number or one a level (the first is unused)
    tridet.k = 5.0  # Conv_kw is about that many times as wide
    tridet.mlp_width = 768
    tridet.bins = 16  # farthest distance from a point to a boundary, in strides of its level
    tridet.iou_power = 0.2  # of the overlap that weights the classification loss of positives
    tridet.kernel_size = 3  # of the class and regression towers
    tridet.boundary_kernel_size = 3  # of the start and end towers
    tridet.input_noise = 0.0  # standard deviation of the noise on the features in training
    tridet.init_std = 0.0  # of the depth-wise convolutions' initial kernels
    head.gtad = gtad = ConfigDict()  # see tadjax/heads/gtad.py; of the fields above it takes the width
    gtad.durations = 64  # longest proposal, in feature steps
    gtad.groups = 32  # paths of the first graph block
    gtad.neighbours = 3  # of a step in feature space
    gtad.roi_size = 16  # bins that a proposal's features are sampled to
    gtad.context_size = 16  # and those of its steps' neighbours
    gtad.extend = 0.5  # how far sampling reaches beyond a proposal, by its length
    gtad.aligned_width = 512
    gtad.map_width = 128
    gtad.map_convs = 3
    gtad.map_kernel = 3  # 1 or 3
    gtad.whole_steps = (
        True  # as OpenTAD: only steps wholly within 1.5 of a boundary are boundaries; False: half of them
    )
    gtad.boundary_scores = False  # scores are multiplied by the probabilities of start and end
    gtad.original = False  # losses and proposals of G-TAD's authors (tadjax/heads/gtad_original.py), not OpenTAD's

    config.optim = optim = ConfigDict()
    optim.optimizer = "adamw"  # adamw, adam or sgd (these two with L2 regularisation in place of weight decay)
    optim.momentum = 0.0  # of sgd
    optim.batch_size = 2  # windows a step, over all devices
    optim.accumulate = 1  # micro-batches a step: batch_size is split into that many
    optim.head_lr = 1e-4
    optim.head_weight_decay = 0.05
    optim.adapter_lr = 1e-4
    optim.adapter_weight_decay = 0.05
    optim.backbone_lr = 1e-5  # full fine-tuning only
    optim.backbone_weight_decay = 0.05
    optim.clip_norm = 1.0  # of the gradients of everything trained, together; 0 = no clipping
    optim.schedule = "cosine"  # after a warm-up; or step: the rate falls by step_factor every step_epochs
    optim.step_epochs = 5
    optim.step_factor = 0.5
    optim.warmup_epochs = 5
    optim.schedule_epochs = 100  # where the cosine ends; may lie beyond `epochs`
    optim.epochs = 60
    optim.min_lr = 1e-8
    optim.ema_decay = 0.999  # 0 = evaluate the raw weights

    config.lofi = lofi = ConfigDict()  # LoFi-E2E; see tadjax/training/fidelity.py and tadjax/stages.py
    lofi.schedule = "full"  # fidelity of training: full, s (space), t (time), st, low; by turns c_short, c_long
    lofi.s = (1, 2.0)  # (r_t, r_s): what feature steps and sides are divided by
    lofi.t = (4, 1.0)
    lofi.st = (2, 2**0.5)
    lofi.low = (4, 2.0)
    lofi.side_multiple = 2  # sides in pixels are rounded to it; a vit's patch
    lofi.cycle_batches = 16  # of c_short: steps before it is the next fidelity's turn
    lofi.cycle_epochs = 1  # of c_long; the paper does not say how many
    # Stages of one job, in this order: classify (encoder on the actions' own clips), warmup (head alone), encoder (all
    # that adaptation.method trains), these at `schedule`; then head (anew, full fidelity, encoder frozen, features
    # cached). () for plain training, which is the stage "encoder" alone.
    lofi.stages = ()
    lofi.classify_epochs = 5
    lofi.warmup_epochs = 5
    lofi.head_lrs = ()  # stage head is done with each of these as head_lr, and the best one counts
    lofi.head_optim = ConfigDict(optim.to_dict())  # what `optim` is for the stages warmup and head, with its fields

    config.train = train = ConfigDict()
    train.eval_from_epoch = 40
    train.eval_every_epochs = 2  # evaluated are the epochs that it divides, and the last one
    train.checkpoint_every = 200  # steps
    train.keep_last = 2
    train.keep_best = 1  # by average mAP
    train.log_every = 10  # steps
    train.max_skipped = 10  # steps in a row with a loss or gradient that is not finite, after which the run stops
    train.spike_factor = 4.0  # a loss above so many medians of the last 100 is logged with its videos; 0: none is
    train.wandb = ""  # project name; needs `pip install wandb`

    config.memory = memory = ConfigDict()  # how the backbone's activations are kept for the backward pass
    # none, block, nested (blocks of blocks), offload (block inputs in host memory), or nested_offload (the outer ones')
    memory.remat = "block"
    # Block inputs on the device at once: of nested, the more, the less is computed again, 0 = the fewest; of
    # nested_offload, the more, the fewer lie on the host, 0 = sqrt(layers).
    memory.kept_inputs = 0
    # Clips (vit: 16 frames, tsm: 8) that go through a block (side, losa: the backbone) at once; 0 = all. The other
    # backbones see the window as a whole. In the snippet representation, snippets that go through the backbone at once.
    memory.clips_per_group = 0
    memory.taps = "recompute"  # side, losa: store, store_int8, recompute or offload each layer's output
    # Where windows wait: device, or host, from where side and losa fetch a group of clips at a time. A window can then
    # be longer than the device's memory.
    memory.frames = "device"
    # What flows through the blocks of a vit or swin: float32, as published, or bfloat16, the cheap choice: half the
    # memory, and an error of the features four times as large. The products are of config.dtype either way.
    memory.stream = "float32"
    # auto, xla, chunked, cudnn (no float32), or splash; auto picks by platform and dtype. In swin all but xla is
    # chunked, in networks without attention nothing.
    memory.attention = "auto"

    config.post = post = ConfigDict()
    post.pre_nms_topk = 2000
    post.pre_nms_thresh = 0.001
    post.nms = "gaussian"  # none, hard, soft_hard, linear, gaussian, or improved_gaussian
    post.sigma = 0.7
    post.iou_threshold = 0.1  # of hard, soft_hard and linear NMS
    post.min_score = 0.0
    post.max_seg_num = 2000
    post.multiclass = True  # each class on its own
    post.voting_thresh = 0.7  # class-agnostic only; 0 = no voting
    post.t1 = 0.0  # improved_gaussian decays from tIoU t1 + t2 * length on
    post.t2 = 0.0
    post.rounding = False  # seconds to 2 and scores to 4 decimals before windows are merged, as OpenTAD does

    config.evaluation = evaluation = ConfigDict()
    evaluation.rules = "opentad"  # opentad, activitynet, or epic (tadjax/metrics/rules.py)
    evaluation.tiou = (0.3, 0.4, 0.5, 0.6, 0.7)
    evaluation.recall_kx = ()  # k of recall@kx beside mAP: the best k times as many detections as instances (Ego4D)
    evaluation.batch_size = 2  # windows at once, over all devices; rounded up to what these can share evenly

    config.classifier = classifier = ConfigDict()  # external video classifier: gives class-agnostic detections labels
    classifier.path = ""  # its score file; without one a class-agnostic model is evaluated by AP of "action"
    classifier.layout = "cuhk"  # cuhk, internvideo, tcanet, untrimmednet or plain (tadjax/detections/fusion.py)
    classifier.topk = 2  # labels a video
    classifier.softmax = False  # the file holds logits

    config.mesh = mesh = ConfigDict()  # devices along each axis; -1 = what is left
    mesh.data = -1  # each with windows of its own
    mesh.clip = 1  # that share a window, evenly: its clips must be a multiple of it
    mesh.fsdp = 1  # that hold the backbone's weights in pieces, and have windows of their own as well
    return config


def thumos() -> ConfigDict:
    """THUMOS14: 200 training and 213 test videos, 20 actions. OpenTAD's annotation file, where the subsets are called
    training and validation."""
    config = base()
    config.data.name = "thumos14"
    config.data.annotations = "data/thumos14/annotations.json"
    config.data.classes = "data/thumos14/classes.txt"
    config.data.videos = "data/thumos14/videos"
    return config


def other_backbone(config: ConfigDict, word: str) -> ConfigDict:
    """Any config with one of OTHER_BACKBONES, which see the window as a whole."""
    config.backbone.name, config.backbone.size = OTHER_BACKBONES[word]
    config.backbone.weights = f"weights/{word}"
    if config.backbone.name in ("slowfast", "i3d"):
        config.backbone.drop_path = 0.0
    config.memory.clips_per_group = 0
    return config


def vit_kin(config: ConfigDict, word: str) -> ConfigDict:
    """A config of a ViT with one of VIT_KIN in its place."""
    config.backbone.name, config.backbone.size, _ = VIT_KIN[word]
    config.backbone.weights = f"weights/{word}"
    config.backbone.image = IMAGES[config.backbone.name]
    if config.backbone.name == "videoprism":  # whole patches of 18 pixels: 162, 198 and 216 for 160, 192 and 224
        config.window.size = round(config.window.size / 18) * 18
        config.window.short_side = max(config.window.short_side, config.window.size)
    return config


def losa(config: ConfigDict) -> ConfigDict:
    """LoSA, with the input and the augmentation of its paper: 576 frames at 224 x 224."""
    config.window.frames = 576
    config.window.short_side, config.window.size = 256, 224
    config.augment.policy, config.augment.jitter = "autoaugment", False
    config.adaptation.method, config.adaptation.layers = "losa", ()
    config.memory.taps, config.memory.clips_per_group = "recompute", 6
    return config


def frozen(config: ConfigDict) -> ConfigDict:
    """Head alone: the backbone gives features, of plain centre crops, as all published baselines of that kind do."""
    config.adaptation.method = "none"
    config.backbone.drop_path = 0.0
    config.window.short_side = config.window.size
    config.augment.policy, config.augment.crop = "none", False
    config.augment.flip, config.augment.jitter = 0.0, False
    config.head.input_dropout = 0.2
    return config


def on_features(config: ConfigDict, path: str, width: int) -> ConfigDict:
    """Head alone, on a published set of features: one .npy [T, width] a video in the folder `path`."""
    frozen(config)
    config.adaptation.layers = ()
    config.features.path, config.features.width = path, width
    return config


def pick(variant: str, *choices: tuple[str, ...]) -> tuple[str, ...]:
    """One word of every tuple of choices, from a variant such as "vitb,side", whose words come in any order.

    Where the variant names none, the first. Raises ConfigError for any other word, with the closest that is one.
    """
    words = [word for word in variant.split(",") if word]
    known = [word for group in choices for word in group if word]
    picked = tuple(next((word for word in group if word in words), group[0]) for group in choices)
    for word in words:
        if word not in known:
            hint = did_you_mean(word, known) or f"there are {', '.join(known)}"
            raise ConfigError(f"variant {variant!r}: {word!r} is none of this config's variants; {hint}")
        if word not in picked:
            raise ConfigError(f"variant {variant!r}: {word!r} cannot stand beside another of its kind; give one")
    return picked


def tiny(config: ConfigDict) -> ConfigDict:
    """The tiny twin of any config: the same program, small enough for a CPU minute. Used by the tests."""
    window = config.window
    frames_per_feature = window.frames // window.feature_length
    window.feature_length = 32
    window.frames = 32 * frames_per_feature
    window.short_side, window.size = 36, 32
    config.dtype = "float32"
    config.backbone.size = "tiny"
    config.backbone.random_init = True
    if len(config.adaptation.layers):
        config.adaptation.layers = (2, 3)  # the tiny backbone's last half
    config.memory.clips_per_group = min(config.memory.clips_per_group, 1)
    config.head.width, config.head.max_length, config.head.tridet.mlp_width = 32, 32, 32
    config.head.gtad.durations, config.head.gtad.aligned_width, config.head.gtad.map_width = 16, 32, 16
    config.head.convs, config.head.head_convs = (1, 1, 2), 1  # compiling a block takes longer than running it
    config.head.regression_ranges = ((0, 4), (4, 8), (8, 10000))
    if config.head.attention_window != -1:
        with config.ignore_type():  # one number or one a level
            config.head.attention_window = 5
    for optim in (config.optim, config.lofi.head_optim):
        optim.batch_size, optim.accumulate = 2, 1
        optim.epochs, optim.warmup_epochs = 1, 0
    config.lofi.warmup_epochs = config.lofi.classify_epochs = 1
    config.train.eval_from_epoch = 0
    config.data.workers = 0
    return config
