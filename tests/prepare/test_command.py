"""Preparing data: annotations of every tool become the same data set; what disagrees with the videos is named."""

import json

import numpy as np
import pytest

from tadjax.config import checks as configs
from tadjax.data.annotations import Video, load_annotations
from tadjax.data.recipe import advise, instance_lengths, rates, suggest
from tadjax.errors import ConfigError, DataError
from tadjax.prepare.__main__ import DATASETS, main
from tadjax.prepare.agreement import check_videos
from tadjax.prepare.formats import read_instances
from tadjax.video.extensions import without_extension
from tadjax.video.folder import video_files
from tadjax.video.frames import probe, read_frames
from tests.config.test_checks import FILES, load
from tests.prepare.test_publishers import clip as moment_clip
from tests.prepare.test_publishers import moments
from tests.video.numbered_videos import make, number_of

CSV = "video,start,end,label\nvideo0.mp4,0.5,2,left\nvideo0,3,4.5,right\nvideo1.mp4,1,2.5,left\n"
WANTED = [("video0", 0.5, 2.0, "left"), ("video0", 3.0, 4.5, "right"), ("video1", 1.0, 2.5, "left")]
EAF = """<?xml version="1.0" encoding="UTF-8"?>
<ANNOTATION_DOCUMENT><HEADER><MEDIA_DESCRIPTOR MEDIA_URL="file:///C:/films/{video}.mp4"/></HEADER>
<TIME_ORDER>{slots}</TIME_ORDER><TIER TIER_ID="actions">{annotations}</TIER></ANNOTATION_DOCUMENT>"""


def eaf(video: str, instances: list) -> str:
    slots, annotations = "", ""
    for i, (_, start, end, label) in enumerate(instances):
        slots += f'<TIME_SLOT TIME_SLOT_ID="a{i}" TIME_VALUE="{int(1000 * start)}"/>'
        slots += f'<TIME_SLOT TIME_SLOT_ID="b{i}" TIME_VALUE="{int(1000 * end)}"/>'
        annotations += (
            f'<ANNOTATION><ALIGNABLE_ANNOTATION ANNOTATION_ID="x{i}" TIME_SLOT_REF1="a{i}" TIME_SLOT_REF2="b{i}">'
            f"<ANNOTATION_VALUE>{label}</ANNOTATION_VALUE></ALIGNABLE_ANNOTATION></ANNOTATION>"
        )
    return EAF.format(video=video, slots=slots, annotations=annotations)


def via(menu: bool) -> dict:
    values = {"left": "0", "right": "1"} if menu else {"left": "left", "right": "right"}
    attribute = {"options": {"0": "left", "1": "right"}} if menu else {"options": {}}
    files = {"1": {"fname": "video0.mp4"}, "2": {"fname": "video1.mp4"}}
    return {
        "attribute": {"1": attribute},
        "file": files,
        "view": {"1": {"fid_list": ["1"]}, "2": {"fid_list": ["2"]}},
        "metadata": {
            f"m{i}": {"vid": str(1 + int(video[-1])), "z": [start, end], "av": {"1": values[label]}}
            for i, (video, start, end, label) in enumerate(WANTED)
        },
    }


VIA_CSV = """# Exported using VGG Image Annotator
# CSV_HEADER = metadata_id,file_list,flags,temporal_coordinates,spatial_coordinates,metadata
"1_a","[""video0.mp4""]",0,"[0.5,2]","[]","{""ACTION"":""left""}"
"1_b","[""video0.mp4""]",0,"[3,4.5]","[]","{""ACTION"":""right""}"
"2_a","[""video1.mp4""]",0,"[1,2.5]","[]","{""ACTION"":""left""}"
"""


