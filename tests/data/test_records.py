"""Records: frames, segments and seconds that agree; every window once; what is wrong with the data, said up front."""

import dataclasses
import json

import numpy as np
import pytest

from tadjax.config.schema import defaults
from tadjax.data import records
from tadjax.data.annotations import Video
from tadjax.data.dataset import Dataset
from tadjax.data.sampling import GroundTruth
from tadjax.data.timeline import Timeline
from tadjax.errors import DataError
from tadjax.video import folder as video_folder
from tests.video.tiny_videos import (
    FRAMES,
    PORTRAIT,
    SAMPLING,
    SEGMENTS,
    SLIDING,
    evaluation_set,
    make_video,
    number_of,
    train_set,
)


def test_frames_and_segments_of_a_record_agree(sources):
    """Feature step t shows frame start + 2 t, and the segments stand where the annotated seconds are on it."""
    data = train_set(sources)
    for n in range(10):
        record = data.record(n)
        height, width = record["frame_size"]
        assert (height, width) == (24, 32)
        assert bool(record["portrait"]) == (record["video"] == PORTRAIT)
        assert not record["frames"][:, height:].any() and not record["frames"][:, :, width:].any()
        number = number_of(record["frames"][:, :height, :width])
        steps = int(record["valid"].sum())
        start = round(number[0])
        np.testing.assert_allclose(number[:steps], start + 2 * np.arange(steps), atol=0.7)
        np.testing.assert_allclose(number[steps:], number[steps - 1], atol=0.01)  # padding repeats the last frame
        kept = record["segments"][record["segment_valid"]]
        seconds = (kept * 2 + start) / 10
        for segment in seconds:
            overlap = [min(segment[1], e) - max(segment[0], s) for s, e in SEGMENTS[record["video"]]]
            np.testing.assert_allclose(max(overlap), segment[1] - segment[0], atol=1e-5)
        assert not record["segments"][~record["segment_valid"]].any()


def test_the_order_is_the_one_it_has_always_been(sources):
    """A checkpoint of an older version must go on with the same records: these numbers may never change."""
    data = train_set(sources)
    assert [data.locate(n)[1].index for n in range(10)] == [1, 4, 2, 3, 0, 2, 3, 1, 4, 0]
    assert [int(data.record(n)["augment_seed"]) for n in range(2)] == [106314868, 4006498671]


def test_sliding_windows_of_training_come_once_an_epoch(sources):
    data = train_set(sources, SLIDING)
    windows = [data.locate(n)[1:] for n in range(len(data))]
    listed = {(source.index, window.start) for source, window in windows}
    assert len(listed) == len(data) == 8  # none of video 3: its 20 frames of action fit into no window of 16
    assert all(data.record(n)["segment_valid"].any() for n in range(len(data)))


def test_max_segments_is_reached_and_never_exceeded(sources):
    data = train_set(sources)
    assert data.max_segments == 2  # no window of 3.2 s holds three quarters of each of video 2's three segments
    counts = [int(data.record(n)["segment_valid"].sum()) for n in range(40)]
    assert max(counts) == 2


def test_max_segments_of_windows_that_rest_on_the_annotated_count(sources):
    """The last window ends with the annotated 26 frames; of the file's 40, no window holds as many segments."""
    truth = GroundTruth(np.array([[11, 12], [17, 19], [23, 25]], np.float32), np.zeros(3, np.int32))
    source = dataclasses.replace(sources[0], timeline=Timeline(2.6, 26), truth=truth)
    data = train_set([source], dataclasses.replace(SLIDING, coverage="reference"))
    counts = [int(data.record(n)["segment_valid"].sum()) for n in range(len(data))]
    assert max(counts) == data.max_segments == 3


def test_segments_that_do_not_fit_are_an_error(sources):
    data = train_set(sources, max_segments=1)
    with pytest.raises(DataError, match=r"clip\d.mp4: a window holds 2 segments, but max_segments is 1"):
        [data.record(n) for n in range(5)]


def test_videos_without_segments_are_left_out(folder):
    empty = Video("clip1", "training", 2.5, 25, 10.0, np.zeros((0, 2)), np.zeros(0, np.int32))
    videos = [make_video(0), empty]
    opened = records.open_sources(videos, video_folder.find_videos(videos, folder), SAMPLING)
    assert len(train_set(opened)) == 1
    with pytest.raises(DataError, match="none of the 1 training videos"):
        train_set(opened[1:])


def test_the_canvas_just_holds_the_widest_of_the_training_videos(sources):
    assert train_set(sources).canvas == (24, 32)
    shapes = ((640, 96), (480, 960), (32, 24))
    wide = [
        dataclasses.replace(source, info=dataclasses.replace(source.info, width=width, height=height))
        for source, (width, height) in zip(sources, shapes, strict=False)
    ]
    data = train_set(wide)
    assert data.canvas == (24, 160) and data.widest is wide[0]
    assert train_set(wide[1:]).canvas == (24, 48)  # a portrait video lies on its side


def test_evaluation_windows_reach_every_frame_and_know_their_seconds(sources):
    data = evaluation_set(sources)
    seen = {source.index: set() for source in sources}
    for i, window in enumerate(data.windows):
        record = data.record(i)
        assert record["video"] == window.video
        steps = np.flatnonzero(record["valid"])
        number = number_of(record["frames"][steps])
        frames = window.grid.to_seconds(steps) * 10
        np.testing.assert_allclose(number, frames, atol=0.7)
        seen[window.video] |= set(np.round(frames).astype(int).tolist())
    assert seen == {source.index: set(range(FRAMES[source.index])) for source in sources}


