"""The model: backbone, adaptation, head."""

from tadjax.config.backbones import BACKBONE_SIZES
from tadjax.config.rules import (
    Field,
    Section,
    each,
    one_of,
    path,
    positive,
    ranges,
    share,
    subset_of,
    within,
)

BACKBONE = Section(
    "The video encoder.",
    name=Field("vit", "architecture (tadjax/backbones)", one_of(*BACKBONE_SIZES)),
    size=Field("g", "size: a key of SIZES in tadjax/backbones/NAME.py"),
    image=Field(
        224,
        "side in pixels of the pictures that the weights were pre-trained on: a vit's position table and LoSA's grids "
        "have that size",
        positive,
    ),
    drop_path=Field(
        0.1,
        "stochastic depth of the last layer, rising linearly from 0 at the first; frozen layers have it too, as "
        "published. Only vit, its kin and swin have it",
        within(0, 0.9),
    ),
    clip_frames=Field(
        0,
        "frames of a clip, all of whose tokens see each other; 0 takes what the weights were trained with: 16 of vit "
        "(which has no other), of vjepa2 and vjepa21 (which also saw 64), 8 of internvideo2, 16 of videoprism b and "
        "8 of l",
        within(0),
    ),
    position_frames=Field(8, "internvideo2: frames of its table of positions; 16 in files named f16", positive),
    gelu=Field("tanh", "internvideo2: its GELU (tadjax/backbones/internvideo2.py)", one_of("tanh", "erf")),
    layer=Field(-1, "internvideo2: the last layer that is run, counted from the end"),
    weights=Field("", "folder of converted weights (convert/torch_to_flax.py)", path, may_change=True),
    random_init=Field(False, "True: start from random weights, without backbone.weights"),
)

ADAPTATION = Section(
    "How the backbone is adapted (tadjax/adaptation).",
    method=Field(
        "tia",
        "what is trained: none (the head alone), full (fine-tuning), tia (AdaTAD), side (AdaTAD-dagger), losa (LoSA), "
        "or a baseline: full_tia, longlora, st_adapter, aim, unipt",
        one_of("none", "full", "tia", "full_tia", "side", "losa", "longlora", "st_adapter", "aim", "unipt"),
    ),
    layers=Field(
        (),
        "adapted layers, counted from 0: () for all, (first, last) for a range with both ends, or three or more "
        "numbers. LoSA's last one stands before the backbone's last layer, whose output it attends to. () means the "
        "last layer of each stage for LoSA on other backbones than vit",
        each(0, whole=True),
    ),
    ratio=Field(0.25, "bottleneck width, as a share of the layer's width", within(0, 1, above=True)),
    kernel=Field(
        (3, 1, 1),
        "depth-wise convolution's kernel over (time, height, width); () for a plain adapter without one",
        each(1, whole=True),
    ),
    residual=Field(True, "True: a residual connection around the depth-wise convolution"),
    base=Field(
        "last",
        "side: what the adapters' sum is added to, the output of the backbone's last layer or of the last listed one "
        "(OpenTAD)",
        one_of("last", "listed"),
    ),
    st_width=Field(384, "st_adapter: bottleneck width", positive),
    group_steps=Field(16, "longlora: backbone steps that attend to each other", positive),
    losa=Section(
        "LoSA and the ablations of its paper (tadjax/adaptation/losa.py).",
        width=Field(
            0,
            "width of the taps and of the cross-attention; 0: about 0.34 of the backbone's width",
            within(0),
        ),
        ranges=Field(("short", "long"), "temporal ranges of the adapters, both or one", subset_of("short", "long")),
        fusion=Field(True, "True: gated fusion. False: the sum of the adapted features and the last layer's"),
        gate=Field(
            "zero",
            "initial value of the gates; cosine: the gate is the similarity of the features, and is not learned",
            one_of("zero", "one", "random", "cosine"),
        ),
        short_range_clips=Field(
            -1,
            "clips before and after that the short range reaches; -1: the whole window, as published",
            within(-1),
        ),
        positions=Field("none", "temporal positions added to queries and keys", one_of("none", "sincos")),
    ),
)

