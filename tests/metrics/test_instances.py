import pytest

from tadjax.detections.results import parse_results
from tadjax.errors import ConfigError, DataError
from tadjax.metrics.instances import align, read_ground_truth

JUMP, RUN = {"segment": [1, 3], "label": "Jump"}, {"segment": [4, 5], "label": "Run"}


def database(annotations, **more):
    return {"database": {"v": {"subset": "val", "duration": 10, "annotations": annotations}, **more}}


def test_rules_on_duplicates_and_empty_instances():
    annotations = [JUMP, JUMP, {"segment": [1.0005, 3], "label": "Jump"}, {"segment": [2, 2], "label": "Run"}, RUN,
                   {"segment": [1, 3], "label": "Run"}]  # fmt: skip
    assert len(read_ground_truth(database(annotations), rules="opentad")) == 3
    assert len(read_ground_truth(database(annotations), rules="activitynet")) == 6
    assert len(read_ground_truth(database(annotations), rules="epic")) == 6


def test_order_of_classes():
    annotations = [{"segment": [0, 1], "label": label} for label in ("id_10", "id_2", "id_1")]
    assert read_ground_truth(database(annotations)).classes == ("id_10", "id_2", "id_1")
    assert read_ground_truth(database(annotations), rules="epic").classes == ("id_1", "id_2", "id_10")


def test_epic_tasks():
    annotations = [{"segment": [0, 1], "verb_label": "id_3", "noun_label": "id_20"}]
    for task, want in (("verb", "3"), ("noun", "20"), ("action", "3,20")):
        assert read_ground_truth(database(annotations), rules="epic", task=task).classes == (want,)


def test_subset_is_named_or_follows_from_the_predictions():
    content = database([JUMP], w={"subset": "train", "annotations": [RUN]})
    with pytest.raises(DataError, match=r"more than one subset.*val \(1 videos\), train \(1 videos\)"):
        read_ground_truth(content)
    assert read_ground_truth(content, predicted=["w", "x"]).subset == "train"
    with pytest.raises(DataError, match="no subset 'test'"):
        read_ground_truth(content, "test")


def test_coverage_is_given_computed_or_unknown():
    given = {**RUN, "coverage": 0.7}
    truth = read_ground_truth(database([JUMP, given], w={"subset": "val", "annotations": [RUN]}))
    assert truth.coverage[:2].tolist() == [0.2, 0.7] and str(truth.coverage[2]) == "nan"


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ([], "no ground truth"),
        ({"results": {}}, "no ground truth"),
        ({"database": {"v": {"annotations": []}}}, 'video v has no "subset"'),
        (database([]), "no annotated instance"),
        (database([JUMP, {"segment": [1, 2]}]), "video v, annotation 1: no 'label'"),
        (database([{"segment": [1], "label": "Jump"}]), "video v, annotation 0: not a segment"),
        (database([{"segment": [0, float("nan")], "label": "Jump"}]), "video v, annotation 0"),
        (database(["Jump"]), "video v, annotation 0"),
    ],
)
def test_defects_name_video_and_index(content, sentence):
    with pytest.raises(DataError, match=sentence):
        read_ground_truth(content)


def test_unknown_rules():
    with pytest.raises(ConfigError, match="opentad, activitynet, epic"):
        read_ground_truth(database([JUMP]), rules="coco")


def test_what_the_ground_truth_does_not_know():
    truth = read_ground_truth(database([JUMP]))
    entry = {"segment": [1, 3], "label": "Jump", "score": 0.5}
    predictions, remarks = align(parse_results({"v": [entry, {**entry, "label": "Fly"}], "x": [entry]}), truth)
    assert predictions.index.tolist() == [0, 2] and predictions.video.tolist() == [0, 1]
    assert "1 of 2 predicted videos" in remarks[0] and "(Fly)" in remarks[1]
    with pytest.raises(DataError, match=r"none of the 1 predicted videos.*'x'.*'v'.*another data set"):
        align(parse_results({"x": [entry]}), truth)
