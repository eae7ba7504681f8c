"""Ground truth and predictions as flat arrays: what every metric of this folder takes."""

import dataclasses
import math
import pathlib
from collections import Counter
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from tadjax.data.annotations import is_ambiguous
from tadjax.detections.results import Results
from tadjax.errors import DataError
from tadjax.files import read_json
from tadjax.metrics.rules import Rules, rules_named


@dataclasses.dataclass(frozen=True)
class GroundTruth:
    """Instances in the order of the file: video int [N] into `videos`, labels int [N] into `classes`, segments in s.

    coverage float64 [N]: length by the video's duration, NaN where the file has neither. `videos` holds every video of
    the subset, those without instances too.
    """

    videos: tuple[str, ...]
    classes: tuple[str, ...]
    video: np.ndarray
    segments: np.ndarray  # float64 [N, 2]
    labels: np.ndarray
    coverage: np.ndarray
    subset: str
    rules: Rules

    def __len__(self) -> int:
        return len(self.labels)

    def per_class(self) -> np.ndarray:
        """Number of instances of each class, int [K]."""
        return np.bincount(self.labels, minlength=len(self.classes))


@dataclasses.dataclass(frozen=True)
class Predictions:
    """Predictions in the order of the file.

    video int [P] into the ground truth's `videos`, or len(videos) for any other video (where they are false
    positives); labels int [P] into its `classes`; segments float64 [P, 2]; scores float64 [P]; index int [P], their
    places among all entries of the file.
    """

    video: np.ndarray
    segments: np.ndarray
    labels: np.ndarray
    scores: np.ndarray
    index: np.ndarray

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, chosen: np.ndarray) -> "Predictions":
        return Predictions(*(getattr(self, field.name)[chosen] for field in dataclasses.fields(self)))

    def ranks(self) -> np.ndarray:
        """Place of each prediction in its class by descending score, from 0, int [P].

        Equal scores stand as `numpy.argsort(scores)[::-1]` leaves them, the order of the public evaluators: any other
        moves mAP by up to 2e-3 where scores are rounded to two decimals.
        """
        ranks = np.empty(len(self), np.int64)
        by_class = np.argsort(self.labels, kind="stable")
        for members in np.split(by_class, np.cumsum(np.bincount(self.labels))[:-1]) if len(self) else ():
            ranks[members[np.argsort(self.scores[members])[::-1]]] = np.arange(len(members))
        return ranks


def read_ground_truth(
    source: str | pathlib.Path | Mapping,
    subset: str | None = None,
    rules: str | Rules = "opentad",
    task: str | None = None,
    blocked: Collection[str] = (),
    predicted: Collection[str] = (),
    name: str = "ground truth",
) -> GroundTruth:
    """Ground truth of one subset, from an ActivityNet-style JSON file, or its content, called `name` in errors.

    subset: None takes the only one there is or, given the names of the `predicted` videos, the one that holds most of
    them. task: None reads "label"; "verb", "noun" or "action" EPIC-Kitchens' "verb_label" and "noun_label" ("id_<n>"),
    whose classes are then named "<n>", for actions "<verb>,<noun>". blocked: videos to leave out. What THUMOS14
    labels `Ambiguous` is no instance, as in training. Raises DataError, naming file, video and index.
    """
    rules = rules_named(rules) if isinstance(rules, str) else rules
    if isinstance(source, (str, pathlib.Path)):
        source, name = read_json(source), str(source)
    database = _database(source, name)
    subset = _choose_subset(database, subset, predicted, name)
    videos = [v for v, entry in database.items() if entry["subset"] == subset and v not in blocked]
    instances, labels, coverage = [], [], []
    for number, video in enumerate(videos):
        kept: dict[str, list[tuple[float, float]]] = {}
        for index, annotation in enumerate(database[video].get("annotations", ())):
            try:
                start, end = map(float, annotation["segment"])
                if not {type(second) for second in annotation["segment"]} <= {int, float}:
                    raise TypeError("a time is no number")
                label, share = _label(annotation, task), _coverage(annotation, end - start, database[video])
                if not (math.isfinite(start) and math.isfinite(end)):
                    raise ValueError("a time is not finite")
            except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
                raise DataError(f"{name}: video {video}, annotation {index}: {_defect(error, task)}") from None
            if is_ambiguous(video, label):
                continue
            if rules.duplicate_tolerance is not None:
                tolerance, same = rules.duplicate_tolerance, kept.setdefault(label, [])
                if end - start <= 0 or any(abs(start - s) <= tolerance and abs(end - e) <= tolerance for s, e in same):
                    continue
                same.append((start, end))
            instances.append((number, start, end))
            labels.append(label)
            coverage.append(share)
    if not instances:
        raise DataError(f"{name}: subset {subset!r} has no annotated instance")
    classes = list(dict.fromkeys(labels))
    if rules.sorted_classes:
        classes = sorted(classes, key=_id_order)
    numbers = {label: k for k, label in enumerate(classes)}
    table = np.array(instances, np.float64)
    return GroundTruth(
        tuple(videos),
        tuple(classes),
        table[:, 0].astype(np.int64),
        table[:, 1:],
        np.array([numbers[label] for label in labels]),
        np.array(coverage),
        subset,
        rules,
    )


