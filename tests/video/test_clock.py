"""One clock for all seconds, that of a player: files whose pictures begin late (subgen 305, gpac 2283)."""

import json
import pathlib
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from tadjax.data.annotations import Video, load_annotations, parse_database
from tadjax.data.records import EvaluationSet, TrainSet, open_sources
from tadjax.data.sampling import Sampling, ground_truth
from tadjax.data.timeline import Grid, Timeline, timeline_of
from tadjax.errors import DataError
from tadjax.inference.stream import stream_windows
from tadjax.prepare.__main__ import main
from tadjax.prepare.reencode import Encoding, reencode
from tadjax.video.frames import frame_index, probe, read_frames, times
from tests.video.numbered_videos import make, number_of
from tests.video.odd_files import X264, with_sound

SLIDING = Sampling("sliding", feature_length=16, stride=2, overlap=0.5)


@pytest.fixture(scope="module")
def late(tmp_path_factory):
    """90 pictures at 30 a second from 2 s on; the sound begins at 0."""
    return with_sound(tmp_path_factory.mktemp("late") / "late.mp4", 2.0)


# Container: (late, sound_from), and the second at which a player shows the first picture.
STARTS = {
    "a.mp4": ((0.5, 0.0), 0.5),
    "a.mov": ((2.0, 0.0), 2.0),
    "a.mkv": ((7.25, 0.0), 7.25),
    "b.mkv": ((0.0, 1.0), 0.0),  # the sound comes later
    "c.mkv": ((3600.0, 3590.0), 3600.0),  # the clock is the container's own
    "a.ts": ((3.0, 0.5), 2.5),  # MPEG's clocks begin anywhere: players count from the first stream
    "b.ts": ((0.0, 0.0), 0.0),
    "a.mpg": ((3.0, 0.5), 2.5),  # where only some packets have a time
    "a.vob": ((2.0, 0.0), 2.0),
    "a.avi": ((2.0, 0.0), 2.0),
}


@pytest.mark.parametrize("name", STARTS)
def test_when_a_player_shows_the_first_picture(tmp_path, name):
    (video, sound), start = STARTS[name]
    path = pathlib.Path(with_sound(tmp_path / name, video, sound_from=sound, bf="0"))
    # Sound begins 30 ms before its first sample there; FFmpeg writes an AVI file's first chunks late by up to three.
    assert probe(path).start == pytest.approx(
        start, abs={".ts": 0.031, ".mpg": 0.031, ".vob": 0.031, ".avi": 0.11}.get(path.suffix, 0.0011)
    )
    assert probe(path).frames == 90
    assert times(path)[0] == 0.0 and times(path)[-1] == pytest.approx(89 / 30, abs=2e-3)
    assert [number_of(rgb) for rgb in read_frames(path, [0, 45, 89]).frames] == [0, 45, 89]


def test_an_ordinary_transport_stream_begins_at_0(tmp_path):
    path = make(tmp_path / "a.ts", 60, **X264)
    assert frame_index(path).pts[0] > 0 and probe(path).start == 0.0


def test_frames_and_seconds_of_a_late_video():
    timeline = Timeline(3.0, 90, start=2.0)
    assert timeline.to_seconds(np.array([0.0, 45.0])).tolist() == [2.0, 3.5]
    assert timeline.to_frames(np.array([2.0, 3.5])).tolist() == [0.0, 45.0]
    assert timeline.end == 5.0
    varying = Timeline(3.0, 3, None, np.array([0.0, 0.5, 2.0]), 2.0)
    assert varying.to_seconds(np.array([1.5])).tolist() == [3.25]
    assert varying.to_frames(np.array([3.25])).tolist() == [1.5]
    for grid in (Grid(timeline, 16, 2, 10, 1), Grid(timeline, 16, 0), Grid(varying, 16, 0)):
        seconds = grid.to_seconds(np.array([0.5, 3.0, 7.0]))
        np.testing.assert_allclose(grid.to_steps(seconds), [0.5, 3.0, 7.0], atol=1e-12)
        assert grid.to_seconds(np.array([-100.0, 100.0])).tolist() == [2.0, 5.0]


