"""Publishers' own annotation files: made-up samples in their true layouts become ActivityNet-style annotations."""

import json
import random

import pytest

from tadjax.data.annotations import parse_database
from tadjax.errors import DataError
from tadjax.prepare.publishers import CONVERTERS
from tests.video.tiny_videos import write_video


def convert(name, folder, videos=None):
    database, classes = CONVERTERS[name](folder, videos)
    for subset in {entry["subset"] for entry in database.values()}:
        assert not parse_database(database, subset, classes).warnings
    return database, classes


@pytest.fixture(scope="module")
def thumos_videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("thumos") / "videos"
    folder.mkdir()
    for name, frames in (("validation_0000266", 40), ("test_0000004", 25), ("test_0000270", 10)):
        write_video(folder / f"video_{name}.mp4", frames)
    return folder


def test_thumos(tmp_path, thumos_videos):
    """Two archives, one file a class in each; name and times stand two blanks apart."""
    train = tmp_path / "TH14_Temporal_annotations_validation" / "annotation"
    test = tmp_path / "TH14_Temporal_annotations_test" / "annotation"
    train.mkdir(parents=True)
    test.mkdir(parents=True)
    (train / "Diving_val.txt").write_text("video_validation_0000266  2.0 3.1\n")
    (train / "CliffDiving_val.txt").write_text("video_validation_0000266  2.0 3.1\nvideo_validation_0000266  0.5 1.5\n")
    (train / "Ambiguous_val.txt").write_text("video_validation_0000266  3.2 3.4\n")
    (test / "Diving_test.txt").write_text("video_test_0000004  0.2 1.1\nvideo_test_0000270  0.1 0.5\n")
    (test / "._Diving_test.txt").write_bytes(b"\x00\x05\x16")  # of an archive that a Mac packed
    (test / "detclasslist.txt").write_text("21 CliffDiving\n26 Diving\n")
    database, classes = convert("thumos", tmp_path, thumos_videos)
    assert classes == ("CliffDiving", "Diving")
    assert set(database) == {"video_validation_0000266", "video_test_0000004"}, "0000270 is known to be faulty"
    assert database["video_validation_0000266"] == {
        "subset": "training",
        "duration": 4.0,
        "frame": 40,
        "annotations": [
            {"segment": [0.5, 1.5], "label": "CliffDiving"},
            {"segment": [2.0, 3.1], "label": "CliffDiving"},
            {"segment": [2.0, 3.1], "label": "Diving"},
        ],
    }
    assert database["video_test_0000004"]["subset"] == "validation"

    (train / "Diving_val.txt").write_text("video_validation_0000266  2.0 3.1\nvideo_validation_0000266  2.0\n")
    with pytest.raises(DataError, match=r'Diving_val.txt, line 2: .* is not "video start end"'):
        convert("thumos", tmp_path, thumos_videos)
    (train / "Diving_val.txt").write_text("video_validation_0000999  2.0 3.1\n")
    with pytest.raises(DataError, match="1 of 3 annotated videos are not there .first: video_validation_0000999."):
        convert("thumos", tmp_path, thumos_videos)


def test_multithumos(tmp_path, thumos_videos):
    (tmp_path / "annotations").mkdir()
    (tmp_path / "class_list.txt").write_text("1 BaseballPitch\n2 Walk\n")
    (tmp_path / "annotations" / "BaseballPitch.txt").write_text("video_validation_0000266 0.50 1.50\n")
    (tmp_path / "annotations" / "Walk.txt").write_text("video_validation_0000266 0.10 3.90\nvideo_test_0000270 0.1 1\n")
    database, classes = convert("multithumos", tmp_path, thumos_videos)
    assert classes == ("BaseballPitch", "Walk")
    assert [a["label"] for a in database["video_validation_0000266"]["annotations"]] == ["Walk", "BaseballPitch"]
    assert database["video_test_0000270"]["frame"] == 10
    (tmp_path / "annotations" / "Walk.txt").unlink()
    with pytest.raises(DataError, match=r"holds no file whose name is like Walk"):
        convert("multithumos", tmp_path, thumos_videos)


EPIC = (
    "narration_id,participant_id,video_id,narration_timestamp,start_timestamp,stop_timestamp,start_frame,stop_frame,"
    "narration,verb,verb_class,noun,noun_class,all_nouns,all_noun_classes\n"
)
EPIC_ROW = "P01_01_0,P01,P01_01,00:01:01.000,00:01:02.50,00:01:03.257,{},open door,open,12,door,3,['door'],[3]\n"


