import warnings

import numpy as np
import pytest

from tadjax.detections.results import parse_results, read_results
from tadjax.metrics.diagnosis import BINS, ERROR_TYPES, Bins, diagnose
from tadjax.metrics.diagnosis_figure import draw
from tadjax.metrics.instances import read_ground_truth
from tests.golden.compare import HERE


def small(entries, duration=100):
    truth = read_ground_truth({"database": {"v": {"subset": "s", "duration": duration, "annotations": [
        {"segment": [0, 10], "label": "a"}, {"segment": [50, 51], "label": "b"}]}}})  # fmt: skip
    found = [{"segment": s, "label": label, "score": 1 - 0.01 * i} for i, (s, label) in enumerate(entries)]
    return diagnose(parse_results({"v": found, "elsewhere": [{**found[0], "score": 0.01}]}), truth, (0.5,))


def test_every_type_of_error():
    entries = [([0, 10], "a"), ([0, 9], "a"), ([0, 10], "b"), ([0, 3], "a"), ([0, 3], "b"), ([70, 80], "a")]
    diagnosis = small(entries)
    names = [ERROR_TYPES[kind] for kind in diagnosis.error[0]]
    assert names == [*ERROR_TYPES, "Background Err"]  # the last one is in a video without ground truth


def test_false_negatives_and_sensitivity_by_hand():
    diagnosis = small([([0, 10], "a")])
    names = BINS["thumos"]["length"].names
    rate = dict(zip(names, diagnosis.false_negatives.rate["length"][0], strict=True))
    assert rate["XS"] == 1 and rate["M"] == 0 and np.isnan(rate["XL"])
    assert diagnosis.false_negatives.pair_share["coverage", "length"][BINS["thumos"]["coverage"].of(0.1)].sum() == 0.5
    per_bin = dict(zip(names, diagnosis.sensitivity["length"], strict=True))
    assert per_bin["M"] == 1 and per_bin["XS"] == 0


def test_bins_are_closed_on_the_right():
    bins = Bins((0, 3, 6, np.inf), ("S", "M", "L"))
    assert bins.of(np.array([0, 3, 3.01, 6, 1e9])).tolist() == [0, 0, 1, 1, 2]


def test_instances_that_outlast_their_video_are_left_out():
    assert len(small([([0, 10], "a")], duration=8).truth) == 1


def test_coverage_is_left_out_without_durations():
    truth = read_ground_truth({"database": {"v": {"subset": "s", "annotations": [{"segment": [0, 1], "label": "a"}]}}})
    diagnosis = diagnose(parse_results({"v": [{"segment": [0, 1], "label": "a", "score": 1}]}), truth)
    assert set(diagnosis.bins) == {"length", "num-instances"}
    assert diagnosis.to_dict()["false_negative_rate"]["length"] == {
        "XS": 0.0,
        "S": None,
        "M": None,
        "L": None,
        "XL": None,
    }


def test_a_run_that_finds_nothing_can_be_drawn(tmp_path):
    with warnings.catch_warnings(action="error"):
        draw({"nothing": small([([20, 30], "a")])}, tmp_path / "figure.svg")
    assert ">Background<" in (tmp_path / "figure.svg").read_text()


@pytest.mark.parametrize("suffix", [".svg", ".png"])
def test_two_runs_side_by_side_on_one_page(tmp_path, suffix):
    truth = read_ground_truth(HERE / "detad_ground_truth.json.gz")
    runs = {name: diagnose(read_results(HERE / f"{name}.json.gz"), truth) for name in ("detad_predictions", "map_pred")}
    draw(runs, tmp_path / f"figure{suffix}")
    content = (tmp_path / f"figure{suffix}").read_bytes()
    if suffix == ".png":
        assert content.startswith(b"\x89PNG")
    else:
        text = content.decode()
        assert text.count(">False positive profile<") == 2 and text.count(">Double detection<") == 4
        for run in runs.values():
            assert f">{100 * run.false_negatives.rate['num-instances'][0, -1]:.1f}<" in text
            assert f">{100 * run.sensitivity['coverage'][0]:.1f}<" in text
