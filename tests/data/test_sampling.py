"""Windows, frames, masks, time axes and ground truth: against the reference's numbers, and against what must hold."""

import itertools
import pathlib

import numpy as np
import pytest

from tadjax.data.annotations import Video
from tadjax.data.sampling import (
    GroundTruth,
    Sampling,
    Window,
    completeness,
    ground_truth,
    list_windows,
    max_segments,
    sample,
)
from tadjax.data.timeline import Timeline, timeline_of
from tadjax.errors import ConfigError, DataError
from tests.golden.compare import failures

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "sampling.json"


def test_every_reference_number_is_met():
    assert failures(GOLDEN) == []


def make_video(segments=((1.0, 2.0),), labels=None, duration=10.0, frames=300, fps=30.0):
    segments = np.array(segments, np.float64).reshape(-1, 2)
    labels = np.zeros(len(segments)) if labels is None else np.array(labels)
    return Video("v", "training", duration, frames, fps, segments, labels.astype(np.int32))


# Coverage.


def starts(steps, length, overlap, coverage, stride=1):
    sampling = Sampling("sliding", length, stride=stride, overlap=overlap, coverage=coverage)
    windows = list_windows(sampling, steps * stride)
    assert all(window.steps == min(length, steps) for window in windows)
    return [window.start for window in windows]


def covers(starts, steps, length):
    seen = {step for start in starts for step in range(start, start + length)}
    return seen >= set(range(steps)) and min(starts) >= 0 and max(starts) + min(length, steps) <= steps


GEOMETRIES = list(itertools.product(range(1, 70), (1, 5, 8, 13, 16), (0.0, 0.25, 0.3, 0.5, 0.75, 0.9)))


