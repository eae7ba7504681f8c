import json

import numpy as np
import pytest

from tadjax.detections.decode import Detections
from tadjax.detections.results import read_results, write_results
from tadjax.errors import DataError

ENTRY = {"segment": [1.0, 2.5], "label": "Jump", "score": 0.5}


def write(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_written_and_read_back_to_the_last_digit(tmp_path):
    rng = np.random.default_rng(0)
    found = Detections(rng.random((5, 2), np.float32), rng.random(5, np.float32), np.array([1, 0, 1, 2, 2]))
    write_results(tmp_path / "deep" / "r.json", {"a": found, "b": found[:0]}, ["Run", "Jump", "Throw"])
    results = read_results(tmp_path / "deep" / "r.json")
    assert list(results.videos) == ["a", "b"] and len(results) == 5
    np.testing.assert_array_equal(results.videos["a"].segments, found.segments.astype(np.float64))
    np.testing.assert_array_equal(results.videos["a"].scores, found.scores.astype(np.float64))
    assert [results.classes[i] for i in results.videos["a"].labels] == ["Jump", "Run", "Jump", "Throw", "Throw"]
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["r.json"]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("{", "not a JSON file"),
        ({"database": {}}, "no results file"),
        ({"results": {"v": {"0": ENTRY}}}, "video v, whose value is not a list"),
        ({"results": {"v": [ENTRY, {"segment": [0, 1], "score": 1}]}}, 'video v, entry 1 has no "label"'),
        ({"results": {"v": [{**ENTRY, "segment": [1]}]}}, r"entry 0: segment \[1\]"),
        ({"results": {"v": [{**ENTRY, "score": "high"}]}}, "score 'high'"),
        ({"results": {"v": [{**ENTRY, "score": None}]}}, "not finite"),
        ({"results": {"v": [7]}}, "entry 0 is not an object"),
        ({"results": {"v": [ENTRY, {**ENTRY, "score": float("nan")}]}}, "1 entries .* not finite .*video v, entry 1"),
    ],
)
def test_defects_name_video_and_entry(tmp_path, content, sentence):
    path = write(tmp_path / "r.json", content)
    with pytest.raises(DataError, match=sentence) as error:
        read_results(path)
    assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)


def test_missing_file(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        read_results(tmp_path / "none.json")


def test_scores_that_are_not_finite_are_counted_and_left_out(tmp_path):
    bad = {**ENTRY, "score": float("nan")}
    path = write(tmp_path / "r.json", {"results": {"v": [bad, ENTRY], "w": [{**ENTRY, "segment": [0, float("inf")]}]}})
    problems = []
    results = read_results(path, problems=problems)
    assert len(results) == 1 and list(results.videos) == ["v", "w"]
    assert len(problems) == 1 and "2 entries" in problems[0] and "left out" in problems[0]