def read(path) -> list[tuple]:
    """(video without extension, start, end, label) of all instances."""
    return [(without_extension(i.video).lstrip("/").removeprefix("films/"), *i[1:4]) for i in read_instances(path)]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", CSV),
        ("a.tsv", CSV.replace(",", "\t")),
        ("semicolons.csv", "\ufeff" + CSV.replace(",", ";")),
        ("project.json", json.dumps(via(menu=False))),
        ("menu.json", json.dumps(via(menu=True))),
        ("export.csv", VIA_CSV),
    ],
)
def test_every_format_gives_the_same_instances(tmp_path, name, text):
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert read(tmp_path / name) == WANTED


def test_a_folder_of_elan_files_is_one_list(tmp_path):
    for video in ("video0", "video1"):
        (tmp_path / f"{video}.eaf").write_text(eaf(video, [i for i in WANTED if i[0] == video]))
    assert read(tmp_path) == WANTED


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "video,start,stop,label\n", "the first line must name the columns video,start,end,label; 'end' is"),
        ("a.csv", CSV + "video1,x,3,left\n", "a.csv, line 5: start 'x' and end '3' must be seconds"),
        ("a.csv", CSV + "video1,4,3,left\n", "line 5: the segment from 4 s to 3 s must end after it starts"),
        ("a.csv", CSV + "video1,2,3,\n", "line 5: the label is empty"),
        ("a.csv", "video,start,end,label\n", "holds no annotated segment"),
        ("a.eaf", "<x>", "a.eaf: not an ELAN file"),
        ("a.json", "{}", 'a.json: neither ActivityNet-style ("database") nor a VIA 3 project'),
        ("a.json", "{", "a.json: not a JSON file"),
        ("a.docx", "", "a.docx: no known kind of annotation file; there are .csv, .eaf, .json, .tsv"),
    ],
)
def test_a_wrong_file_is_one_sentence(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError) as error:
        read_instances(tmp_path / name)
    assert message in str(error.value)


def test_a_custom_data_set_ends_with_a_config_that_is_right(small_data, tmp_path, capsys):
    rows = ["video,start,end,label"]
    for name, entry in json.loads((small_data / "annotations.json").read_text())["database"].items():
        rows += [f"{name}.mp4,{a['segment'][0]},{a['segment'][1]},{a['label']}" for a in entry["annotations"]]
    (tmp_path / "mine.csv").write_text("\n".join(rows) + "\nlost.mp4,1,2,left\n")
    output = tmp_path / "mine\U0001f600"
    arguments = ["--videos", str(small_data / "videos"), "--annotations", str(tmp_path / "mine.csv")]
    assert main(["custom", *arguments, "--output", str(output)]) == 1, "a video is missing"
    printed = capsys.readouterr().out
    assert "1 x annotated videos without a file: left out\n    lost" in printed
    assert f"--config={output / 'config.py'}" in printed

    for variant in ("", "tiny"):
        config = load(output / "config.py", variant)
        configs.check(config)
    with pytest.raises(ConfigError, match="'tinny' is none of this config's variants"):
        load(output / "config.py", "tinny")
    config = load(output / "config.py")
    assert (output / "classes.txt").read_text().split() == ["left", "right"]
    train = load_annotations(config.data.annotations, config.data.train_subset, config.data.classes)
    held_out = load_annotations(config.data.annotations, config.data.eval_subset, config.data.classes)
    assert (len(train.videos), len(held_out.videos)) == (5, 2), "several of seven"
    assert train.videos[0].fps == pytest.approx(10)


