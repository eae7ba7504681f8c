import numpy as np
import pytest

from tadjax.data.timeline import Grid, Timeline
from tadjax.detections.decode import Detections, postprocess, postprocess_video, top_candidates
from tadjax.detections.fusion import merge_windows
from tadjax.detections.settings import PostSettings
from tadjax.errors import TadjaxError

SEGMENTS = np.array([[0, 4], [2, 6], [10, 12]], np.float32)
SCORES = np.array([[0.9, 0.001], [0.2, 0.8], [0.5, 0.4]], np.float32)


def grid(**fields):
    return Grid(Timeline(duration=10.0, declared_fps=10.0), **{"feature_length": 16, "stride": 5, **fields})


def test_best_candidates_over_all_classes():
    found = top_candidates(SEGMENTS, SCORES, np.array([True, True, False]), PostSettings(pre_nms_topk=2))
    np.testing.assert_array_equal(found.scores, SCORES[[0, 1], [0, 1]])
    np.testing.assert_array_equal(found.labels, [0, 1])
    np.testing.assert_array_equal(found.segments, SEGMENTS[:2])


def test_threshold_is_strict():
    found = top_candidates(SEGMENTS, SCORES, None, PostSettings(pre_nms_thresh=0.4))
    np.testing.assert_array_equal(found.labels, [0, 1, 0])  # 0.9, 0.8, 0.5; 0.4 itself is out


def test_segments_regressed_per_class():
    per_class = np.stack([SEGMENTS, SEGMENTS + 100], axis=1)  # [P, K, 2]
    found = top_candidates(per_class, SCORES, None, PostSettings(pre_nms_topk=2))
    np.testing.assert_array_equal(found.segments, [SEGMENTS[0], SEGMENTS[1] + 100])


def test_nan_scores_are_an_error_unless_padded():
    scores = SCORES.copy()
    scores[2] = np.nan
    assert len(top_candidates(SEGMENTS, scores, np.array([True, True, False]), PostSettings())) == 3
    with pytest.raises(TadjaxError, match="2 of 6 scores are NaN"):
        top_candidates(SEGMENTS, scores, None, PostSettings())


def test_windows_in_seconds_then_merged():
    settings = PostSettings(nms="hard", iou_threshold=0.5)
    first = postprocess(SEGMENTS, SCORES, None, grid(), settings)
    assert len(first) == 5
    np.testing.assert_allclose(first.segments[0], [0, 2])  # steps * 5 frames / 10 frames a second
    second = postprocess(SEGMENTS - 2, SCORES * 0.5, None, grid(window_start_frame=10), settings)
    merged = merge_windows([first, second], settings)  # the same segments again at half the score, all suppressed
    np.testing.assert_allclose(merged.scores, [0.9, 0.8, 0.5, 0.4, 0.2])
    np.testing.assert_array_equal(merged.labels, [0, 1, 0, 1, 0])


def test_whole_video_suppressed_before_it_is_cut_to_the_video():
    segments = np.array([[-30, 5], [-1, 5]], np.float32)
    scores = np.array([[0.9, 0], [0.8, 0]], np.float32)
    settings = PostSettings(nms="hard", iou_threshold=0.5)
    whole = postprocess_video(segments, scores, None, grid(), settings)
    assert len(whole) == 2  # on the grid their tIoU is 0.17
    assert (
        len(merge_windows([postprocess(segments, scores, None, grid(), settings)], settings)) == 1
    )  # cut, they are one


def test_rounding_as_the_reference():
    found = Detections(np.array([[1.234567, 2.345678]], np.float32), np.array([0.123456], np.float32), np.array([3]))
    rounded = found.rounded()
    assert rounded.segments.tolist() == [[1.23, 2.35]] and rounded.scores.tolist() == [0.1235]


def test_nothing_found():
    empty = postprocess(SEGMENTS, SCORES, np.zeros(3, bool), grid(), PostSettings())
    assert len(merge_windows([empty], PostSettings())) == 0 == len(merge_windows([], PostSettings()))