def test_full_coverage_has_every_step_in_the_fewest_windows_that_keep_the_overlap():
    tried = 0
    for steps, length, overlap in GEOMETRIES:
        advance = int(length * (1 - overlap))
        if advance == 0:
            continue
        got = starts(steps, length, overlap, "full")
        assert covers(got, steps, length), (steps, length, overlap, got)
        assert len(got) == 1 + max(0, -(-(steps - length) // advance)), (steps, length, overlap, got)
        assert len(set(got)) == len(got)
        assert max(np.diff(got), default=0) <= advance
        tried += 1
    assert tried > 1500


def test_full_coverage_is_the_reference_wherever_that_is_complete():
    complete = missing = doubled = 0
    for steps, length, overlap in GEOMETRIES:
        if int(length * (1 - overlap)) == 0:
            continue
        full, reference = starts(steps, length, overlap, "full"), starts(steps, length, overlap, "reference")
        if not covers(reference, steps, length):
            missing += 1
        elif len(set(reference)) < len(reference):
            doubled += 1
            assert full == sorted(set(reference))
        else:
            complete += 1
            assert full == reference
    assert min(complete, missing, doubled) > 50


def test_the_tail_that_the_reference_leaves_out_and_the_window_it_doubles():
    assert starts(84, 64, 0.25, "reference", stride=4) == [0]
    assert starts(84, 64, 0.25, "full", stride=4) == [0, 20]
    assert starts(96, 64, 0.5, "reference") == [0, 32, 32]
    assert starts(96, 64, 0.5, "full") == [0, 32]
    assert starts(64, 64, 0.5, "reference") == [0, 0]
    assert starts(64, 64, 0.5, "full") == [0]


@pytest.mark.parametrize("frames", [1, 3, 4, 5, 63, 64, 65, 200, 257, 1001])
@pytest.mark.parametrize("stride, per_feature", [(4, 1), (4, 2), (4, 4), (8, 4), (1, 1)])
def test_every_sampled_frame_of_a_file_is_in_a_window_of_full_coverage(frames, stride, per_feature):
    sampling = Sampling("sliding", 16, per_feature, stride, overlap=0.25)
    timeline = Timeline(frames / 30, frames)
    samples = [sample(sampling, timeline, frames, window=window) for window in list_windows(sampling, frames)]
    seen = set(np.concatenate([s.frame_indices for s in samples]).tolist())
    assert seen == set(range(0, frames, stride // per_feature))
    assert all(s.valid.any() and s.frame_indices.shape == (16 * per_feature,) for s in samples)


def test_windows_in_training_hold_a_segment():
    sampling = Sampling("sliding", 8, stride=1, overlap=0.5, ioa_threshold=0.75)
    truth = GroundTruth(np.array([[10, 14], [0, 100], [12, 16]], np.float32), np.array([3, 4, 5], np.int32))
    windows = list_windows(sampling, 100, truth)
    # [8, 15] holds all of the first and just 3/4 of the third, [12, 19] all of the third; none so much of the second.
    assert [window.start for window in windows] == [8, 12]
    got = sample(sampling, Timeline(10.0, 100), 100, window=windows[0], truth=truth)
    assert got.segments.tolist() == [[2, 6]] and got.labels.tolist() == [3]
    assert got.segments.dtype == np.float32


# Files that are shorter or longer than annotated.


def test_frames_beyond_the_file_repeat_the_last_one_and_are_not_valid():
    sampling = Sampling("sliding", 8, 2, stride=4)
    got = sample(sampling, Timeline(1.0, 30), 23, window=Window(2, 6))
    assert got.frame_indices.tolist() == [8, 10, 12, 14, 16, 18, 20, 22] + [22] * 8
    assert got.valid.tolist() == [True] * 4 + [False] * 4
    assert got.grid.window_start_frame == 8


def test_a_step_of_which_frames_are_missing_is_not_valid_but_no_window_is_without_a_valid_step():
    timeline = Timeline(1.0, 30)
    for coverage, frames, valid in (("full", 7, 1), ("full", 3, 1), ("reference", 7, 1), ("reference", 3, 0)):
        sampling = Sampling("sliding", 8, 4, stride=4, coverage=coverage)
        (window,) = list_windows(sampling, frames)
        assert sample(sampling, timeline, frames, window=window).valid.sum() == valid


def test_a_window_after_the_end_of_the_file_is_refused():
    sampling = Sampling("sliding", 8, stride=4)
    with pytest.raises(DataError, match="starts at frame 400, but the video has only 300 frames"):
        sample(sampling, Timeline(20.0, 600), 300, window=Window(100, 8))
    with pytest.raises(DataError, match="no frame"):
        sample(sampling, Timeline(20.0, 600), 0, window=Window(0, 8))


# Ground truth.


def test_whole_frames_are_cut_and_declared_rates_are_used_as_they_are():
    video = make_video([[1.03, 2.06], [1.04, 2.05]])
    frames = ground_truth(Sampling("sliding", 8), timeline_of(video), video)
    assert frames.segments.tolist() == [[30, 61], [31, 61]]
    declared = ground_truth(Sampling("sliding", 8), timeline_of(video, fps=10.0), video)
    assert declared.segments.tolist() == [[10, 20]]  # the two became one
    exact = ground_truth(Sampling("sliding", 8, whole_frames=False), timeline_of(video), video)
    np.testing.assert_allclose(exact.segments, [[30.9, 61.8], [31.2, 61.5]], rtol=1e-6)


def test_filters():
    video = make_video([[1, 1.01], [1, 2], [1, 2], [3, 3.05]], [0, 1, 2, 1])
    timeline = timeline_of(video)
    assert len(ground_truth(Sampling("sliding", 8), timeline, video).labels) == 4
    assert ground_truth(Sampling("sliding", 8, filter_gt=True), timeline, video).labels.tolist() == [1, 2, 1]
    assert ground_truth(Sampling("resize", 8, filter_gt=True), timeline, video).labels.tolist() == [1, 2]
    agnostic = ground_truth(Sampling("resize", 8, filter_gt=True, class_agnostic=True), timeline, video)
    assert agnostic.labels.tolist() == [0]  # the two of different class are one


def test_completeness_is_the_share_that_is_left():
    share, cut = completeness(np.array([[0, 10], [5, 6], [20, 30]], np.float32), 4, 9)
    assert share.tolist() == [0.5, 1.0, 0.0]
    assert cut[:2].tolist() == [[4, 9], [5, 6]]


# Resize.


def test_resized_frames_are_the_middles_of_equal_parts():
    sampling = Sampling("resize", 4, frames_per_feature=2)
    got = sample(sampling, Timeline(2.0, 80), 80, truth=GroundTruth(np.array([[0.5, 3.0]], np.float32), np.array([1])))
    assert got.frame_indices.tolist() == [4, 14, 24, 34, 44, 54, 64, 74]
    assert got.valid.all() and got.segments.tolist() == [[1.0, 4.0]]


def test_resize_returns_the_first_indices_where_the_reference_has_one_too_many():
    crashing = 0
    for frames in range(1, 1200):
        step = frames / 200
        crashing += len(np.arange(step / 2 - 0.5, frames + step / 2 - 0.5, step)) != 200
        indices = sample(Sampling("resize", 200), Timeline(10.0, frames), frames).frame_indices
        assert indices.shape == (200,) and np.all(np.diff(indices) >= 0)
        ideal = np.clip((np.arange(200) + 0.5) * step - 0.5, 0, frames - 1)
        assert np.abs(indices - ideal).max() <= 0.5 + 1e-9
    assert crashing > 20


# Random truncation.


def random_case(seed):
    rng = np.random.default_rng(seed)
    frames, per_feature = int(rng.integers(1, 400)), int(rng.choice([1, 2, 4]))
    ends = np.sort(rng.uniform(0, frames / 30, (6, 2)), axis=1)
    video = make_video(ends, rng.integers(0, 5, 6), frames / 30, frames)
    crop = ((), (0.9, 1.0), (0.5, 0.7))[seed % 3]
    sampling = Sampling("random_trunc", 24, per_feature, 4, keep_ratio=0.6, crop_ratio=crop, whole_frames=False)
    timeline = timeline_of(video)
    return sampling, timeline, frames, ground_truth(sampling, timeline, video), video


@pytest.mark.parametrize("seed", range(60))
def test_random_truncation_keeps_what_lies_inside_at_its_true_time(seed):
    sampling, timeline, frames, truth, video = random_case(seed)
    got = sample(sampling, timeline, frames, truth=truth, draws=np.random.default_rng(seed))
    again = sample(sampling, timeline, frames, truth=truth, draws=np.random.default_rng(seed))
    assert got.frame_indices.tolist() == again.frame_indices.tolist()
    assert got.segments.tolist() == again.segments.tolist()
    assert got.frame_indices.shape == (sampling.frames,) and got.frame_indices.min() >= 0
    assert got.frame_indices.max() < frames and np.all(np.diff(got.frame_indices) >= 0)
    assert got.frame_indices[0] == got.grid.window_start_frame
    seconds = got.grid.to_seconds(got.segments.astype(np.float64))
    for (start, end), label in zip(seconds, got.labels, strict=True):
        inside = [
            (min(end, e) - max(start, s)) / (e - s)
            for (s, e), l in zip(video.segments, video.labels, strict=True)
            if l == label and start >= s - 1e-4 and end <= e + 1e-4
        ]
        assert max(inside) >= 0.6 - 1e-4
    assert len(got.labels) <= max_segments(sampling, frames, truth)


def test_random_truncation_finds_a_rare_action():
    video = make_video([[500.0, 502.0]], duration=600.0, frames=18000)
    sampling = Sampling("random_trunc", 64, stride=4, keep_ratio=0.75)
    timeline = timeline_of(video)
    truth = ground_truth(sampling, timeline, video)
    samples = [sample(sampling, timeline, 18000, truth=truth, draws=np.random.default_rng(s)) for s in range(20)]
    assert sum(len(s.labels) for s in samples) >= 15  # one place in 70 holds it: 200 tries miss it 6 times in 100
    places = {s.grid.window_start_frame for s in samples}
    assert len(places) > 10


def test_a_video_without_segments_can_be_truncated():
    got = sample(Sampling("random_trunc", 8), Timeline(4.0, 100), 100, draws=np.random.default_rng(0))
    assert got.segments.shape == (0, 2) and got.labels.shape == (0,) and got.valid.all()


@pytest.mark.parametrize("seed", range(20))
def test_the_most_segments_is_what_trying_all_places_finds(seed):
    rng = np.random.default_rng(seed)
    start = rng.uniform(0, 280, 40)
    truth = GroundTruth(
        np.stack([start, start + rng.uniform(1, 60, 40)], axis=1).astype(np.float32), np.arange(40, dtype=np.int32)
    )
    sampling = Sampling("random_trunc", 12, 2, 4, keep_ratio=0.75)
    timeline = Timeline(10.0, 300)

    class Fixed:
        def __init__(self, place):
            self.place = place

        def integers(self, low, high, *, endpoint):
            return self.place

    counts = [
        len(sample(sampling, timeline, 300, truth=truth, draws=Fixed(place)).labels) for place in range(150 - 24 + 1)
    ]
    # Places between two frames count for the bound but are never drawn: it may be above the truth, by little.
    assert max(counts) <= max_segments(sampling, 300, truth) <= max(counts) + 2
    assert max_segments(Sampling("random_trunc", 75, 2, 4), 300, truth) == 40  # not longer than the window: all
    assert max_segments(Sampling("resize", 75), 300, truth) == 40
    sliding = Sampling("sliding", 12, 2, 4)
    held = [len(sample(sliding, timeline, 300, window=w, truth=truth).labels) for w in list_windows(sliding, 300)]
    assert max_segments(sliding, 300, truth) == max(held)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"method": "slding"}, "method is 'slding'"),
        (
            {"stride": 6, "frames_per_feature": 4},
            "stride is 6; it must be a multiple of frames_per_feature, which is 4",
        ),
        ({"overlap": 1.0}, "overlap is 1.0"),
        ({"overlap": 0.95}, "overlap is 0.95; it must be such that windows of 16 steps advance"),
        ({"feature_length": 0}, "feature_length is 0"),
        ({"crop_ratio": (0.9, 1.1)}, "crop_ratio is"),
        ({"crop_ratio": (0.9,)}, "crop_ratio is"),
        ({"keep_ratio": 0}, "keep_ratio is 0"),
        ({"ioa_threshold": 1.5}, "ioa_threshold is 1.5"),
        ({"coverage": "all"}, "coverage is 'all'"),
        ({"min_length": 1.0}, "min_length is 1.0"),
    ],
)
def test_impossible_settings_are_named(fields, message):
    with pytest.raises(ConfigError, match=message.replace("(", r"\(")):
        Sampling(**{"method": "sliding", "feature_length": 16} | fields)


