"""Features on disk: which second a row stands for, what a window of them holds, and what is wrong with a file."""

import json
import pathlib
import unicodedata
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs import common
from tadjax.config.schema import defaults
from tadjax.data import records
from tadjax.data.annotations import Video
from tadjax.data.features import FeatureFolder, feature_folder, info_path, resized, rules_of
from tadjax.data.sampling import Sampling, Window, ground_truth, list_windows, sample
from tadjax.data.timeline import Timeline
from tadjax.errors import ConfigError, DataError

FPS = 25.0


def make_video(duration: float, name: str = "v", frames: int = 0) -> Video:
    segments = np.array([[0.1 * duration, 0.7 * duration]])
    return Video(name, "training", duration, frames, FPS, segments, np.zeros(1, np.int32))


def write(folder, name: str, array: np.ndarray) -> None:
    np.save(folder / f"{name}.npy", array)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 120), st.integers(1, 16), st.integers(0, 20), st.integers(2, 24), st.integers(1, 3), st.integers(0)
)
def test_a_row_stands_at_stride_times_its_number_plus_offset(
    tmp_path_factory, rows, stride, offset, length, every, seed
):
    """Row i of the file holds the second (i * stride + offset) / fps; so does the step of any window that shows it."""
    folder = tmp_path_factory.mktemp("features")
    seconds = (np.arange(rows) * stride + offset) / FPS
    write(folder, "v", seconds[:, None].astype(np.float32))
    source = FeatureFolder(folder, stride=stride * every, every=every)
    info, times = source.describe(folder / "v.npy")
    assert times is None
    timeline = Timeline(seconds[-1] + 1.0, declared_fps=FPS)
    for method in ("sliding", "random_trunc"):
        sampling = Sampling(method, length, stride=stride * every, offset_frames=offset, crop_ratio=(0.9, 1.0))
        draws = np.random.default_rng(seed) if method == "random_trunc" else None
        shown = set()
        for window in list_windows(sampling, info.frames):
            taken = sample(sampling, timeline, info.frames, window=window, draws=draws)
            found = source.window(folder / "v.npy", sampling, taken)[:, 0]
            steps = np.flatnonzero(taken.valid)
            np.testing.assert_allclose(found[steps], taken.grid.to_seconds(steps.astype(float)), rtol=1e-6, atol=1e-6)
            assert not found[~taken.valid].any()
            shown |= set(found[steps].tolist())
        if method == "sliding":  # every second, third ... row, and none left out
            assert shown == set(seconds[::every].astype(np.float32).tolist())