HEAD = Section(
    "The detection head. Without a head's name, a field is of ActionFormer and TriDet.",
    name=Field(
        "actionformer",
        "architecture of the head (tadjax/heads); it reads the fields that it has",
        one_of("actionformer", "tridet", "gtad", "classifier"),
    ),
    width=Field(512, "channels of the feature pyramid", positive),
    convs=Field(
        (2, 2, 5),
        "embedding convolutions, stem blocks, and branch blocks of stride 2; there is one level more than branch "
        "blocks",
        each(0, whole=True),
    ),
    heads=Field(4, "attention heads (ActionFormer)", positive),
    attention_window=Field(
        -1,
        "feature steps that each step attends to, one number or one a level; -1 for all (ActionFormer)",
        per_level=True,
    ),
    max_length=Field(768, "feature steps that a sequence is padded to", positive),
    absolute_position=Field(False, "True: adds sine-cosine positions to the embedding (ActionFormer)"),
    head_convs=Field(2, "convolutions of the classification and the regression tower, before the last one", within(0)),
    regression_ranges=Field(
        ((0, 4), (4, 8), (8, 16), (16, 32), (32, 64), (64, 10000)),
        "range of distances to a boundary, in feature steps, that each level is trained on",
        ranges,
    ),
    center_sample_radius=Field(1.5, "points within this many strides of an instance's centre are positives", positive),
    filter_similar_gt=Field(
        True,
        "True: where instances within 1e-3 of the shortest one meet in a point, it takes the classes of all",
    ),
    label_smoothing=Field(0.0, "label smoothing of the classification targets", share),
    reg_loss_weight=Field(1.0, "weight of the regression loss", positive),
    loss_normalizer=Field(100.0, "initial value of the running number of positives that divides the losses", positive),
    loss_normalizer_momentum=Field(0.9, "momentum of that running number", share),
    class_prior=Field(0.01, "initial probability of each class", within(0, 1, above=True)),
    drop_path=Field(0.1, "stochastic depth of the head's blocks", within(0, 0.9)),
    proj_dropout=Field(0.0, "dropout of the projections in attention and MLP (ActionFormer)", within(0, 0.9)),
    input_dropout=Field(0.0, "dropout of the input features (ActionFormer)", within(0, 0.9)),
    tridet=Section(
        "TriDet (tadjax/heads/tridet.py).",
        window=Field(1, "kernel of Conv_w: an odd number, or one a level (the first is unused)", per_level=True),
        k=Field(5.0, "Conv_kw's kernel is about k times as wide", positive),
        mlp_width=Field(768, "hidden width of the blocks' MLP", positive),
        bins=Field(16, "largest distance from a point to a boundary, in strides of its level", positive),
        iou_power=Field(0.2, "power of the tIoU that weights a positive's classification loss", within(0)),
        kernel_size=Field(3, "kernel of the classification and regression towers", within(1)),
        boundary_kernel_size=Field(3, "kernel of the start and end towers", within(1)),
        input_noise=Field(0.0, "standard deviation of the noise added to features in training", within(0)),
        init_std=Field(0.0, "standard deviation of the depth-wise convolutions' initial kernels", within(0)),
    ),
    gtad=Section(
        "G-TAD (tadjax/heads/gtad.py); of the fields of `head` it takes the width.",
        durations=Field(64, "longest proposal, in feature steps", positive),
        groups=Field(32, "paths of the first graph block", positive),
        neighbours=Field(3, "nearest steps in feature space that each step is joined to", positive),
        roi_size=Field(16, "bins that a proposal's features are sampled to", positive),
        context_size=Field(16, "bins that the features of its steps' neighbours are sampled to", positive),
        extend=Field(
            0.5,
            "length by which sampling reaches beyond each end of a proposal, as a share of the proposal",
            within(0),
        ),
        aligned_width=Field(512, "channels of a proposal's aligned features", positive),
        map_width=Field(128, "channels of the proposal map's convolutions", positive),
        map_convs=Field(3, "convolutions of the proposal map, before the last one", within(0)),
        map_kernel=Field(3, "kernel of the proposal map's convolutions", one_of(1, 3)),
        whole_steps=Field(
            True,
            "True (OpenTAD): a step is a boundary's if it lies wholly within 1.5 steps of it. False: if half of it "
            "does",
        ),
        boundary_scores=Field(
            False,
            "True: a proposal's score is multiplied by the probabilities of its start and end",
        ),
        original=Field(
            False,
            "True: losses and proposals of G-TAD's authors (tadjax/heads/gtad_original.py). False: OpenTAD's",
        ),
    ),
)
