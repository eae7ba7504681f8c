"""Windows in order, equal to evaluation's, each frame decoded once, a few windows held at a time."""

import threading
from fractions import Fraction

import numpy as np
import pytest

from tadjax.data.annotations import Video
from tadjax.data.records import EvaluationSet, open_sources
from tadjax.data.sampling import Sampling, list_windows
from tadjax.errors import DataError
from tadjax.inference import stream
from tadjax.inference.stream import decoding_threads, file_timeline, stream_windows
from tadjax.video import frames as video
from tadjax.video.frame_index import frame_index
from tests.video.numbered_videos import make

SLIDING = Sampling("sliding", feature_length=16, frames_per_feature=2, stride=4, overlap=0.5)  # windows of 64 frames


def evaluated(path: str, sampling: Sampling, **options) -> list[dict]:
    """What evaluation reads of the same file."""
    info = frame_index(path).info
    described = Video("v", "test", info.duration, 0, 0.0, np.zeros((0, 2)), np.zeros(0, np.int32), info.start)
    records = EvaluationSet(open_sources([described], [path], sampling), sampling, size=48, **options)
    return [{**records.record(i), "grid": records.windows[i].grid} for i in range(len(records))]


def assert_same(streamed, records: list[dict]) -> None:
    streamed = list(streamed)
    assert len(streamed) == len(records)
    for got, want in zip(streamed, records, strict=True):
        np.testing.assert_array_equal(got.frames, want["frames"])
        np.testing.assert_array_equal(got.valid, want["valid"])
        assert got.substituted == want["substituted"]
        steps = np.linspace(-3, 30, 12)
        np.testing.assert_array_equal(got.grid.to_seconds(steps), want["grid"].to_seconds(steps))


@pytest.fixture(scope="module")
def long_video(tmp_path_factory):
    return make(tmp_path_factory.mktemp("stream") / "v.mp4", 339, g=25, bf=2)


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5, 0.9])
def test_windows_equal_those_of_evaluation(long_video, overlap):
    sampling = Sampling("sliding", feature_length=16, frames_per_feature=2, stride=4, overlap=overlap)
    windows = stream_windows(frame_index(long_video), sampling, size=48, threads=3)
    assert_same(windows, evaluated(long_video, sampling))


@pytest.mark.parametrize("frames", [1, 3, 63, 64, 65])
def test_short_videos(tmp_path, frames):
    path = make(tmp_path / "v.mp4", frames)
    assert_same(stream_windows(frame_index(path), SLIDING, size=48), evaluated(path, SLIDING))


def test_a_whole_video_resized_to_one_window(long_video):
    for path_frames in (16, 500):  # fewer and more samples than the video has frames
        sampling = Sampling("resize", feature_length=path_frames)
        assert_same(stream_windows(frame_index(long_video), sampling, size=48), evaluated(long_video, sampling))


@pytest.mark.parametrize(("stride", "snippet_stride"), [(6, 4), (10, 4), (3, 2)])
def test_snippets_that_interleave(long_video, stride, snippet_stride):
    """A window's new frames are not all later than those that it shares with the one before."""
    sampling = Sampling("sliding", feature_length=8, stride=stride, snippet_frames=8, snippet_stride=snippet_stride)
    assert_same(stream_windows(frame_index(long_video), sampling, size=48), evaluated(long_video, sampling))


def test_variable_frame_rate(tmp_path):
    rng = np.random.default_rng(1)
    pts = np.cumsum(rng.integers(20, 60, 200))
    path = make(tmp_path / "v.mkv", 200, pts=pts, time_base=Fraction(1, 1000))
    index = frame_index(path)
    assert file_timeline(index).frame_times is index.times
    assert_same(stream_windows(index, SLIDING, size=48), evaluated(path, SLIDING))


def test_each_frame_is_decoded_once_and_few_windows_are_held(long_video, monkeypatch):
    read, asked, held = stream.read_frames, [], []
    lock = threading.Lock()

    def counted(path, indices, **options):
        with lock:
            asked.extend(indices.tolist())
            held.append(len(asked))
        return read(path, indices, **options)

    monkeypatch.setattr(stream, "read_frames", counted)
    windows = stream_windows(frame_index(long_video), SLIDING, size=48, threads=2)
    for number, window in enumerate(windows):
        last = number * SLIDING.window_stride * SLIDING.stride + 64
        with lock:
            ahead = max(asked) - last
        assert ahead <= (2 + 1) * 32 + 32, "at most three parts are decoded ahead of the window in use"
        assert len(window.frames) == 32
    assert sorted(asked) == list(range(0, 339, 2))
    assert number + 1 == len(list_windows(SLIDING, 339))


@pytest.fixture
def lose(monkeypatch):
    """A function: from now on, these frames do not decode."""
    decode = video._decode

    def lose(frames: list[int]) -> None:
        def without(index, pts):
            lost = set(index.pts[frames].tolist())
            return ((time, frame) for time, frame in decode(index, pts) if time not in lost)

        monkeypatch.setattr(video, "_decode", without)

    return lose


def test_missing_frames_are_replaced_as_in_evaluation(long_video, lose):
    """Also where a window begins with them: its stand-ins are others than those of the window before."""
    lose([0, 64, 100, 102, 104, 106, 338])
    windows = list(stream_windows(frame_index(long_video), SLIDING, size=48, max_missing=0.2))
    assert [window.substituted for window in windows] == [1, 1, 5, 4, 0, 0, 0, 0, 0, 1]
    assert_same(windows, evaluated(long_video, SLIDING, max_missing=0.2))


def test_too_many_missing_frames_are_an_error(long_video, lose):
    lose([100, 102])
    with pytest.raises(DataError, match=r"v\.mp4: frame 100 cannot be decoded; 2 of 32 wanted frames are missing"):
        list(stream_windows(frame_index(long_video), SLIDING, size=48, max_missing=0.05))


def test_leaving_early_ends_the_threads(long_video):
    before = threading.active_count()
    windows = stream_windows(frame_index(long_video), SLIDING, size=48, threads=3)
    next(windows)
    windows.close()
    assert threading.active_count() == before


def test_decoding_threads():
    assert decoding_threads(0) == 1
    assert 1 <= decoding_threads(64) <= 8
