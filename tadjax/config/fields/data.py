"""What the model sees: videos or features, windows, augmentation."""

from tadjax.config.rules import Field, Section, one_of, pair_within, path, positive, share, within

DATA = Section(
    "Where annotations and videos are, and how batches reach the devices.",
    name=Field("custom", "the data set's name in logs and results"),
    annotations=Field("", "file of annotations (ActivityNet-style JSON)", path, may_change=True),
    classes=Field(
        "",
        'file with one class a line, in the order of the labels; "" takes the annotations\' classes, sorted',
        path,
        may_change=True,
    ),
    videos=Field(
        "",
        "folder of the videos, named as in the annotations, with any usual extension",
        path,
        may_change=True,
    ),
    tfds=Field(
        "",
        "folder that python -m tadjax.prepare.builders wrote; takes the place of annotations, classes and embedded "
        "videos",
        path,
        may_change=True,
    ),
    cache=Field(
        "",
        'folder that keeps decoded windows for the next epoch (all but random_trunc\'s); "" decodes them each time',
        path,
        may_change=True,
    ),
    cache_gib=Field(
        50.0,
        "size limit of the cache in GiB; windows beyond it are decoded each time",
        within(0, above=True),
    ),
    prefix=Field("", 'text before a video\'s name in its file name ("v_" for ActivityNet)'),
    blocked=Field(
        "",
        "file of videos to leave out of training and evaluation: one name a line, or a JSON list",
        path,
        may_change=True,
    ),
    train_subset=Field("training", "the annotations' name for the videos to train on"),
    eval_subset=Field("validation", "the annotations' name for the videos to evaluate on"),
    fps=Field(
        0.0,
        "frame rate that the annotated seconds refer to; 0 takes the annotations' own, else the file's",
        within(0, 1000),
    ),
    class_agnostic=Field(
        False,
        'True: the model has one class, "action", and labels come from an external video classifier',
    ),
    max_missing=Field(
        0.05,
        "share of a window's frames that may fail to decode; the nearest earlier frame replaces each",
        share,
    ),
    workers=Field(8, "decoding processes on each host; 0 decodes in the main process", within(0, 256), may_change=True),
    prefetch=Field(
        2,
        "windows that each worker prepares ahead, in shared memory (/dev/shm)",
        within(1, 64),
        may_change=True,
    ),
    device_batches=Field(
        1,
        "training batches that wait on the devices besides the one in use. 0 needs the least memory: a batch is "
        "copied, a few frames at a time, once the previous step has ended, and the devices are idle meanwhile",
        within(0, 64),
        may_change=True,
    ),
)

FEATURES = Section(
    "Features on disk in place of videos: the head alone is trained. --mode=extract writes them; of a published set, "
    "window.stride, window.offset and data.fps say which second a feature stands for (tadjax/data/features.py).",
    path=Field(
        "",
        'folder with one .npy a video, named data.prefix + name + suffix; "" decodes videos',
        path,
        may_change=True,
    ),
    suffix=Field("", "text after a video's name in its feature file's name"),
    layout=Field(
        "time_first",
        "order of the files' axes: time_first is [T, C], channels_first [C, T]",
        one_of("time_first", "channels_first"),
    ),
    stride=Field(
        0,
        "video frames between two stored features; window.stride must be a multiple of it; 0: equal to window.stride",
        within(0),
    ),
    width=Field(0, "number of channels C; 0 takes it from features.json, else from the first file", within(0)),
    dtype=Field(
        "float16",
        "dtype of the files that --mode=extract writes",
        one_of("float16", "float32"),
        may_change=True,
    ),
)

WINDOW = Section(
    "Which frames of a video make one window, and which instances it keeps (tadjax/data/sampling.py).",
    sampling=Field(
        "random_trunc",
        "training windows: random_trunc (random, around actions), sliding, or resize (the whole video as one window)",
        one_of("random_trunc", "sliding", "resize"),
    ),
    eval_sampling=Field("sliding", "evaluation and prediction windows", one_of("sliding", "resize")),
    frames=Field(
        768,
        "sampled frames of one window, the backbone's input; unused by snippets and by features on disk",
        positive,
    ),
    feature_length=Field(
        768,
        "feature steps of one window, the head's input; frames / feature_length sampled frames make one",
        positive,
    ),
    stride=Field(4, "video frames between two feature steps; unused by resize", positive),
    offset=Field(0, "video frames from a feature step's position to the first frame that it covers"),
    representation=Field(
        "frame",
        "frame: the backbone sees a window's frames as one sequence. snippet: it sees a short clip centred on each "
        "feature step, and averages that clip's features",
        one_of("frame", "snippet"),
    ),
    snippet_frames=Field(16, "frames of one snippet", positive),
    snippet_stride=Field(1, "video frames between two frames of a snippet", positive),
    overlap=Field(0.5, "overlap of consecutive evaluation windows, as a share of the window", within(0, 0.95)),
    train_overlap=Field(0.25, 'overlap of consecutive training windows, with sampling "sliding"', within(0, 0.95)),
    coverage=Field(
        "full",
        "full: evaluation windows cover every frame. reference: OpenTAD's list of windows, which can leave out the end",
        one_of("full", "reference"),
    ),
    keep_ratio=Field(0.75, "random_trunc keeps an instance of which at least this share lies in the window", share),
    crop_ratio=Field(
        (0.9, 1.0),
        "random_trunc crops a video that is no longer than the window to a random share of its length in this range, "
        "and so does resize with features; () keeps all of it",
        pair_within(0, 1),
    ),
    ioa_threshold=Field(
        0.75,
        "sliding training windows keep an instance of which more than this share lies in the window",
        share,
    ),
    whole_frames=Field(
        True,
        "True: annotated seconds are rounded down to whole frames (as published, on all sets but ActivityNet)",
    ),
    filter_segments=Field(
        False,
        "True: training leaves out empty instances and, with resize, instances of at most min_length",
    ),
    min_length=Field(0.01, "length of an instance, as a share of the video, for filter_segments", share),
    short_side=Field(182, "shorter side of the decoded training frames in pixels, before augmentation", positive),
    size=Field(160, "side of the backbone's square input in pixels", positive),
)

AUGMENT = Section(
    "Augmentation of training frames, on the devices (tadjax/data/augment.py).",
    policy=Field(
        "randaugment",
        "operations on the whole picture, the same for all frames of a window",
        one_of("randaugment", "autoaugment", "none"),
    ),
    crop=Field(True, "True: random resized crop in training; False: centre crop"),
    min_area=Field(0.08, "smallest area of a random crop, as a share of the picture", within(0, 1, above=True)),
    flip=Field(0.5, "probability of a horizontal flip; set 0 if actions differ by left and right", share),
    operations=Field(2, "operations that RandAugment applies to each video", within(0, 15)),
    magnitude=Field(9, "strength of RandAugment's operations, 0 to 10", within(0, 10)),
    jitter=Field(True, "True: random brightness, contrast, saturation and hue"),
)
