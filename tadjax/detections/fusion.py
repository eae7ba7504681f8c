"""Overlapping windows of one video become one list; and class-agnostic detections get the labels of an external video
classifier, as published results on ActivityNet, HACS and for G-TAD on THUMOS14 do.
"""

import dataclasses
import pathlib
import re
from collections.abc import Sequence

import numpy as np

from tadjax.detections.decode import Detections
from tadjax.detections.nms import suppress
from tadjax.detections.settings import PostSettings
from tadjax.errors import DataError
from tadjax.files import read_json

CLASSIFIER_LAYOUTS = ("cuhk", "internvideo", "tcanet", "untrimmednet", "plain")

# The 20 classes of THUMOS14 detection by their number (from 1) among the 101 that UntrimmedNet scores.
THUMOS_CLASS_NUMBERS = {
    "BaseballPitch": 7,
    "BasketballDunk": 9,
    "Billiards": 12,
    "CleanAndJerk": 21,
    "CliffDiving": 22,
    "CricketBowling": 23,
    "CricketShot": 24,
    "Diving": 26,
    "FrisbeeCatch": 31,
    "GolfSwing": 33,
    "HammerThrow": 36,
    "HighJump": 40,
    "JavelinThrow": 45,
    "LongJump": 51,
    "PoleVault": 68,
    "Shotput": 79,
    "SoccerPenalty": 85,
    "TennisSwing": 92,
    "ThrowDiscus": 93,
    "VolleyballSpiking": 97,
}


def merge_windows(windows: list[Detections], settings: PostSettings) -> Detections:
    """The detections of a video from the candidates of its windows (`decode.postprocess`), all in seconds.

    Where windows overlap the same action was found twice; suppression over all of them leaves one.
    """
    every = Detections.concatenate(windows)
    merged = Detections(*suppress(every.segments, every.scores, every.labels, settings))
    return merged.rounded() if settings.rounding else merged


@dataclasses.dataclass(frozen=True)
class VideoClassifier:
    """Scores of whole videos for each class, and how they meet the scores of class-agnostic detections.

    fuse "product": detection score * class score (CUHK, TCANet, UntrimmedNet); "sqrt": the geometric mean of both
    (InternVideo). The topk best classes of a video each get all its detections.
    """

    classes: tuple[str, ...]
    scores: dict[str, np.ndarray]  # video -> float64 [K]
    topk: int = 1
    fuse: str = "product"
    numbered: bool = False  # the table goes by the number that ends a video's name: video_test_0000004 is "4"

    def of_video(self, video: str) -> np.ndarray:
        """Scores [K] of a video; published files name ActivityNet's with or without `v_` in front."""
        names = (video, video.removeprefix("v_"), f"v_{video}")
        if self.numbered:
            digits = re.search(r"\d+$", video)
            names = (str(int(digits[0])),) if digits else ()
        for name in names:
            if name in self.scores:
                return self.scores[name]
        raise DataError(f"the video classifier has no scores for video {video} ({len(self.scores)} videos in its file)")


def classify(found: Detections, video: str, classifier: VideoClassifier) -> Detections:
    """Class-agnostic detections with the labels (indices into classifier.classes) of the video's topk best classes.

    topk blocks of len(found), best class first, not sorted again; scores fused as the classifier says.
    """
    of_video = classifier.of_video(video)
    best = np.argsort(-of_video, kind="stable")[: classifier.topk]
    scores = np.asarray(found.scores, np.float32)[None] * of_video[best, None].astype(np.float32)  # [topk, n]
    if classifier.fuse == "sqrt":
        scores = np.sqrt(scores)
    return Detections(np.tile(found.segments, (len(best), 1)), scores.reshape(-1), np.repeat(best, len(found)))


def load_classifier(
    path: str | pathlib.Path,
    layout: str,
    topk: int = 1,
    classes: Sequence[str] | None = None,
    softmax: bool = False,
) -> VideoClassifier:
    """Reads a score file in one of the published layouts. Raises DataError, naming file and video, for anything else.

    cuhk          {"class": [K], "results": {video: [K]}}; scores multiply (ActivityNet, CUHK 2017)
    internvideo   {"class" or "classes": [K], "results": {video: [K]}}; geometric mean (ActivityNet, FineAction)
    tcanet        {"class": [K], "results": {video: [[K]]}}, logits; 2 * softmax multiplies (HACS)
    untrimmednet  .npy [videos, 101], the row is the number that ends the video's name; scores multiply (THUMOS14)
    plain         {video: [K]}, the class names in `classes`; scores multiply

    softmax: the file holds logits (internvideo and plain).
    """
    if layout not in CLASSIFIER_LAYOUTS:
        raise DataError(
            f"no layout of video classifier scores is called {layout!r}; {', '.join(CLASSIFIER_LAYOUTS)} are"
        )
    if layout == "untrimmednet":
        return _untrimmednet(pathlib.Path(path), topk)
    results = content = read_json(path)
    if layout != "plain":
        results = content.get("results") if isinstance(content, dict) else None
        classes = content.get("class", content.get("classes")) if isinstance(content, dict) else None
    if not isinstance(results, dict) or (layout != "plain" and not isinstance(classes, list)):
        expected = "{video: scores}" if layout == "plain" else '{"class": [...], "results": {video: scores}}'
        raise DataError(f"{path}: layout {layout} is {expected}; the file is not")
    if classes is None:
        raise DataError(f"{path}: layout plain holds no class names; give them as `classes`")
    if not all(isinstance(name, str) and name for name in classes):
        raise DataError(f"{path}: a class name is no text, or empty")
    table = {}
    for video, row in results.items():
        try:
            scores = np.asarray(row[0] if layout == "tcanet" else row, np.float64)
        except (TypeError, ValueError, OverflowError, IndexError, KeyError):
            scores = np.zeros(0)
        if scores.shape != (len(classes),) or not np.isfinite(scores).all():
            raise DataError(f"{path}: video {video}: not {len(classes)} finite scores, one for each class")
        table[video] = _softmax(scores) * 2 if layout == "tcanet" else _softmax(scores) if softmax else scores
    return VideoClassifier(tuple(classes), table, topk, "sqrt" if layout == "internvideo" else "product")


def _softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max())
    return powers / powers.sum()


def _untrimmednet(path: pathlib.Path, topk: int) -> VideoClassifier:
    try:
        rows = np.load(path, allow_pickle=False)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None
    except Exception as error:  # on garbage the parser of numpy's header may raise anything
        raise DataError(f"{path}: not a .npy file of video classifier scores ({error})") from None
    if rows.ndim != 2 or rows.shape[1] < max(THUMOS_CLASS_NUMBERS.values()):
        raise DataError(f"{path}: an array of shape {rows.shape}; layout untrimmednet is [videos, 101]")
    columns = np.array(list(THUMOS_CLASS_NUMBERS.values())) - 1
    table = {str(number): row for number, row in enumerate(rows[:, columns].astype(np.float64), start=1)}
    return VideoClassifier(tuple(THUMOS_CLASS_NUMBERS), table, topk, numbered=True)
