"""`prepare custom` on files as people have them: every action on the video that it was made on, or a sentence."""

import json
import shlex
import shutil
import unicodedata

import pytest

from tadjax.config import checks as configs
from tadjax.data.annotations import read_classes
from tadjax.prepare.__main__ import main
from tadjax.video.folder import find_videos
from tests.config.test_checks import load
from tests.video.numbered_videos import make
from tests.video.test_names import video

HEAD = "video,start,end,label\n"
NFD = unicodedata.normalize("NFD", "Übung_é")


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return make(tmp_path_factory.mktemp("clip") / "clip.mp4", 40, rate=10, size=(64, 48))


@pytest.fixture
def prepare(clip, tmp_path, capsys):
    """Makes videos of these names (of 4 s), runs `prepare custom`: (status, actions of each video, printed)."""

    def run(names, annotations, *flags, videos="videos"):
        for name in names:
            path = tmp_path / "videos" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(clip, path)
        if annotations is not None:
            (tmp_path / "a.csv").write_text(annotations)
        given = [] if "--annotations" in flags else ["--annotations", str(tmp_path / "a.csv")]
        output = [] if "--output" in flags else ["--output", str(tmp_path / "out")]
        status = main(["custom", "--videos", str(tmp_path / videos), *given, *output, *flags])
        file = tmp_path / "out" / "annotations.json"
        database = json.loads(file.read_text())["database"] if status < 2 and output else {}
        found = {
            name: [(*a["segment"], a["label"]) for a in entry["annotations"]]
            for name, entry in sorted(database.items())
        }
        if found:
            assert len(find_videos(list(map(video, found)), load(tmp_path / "out" / "config.py").data.videos)) == len(
                found
            )
        printed = capsys.readouterr()
        return status, found, printed.out + printed.err

    return run


def test_folders_in_names_are_kept_apart(prepare):
    rows = "camA/clip1.mp4,0.5,1.5,jump\ncamB/clip1.mp4,2.0,3.0,run\n"
    status, found, printed = prepare(["camA/clip1.mp4"], HEAD + rows, videos="videos/camA")
    assert (status, found) == (1, {"clip1": [(0.5, 1.5, "jump")]})
    assert "1 x annotated videos of which only a namesake" in printed and "camB/clip1.mp4" in printed
    status, found, _ = prepare(["camB/clip1.mp4"], HEAD + rows)
    assert (status, found) == (0, {"camA/clip1": [(0.5, 1.5, "jump")], "camB/clip1": [(2.0, 3.0, "run")]})
    status, _, printed = prepare([], HEAD + "clip1.mp4,0.5,1.5,jump\n")
    assert status == 2 and "'clip1.mp4' could be 'camA/clip1.mp4', 'camB/clip1.mp4'" in printed


def test_a_folder_that_is_not_the_videos_is_not_taken_for_theirs_unless_asked(prepare):
    status, _, printed = prepare(["clip1.mp4"], HEAD + "camB/clip1.mp4,0.5,1.5,jump\n")
    assert status == 2 and "--ignore_folders goes by the files' names alone" in printed
    status, found, _ = prepare([], HEAD + "camB/clip1.mp4,0.5,1.5,jump\n", "--ignore-folders")
    assert (status, found) == (0, {"clip1": [(0.5, 1.5, "jump")]})
    status, found, printed = prepare([], HEAD + "C:\\films\\clip1.mp4,0.5,1.5,jump\n")
    assert (status, found) == (0, {"clip1": [(0.5, 1.5, "jump")]})
    assert "1 videos found by their files' names alone, their folders being others: films/clip1.mp4 is clip1" in printed


def test_unicode_case_and_extension(prepare):
    rows = "Übung_é.mp4,0.5,1.5,jump\nCLIP2.MOV,1,2,run\n00001.MTS,1,2,run\na%20b,1,2,run\n"
    status, found, printed = prepare([f"{NFD}.mp4", "clip2.mp4", "00001.MTS", "a b.mp4", "notes.txt"], HEAD + rows)
    assert status == 0 and "1 files and folders passed over that are no video files: notes.txt" in printed
    assert found == {
        "00001": [(1, 2, "run")],
        NFD: [(0.5, 1.5, "jump")],
        "a b": [(1, 2, "run")],
        "clip2": [(1, 2, "run")],
    }


