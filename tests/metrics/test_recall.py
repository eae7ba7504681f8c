import numpy as np
import pytest

from tadjax.detections.results import parse_results
from tadjax.metrics.instances import align, read_ground_truth
from tadjax.metrics.recall import average_recall, top_kx_recall


def case(**found):
    truth = read_ground_truth(
        {"database": {
            "v": {"subset": "s", "annotations": [
                {"segment": [0, 10], "label": "a"}, {"segment": [20, 30], "label": "a"}]},
            "w": {"subset": "s", "annotations": [{"segment": [0, 10], "label": "a"}]}}})  # fmt: skip
    results = parse_results(
        {
            video: [{"segment": list(s), "label": label, "score": 1 - 0.1 * i} for i, (s, label) in enumerate(entries)]
            for video, entries in found.items()
        }
    )
    return truth, results


def test_top_kx_by_hand():
    # v has 2 instances: 1x is its best 2 of class a, which find the first one only; 2x also the second
    v = [((0, 10), "a"), ((0, 9), "a"), ((50, 60), "a"), ((20, 30), "a")]
    truth, results = case(v=v)
    recall = top_kx_recall(truth, align(results, truth)[0], [0.5, 0.95], ks=(1, 2))
    np.testing.assert_allclose(recall[..., 0], [[1 / 3, 2 / 3], [1 / 3, 2 / 3]])


def test_average_recall_by_hand():
    # two proposals a video on average; labels do not matter
    truth, results = case(v=[((0, 10), "x"), ((20, 30), "a")], w=[((50, 60), "a"), ((0, 10), "a")])
    result = average_recall(truth, align(results, truth, every_class=True)[0], [0.5], max_proposals=2)
    np.testing.assert_allclose(result.recall, [[1 / 3, 1.0]])
    np.testing.assert_allclose(result.proposals_per_video, [1, 2])
    assert result.at(2) == 1.0 and result.auc == pytest.approx((1 / 3 + 1) / 2 / 2)


def test_average_recall_of_the_original_on_the_reference_predictions():
    """0.56001057 for AUC was made by running OpenTAD's own code on the same files."""
    from tadjax.detections.results import read_results
    from tests.golden.compare import HERE

    truth = read_ground_truth(HERE / "map_gt.json.gz", "testing")
    predictions, _ = align(read_results(HERE / "map_pred.json.gz"), truth, every_class=True)
    for proposals, auc in ((100, 0.5600105717689101), (30, 0.3646962477665278), (200, 0.6245853930911256)):
        assert average_recall(truth, predictions, np.linspace(0.5, 0.95, 10), proposals).auc == pytest.approx(
            auc, abs=1e-9
        )