def test_what_is_predicted_stands_on_the_players_clock(late):
    windows = list(stream_windows(frame_index(late), SLIDING, size=48))
    assert windows[0].grid.to_seconds(np.array([0.0, 1.5])).tolist() == [2.0, 2.1]
    assert windows[-1].grid.to_seconds(np.array([16.0])) == pytest.approx([5.0])
    whole = next(iter(stream_windows(frame_index(late), Sampling("resize", feature_length=30), size=48)))
    assert whole.grid.to_seconds(np.array([0.0, 10.0, 30.0])).tolist() == [2.0, 3.0, 5.0]


def annotated(kind: str, folder) -> None:
    """An action from 2.5 s to 4.3 s, as a player showed it, in a file of each kind."""
    if kind == "csv":
        (folder / "a.csv").write_text("video,start,end,label\nlate.mp4,2.5,4.3,jump\n")
    elif kind == "eaf":
        root = ElementTree.Element("ANNOTATION_DOCUMENT")
        header = ElementTree.SubElement(root, "HEADER", TIME_UNITS="milliseconds")
        ElementTree.SubElement(header, "MEDIA_DESCRIPTOR", MEDIA_URL="file:///films/late.mp4")
        order = ElementTree.SubElement(root, "TIME_ORDER")
        for slot, value in (("ts1", "2500"), ("ts2", "4300")):
            ElementTree.SubElement(order, "TIME_SLOT", TIME_SLOT_ID=slot, TIME_VALUE=value)
        tier = ElementTree.SubElement(ElementTree.SubElement(root, "TIER", TIER_ID="jump"), "ANNOTATION")
        ends = {"ANNOTATION_ID": "a1", "TIME_SLOT_REF1": "ts1", "TIME_SLOT_REF2": "ts2"}
        ElementTree.SubElement(
            ElementTree.SubElement(tier, "ALIGNABLE_ANNOTATION", ends), "ANNOTATION_VALUE"
        ).text = "jump"
        ElementTree.ElementTree(root).write(folder / "a.eaf")
    elif kind == "via":
        project = {
            "file": {"1": {"fid": "1", "fname": "late.mp4"}},
            "view": {"1": {"fid_list": ["1"]}},
            "attribute": {"1": {"aname": "action", "options": {}}},
            "metadata": {"1_a": {"vid": "1", "z": [2.5, 4.3], "av": {"1": "jump"}}},
        }
        (folder / "a.json").write_text(json.dumps(project))
    else:
        entry = {"subset": "training", "duration": 3.0, "annotations": [{"segment": [2.5, 4.3], "label": "jump"}]}
        (folder / "a.json").write_text(json.dumps({"database": {"late": entry | {"fps": 30}}}))


@pytest.mark.parametrize("kind", ["csv", "eaf", "via", "activitynet"])
@pytest.mark.parametrize("again", [False, True], ids=["as it is", "re-encoded"])
def test_training_learns_what_the_player_showed(late, tmp_path, capsys, kind, again):
    """2.5 s to 4.3 s are the pictures 15 to 69, whatever the annotations come in."""
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "late.mp4").symlink_to(late)
    (tmp_path / "annotated").mkdir()
    annotated(kind, tmp_path / "annotated")
    (file,) = (tmp_path / "annotated").iterdir()
    given = ["--videos", tmp_path / "videos", "--annotations", file, "--output", tmp_path / "out"]
    given += ["--reencode", tmp_path / "new"] if again else []
    assert main(["custom", *map(str, given)]) == 0, capsys.readouterr()
    annotations = load_annotations(tmp_path / "out" / "annotations.json", "training")
    assert not annotations.warnings
    assert (annotations.videos[0].start, annotations.videos[0].duration, annotations.videos[0].end) == (2.0, 3.0, 5.0)
    video = tmp_path / ("new" if again else "videos") / "late.mp4"
    sampling = Sampling("sliding", feature_length=96, stride=1, overlap=0.5)
    sources = open_sources(annotations.videos, [video], sampling)
    assert sources[0].truth.segments.tolist() == [[15, 69]]
    record = TrainSet(sources, sampling, seed=0, short_side=96).record(0)
    begin = int(record["segments"][0, 0])
    first = number_of(record["frames"][begin, : record["frame_size"][0], : record["frame_size"][1]])
    assert abs(first - 15) <= 1
    windows = EvaluationSet(sources, sampling, size=48).windows
    assert windows[0].grid.to_seconds(np.array([15.0])).tolist() == [2.5]


