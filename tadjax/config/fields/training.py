"""How it is trained, and on what."""

from tadjax.config.rules import Field, Section, devices, each, in_order, one_of, positive, within

OPTIM = Section(
    "The optimizer and its schedule (tadjax/training/optimizer.py).",
    optimizer=Field("adamw", "adam and sgd take weight decay as L2 regularisation", one_of("adamw", "adam", "sgd")),
    momentum=Field(0.0, "momentum of sgd", within(0, 0.9999)),
    batch_size=Field(2, "windows of one step, over all devices", positive),
    accumulate=Field(1, "micro-batches that a step's batch is split into", positive),
    head_lr=Field(0.0001, "peak learning rate of the head", within(0)),
    head_weight_decay=Field(0.05, "weight decay of the head", within(0)),
    adapter_lr=Field(0.0001, "peak learning rate of the adapters", within(0)),
    adapter_weight_decay=Field(0.05, "weight decay of the adapters", within(0)),
    backbone_lr=Field(1e-05, "peak learning rate of the backbone, in full fine-tuning", within(0)),
    backbone_weight_decay=Field(0.05, "weight decay of the backbone, in full fine-tuning", within(0)),
    clip_norm=Field(1.0, "largest norm of all gradients together; 0: no clipping", within(0)),
    schedule=Field(
        "cosine",
        "decay of the learning rate after the warm-up; step multiplies it by step_factor every step_epochs",
        one_of("cosine", "step"),
    ),
    step_epochs=Field(5, "epochs between two steps of the schedule", positive),
    step_factor=Field(0.5, "factor of each step of the schedule", within(0, 1, above=True)),
    warmup_epochs=Field(5, "epochs in which the learning rate rises linearly from 0", within(0)),
    schedule_epochs=Field(100, "epoch at which the cosine ends; it may be later than epochs", positive),
    epochs=Field(60, "epochs of training", positive),
    min_lr=Field(1e-08, "learning rate at the end of the cosine", within(0)),
    ema_decay=Field(
        0.999,
        "decay of the moving average of the weights, which is evaluated; 0: the weights themselves are evaluated",
        within(0, 1),
    ),
)

LOFI = Section(
    "LoFi-E2E: fidelities (tadjax/training/fidelity.py) and stages (tadjax/training/stages.py).",
    schedule=Field(
        "full",
        "fidelity of training: full, s (smaller pictures), t (fewer frames), st, low; c_short and c_long take turns",
        one_of("full", "s", "t", "st", "low", "c_short", "c_long"),
    ),
    s=Field((1, 2.0), "(r_t, r_s) of fidelity s: feature steps are divided by r_t, sides by r_s", each(0)),
    t=Field((4, 1.0), "(r_t, r_s) of fidelity t", each(0)),
    st=Field((2, 2**0.5), "(r_t, r_s) of fidelity st", each(0)),
    low=Field((4, 2.0), "(r_t, r_s) of fidelity low", each(0)),
    side_multiple=Field(2, "sides are rounded to a multiple of this many pixels, a vit's patch", positive),
    cycle_batches=Field(16, "c_short: steps before the next fidelity's turn", positive),
    cycle_epochs=Field(1, "c_long: epochs before the next fidelity's turn (the paper gives no number)", positive),
    stages=Field(
        (),
        "stages of one job: classify (the encoder on the actions' own clips), warmup (the head alone), encoder "
        "(whatever adaptation.method trains), all at `schedule`, then head (a new head at full fidelity, on cached "
        'features of the frozen encoder). () is plain training, the stage "encoder" alone',
        in_order("classify", "warmup", "encoder", "head"),
    ),
    classify_epochs=Field(5, "epochs of the stage classify", positive),
    warmup_epochs=Field(5, "epochs of the stage warmup", positive),
    head_lrs=Field((), "the stage head is trained with each of these as head_lr, and the best result counts", each(0)),
    head_optim=Section("`optim` of the stages warmup and head; a recipe sets only what differs.", **OPTIM.fields),
)

TRAIN = Section(
    "Evaluation, checkpoints and log during training.",
    may_change=True,
    eval_from_epoch=Field(40, "first epoch after which the model is evaluated", within(0)),
    eval_every_epochs=Field(
        2,
        "the model is evaluated after each epoch that is a multiple of this one, and after the last",
        positive,
    ),
    checkpoint_every=Field(200, "steps between two checkpoints", positive),
    keep_last=Field(2, "newest checkpoints that are kept", positive),
    keep_best=Field(1, "checkpoints of the highest average mAP that are kept", within(0)),
    log_every=Field(10, "steps between two lines of the log", positive),
    max_skipped=Field(
        10,
        "consecutive steps with a loss or gradient that is not finite, after which training stops",
        positive,
    ),
    spike_factor=Field(
        4.0,
        "a loss above this multiple of the median of the last 100 is logged with its videos; 0: none is",
        within(0),
    ),
    wandb=Field("", 'project name at Weights & Biases (needs pip install wandb); "" for none'),
)

MEMORY = Section(
    "How a step fits the device's memory.",
    may_change=True,
    remat=Field(
        "block",
        "what the backward pass computes again: none, block (inside each block), nested (blocks of blocks), offload "
        "(block inputs wait in host memory), nested_offload (only the outer ones do)",
        one_of("none", "block", "nested", "offload", "nested_offload"),
    ),
    kept_inputs=Field(
        0,
        "block inputs on the device at once. nested: more of them mean less to compute again, 0 keeps the fewest. "
        "nested_offload: more of them mean fewer in host memory, 0 is sqrt(layers)",
        within(0),
    ),
    clips_per_group=Field(
        0,
        "clips (vit: 16 frames, tsm: 8) that pass a block at once, or with side and losa the backbone; snippets that "
        "pass the backbone at once; 0: all of them. Must be 0 for backbones that see the window as a whole",
        within(0),
    ),
    taps=Field(
        "recompute",
        "side, losa: how each layer's output is kept for the backward pass",
        one_of("store", "store_int8", "recompute", "offload"),
    ),
    frames=Field(
        "device",
        "where windows wait. host: side and losa fetch a group of clips at a time, so that a window can be larger "
        "than the device's memory",
        one_of("device", "host"),
    ),
    stream=Field(
        "float32",
        "dtype of the residual stream of vit and swin. float32 as published; bfloat16 needs half the memory, and its "
        "features have 8 times the error of 12 layers, 15 times that of 40. Products have config.dtype in either case",
        one_of("float32", "bfloat16"),
    ),
    attention=Field(
        "auto",
        "implementation of the backbone's attention; auto chooses by platform and dtype. cudnn takes no float32; swin "
        "takes xla as it is and any other as chunked; backbones without attention ignore it",
        one_of("auto", "xla", "chunked", "cudnn", "splash"),
    ),
)

MESH = Section(
    "Devices along each axis of the mesh; -1 takes the devices that are left.",
    may_change=True,
    data=Field(-1, "devices that have windows of their own", devices),
    clip=Field(1, "devices that share a window; its clips must be a multiple of it", devices),
    fsdp=Field(1, "devices that share the backbone's weights; they have windows of their own, too", devices),
)
