"""A data set is looked up once, by one object."""

import subprocess
import sys

import pytest

from tadjax.data import annotations, dataset
from tadjax.data.dataset import Dataset
from tadjax.errors import ConfigError, DataError


def test_every_file_is_read_once(small_config, tmp_path, monkeypatch):
    read = []
    for module, name in ((dataset, "read_database"), (dataset, "find_videos"), (annotations, "read_text")):
        original = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *a, o=original, n=name, **k: (read.append(n), o(*a, **k))[1])
    data = Dataset(small_config)
    for _ in range(2):
        assert (data.classes, len(data.training.videos), len(data.evaluation.videos)) == (
            ("left", "right", "still"),
            5,
            2,
        )
        assert set(data.truth.videos) == {video.name for video in data.evaluation.videos}
    assert sorted(read) == ["read_database", "read_text"]


def test_parts_that_are_not_asked_for_are_not_needed(small_config):
    """Weights of a run can be looked at where its videos are not."""
    small_config.data.videos = "/nowhere"
    small_config.classifier.path = "/nowhere.json"
    assert Dataset(small_config).classes == ("left", "right", "still")
    with pytest.raises(DataError, match="no such folder of videos"):
        Dataset(small_config).training_set()


def test_a_model_may_bring_its_own_classes(small_config):
    assert Dataset(small_config, ("still", "left", "right")).training.classes == ("still", "left", "right")
    small_config.data.class_agnostic = True
    assert Dataset(small_config).classes == Dataset(small_config).labels == ("action",)


def test_what_is_not_there_is_named_by_its_field(small_config):
    small_config.data.classes = "/no/classes.txt"
    with pytest.raises(DataError, match=r"config.data.classes: /no/classes.txt does not exist"):
        _ = Dataset(small_config).classes
    small_config.data.annotations = ""
    with pytest.raises(ConfigError, match="config.data.annotations is empty"):
        _ = Dataset(small_config).database


def test_a_localizer_needs_no_files():
    """The model's module imports neither files nor PyAV."""
    code = "import sys, tadjax.localizer; print(*sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    unwanted = ("av", "grain", "tadjax.data", "tadjax.video", "tadjax.files", "tadjax.config")
    assert [name for name in shown.stdout.split() if name in unwanted] == []