# Snippets.


@pytest.mark.parametrize("method", ["sliding", "random_trunc", "resize"])
@pytest.mark.parametrize(
    ("stride", "snippet_frames", "snippet_stride"),
    [(4, 16, 1), (4, 16, 2), (3, 8, 2), (8, 8, 8), (40, 16, 1), (1, 1, 1)],
)
def test_every_feature_step_has_its_snippet(method, stride, snippet_frames, snippet_stride):
    """Frames as the reference lists them: centre + interval * (-S / 2 ... S / 2 - 1), cut to the video, rounded."""
    sampling = Sampling(method, 12, stride=stride, snippet_frames=snippet_frames, snippet_stride=snippet_stride)
    timeline, frames = Timeline(25.3, 253), 253
    rng = np.random.default_rng(0)
    for window in list_windows(sampling, frames):
        taken = sample(sampling, timeline, frames, window=window, draws=rng)
        if method == "resize":
            centres = (np.arange(12) + 0.5) * frames / 12 - 0.5
        else:
            centres = taken.grid.window_start_frame + stride * np.arange(12)
        inside = np.arange(snippet_frames) - snippet_frames // 2
        wanted = np.clip(centres[:, None] + snippet_stride * inside, 0, frames - 1).round()
        first = np.arange(12) * sampling.snippet_hop
        found = taken.frame_indices[first[:, None] + np.arange(snippet_frames)]
        assert len(taken.frame_indices) == sampling.frames
        np.testing.assert_array_equal(found[taken.valid], wanted[taken.valid])
        assert found.min() >= 0 and found.max() < frames
    shares = method != "resize" and stride % snippet_stride == 0 and stride < snippet_frames * snippet_stride
    assert (sampling.snippet_hop < snippet_frames) == shares  # so that frames of two snippets are decoded once


def test_an_offset_moves_the_snippets_as_it_moves_the_seconds():
    """Features of 16 frames every 4, each of frames 4 i to 4 i + 15, stand at 4 i + 8: offset 8, as I3D's are used."""
    sampling = Sampling("sliding", 12, stride=4, offset_frames=8, snippet_frames=16)
    taken = sample(sampling, Timeline(25.0, 250), 250, window=Window(3, 12))
    for step in range(12):
        np.testing.assert_array_equal(taken.frame_indices[4 * step :][:16], 4 * (step + 3) + np.arange(16))
    assert taken.grid.to_seconds(np.arange(12.0)).tolist() == pytest.approx(((np.arange(12) + 3) * 4 + 8) / 10)
