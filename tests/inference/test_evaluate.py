"""Evaluation: labels of external classifiers, blocked videos, recall, on detections that are known beforehand."""

import json
import re
import types

import jax.numpy as jnp
import numpy as np
import pytest

from tadjax.data import annotations
from tadjax.data.dataset import Dataset
from tadjax.detections.decode import Detections
from tadjax.errors import DataError
from tadjax.inference.evaluate import Evaluator, table
from tadjax.parallel import mesh as meshes
from tests.config.test_checks import load
from tests.conftest import CLASSES, ROOT


@pytest.fixture
def config(small_data):
    config = load(ROOT / "configs" / "thumos.py", "vits,tiny")
    config.data.annotations = str(small_data / "annotations.json")
    config.data.classes = str(small_data / "classes.txt")
    config.data.videos = str(small_data / "videos")
    config.window.stride = 4
    config.post.pre_nms_thresh = 0.0
    config.evaluation.tiou = (0.5,)
    return config


def evaluator(config, tmp_path) -> Evaluator:
    """Of a model whose one candidate a window and class is its first eight feature steps, with score 0.25."""
    dataset = Dataset(config)

    def candidates(params, batch):
        b = batch["valid"].shape[0]
        return {
            "segments": jnp.broadcast_to(jnp.array([0.0, 8.0]), (b, 1, 2)),
            "scores": jnp.full((b, 1, len(dataset.classes)), 0.25),
            "valid": jnp.ones((b, 1), bool),
        }

    localizer = types.SimpleNamespace(candidates=candidates)
    return Evaluator(dataset, localizer, meshes.make_mesh(config.mesh), tmp_path / "index")


def perfect(found: Evaluator) -> dict[str, Detections]:
    """The instances of CLASSES themselves, each with score 1."""
    truth = found.truth
    labels = np.array([CLASSES.index(name) if name in CLASSES else -1 for name in truth.classes])[truth.labels]
    detections = {}
    for number, video in enumerate(truth.videos):
        mine = (truth.video == number) & (labels >= 0)
        detections[video] = Detections(truth.segments[mine], np.ones(mine.sum()), labels[mine])
    return detections


def write_classifier(config, tmp_path, scores: dict) -> None:
    path = tmp_path / "labels.json"
    path.write_text(json.dumps({"class": list(CLASSES), "results": scores}))
    config.classifier.path, config.classifier.layout, config.classifier.topk = str(path), "cuhk", 2
    config.data.class_agnostic = True


def test_class_agnostic_detections_get_the_labels_of_the_classifier(config, tmp_path):
    write_classifier(config, tmp_path, {"video5": [0.2, 0.8, 0.0], "video6": [0.0, 0.1, 0.4]})
    found = evaluator(config, tmp_path)
    assert found.classes == CLASSES
    detections = found.detect({})
    of_video = detections["video5"]
    assert of_video.labels.tolist()[:1] == [1]
    assert np.allclose(np.unique(of_video.scores), np.unique([0.25 * 0.8, 0.25 * 0.2]))
    assert (np.diff(of_video.scores) <= 0).all()
    assert set(detections["video6"].labels.tolist()) == {2, 1}
    assert found.score(detections)["average_mAP"] >= 0


def test_without_a_classifier_class_agnostic_models_are_scored_by_one_class(config, tmp_path):
    config.data.class_agnostic = True
    found = evaluator(config, tmp_path)
    assert found.classes == ("action",)
    assert found.truth.classes == ("action",) and set(found.truth.labels.tolist()) == {0}
    assert set(found.detect({})["video5"].labels.tolist()) == {0}


def test_a_classifier_without_scores_of_a_video_is_refused_before_training(config, tmp_path):
    write_classifier(config, tmp_path, {"video5": [0.2, 0.8, 0.0]})
    with pytest.raises(DataError, match="no scores for video video6"):
        evaluator(config, tmp_path)


def test_blocked_videos_are_left_out_of_training_evaluation_and_ground_truth(config, tmp_path):
    (tmp_path / "blocked.txt").write_text("video6\nvideo0\n")
    config.data.blocked = str(tmp_path / "blocked.txt")
    dataset = Dataset(config)
    assert [v.name for v in dataset.training.videos] == [f"video{i}" for i in range(1, 5)]
    assert [v.name for v in dataset.evaluation.videos] == ["video5"]
    assert dataset.truth.videos == ("video5",)
    (tmp_path / "blocked.txt").write_text("\ufeffvideo6.mp4 \r\nVIDEO0\r\nc\r\n")
    dataset = Dataset(config)
    found = dataset.training
    assert [v.name for v in found.videos] == [f"video{i}" for i in range(1, 5)]
    (line,) = found.summary()
    assert "1 x no video of the annotations: blocks nothing; first:" in line and "blocked.txt: video 'c'" in line
    assert dataset.truth.videos == ("video5",)
    config.data.blocked = str(tmp_path / "none.txt")
    unread = r"config.data.blocked: .*none.txt: the file of videos cannot be read: No such file or directory; it lists"
    with pytest.raises(DataError, match=unread):
        _ = Dataset(config).training


def test_what_thumos14_calls_ambiguous_is_no_class_to_be_found(config, small_data, tmp_path, monkeypatch):
    """As in training: THUMOS14 marks so what is neither an action nor certainly none."""
    monkeypatch.setattr(annotations, "THUMOS_VIDEO", re.compile(r"video\d"))
    content = json.loads((small_data / "annotations.json").read_text())
    for entry in content["database"].values():
        entry["annotations"].append({"segment": [0.1, 0.9], "label": "Ambiguous"})
    config.data.annotations = str(tmp_path / "annotations.json")
    (tmp_path / "annotations.json").write_text(json.dumps(content))
    found = evaluator(config, tmp_path)
    assert set(found.truth.classes) <= set(CLASSES)
    assert found.score(perfect(found))["average_mAP"] == pytest.approx(100)


def test_recall_of_the_best_detections_stands_beside_mAP(config, tmp_path):
    config.evaluation.recall_kx = (1, 5)
    found = evaluator(config, tmp_path)
    assert found.score(perfect(found)) == {
        "average_mAP": pytest.approx(100),
        "mAP@0.50": pytest.approx(100),
        "recall@1x@0.50": 100,
        "recall@5x@0.50": 100,
    }


def test_the_table_has_a_row_for_every_kind():
    metrics = {"average_mAP": 50.0, "mAP@0.30": 60.0, "mAP@0.50": 40.0, "recall@1x@0.30": 70.0, "recall@1x@0.50": 50.0}
    assert table(metrics).splitlines() == [
        "tIoU         0.30    0.50  average",
        "mAP         60.00   40.00    50.00",
        "recall@1x   70.00   50.00    60.00",
    ]