def test_activitynet_json_keys_labels_and_folders(prepare, tmp_path):
    def entry(label, subset="training"):
        return {"subset": subset, "duration": 4.0, "annotations": [{"segment": [1, 2], "label": label}]}

    folder = tmp_path / "annotations"
    (folder / "more").mkdir(parents=True)
    (folder / "train.json").write_text(
        json.dumps({"database": {"clip1.mp4": entry("jump "), "CLIP2": entry("stand\nup")}}), encoding="utf-8-sig"
    )
    (folder / "more" / "val.json").write_text(
        json.dumps({"database": {"clip3": entry("jump", "validation")}}), encoding="utf-16"
    )
    names, flags = ["clip1.mp4", "clip2.mp4", "clip3.mp4"], ("--annotations", str(folder))
    status, found, printed = prepare(names, None, *flags)
    assert status == 0, printed
    assert found == {"clip1": [(1, 2, "jump")], "clip2": [(1, 2, "stand up")], "clip3": [(1, 2, "jump")]}
    assert "2 labels written anew" in printed and "'jump ' is 'jump'" in printed
    assert read_classes(tmp_path / "out" / "classes.txt") == ("jump", "stand up")
    config = load(tmp_path / "out" / "config.py")
    assert (config.data.train_subset, config.data.eval_subset) == ("training", "validation")

    (folder / "b.json").write_text(json.dumps({"database": {"clip1": entry("run")}}))
    status, _, printed = prepare([], None, *flags)
    assert status == 2 and "'clip1' and 'clip1.mp4' are both of the video 'clip1'; keep one" in printed
    (folder / "b.json").write_text(json.dumps({"database": {"clip3": entry("run")}}))
    status, _, printed = prepare([], None, *flags)
    assert status == 2 and "val.json: video 'clip3' stands in" in printed and "b.json as well" in printed
    (folder / "b.json").unlink()
    (folder / "c.csv").write_text(HEAD + "clip1,1,2,x\n")
    status, _, printed = prepare([], None, *flags)
    assert status == 2 and "train.json is ActivityNet-style" in printed and "c.csv is not" in printed


def test_a_class_called_ambiguous_is_one_but_for_thumos14(prepare):
    rows = "clip1,0.5,1.5,jump\nclip1,2,3,Ambiguous\nvideo_test_0000001,1,2,Ambiguous\nvideo_test_0000001,2,3,jump\n"
    status, found, printed = prepare(["clip1.mp4", "video_test_0000001.mp4"], HEAD + rows)
    assert status == 0 and "4 instances" not in printed
    assert found["clip1"] == [(0.5, 1.5, "jump"), (2, 3, "Ambiguous")]
    assert "1 instances of 2 classes" in printed and "2 instances of 2 classes" in printed


def test_frame_numbers_are_refused_with_the_line(prepare):
    """Of a video of 40 frames, 4 s: 12 to 30 can be no seconds."""
    status, _, printed = prepare(["clip1.mp4"], HEAD + "clip1,1,3,jump\nclip1,12,30,run\n")
    assert status == 2
    assert "a.csv, line 3: 12 to 30 of a video that lasts 4.00 s (40 frames) are frame numbers, it seems" in printed
    status, _, printed = prepare([], HEAD + "clip1,1,3,jump\nclip1,12.5,30,run\n")
    assert status == 1 and "lies outside the video: dropped" in printed


def test_what_is_printed_can_be_pasted_and_what_is_written_can_be_loaded(prepare, tmp_path):
    output = tmp_path / 'it\'s """ my \\data $x'
    status, _, printed = prepare(["clip1.mp4"], HEAD + "clip1,1,3,jump\n", "--output", str(output))
    (line,) = (line for line in printed.splitlines() if "tadjax.main" in line)
    assert status == 0
    assert shlex.split(line)[2:] == ["tadjax.main", f"--config={output / 'config.py'}", f"--workdir=runs/{output.name}"]
    config = load(output / "config.py")
    configs.check(config)
    assert config.data.annotations == str(output / "annotations.json")


def test_re_encoded_videos_keep_their_folders(prepare, tmp_path):
    small = tmp_path / "videos" / "small it"
    flags = ("--reencode", str(small), "--short-side", "32", "--processes", "0")
    rows = "camA/1.mp4,1,2,jump\ncamB/1.mp4,1,3,run\n"
    for _ in range(2):  # the second time, what was re-encoded is none of the originals
        status, found, printed = prepare(["camA/1.mp4", "camB/1.mp4"], HEAD + rows, *flags)
        assert status == 0, printed
        assert found == {"camA/1": [(1, 2, "jump")], "camB/1": [(1, 3, "run")]}
        assert f"2 re-encoded videos are in {small}" in printed and f"'--config.data.videos={small}'" in printed
    assert load(tmp_path / "out" / "config.py").data.videos == str(small)
    assert sorted(path.name for path in small.rglob("*.mp4")) == ["1.mp4", "1.mp4"]


def test_the_home_folder_is_known(prepare, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "b.csv").write_text(HEAD + "clip1,1,3,jump\n")
    status, found, _ = prepare(["clip1.mp4"], None, "--annotations", "~/b.csv", "--output=~/out", videos="videos")
    assert (status, found) == (0, {"clip1": [(1, 3, "jump")]}) and not (tmp_path / "~").exists()


def test_classes_that_differ_in_case_alone_are_said(prepare):
    status, _, printed = prepare(["1.mp4"], HEAD + "1,1,2,Jump\n1,2,3,jump\n")
    assert status == 0 and "classes that differ in upper and lower case alone: 'Jump' and 'jump'" in printed
