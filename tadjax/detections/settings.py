"""How candidates become detections: the fields of a recipe's `config.post`, under the names recipes give them."""

import dataclasses

from tadjax.errors import ConfigError

NMS_METHODS = ("none", "hard", "soft_hard", "linear", "gaussian", "improved_gaussian")


@dataclasses.dataclass(frozen=True)
class PostSettings:
    """Thresholds in score, times in feature steps or seconds: whatever the segments are in when they are suppressed.

    Built from a config by `PostSettings(**config.post)`. Raises ConfigError, naming the field that is out of range.
    """

    pre_nms_topk: int = 2000  # candidates of a window kept before suppression, all classes together
    pre_nms_thresh: float = 0.001  # candidates must score above this
    nms: str = "gaussian"  # one of NMS_METHODS
    sigma: float = 0.5  # soft-NMS: scores decay by exp(-tIoU^2 / sigma)
    iou_threshold: float = 0.1  # hard, soft_hard and linear: neighbours from this tIoU on are suppressed
    min_score: float = 0.0  # a candidate is dropped once its decayed score is below
    max_seg_num: int = 100  # detections of a video, and of each class
    multiclass: bool = True  # each class on its own; False: classes suppress each other
    voting_thresh: float = 0.0  # class-agnostic only: average with all candidates from this tIoU on; 0 = no voting
    t1: float = 0.0  # improved_gaussian: decay only from tIoU t1 + t2 * length of the selected segment on
    t2: float = 0.0
    rounding: bool = False  # as OpenTAD: seconds to 2, scores to 4 decimals, before and after windows are merged

    def __post_init__(self) -> None:
        if self.nms not in NMS_METHODS:
            raise ConfigError(f"post.nms is {self.nms!r}; it must be one of {', '.join(NMS_METHODS)}")
        for field, low, high in (
            ("pre_nms_topk", 1, None),
            ("pre_nms_thresh", 0, 1),
            ("iou_threshold", 0, 1),
            ("min_score", 0, 1),
            ("max_seg_num", 1, None),
            ("voting_thresh", 0, 1),
        ):
            value = getattr(self, field)
            if not (value >= low and (high is None or value <= high)):
                within = f"at least {low}" if high is None else f"from {low} to {high}"
                raise ConfigError(f"post.{field} is {value!r}; it must be {within}")
        if not self.sigma > 0:
            raise ConfigError(f"post.sigma is {self.sigma!r}; it must be above 0")