def test_a_public_data_set_is_checked_against_its_videos(small_data, tmp_path, capsys):
    (tmp_path / "videos").mkdir()
    for file in (small_data / "videos").iterdir():
        (tmp_path / "videos" / file.name).symlink_to(file)
    content = (small_data / "annotations.json").read_text()
    (tmp_path / "annotations.json").write_text(content)
    assert main(["thumos", "--root", str(tmp_path)]) == 0
    assert "annotations and videos agree" in capsys.readouterr().out
    assert (tmp_path / "blocked.txt").read_text() == ""

    (tmp_path / "videos" / "video0.mp4").unlink()
    (tmp_path / "videos" / "video1.mp4").unlink()
    (tmp_path / "videos" / "video1.mp4").write_bytes(b"")
    (tmp_path / "videos" / "other.mp4").write_bytes(b"")
    content = json.loads(content)
    content["database"]["video2"] |= {"duration": 60.0, "frame": 600}
    content["database"]["video3"]["frame"] += 20
    content["database"]["video4"]["annotations"][0]["segment"] = [5.0, 900.0]
    (tmp_path / "annotations.json").write_text(json.dumps(content))
    findings = check_videos(load_annotations(tmp_path / "annotations.json", "training"), tmp_path / "videos", fps=25)
    assert findings.blocked == ["video0", "video1"]
    by_kind = {kind.partition(":")[0]: lines for kind, lines in findings.problems.items()}
    assert {kind: len(lines) for kind, lines in by_kind.items()} == {
        "video files without annotations": 3,
        "annotated videos without a file": 1,
        "files that cannot be read": 1,
        "durations that disagree": 1,
        "frame counts that disagree": 1,
        "files that are not at 25 frames a second": 3,
        "kinds of annotations out of order": 1,
    }
    assert "lasts 9.80 s, annotated are 60.00 s" in by_kind["durations that disagree"][0]
    assert main(["thumos", "--root", str(tmp_path)]) == 1
    assert (tmp_path / "blocked.txt").read_text() == "video0\nvideo1\n"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_what_is_checked_is_what_the_configs_read(path):
    """The same files under the same names, in the same subsets; MultiTHUMOS's videos lie with THUMOS14's."""
    data = load(path).data
    for known in DATASETS.values():
        if data.annotations == f"{known.root}/{known.annotations}":
            assert data.classes == f"{known.root}/{known.classes}"
            assert (data.train_subset, data.eval_subset) == known.subsets
            assert not data.videos or data.videos in (f"{known.root}/videos", "data/thumos14/videos")
            assert not data.videos or data.prefix == known.prefix


def test_publishers_files_are_converted_once_and_then_checked(small_data, tmp_path, capsys):
    columns = "id,length,actions\n"
    (tmp_path / "Charades_v1_train.csv").write_text(columns + "video0,8.0,c001 1.00 2.00\n")
    (tmp_path / "Charades_v1_test.csv").write_text(columns + "video1,8.9,c000 1.00 2.00\n")
    root = tmp_path / "charades"
    root.mkdir()
    (root / "videos").symlink_to(small_data / "videos")
    arguments = ["charades", "--source", str(tmp_path), "--root", str(root)]
    assert main(arguments) == 1, "five videos have no annotations, and these are not at 30 frames a second"
    assert (root / "classes.txt").read_text() == "c000\nc001\n"
    assert "2 x files that are not at 30 frames a second" in capsys.readouterr().out
    assert main(arguments) == 2
    assert "exists: remove it" in capsys.readouterr().err


def test_ego4d_clips_are_cut_out_of_the_videos(tmp_path, capsys):
    (tmp_path / "full").mkdir()
    make(tmp_path / "full" / "8e1a.mp4", 100, rate=10)
    (tmp_path / "moments_train.json").write_text(moments(moment_clip("c1", 2.0, (3.0, 4.0, "walk", True))))
    (tmp_path / "moments_val.json").write_text(moments(moment_clip("c2", 0.0, (1.0, 2.0, "sit", True)), split="val"))
    for name in ("moments_train.json", "moments_val.json"):
        content = json.loads((tmp_path / name).read_text())
        clip = content["videos"][0]["clips"][0]
        clip["video_end_sec"], clip["video_end_frame"] = clip["video_start_sec"] + 5.0, clip["video_start_frame"] + 150
        (tmp_path / name).write_text(json.dumps(content))
    root = tmp_path / "ego4d"
    arguments = ["ego4d", "--source", str(tmp_path), "--full-scale", str(tmp_path / "full"), "--root", str(root)]
    assert main([*arguments, "--processes", "0"]) == 1
    assert "frame counts that disagree" in capsys.readouterr().out, "the made video has 10 frames a second, not 30"
    assert number_of(read_frames(root / "videos" / "c1.mp4", [7]).frames[0]) == 27
    assert probe(root / "videos" / "c2.mp4").frames == 50
    assert main([*arguments, "--processes", "0"]) == 1, "again, with everything there"