def test_epic(tmp_path):
    (tmp_path / "EPIC_100_video_info.csv").write_text("video_id,duration,fps,resolution\nP01_01,100.5,60,1920x1080\n")
    (tmp_path / "EPIC_100_train.csv").write_text(EPIC + EPIC_ROW.format("3750,3795"))
    (tmp_path / "EPIC_100_validation.csv").write_text(EPIC)
    database, classes = convert("epic_noun", tmp_path)
    annotation = {"segment": [62.5, 63.26], "label": "id_003"}
    assert database == {"P01_01": {"subset": "train", "duration": 100.5, "annotations": [annotation]}}
    assert classes == ("id_003",)
    assert convert("epic_verb", tmp_path)[1] == ("id_012",)
    (tmp_path / "EPIC_100_validation.csv").write_text(EPIC + EPIC_ROW.format("1,2").replace("P01_01,", "P02_01,"))
    with pytest.raises(
        DataError, match=r"EPIC_100_validation.csv, line 2: video 'P02_01' is not in EPIC_100_video_info"
    ):
        convert("epic_verb", tmp_path)
    (tmp_path / "EPIC_100_validation.csv").write_text(EPIC + EPIC_ROW.format("1,2").replace(",12,", ",open,"))
    with pytest.raises(DataError, match=r"EPIC_100_validation.csv, line 2: not as EPIC-Kitchens publishes it"):
        convert("epic_verb", tmp_path)


def test_charades(tmp_path):
    columns = "id,subject,scene,quality,relevance,verified,script,objects,descriptions,actions,length\n"
    row = '{},HR43,Bedroom,6,7,Yes,"A person, awake.",bed,"Wakes\nup.",{},{}\n'
    (tmp_path / "Charades_v1_train.csv").write_text(
        columns + row.format("AB1CD", "c092 11.90 21.20;c147 0.00 12.60", "30.5")
    )
    (tmp_path / "Charades_v1_test.csv").write_text(columns + row.format("EF2GH", "", "10"))
    database, classes = CONVERTERS["charades"](tmp_path, None)
    assert [a["segment"] for a in database["AB1CD"]["annotations"]] == [[11.9, 21.2], [0.0, 12.6]]
    assert database["EF2GH"] == {"subset": "testing", "duration": 10.0, "annotations": []}
    assert classes == ("c092", "c147")
    (tmp_path / "Charades_v1_test.csv").write_text(columns + row.format("EF2GH", "c092 1.0", "10"))
    with pytest.raises(DataError, match="Charades_v1_test.csv, line 3: not as Charades publishes it"):
        CONVERTERS["charades"](tmp_path, None)


def moments(*clips, split="train") -> str:
    videos = [{"video_uid": "8e1a", "split": split, "clips": list(clips)}]
    return json.dumps({"version": "v2", "date": "220429", "description": "Moments", "videos": videos})


def clip(uid: str, start: float, *labels) -> dict:
    keys = ("video_start_time", "video_end_time", "label", "primary")
    return {
        "clip_uid": uid,
        "video_start_sec": start,
        "video_end_sec": start + 480.0,
        "video_start_frame": int(30 * start),
        "video_end_frame": int(30 * start) + 14400,
        "annotations": [{"annotator_uid": "a0", "labels": [dict(zip(keys, label, strict=True)) for label in labels]}],
    }


def test_ego4d(tmp_path):
    walk = (311.5, 313.25, "walk_down_stairs", True)
    rare = (320.0, 321.0, "rare", False)
    (tmp_path / "moments_train.json").write_text(moments(clip("c1", 300.0, walk, rare), clip("c2", 0.0, rare)))
    (tmp_path / "moments_val.json").write_text(moments(clip("c3", 10.0, (20.0, 25.0, "wash_hands", True)), split="val"))
    database, classes = convert("ego4d", tmp_path)
    assert classes == ("walk_down_stairs", "wash_hands")
    assert database == {
        "c1": {
            "subset": "train",
            "duration": 480.0,
            "frame": 14400,
            "annotations": [{"segment": [11.5, 13.25], "label": "walk_down_stairs"}],
        },
        "c3": {
            "subset": "val",
            "duration": 480.0,
            "frame": 14400,
            "annotations": [{"segment": [10.0, 15.0], "label": "wash_hands"}],
        },
    }
    (tmp_path / "moments_val.json").write_text(moments({"clip_uid": "c3"}, split="val"))
    with pytest.raises(DataError, match=r"moments_val.json: video 0: not as Ego4D publishes it .KeyError"):
        convert("ego4d", tmp_path)