def test_publishers_count_from_the_first_picture(late):
    """Their annotations say nothing of "first_picture": frame n stands at n / fps, whatever the container says."""
    video = Video("late", "training", 3.0, 90, 30.0, np.array([[0.5, 2.3]]), np.zeros(1, np.int32))
    assert timeline_of(video).to_seconds(np.array([45.0])).tolist() == [1.5]
    (source,) = open_sources([video], [late], SLIDING)
    assert source.truth.segments.tolist() == [[15, 69]]
    assert EvaluationSet([source], SLIDING, size=48).windows[0].grid.to_seconds(np.array([0.0])).tolist() == [0.0]


@pytest.mark.parametrize("start", [0.021, 2.0, 7200.5])
@pytest.mark.parametrize("kind", ["constant", "other rate"])
def test_re_encoded_files_keep_the_start(tmp_path, start, kind):
    source = with_sound(tmp_path / "a.mkv", start)
    reencode(source, tmp_path / "b.mp4", Encoding(short_side=96, fps=0 if kind == "constant" else 15))
    before, after = probe(source), probe(tmp_path / "b.mp4")
    assert after.start == pytest.approx(before.start, abs=2e-4) and before.start == pytest.approx(start, abs=1e-3)
    assert after.constant_rate and after.duration == pytest.approx(3.0)
    fps = 30 if kind == "constant" else 15
    assert [number_of(rgb) for rgb in read_frames(tmp_path / "b.mp4", [0, fps, 2 * fps]).frames] == [0, 30, 60]


def test_a_part_begins_at_0(late, tmp_path):
    reencode(late, tmp_path / "b.mp4", Encoding(short_side=96), 1.0, 2.0)
    assert (probe(tmp_path / "b.mp4").start, probe(tmp_path / "b.mp4").frames) == (0.0, 30)
    assert number_of(read_frames(tmp_path / "b.mp4", [0]).frames[0]) == 30


def test_segments_are_compared_with_what_the_player_shows():
    segments = [[4.0, 4.8], [0.5, 1.5], [1.5, 2.5], [4.5, 6.0]]
    entry = {"subset": "training", "duration": 3.0, "fps": 30.0, "first_picture": 2.0}
    entry["annotations"] = [{"segment": segment, "label": "jump"} for segment in segments]
    (video,), warnings = (found := parse_database({"a": entry}, "training")).videos, found.warnings
    assert video.segments.tolist() == [[4.0, 4.8], [1.5, 2.5], [4.5, 6.0]]
    assert [warning.index for warning in warnings] == [1, 2, 3]
    for wrong in (-1, "2", None, float("nan"), True):
        with pytest.raises(DataError, match="video 'a': \"first_picture\" is .*, not a number of seconds"):
            parse_database({"a": entry | {"first_picture": wrong}}, "training")


def test_decimals_do_not_lose_a_frame():
    """4.3 s - 2 s is a little less than 2.3 s."""
    video = Video("a", "t", 3.0, 30, 10.0, np.array([[4.3, 4.9]]), np.zeros(1, np.int32), 2.0)
    assert ground_truth(SLIDING, timeline_of(video), video).segments.tolist() == [[23, 29]]
