import json

import numpy as np
import pytest

from tadjax.detections.decode import Detections
from tadjax.detections.fusion import THUMOS_CLASS_NUMBERS, classify, load_classifier
from tadjax.errors import DataError

FOUND = Detections(np.array([[0, 1], [2, 3]], np.float32), np.array([0.5, 0.2], np.float32), np.zeros(2, np.int64))
NAMES = ["Archery", "Ballet", "Cricket"]
SCORES = [0.1, 0.6, 0.3]
SOFTMAX = np.exp(SCORES) / np.exp(SCORES).sum()


@pytest.mark.parametrize(
    ("layout", "content", "options", "want"),
    [
        ("cuhk", {"class": NAMES, "results": {"x": SCORES}}, {}, [0.5 * 0.6, 0.2 * 0.6, 0.5 * 0.3, 0.2 * 0.3]),
        ("internvideo", {"classes": NAMES, "results": {"x": SCORES}}, {}, np.sqrt([0.3, 0.12, 0.15, 0.06])),
        ("internvideo", {"class": NAMES, "results": {"x": SCORES}}, {"softmax": True},
         np.sqrt([0.5 * SOFTMAX[1], 0.2 * SOFTMAX[1], 0.5 * SOFTMAX[2], 0.2 * SOFTMAX[2]])),
        ("tcanet", {"class": NAMES, "results": {"x": [SCORES]}}, {},
         2 * np.array([0.5 * SOFTMAX[1], 0.2 * SOFTMAX[1], 0.5 * SOFTMAX[2], 0.2 * SOFTMAX[2]])),
        ("plain", {"x": SCORES}, {"classes": NAMES}, [0.3, 0.12, 0.15, 0.06]),
    ],
)  # fmt: skip
def test_json_layouts(tmp_path, layout, content, options, want):
    path = tmp_path / "scores.json"
    path.write_text(json.dumps(content))
    classifier = load_classifier(path, layout, topk=2, **options)
    got = classify(FOUND, "v_x", classifier)
    np.testing.assert_allclose(got.scores, want, rtol=1e-6)
    assert [classifier.classes[i] for i in got.labels] == ["Ballet", "Ballet", "Cricket", "Cricket"]
    np.testing.assert_array_equal(got.segments, np.tile(FOUND.segments, (2, 1)))
    with pytest.raises(DataError, match="no scores for video y"):
        classify(FOUND, "y", classifier)


def test_untrimmednet_goes_by_the_number_of_the_video(tmp_path):
    rows = np.zeros((1574, 101), np.float32)
    rows[3, THUMOS_CLASS_NUMBERS["HighJump"] - 1] = 0.75
    rows[3, 0] = 1.0  # a class that detection does not have
    np.save(tmp_path / "uNet_test.npy", rows)
    classifier = load_classifier(tmp_path / "uNet_test.npy", "untrimmednet", topk=1)
    got = classify(FOUND, "video_test_0000004", classifier)
    np.testing.assert_allclose(got.scores, FOUND.scores * np.float32(0.75))
    assert classifier.classes[got.labels[0]] == "HighJump"
    with pytest.raises(DataError, match="video_test_0001575"):
        classify(FOUND, "video_test_0001575", classifier)


@pytest.mark.parametrize(
    ("layout", "content", "sentence"),
    [
        ("cuhk", {"results": {}}, "layout cuhk"),
        ("cuhk", {"class": NAMES, "results": {"x": [0.1]}}, "video x: not 3 finite scores"),
        ("cuhk", {"class": NAMES, "results": {"x": [0.1, 0.2, 10**400]}}, "video x: not 3 finite scores"),
        ("plain", {"x": SCORES}, "no class names"),
        ("plain", [], "layout plain"),
        ("best", {}, "no layout"),
    ],
)
def test_defective_score_files(tmp_path, layout, content, sentence):
    path = tmp_path / "scores.json"
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=sentence):
        load_classifier(path, layout)