def test_hacs_and_activitynet(tmp_path):
    """Durations are texts in some entries; the test videos have no annotations."""
    annotation = {"segment": [1.5, 10.0], "label": "Archery"}
    entry = {"duration": "91.9", "resolution": "480x360", "url": "https://www.youtube.com/watch?v=a"}
    content = {
        "database": {
            "a": {**entry, "subset": "training", "annotations": [annotation]},
            "b": {**entry, "subset": "testing", "annotations": []},
        },
        "taxonomy": [{"parentId": 1, "nodeName": "Archery", "nodeId": 2}],
        "version": "1.1.1",
    }
    for name, file in (("hacs", "HACS_segments_v1.1.1.json"), ("anet", "activity_net.v1-3.min.json")):
        (tmp_path / file).write_text(json.dumps(content))
        database, classes = convert(name, tmp_path)
        assert database == {"a": {"subset": "training", "duration": 91.9, "annotations": [annotation]}}
        assert classes == ("Archery",)
    del content["database"]["a"]["annotations"][0]["segment"]
    (tmp_path / "HACS_segments_v1.1.1.json").write_text(json.dumps(content))
    with pytest.raises(
        DataError, match=r"HACS_segments_v1.1.1.json: video 'a': not as the data set publishes it .KeyError"
    ):
        convert("hacs", tmp_path)


@pytest.mark.parametrize("name", CONVERTERS)
def test_another_folder_is_one_sentence(tmp_path, name):
    with pytest.raises(DataError, match="no such file|cannot be read|holds no file whose name is like"):
        CONVERTERS[name](tmp_path, tmp_path)


def damaged(content: bytes, draws: random.Random) -> bytes:
    """With a byte changed, some inserted, a part cut out, or the rest cut off."""
    place = draws.randrange(len(content) + 1)
    piece = draws.choice([b'"', b"{", b"null", b"NaN", b"1e999", b",", b"\n", b"\0", b"\xff", b"-1", b"[]", b'""'])
    return draws.choice(
        [
            content[:place] + piece + content[place:],
            content[:place] + bytes([draws.randrange(256)]) + content[place + 1 :],
            content[:place] + content[place + draws.randrange(1, 20) :],
            content[:place],
        ]
    )


def test_a_damaged_file_is_converted_or_one_sentence(tmp_path, thumos_videos):
    """300 times: nothing but a DataError comes out, and what is converted can be saved as JSON."""
    table = "id,length,actions\nAB1CD,30.5,c092 11.90 21.20;c147 0.00 12.60\n"
    label = (311.5, 313.25, "walk", True)
    hacs = {
        "database": {"a": {"subset": "training", "duration": 9, "annotations": [{"segment": [1, 2], "label": "x"}]}}
    }
    samples = {
        "thumos": {"Diving_val.txt": "video_validation_0000266  2.0 3.1\n", "Diving_test.txt": ""},
        "charades": {"Charades_v1_train.csv": table, "Charades_v1_test.csv": table.partition("\n")[0]},
        "ego4d": {"moments_train.json": moments(clip("c1", 300.0, label)), "moments_val.json": moments()},
        "hacs": {"HACS_segments_v1.1.1.json": json.dumps(hacs)},
        "epic_verb": {
            "EPIC_100_video_info.csv": "video_id,duration,fps,resolution\nP01_01,100.5,60,1920x1080\n",
            "EPIC_100_train.csv": EPIC + EPIC_ROW.format("3750,3795"),
            "EPIC_100_validation.csv": EPIC,
        },
    }
    draws, refused = random.Random(0), 0
    for number in range(300):
        name = draws.choice(list(samples))
        folder = tmp_path / str(number)
        folder.mkdir()
        victim = draws.choice(list(samples[name]))
        for file, text in samples[name].items():
            (folder / file).write_bytes(damaged(text.encode(), draws) if file == victim else text.encode())
        try:
            json.dumps(CONVERTERS[name](folder, thumos_videos)[0], allow_nan=False)
        except DataError:
            refused += 1
    assert 150 < refused < 300
