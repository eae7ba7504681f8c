"""From its output to detections and their mAP."""

from tadjax.config.rules import Field, Section, each, one_of, path, positive, share

POST = Section(
    "From candidates to detections (tadjax/detections).",
    pre_nms_topk=Field(2000, "candidates of a window that are kept, by score", positive),
    pre_nms_thresh=Field(0.001, "candidates of a lower score are left out", share),
    nms=Field(
        "gaussian",
        "non-maximum suppression",
        one_of("none", "hard", "soft_hard", "linear", "gaussian", "improved_gaussian"),
    ),
    sigma=Field(0.7, "width of the Gaussian decay of scores", positive),
    iou_threshold=Field(0.1, "tIoU above which hard, soft_hard and linear NMS suppress", share),
    min_score=Field(0.0, "detections whose score falls below it are left out", share),
    max_seg_num=Field(2000, "detections of a video that are kept", positive),
    multiclass=Field(True, "True: NMS treats each class on its own"),
    voting_thresh=Field(0.7, "class-agnostic detections of a larger tIoU vote on the boundaries; 0: no voting", share),
    t1=Field(0.0, "improved_gaussian decays scores from a tIoU of t1 + t2 * length on"),
    t2=Field(0.0, "see t1"),
    rounding=Field(
        False,
        "True: seconds are rounded to 2 and scores to 4 decimals before windows are merged, as OpenTAD does",
    ),
)

EVALUATION = Section(
    "How a model is evaluated.",
    rules=Field(
        "opentad",
        "whose evaluator mAP follows (tadjax/metrics/rules.py)",
        one_of("opentad", "activitynet", "epic"),
    ),
    tiou=Field((0.3, 0.4, 0.5, 0.6, 0.7), "tIoU thresholds of mAP", each(0, 1)),
    recall_kx=Field(
        (),
        "k of recall@kx, reported beside mAP: the best k times as many detections as instances (Ego4D)",
        each(1, whole=True),
    ),
    batch_size=Field(
        2,
        "windows at once, over all devices, rounded up to a number that these share evenly",
        positive,
        may_change=True,
    ),
)

CLASSIFIER = Section(
    "External video classifier that labels class-agnostic detections.",
    path=Field(
        "",
        'file of the classifier\'s scores; without one, a class-agnostic model is evaluated by the AP of "action"',
        path,
    ),
    layout=Field(
        "cuhk",
        "layout of that file (tadjax/detections/fusion.py)",
        one_of("cuhk", "internvideo", "tcanet", "untrimmednet", "plain"),
    ),
    topk=Field(2, "labels that each video takes from it", positive),
    softmax=Field(False, "True: the file holds logits"),
)
