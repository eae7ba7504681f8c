"""One object for a config's data set: everything that its files say is looked up here, each file once."""

import dataclasses
import functools
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tadjax.data.annotations import (
    UNKNOWN_BLOCKED,
    Annotations,
    Defect,
    Video,
    known_names,
    parse_database,
    read_classes,
    read_database,
    read_names,
)
from tadjax.data.built import Built, PackedVideo, read_built
from tadjax.data.features import FeatureFolder, feature_folder
from tadjax.data.records import EvaluationSet, TrainSet, evaluation_set, training_set
from tadjax.detections.fusion import VideoClassifier, load_classifier
from tadjax.errors import ConfigError, DataError
from tadjax.metrics.instances import GroundTruth, read_ground_truth
from tadjax.video.folder import find_videos


class Dataset:
    """The data set that a config describes. Every part is read when it is first asked for, and then kept.

    classes: the model's class names, in the order of the labels; None takes the config's (its file, or the
    annotations'), or "action" alone for a class-agnostic model.
    """

    def __init__(self, config: Any, classes: tuple[str, ...] | None = None):
        self.config = config
        self._classes = classes
        self._subsets: dict[str, Annotations] = {}

    @functools.cached_property
    def classes(self) -> tuple[str, ...]:
        if self._classes is not None:
            return self._classes
        data = self.config.data
        if data.class_agnostic:
            return ("action",)
        if self.built is not None:
            return self.built.classes
        if data.classes and not pathlib.Path(data.classes).exists():
            raise _absent("classes", data.classes)
        return parse_database(self.database, data.train_subset, data.classes or None, data.annotations).classes

    @functools.cached_property
    def built(self) -> Built | None:
        """The TFDS data set that takes the place of annotations and classes; None without one."""
        return read_built(self.config.data.tfds) if self.config.data.tfds else None

    @functools.cached_property
    def database(self) -> Mapping[str, Any]:
        """ActivityNet-style entries of all videos of all subsets."""
        data = self.config.data
        if self.built is not None:
            return self.built.database
        if not data.annotations:
            raise ConfigError("config.data.annotations is empty: give the data set's JSON file")
        if not pathlib.Path(data.annotations).exists():
            raise _absent("annotations", data.annotations)
        return read_database(data.annotations)

    @functools.cached_property
    def _blocked(self) -> tuple[frozenset[str], tuple[str, ...]]:
        """The videos that config.data.blocked leaves out, and the names in it that are of none."""
        path = self.config.data.blocked
        if not path:
            return frozenset(), ()
        try:
            return known_names(read_names(path), self.database)
        except DataError as error:
            raise DataError(
                f"config.data.blocked: {error}; it lists videos to leave out, one name a line. "
                "python -m tadjax.prepare writes it; set it to '' if none are missing"
            ) from None

    def subset(self, name: str) -> Annotations:
        """The annotations of one subset, without the videos that are blocked.

        Class-agnostic models keep the labels of the file here; sampling makes them all 0.
        """
        if name not in self._subsets:
            self._subsets[name] = self._read_subset(name)
        return self._subsets[name]

    def _read_subset(self, name: str) -> Annotations:
        data = self.config.data
        if self.built is not None:
            found = self.built.annotations(name, None if data.class_agnostic else self.classes)
        else:
            classes = (data.classes or None) if data.class_agnostic else self.classes
            found = parse_database(self.database, name, classes, str(data.annotations))
        blocked, unknown = self._blocked
        told = () if data.tfds else tuple(Defect(data.blocked, x, None, UNKNOWN_BLOCKED, name) for x in unknown)
        videos = tuple(video for video in found.videos if video.name not in blocked)
        return dataclasses.replace(found, videos=videos, warnings=found.warnings + told)

    @property
    def training(self) -> Annotations:
        """Of the subset to train on."""
        return self.subset(self.config.data.train_subset)

    @property
    def evaluation(self) -> Annotations:
        """Of the subset to evaluate on."""
        return self.subset(self.config.data.eval_subset)

    @property
    def subsets(self) -> dict[str, Annotations]:
        """Both, by name; one where they are the same."""
        data = self.config.data
        return {name: self.subset(name) for name in (data.train_subset, data.eval_subset)}

    @functools.cached_property
    def features(self) -> FeatureFolder | None:
        """The features that take the place of videos; None without any."""
        return feature_folder(self.config)

    @property
    def feature_width(self) -> int | None:
        """Channels of these features; None for videos."""
        return None if self.features is None else self.features.width

    @functools.cached_property
    def classifier(self) -> VideoClassifier | None:
        """The external video classifier; None without one."""
        options, data = self.config.classifier, self.config.data
        if not options.path:
            return None
        classes = read_classes(data.classes) if data.classes else None
        if self.built is not None:
            classes = self.built.classes
        return load_classifier(options.path, options.layout, options.topk, classes, options.softmax)

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names of the detections: the classifier's where there is one."""
        return self.classifier.classes if self.classifier else self.classes

    @functools.cached_property
    def truth(self) -> GroundTruth:
        """The evaluation subset's ground truth; all one class where the detections are class-agnostic and stay so."""
        data = self.config.data
        truth = read_ground_truth(
            {"database": self.database},
            data.eval_subset,
            self.config.evaluation.rules,
            blocked=self._blocked[0],
            name=data.tfds or data.annotations,
        )
        if data.class_agnostic and self.classifier is None:
            return dataclasses.replace(truth, classes=self.classes, labels=np.zeros_like(truth.labels))
        return truth

    def find(self, videos: Sequence[Video]) -> Sequence[pathlib.Path | PackedVideo]:
        """Where the videos are, or the features in their place."""
        return self.find_videos(videos) if self.features is None else self.features.find(videos)

    def find_videos(self, videos: Sequence[Video]) -> Sequence[pathlib.Path | PackedVideo]:
        """Where the videos are: files, in order, or records of the TFDS data set."""
        data = self.config.data
        return self.built.find(videos, data.videos) if self.built else find_videos(videos, data.videos, data.prefix)

    def training_set(self, index: str | os.PathLike[str] | None = None, at: Any = None) -> TrainSet:
        """The training stream; `at` is a config that differs from this one's in its window alone (LoFi's fidelities).

        index: folder that keeps what is known of the videos' files.
        """
        videos = self.training.videos
        return training_set(at or self.config, videos, self.find(videos), index, self.features)

    def evaluation_set(self, index: str | os.PathLike[str] | None = None) -> EvaluationSet:
        """The evaluation windows, in order."""
        videos = self.evaluation.videos
        return evaluation_set(self.config, videos, self.find(videos), index, self.features)


def _absent(field: str, path: str) -> DataError:
    return DataError(f"config.data.{field}: {path} does not exist; docs/data.md says what to put there")