def align(results: Results, truth: GroundTruth, every_class: bool = False) -> tuple[Predictions, list[str]]:
    """Predictions in the ground truth's numbering, and sentences about what it does not know.

    Predictions of classes without ground truth are left out; with `every_class`, for metrics that ignore labels, they
    stay, labelled -1. Raises DataError where no predicted video is in the ground truth: results of another data set.
    """
    video_numbers = {video: number for number, video in enumerate(truth.videos)}
    class_numbers = {label: number for number, label in enumerate(truth.classes)}
    of_class = np.array([class_numbers.get(label, -1) for label in results.classes] or [-1])
    videos = results.videos
    unknown_videos = [video for video in videos if video not in video_numbers]
    if videos and len(unknown_videos) == len(videos):
        raise DataError(
            f"none of the {len(videos)} predicted videos is in subset {truth.subset!r} of the ground truth "
            f"(results name {unknown_videos[0]!r}, the ground truth {truth.videos[0]!r}): another data set or subset?"
        )
    parts = list(videos.values())
    counts = [len(found) for found in parts]
    labels = of_class[np.concatenate([found.labels for found in parts])] if parts else np.zeros(0, np.int64)
    predictions = Predictions(
        np.repeat([video_numbers.get(video, len(truth.videos)) for video in videos], counts).astype(np.int64),
        np.concatenate([found.segments for found in parts] or [np.zeros((0, 2))]).astype(np.float64),
        labels,
        np.concatenate([found.scores for found in parts] or [np.zeros(0)]).astype(np.float64),
        np.arange(len(labels)),
    )
    remarks = []
    if unknown_videos:
        remarks.append(
            f"{len(unknown_videos)} of {len(videos)} predicted videos are not in subset {truth.subset!r} "
            f"(first: {unknown_videos[0]}); their predictions count as false positives"
        )
    if every_class:
        return predictions, remarks
    if (labels < 0).any():
        names = [label for label, number in zip(results.classes, of_class, strict=False) if number < 0]
        remarks.append(
            f"{int((labels < 0).sum())} predictions of {len(names)} classes without ground truth are left out "
            f"({_few(names)})"
            + (
                f": no prediction remains; the ground truth's classes are {_few(truth.classes)}"
                if (labels < 0).all()
                else ""
            )
        )
    return predictions[labels >= 0], remarks


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _database(content: object, name: str) -> Mapping:
    database = content.get("database") if isinstance(content, Mapping) else None
    if not isinstance(database, Mapping) or not database:
        raise DataError(f'{name}: no ground truth; it needs {{"database": {{video: {{"subset", "annotations"}}}}}}')
    for video, entry in database.items():
        if not isinstance(entry, Mapping) or "subset" not in entry:
            raise DataError(f'{name}: video {video} has no "subset"')
        if not isinstance(entry["subset"], str) or not isinstance(entry.get("annotations", []), (list, tuple)):
            raise DataError(f'{name}: video {video}: "subset" must be a text and "annotations" a list')
    return database


def _choose_subset(database: Mapping, subset: str | None, predicted: Collection[str], name: str) -> str:
    sizes = Counter(entry["subset"] for entry in database.values())
    held = Counter(database[video]["subset"] for video in predicted if video in database)
    if subset is None and held:
        return held.most_common(1)[0][0]
    listed = ", ".join(f"{known} ({size} videos)" for known, size in sizes.items())
    if subset is None and predicted:
        raise DataError(
            f"{name}: holds none of the {len(predicted)} predicted videos (results name {next(iter(predicted))!r}, the "
            f"ground truth {next(iter(database))!r}): another data set?"
        )
    if subset is None and len(sizes) > 1:
        raise DataError(f"{name}: more than one subset, name the one to evaluate: {listed}")
    if subset is not None and subset not in sizes:
        raise DataError(f"{name}: no subset {subset!r}; there are {listed}")
    return subset if subset is not None else next(iter(sizes))


def _label(annotation: Mapping, task: str | None) -> str:
    if task is None:
        return str(annotation["label"])
    parts = ("verb", "noun") if task == "action" else (task,)
    return ",".join(str(annotation[f"{part}_label"]).removeprefix("id_") for part in parts)


def _coverage(annotation: Mapping, length: float, video: Mapping) -> float:
    """Length by duration, as given or computed; NaN where the duration is unknown."""
    if "coverage" in annotation:
        return float(annotation["coverage"])
    duration = video.get("duration")
    return length / duration if isinstance(duration, (int, float)) and duration > 0 else math.nan


def _defect(error: Exception, task: str | None) -> str:
    if isinstance(error, KeyError):
        return f"no {error}"
    return f"not a segment [start, end] with a {task or 'label'}"


def _id_order(label: str) -> tuple:
    """Classes that are numbers, or pairs of them, in numerical order; names after them, in alphabetical order."""
    parts = label.removeprefix("id_").split(",")
    return (0, *map(int, parts)) if all(part.isdigit() for part in parts) else (1, label)