def test_a_config_describes_both_sets(folder, tmp_path):
    database = {}
    for i, frames in enumerate(FRAMES):
        segments = [{"segment": segment, "label": "wave"} for segment in SEGMENTS[i]]
        subset = "validation" if i == 2 else "training"
        entry = {"subset": subset, "duration": frames / 10, "frame": frames, "annotations": segments}
        database[f"clip{i}"] = entry
    (tmp_path / "annotations.json").write_text(json.dumps({"database": database}))
    config = defaults()
    config.data.annotations, config.data.videos = str(tmp_path / "annotations.json"), str(folder)
    config.window.update(frames=32, feature_length=16, stride=2, short_side=24, size=16)

    train = Dataset(config).training_set(tmp_path / "index")
    record = train.record(0)
    assert (len(train), train.max_segments) == (4, 2)
    assert record["frames"].shape == (32, 24, 32, 3)  # 32 frames at stride 1, two a feature step
    assert record["valid"].shape == (16,)
    evaluation = Dataset(config).evaluation_set(tmp_path / "index")
    assert [window.grid.window_start_frame for window in evaluation.windows] == [0, 16, 32]  # of 64 frames
    assert evaluation.record(2)["frames"].shape == (32, 16, 16, 3)
    assert len(list((tmp_path / "index").iterdir())) == 5


def test_a_broken_frame_is_counted_and_its_neighbour_stands_in(sources, monkeypatch):
    read = records.read_frames

    def read_damaged(*args, **options):
        frames = read(*args, **options)
        return type(frames)(frames.frames, 2)

    monkeypatch.setattr(records, "read_frames", read_damaged)
    assert train_set(sources).record(0)["substituted"] == 2
    assert evaluation_set(sources).record(0)["substituted"] == 2


# What is wrong with the data


def test_missing_videos_are_named_in_one_error(folder):
    videos = [make_video(0), *(Video(f"gone{i}", "t", 1, 10, 10, np.zeros((0, 2)), np.zeros(0)) for i in range(5))]
    with pytest.raises(DataError) as error:
        video_folder.find_videos(videos, folder)
    text = str(error.value)
    assert text.startswith(
        f"{folder}: 5 of 6 videos are missing: gone0; gone1; gone2; and 2 more; put each there as NAME"
    )
    assert "the folder holds files such as 'clip0'" in text
    for absent in (folder / "none", ""):
        with pytest.raises(DataError, match="no such folder of videos; set config.data.videos"):
            video_folder.find_videos(videos, absent)


def test_files_are_found_by_any_usual_extension_and_prefix(tmp_path):
    for name in ("v_a.MP4", "v_b.c.webm", "d.mkv", "notes.txt"):
        (tmp_path / name).touch()
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "v_e.avi").touch()

    def named(*names):
        return [Video(name, "t", 1, 10, 10, np.zeros((0, 2)), np.zeros(0)) for name in names]

    found = video_folder.find_videos(named("a", "b.c", "sub/e"), tmp_path, "v_")
    assert [str(path.relative_to(tmp_path)) for path in found] == ["v_a.MP4", "v_b.c.webm", "sub/v_e.avi"]
    assert video_folder.find_videos(named("d"), tmp_path) == [tmp_path / "d.mkv"]
    for name in ("../d", "/etc/passwd"):
        with pytest.raises(DataError, match="outside"):
            video_folder.find_videos(named(name), tmp_path)
    with pytest.raises(DataError, match="outside"):
        video_folder.find_videos(named("d"), tmp_path, "../")
    (tmp_path / "d.mp4").touch()
    with pytest.raises(DataError, match="'d' has 2 files, d.mkv, d.mp4; keep one"):
        video_folder.find_videos(named("d"), tmp_path)


def test_a_file_that_is_no_video_is_reported_before_training(folder, tmp_path):
    (tmp_path / "clip0.mp4").write_bytes(b"nothing" * 100)
    (tmp_path / "clip1.mp4").write_bytes(b"")
    videos = [make_video(0), make_video(1)]
    paths = video_folder.find_videos(videos, tmp_path)
    with pytest.raises(
        DataError, match=r"2 of 2 videos cannot be used: .*clip0.mp4.*clip1.mp4: the video file is empty"
    ):
        records.open_sources(videos, paths, SAMPLING)


def test_a_file_at_another_rate_than_the_recipe_is_named(folder):
    """A file of 10 frames a second; at 30, frames would be counted that are not there."""
    videos = [make_video(0)]
    paths = video_folder.find_videos(videos, folder)
    assert records.open_sources(videos, paths, SAMPLING, fps=10.05)[0].timeline.fps == 10.05
    with pytest.raises(
        DataError, match=r"clip0.mp4: has 10 frames a second, config.data.fps says 30; re-encode the vi"
    ):
        records.open_sources(videos, paths, SAMPLING, fps=30.0)


@pytest.mark.parametrize(
    ("annotated", "fps"),
    [
        ({"frames": 120, "fps": 30.0}, 10.0),  # of the original, which was re-encoded at a third of its rate
        ({"frames": 0, "fps": 30.0}, 10.0),
        ({"frames": 80, "fps": 10.0, "duration": 8.0}, 10.0),  # the file is cut off, its rate is the annotated one
        ({"frames": 40, "fps": 40 / 3.6, "duration": 3.6}, 40 / 3.6),  # the annotated seconds run faster: as published
    ],
)
def test_a_re_encoded_file_counts_its_own_frames(folder, annotated, fps):
    video = dataclasses.replace(make_video(0), **annotated)
    (source,) = records.open_sources([video], video_folder.find_videos([video], folder), SAMPLING)
    assert source.timeline.fps == pytest.approx(fps)
    np.testing.assert_array_equal(source.truth.segments, np.trunc(np.array(SEGMENTS[0]) * fps))
