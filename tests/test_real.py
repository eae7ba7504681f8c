"""Real weights: what a video is said to show. The network itself is held against numbers in tests/golden."""

import numpy as np
import pytest

from tadjax import real
from tests.conftest import ROOT

WEIGHTS = ROOT / "runs" / "real" / "weights"
VIDEOS = ROOT.parent / "shared" / "videos"


def test_neighbouring_clips_that_show_the_same_are_one_segment():
    edges = np.array([0.0, 2.0, 3.0, 4.0, 6.0])
    probabilities = np.array([[0.7, 0.2, 0.1, 0], [0.9, 0.05, 0.05, 0], [0.2, 0.5, 0.3, 0], [0.6, 0.05, 0.3, 0.05]])
    found = real.actions(probabilities, edges)
    listed = zip(found.labels.tolist(), found.segments.tolist(), found.scores.tolist(), strict=True)
    assert list(listed) == [
        (0, [0.0, 6.0], 0.9),
        (1, [3.0, 4.0], 0.5),
        (2, [3.0, 6.0], 0.3),
        (1, [0.0, 2.0], 0.2),
        (2, [0.0, 2.0], 0.1),
    ]


def test_a_video_without_an_action_has_none():
    assert len(real.actions(np.full((3, 400), 1 / 400), np.arange(4.0))) == 0


def test_there_is_a_label_for_every_class():
    labels = real.LABELS.read_text().splitlines()
    assert len(labels) == len(set(labels)) == 400 and labels[129] == "flipping pancake"


@pytest.mark.parametrize(
    ("name", "label", "least"),
    [("decord_flipping_a_pancake.mkv", "flipping pancake", 0.9), ("mmaction2_test.avi", "filling eyebrows", 0.5)],
)
def test_a_real_video_is_named(name, label, least):
    if not WEIGHTS.exists():
        pytest.skip("no real weights here (make real)")
    if not (VIDEOS / name).exists():
        pytest.skip(f"{name} is not here")
    start, end, found, score = next(iter(real.see(real.Classifier(WEIGHTS), VIDEOS / name)))
    assert (found, start) == (label, 0.0) and score > least and end > 2