def test_a_whole_video_is_resized_as_roi_align_does():
    """Against the definition: the mean of ceil(T / L) points in each of L equal parts, half-pixel centres, clamped."""
    rng = np.random.default_rng(0)
    for rows, length in ((7, 20), (20, 20), (20, 7), (64, 16), (1, 5), (3, 1)):
        features = rng.standard_normal((rows, 2)).astype(np.float32)
        points = max(1, -(-rows // length))
        wanted = np.zeros((length, 2))
        for step in range(length):
            for point in range(points):
                at = (step + (point + 0.5) / points) * rows / length - 0.5
                for channel in range(2):
                    wanted[step, channel] += np.interp(at, np.arange(rows), features[:, channel]) / points
        np.testing.assert_allclose(resized(features, length), wanted, atol=1e-6)


def test_resized_features_are_cropped_in_training_as_published():
    """ActionFormer on TSP: a share of the resized steps, with its segments; zeros fill the window up."""
    duration, length = 20.0, 50
    features = np.linspace(0, duration, 120, endpoint=False)[:, None].astype(np.float32) + duration / 240  # its second
    sampling = Sampling("resize", length, crop_ratio=(0.5, 0.8), keep_ratio=0.2, min_length=0.0)
    video = make_video(duration)
    timeline = Timeline(duration, declared_fps=FPS)
    truth = ground_truth(sampling, timeline, video)
    whole = resized(features, length)[:, 0]
    starts, lengths = set(), set()
    for seed in range(20):
        taken = sample(sampling, timeline, 500, truth=truth, draws=np.random.default_rng(seed))
        count = np.count_nonzero(taken.valid)
        assert taken.valid[:count].all() and 25 <= count <= 40
        [[start, end]] = (taken.segments + taken.first) * duration / length
        assert start == pytest.approx(max(2.0, taken.first * duration / length), abs=1e-4)
        assert end == pytest.approx(min(14.0, (taken.first + count) * duration / length), abs=1e-4)
        starts.add(taken.first)
        lengths.add(count)
    assert len(starts) > 5 and len(lengths) > 5
    source = FeatureFolder(pathlib.Path("none"), stride=1)
    with mock.patch.object(FeatureFolder, "open", return_value=features):
        found = source.window(pathlib.Path("x.npy"), sampling, taken)[:, 0]
    np.testing.assert_array_equal(found[:count], whole[taken.first : taken.first + count])
    assert not found[count:].any()


def test_channels_first_is_the_same_turned_around(tmp_path):
    features = np.random.default_rng(1).standard_normal((9, 4)).astype(np.float16)
    write(tmp_path, "v_a_rgb", features.T)
    source = FeatureFolder(tmp_path, stride=4, prefix="v_", suffix="_rgb", channels_first=True, width=4)
    [path] = source.find([make_video(2.0, "a")])
    sampling = Sampling("sliding", 4, stride=4)
    taken = sample(sampling, Timeline(2.0, declared_fps=FPS), 36, window=Window(3, 4))
    np.testing.assert_array_equal(source.window(path, sampling, taken), features[3:7].astype(np.float32))


@pytest.mark.parametrize(("written", "asked"), [("NFD", "NFC"), ("NFC", "NFD")])
def test_names_are_found_in_any_unicode_form(tmp_path, written, asked):
    """Features that were extracted on a Mac; beside them files of other names, in two folders."""
    names = ["Übung_é", "camé/clip", "plain"]
    (tmp_path / unicodedata.normalize("NFC", "camé")).mkdir()
    source = FeatureFolder(tmp_path, stride=4, prefix="v_")
    for number, name in enumerate(names):
        folder, _, last = name.rpartition("/")
        path = tmp_path / unicodedata.normalize("NFC", folder) / f"v_{unicodedata.normalize(written, last)}.npy"
        np.save(path, np.full((3, 2), number, np.float32))
    wanted = [*(f"{a}{unicodedata.normalize(asked, b)}" for a, b in (("", names[0]), ("camé/", "clip"))), "plain"]
    found = source.find([make_video(2.0, name) for name in wanted])
    assert [int(np.load(path)[0, 0]) for path in found] == [0, 1, 2]
    with pytest.raises(DataError, match="1 of 2 videos have no features: .*v_Ubung_e.npy"):
        source.find([make_video(2.0, "Ubung_e"), make_video(2.0, "plain")])


def test_what_is_wrong_with_a_file_is_one_sentence(tmp_path):
    source = FeatureFolder(tmp_path, stride=4, width=4)
    write(tmp_path, "turned", np.zeros((4, 9), np.float32))
    with pytest.raises(DataError, match=r"turned.npy has 9 channels, not 4 .*layout = 'channels_first' would fit"):
        source.open(tmp_path / "turned.npy")
    write(tmp_path, "flat", np.zeros(9, np.float32))
    with pytest.raises(DataError, match=r"flat.npy holds float32 \[9\]; features are .* two axes"):
        source.open(tmp_path / "flat.npy")
    np.save(tmp_path / "code.npy", np.array([{"a": 1}], object), allow_pickle=True)
    with pytest.raises(DataError, match=r"code.npy is no whole .npy file of numbers: .*Python objects"):
        source.open(tmp_path / "code.npy")
    write(tmp_path, "cut", np.zeros((9, 4), np.float32))
    (tmp_path / "cut.npy").write_bytes((tmp_path / "cut.npy").read_bytes()[:-8])
    with pytest.raises(DataError, match=r"cut.npy is no whole .npy file"):
        source.open(tmp_path / "cut.npy")
    with pytest.raises(DataError, match=r"2 of 3 videos have no features: .*b.npy; .*c.npy. Extract them"):
        source.find([make_video(2.0, name) for name in ("cut", "b", "c")])
    write(tmp_path, "nan", np.full((9, 4), np.nan, np.float32))
    sampling = Sampling("resize", 4)
    taken = sample(sampling, Timeline(2.0, declared_fps=FPS), 36)
    with pytest.raises(DataError, match=r"nan.npy holds features that are not finite numbers"):
        source.window(tmp_path / "nan.npy", sampling, taken)


def make_config(folder) -> common.ConfigDict:
    config = defaults()
    config.features.path = str(folder)
    config.window.feature_length, config.window.frames, config.window.stride = 8, 16, 4
    return config


def extracted(folder, config, frames: int, width: int = 3) -> None:
    """A folder as --mode=extract leaves it, of one video "v"."""
    videos = config.copy_and_resolve_references()
    videos.features.path = ""
    rules = rules_of(videos, records.sampling_of(videos, train=False), width, "0" * 64)
    (folder / "features.json").write_text(json.dumps(rules))
    rows = rules["resized_to"] or -(-frames // 4)
    write(folder, "v", np.zeros((rows, width), np.float16))
    info_path(folder / "v.npy").write_text(json.dumps({"frames": frames, "fps": FPS, "duration": 2.0, "times": None}))


def test_the_rules_of_an_extracted_folder_must_fit_the_config(tmp_path):
    config = make_config(tmp_path)
    extracted(tmp_path, config, 50)
    assert feature_folder(config).width == 3
    [source] = records.open_sources([make_video(2.0)], [tmp_path / "v.npy"], SLIDING, features=feature_folder(config))
    assert (source.info.frames, source.timeline.fps) == (50, FPS)
    config.window.offset = 8
    with pytest.raises(ConfigError, match=r"their offset is 0 frames, config.window.offset = 8"):
        feature_folder(config)
    config.window.offset, config.window.stride = 0, 6
    with pytest.raises(ConfigError, match=r"window.stride = 6 is no multiple of the 4 video frames between two"):
        feature_folder(config)
    config.window.stride, config.features.width = 8, 5
    with pytest.raises(ConfigError, match=r"config.features.width = 5, but .*features.json says 3"):
        feature_folder(config)
    config.features.width = 0
    assert feature_folder(config).every == 2
    write(tmp_path, "v", np.zeros((12, 3), np.float16))
    with pytest.raises(DataError, match=r"v.npy has 12 rows, but its video's 50 frames make 13: extract it again"):
        feature_folder(config).describe(tmp_path / "v.npy")


SLIDING = Sampling("sliding", 8, stride=4)


def test_features_resized_by_extraction_serve_resizing_only(tmp_path):
    config = make_config(tmp_path)
    config.window.sampling = config.window.eval_sampling = "resize"
    extracted(tmp_path, config, 50)
    assert feature_folder(config).every == 1
    config.window.sampling = config.window.eval_sampling = "sliding"
    with pytest.raises(ConfigError, match="they are whole videos resized to 8 steps"):
        feature_folder(config)


def test_records_hold_features_in_the_place_of_frames(tmp_path):
    config = make_config(tmp_path)
    config.window.offset, config.window.sampling, config.window.ioa_threshold = 8, "sliding", 0.0
    features = np.random.default_rng(2).standard_normal((40, 5)).astype(np.float32)
    write(tmp_path, "v", features)
    folder, train = feature_folder(config), records.sampling_of(config, train=True)
    sources = records.open_sources([make_video(7.0)], folder.find([make_video(7.0)]), train, features=folder)
    data = records.TrainSet(sources, train, seed=0, short_side=16, features=folder)
    record = data.record(0)
    start = data.locate(0)[2].start
    assert "frames" not in record
    np.testing.assert_array_equal(record["features"], features[start : start + 8])
    evaluation = records.sampling_of(config, train=False)
    shown = records.EvaluationSet(sources, evaluation, size=16, features=folder)
    np.testing.assert_array_equal(shown.record(0)["features"], features[:8])
    assert shown.record(len(shown))["features"].shape == (8, 5)  # padding
