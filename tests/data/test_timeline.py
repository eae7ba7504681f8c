"""Seconds, frames and feature steps of one time axis, there and back."""

import numpy as np
import pytest

from tadjax.data.sampling import Sampling, ground_truth
from tadjax.data.timeline import Grid, Timeline, timeline_of
from tadjax.errors import DataError
from tests.data.test_sampling import make_video


def test_grid_of_frames_converts_as_the_formula_says():
    grid = Grid(Timeline(60.0, 1800), 768, stride=4, window_start_frame=384, offset_frames=2)
    assert grid.to_seconds(np.array([0.0, 10.5])).tolist() == [(384 + 2) / 30, (42 + 384 + 2) / 30]
    assert grid.to_steps(np.array([(42 + 384 + 2) / 30])) == pytest.approx([10.5], abs=1e-12)


def test_grid_of_a_resized_video_converts_as_the_formula_says():
    grid = Grid(Timeline(50.0, 1000), 200, stride=0)
    assert grid.to_seconds(np.array([0.0, 50.0, 200.0])).tolist() == [0.0, 12.5, 50.0]
    assert grid.to_steps(np.array([12.5])).tolist() == [50.0]


VARIABLE = np.array([0.0, 0.1, 0.2, 0.7, 0.8, 0.9, 1.9, 2.0])  # seconds at which eight frames are shown


def test_variable_frame_rate_means_true_presentation_times():
    timeline = timeline_of(make_video(duration=2.1, frames=63), frame_times=VARIABLE)
    assert timeline.frames == 8 and timeline.fps == pytest.approx(8 / 2.1)
    grid = Grid(timeline, 4, stride=2)
    np.testing.assert_allclose(grid.to_seconds(np.arange(4)), VARIABLE[::2], atol=1e-12)
    np.testing.assert_allclose(grid.to_seconds(np.array([1.25])), [0.45], atol=1e-12)  # between frames 2 and 3
    resized = Grid(timeline, 4, stride=0)
    np.testing.assert_allclose(resized.to_seconds(np.arange(4)), VARIABLE[::2], atol=1e-12)
    truth = ground_truth(Sampling("sliding", 4, stride=2), timeline, make_video([[0.2, 1.4]], duration=2.1))
    np.testing.assert_allclose(truth.segments, [[2, 5.5]], atol=1e-6)


def test_constant_times_are_the_constant_frame_rate():
    constant = Timeline(10.0, 250)
    timed = Timeline(10.0, 250, 25.0, np.arange(250) / 25)
    values = np.linspace(-30, 300, 200)
    np.testing.assert_allclose(timed.to_seconds(values), constant.to_seconds(values), atol=1e-12)
    np.testing.assert_allclose(timed.to_frames(values), constant.to_frames(values), atol=1e-9)


@pytest.mark.parametrize("stride", [0, 1, 4])
@pytest.mark.parametrize("times", [None, VARIABLE + 0.3])
def test_seconds_to_steps_and_back_is_the_identity_within_the_video(stride, times):
    grid = Grid(Timeline(2.6, 8, None, times), 16, stride, stride * 2, 1)
    seconds = np.linspace(0, 2.6, 301)
    np.testing.assert_allclose(grid.to_seconds(grid.to_steps(seconds)), seconds, atol=1e-12)


def test_seconds_are_clipped_to_the_video():
    for grid in (Grid(Timeline(2.0, 60), 16, 4), Grid(Timeline(2.0, 60), 16, 0)):
        assert grid.to_seconds(np.array([[-3.0, 0.0], [16.0, 40.0]])).tolist() == [[0.0, 0.0], [2.0, 2.0]]


def test_the_timeline_comes_from_the_best_that_is_known():
    annotated, fps_only, bare = make_video(), make_video(frames=0, fps=24.0), make_video(frames=0, fps=0.0)
    file = {"file_frames": 310, "file_fps": 31.0}
    assert timeline_of(annotated, **file) == Timeline(10.0, 300)
    assert timeline_of(annotated, fps=25.0, **file) == Timeline(10.0, 250, 25.0)
    assert timeline_of(fps_only, **file) == Timeline(10.0, 240, 24.0)
    assert timeline_of(bare, **file) == Timeline(10.0, 310, 31.0)
    assert timeline_of(annotated, fps=25.0, frame_times=np.arange(20) / 2).frames == 20
    with pytest.raises(DataError, match="video 'v': has neither"):
        timeline_of(bare)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((0.0, 10), "lasts 0.0 s"),
        ((10.0,), "frame rate is unknown"),
        ((10.0, 0, 0.0), "0.0 frames a second"),
        ((10.0, 3, 1.0, np.array([0.0, 2.0, 2.0])), "one rising time for each of the 3 frames"),
        ((10.0, 3, 1.0, np.array([0.0, 2.0])), "one rising time for each of the 3 frames"),
    ],
)
def test_impossible_timelines_are_named(arguments, message):
    with pytest.raises(DataError, match=message):
        Timeline(*arguments)