def test_re_encoding_a_public_data_set_leaves_the_originals(small_data, tmp_path, capsys):
    (tmp_path / "videos").symlink_to(small_data / "videos")
    for file in ("annotations.json", "classes.txt"):
        (tmp_path / file).write_text((small_data / file).read_text())
    before = {path: path.read_bytes() for path in (small_data / "videos").iterdir()}
    small = tmp_path / "small"
    arguments = ["thumos", "--root", str(tmp_path), "--reencode", str(small), "--short-side", "32", "--processes", "0"]
    assert main(arguments) == 0
    assert f"7 re-encoded videos are in {small}" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in (small_data / "videos").iterdir()} == before
    assert (probe(small / "video0.mp4").width, probe(small / "video0.mp4").height) == (38, 32)
    assert main([*arguments[:-4], "--crf", "99"]) == 2
    assert "--crf 0 to 51" in capsys.readouterr().err


def test_what_cannot_be_done_exits_2(tmp_path, capsys):
    assert main(["thumos", "--root", str(tmp_path)]) == 2
    assert "annotations.json: no such file" in capsys.readouterr().err


def test_suggestions_are_those_of_published_recipes():
    """Of lengths like THUMOS14's (1 to 20 s, 30 frames a second): stride 4, six levels."""
    lengths = np.concatenate([np.full(20, 0.9), np.full(75, 3.0), np.full(5, 20.0)])
    found = suggest(lengths, longest_video=1600.0, fps=30.0)
    assert (found.stride, found.frames_per_feature, found.levels) == (4, 1, 6)
    assert found.feature_length == 384  # 51 s
    assert found.regression_ranges == ((0, 4), (4, 8), (8, 16), (16, 32), (32, 64), (64, 10000))
    long = suggest(10 * lengths, longest_video=1600.0, fps=30.0)
    assert (long.stride, long.frames_per_feature) == (64, 16)


def test_mixed_frame_rates_are_said_with_what_mends_them():
    assert rates([]) == rates([29.97, 30.0, 30.0]) == []
    (line,) = rates([60.0, 25.0, 25.0, 24.0])
    assert "from 24 to 60 a second" in line and "--fps 25 " in line


def test_an_annotation_beyond_the_videos_end_does_not_stretch_the_recipe():
    segments = np.array([[1.0, 3.0], [5.0, 600.0], [700.0, 701.0]])
    video = Video("v", "training", 10.0, 300, 30.0, segments, np.zeros(3, np.int32))
    assert instance_lengths([video]).tolist() == [2.0, 5.0]
    video = Video("v", "training", 10.0, 300, 30.0, segments[[0, 1]] + 1, np.zeros(2, np.int32))
    assert "instances cover 30 % of their video" in " ".join(advise([video], 30.0)), "the median of 0.2 and 0.4"


@pytest.mark.parametrize("fps", [1.0, 10.0, 29.97, 60.0, 240.0])
@pytest.mark.parametrize("length", [0.05, 1.0, 30.0, 2000.0])
def test_suggested_sizes_always_fit_each_other(fps, length):
    found = suggest(np.linspace(length, 3 * length, 7), longest_video=4 * length, fps=fps)
    assert found.stride % found.frames_per_feature == 0
    assert found.feature_length % 2 ** (found.levels - 1) == 0
    assert found.feature_length * found.frames_per_feature % 16 == 0
    assert len(found.regression_ranges) == found.levels


def test_two_videos_of_a_name_are_one_sentence(tmp_path):
    for name in ("a.mkv", "a.mp4", "b.mp4"):
        (tmp_path / name).touch()
    with pytest.raises(DataError, match="a.mkv and a.mp4 have the same name"):
        video_files(tmp_path)
