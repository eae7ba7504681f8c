"""Annotation files: what is read, which defects are errors, and which are counted."""

import json

import numpy as np
import pytest

from tadjax.data import annotations
from tadjax.data.annotations import load_annotations
from tadjax.errors import DataError


def database():
    return {
        "video_test_0000007": {
            "subset": "training",
            "duration": 20.0,
            "frame": 500,
            "annotations": [
                {"segment": [1, 2.5], "label": "Run"},
                {"segment": [3.0, 4.0], "label": "Ambiguous"},
                {"segment": [3.5, 4.5], "label": "Jump"},
            ],
        },
        "a": {"subset": "training", "duration": 8, "fps": 24, "annotations": [{"segment": [0.5, 7], "label": "Jump"}]},
        "c": {"subset": "validation", "duration": 8.5, "annotations": [{"segment": [0, 1], "label": "Swim"}]},
        "d": {"subset": "testing", "duration": 5.0, "resolution": "320x240"},
    }


def write(tmp_path, content):
    path = tmp_path / "annotations.json"
    path.write_text(content if isinstance(content, str) else json.dumps({"version": "1", "database": content}))
    return path


def test_reads_the_requested_subsets_in_file_order(tmp_path):
    found = load_annotations(write(tmp_path, database()), "training")
    assert found.classes == ("Jump", "Run", "Swim")  # of all subsets, so that training and evaluation agree
    assert found.warnings == () and found.summary() == []
    first, second = found.videos
    assert (first.name, first.subset, first.duration, first.frames, first.fps) == (
        "video_test_0000007",
        "training",
        20.0,
        500,
        25.0,
    )
    assert first.segments.tolist() == [[1.0, 2.5], [3.5, 4.5]] and first.segments.dtype == np.float64
    assert first.labels.tolist() == [1, 0] and first.labels.dtype == np.int32
    assert (second.name, second.frames, second.fps) == ("a", 0, 24.0)


def test_neither_frames_nor_fps_leaves_both_to_the_file(tmp_path):
    (video,) = load_annotations(write(tmp_path, database()), ["validation"]).videos
    assert (video.frames, video.fps) == (0, 0.0)


def test_unlabelled_videos_are_read_and_counted(tmp_path):
    found = load_annotations(write(tmp_path, database()), ("testing", "validation"))
    assert [video.name for video in found.videos] == ["c", "d"]
    assert found.videos[1].segments.shape == (0, 2) and found.videos[1].labels.shape == (0,)
    (warning,) = found.warnings
    assert (warning.video, warning.index, warning.kind) == ("d", None, annotations.UNLABELLED)


def test_classes_from_a_file_and_from_a_sequence_keep_their_order(tmp_path):
    path = write(tmp_path, database())
    names = tmp_path / "classes.txt"
    names.write_text("Run\nSwim \nJump\n\n")
    from_file, given = load_annotations(path, "training", names), load_annotations(path, "training", ["Run", "Jump"])
    assert from_file.classes == ("Run", "Swim", "Jump") and given.classes == ("Run", "Jump")
    assert from_file.videos[0].labels.tolist() == [0, 2] and given.videos[0].labels.tolist() == [0, 1]


@pytest.mark.parametrize(
    "segment, kind, kept",
    [
        ([3, 2], annotations.REVERSED, False),
        ([3, 3], annotations.EMPTY, True),
        ([20, 21], annotations.OUTSIDE, False),
        ([-2, -1], annotations.OUTSIDE, False),
        ([19, 20.5], annotations.PAST_END, True),
        ([-0.5, 1], annotations.NEGATIVE_START, True),
        ([1, 2.5], annotations.DUPLICATE, False),
    ],
)
def test_what_looks_wrong_is_counted_by_file_video_and_index(tmp_path, segment, kind, kept):
    content = database()
    content["video_test_0000007"]["annotations"].append({"segment": segment, "label": "Run"})
    path = write(tmp_path, content)
    found = load_annotations(path, "training")
    (warning,) = found.warnings
    assert (warning.file, warning.video, warning.index, warning.kind) == (str(path), "video_test_0000007", 3, kind)
    assert str(warning).startswith(f"{path}: video 'video_test_0000007', annotation 3: {kind}")
    assert (segment in found.videos[0].segments[2:].tolist()) == kept
    assert len(found.videos[0].labels) == 2 + kept


def test_the_summary_counts_each_kind_and_gives_the_first(tmp_path):
    content = database()
    content["video_test_0000007"]["annotations"] += [{"segment": [5, 4], "label": "Run"}] * 3 + [
        {"segment": [5, 5], "label": "Run"}
    ]
    reversed_, repeated, empty = load_annotations(write(tmp_path, content), "training").summary()
    assert (
        reversed_.startswith(f"1 x {annotations.REVERSED}; first: ")
        and "video 'video_test_0000007', annotation 3" in reversed_
    )
    assert (
        repeated.startswith(f"2 x {annotations.DUPLICATE}; first: ")
        and "video 'video_test_0000007', annotation 4" in repeated
    )
    assert empty.startswith(f"1 x {annotations.EMPTY}; first: ") and "video 'video_test_0000007', annotation 6" in empty


def test_a_frame_rate_that_disagrees_with_the_frame_count_is_counted(tmp_path):
    content = database()
    content["video_test_0000007"]["fps"] = 25.1
    assert load_annotations(write(tmp_path, content), "training").warnings == ()
    content["video_test_0000007"]["fps"] = 30
    found = load_annotations(write(tmp_path, content), "training")
    assert [warning.kind for warning in found.warnings] == [annotations.FPS_MISMATCH]
    assert found.videos[0].fps == 25.0


def changed(*keys, to=None, drop=False):
    content = database()
    entry = content
    for key in keys[:-1]:
        entry = entry[key]
    if drop:
        del entry[keys[-1]]
    else:
        entry[keys[-1]] = to
    return content


BAD_ENTRIES = [
    (changed("video_test_0000007", "subset", drop=True), "video 'video_test_0000007': \"subset\" is missing"),
    (changed("video_test_0000007", "duration", drop=True), "video 'video_test_0000007': \"duration\" is missing"),
    (
        changed("video_test_0000007", "duration", to="20.0"),
        "video 'video_test_0000007': \"duration\" is '20.0', not a positive number",
    ),
    (
        changed("video_test_0000007", "duration", to=0),
        "video 'video_test_0000007': \"duration\" is 0, not a positive number",
    ),
    (
        changed("video_test_0000007", "duration", to=float("nan")),
        "video 'video_test_0000007': \"duration\" is nan, not a positive number",
    ),
    (changed("video_test_0000007", "duration", to=10**400), "video 'video_test_0000007': \"duration\" is 1000"),
    (
        changed("video_test_0000007", "duration", to=True),
        "video 'video_test_0000007': \"duration\" is True, not a positive number",
    ),
    (changed("video_test_0000007", "duration", to=0.02), "video 'video_test_0000007': 25000 frames a second"),
    (changed("video_test_0000007", "frame", to=500.5), "video 'video_test_0000007': \"frame\" is 500.5"),
    (changed("video_test_0000007", "frame", to=-1), "video 'video_test_0000007': \"frame\" is -1"),
    (changed("a", "fps", to=None), "video 'a': \"fps\" is None"),
    (changed("video_test_0000007", to=[]), "video 'video_test_0000007': is [], not an object"),
    (
        changed("video_test_0000007", "annotations", to={}),
        "video 'video_test_0000007': \"annotations\" is {}, not a list",
    ),
    (
        changed("video_test_0000007", "annotations", 1, to="x"),
        "video 'video_test_0000007', annotation 1: is 'x', not an object",
    ),
    (
        changed("video_test_0000007", "annotations", 0, "label", drop=True),
        "video 'video_test_0000007', annotation 0: \"label\" is missing",
    ),
    (
        changed("video_test_0000007", "annotations", 0, "label", to=3),
        "video 'video_test_0000007', annotation 0: \"label\" is 3, not a text",
    ),
    (
        changed("video_test_0000007", "annotations", 2, "segment", drop=True),
        "video 'video_test_0000007', annotation 2: \"segment\" is missing",
    ),
    (
        changed("video_test_0000007", "annotations", 2, "segment", to=[1]),
        "video 'video_test_0000007', annotation 2: \"segment\" is [1], not [start, end]",
    ),
    (
        changed("video_test_0000007", "annotations", 2, "segment", to=[1, None]),
        "video 'video_test_0000007', annotation 2: \"segment\" is [1, None]",
    ),
    (
        changed("video_test_0000007", "annotations", 2, "segment", to=[1, float("inf")]),
        "video 'video_test_0000007', annotation 2: \"segment\" is [1, inf]",
    ),
]


@pytest.mark.parametrize("content, message", BAD_ENTRIES, ids=[message for _, message in BAD_ENTRIES])
def test_what_cannot_be_read_is_one_error_that_names_the_place(tmp_path, content, message):
    path = write(tmp_path, content)
    with pytest.raises(DataError) as error:
        load_annotations(path, "training")
    assert str(error.value).startswith(f"{path}: {message}") and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "name", ["../secret", "a/../../b", "/etc/passwd", "C:\\video", "..\\x", "\\\\host\\x", "", "a\0b", "a\nb"]
)
def test_names_that_lead_out_of_the_data_folder_are_refused(tmp_path, name):
    content = database()
    content[name] = content.pop("video_test_0000007")
    with pytest.raises(DataError, match="inside the data folder"):
        load_annotations(write(tmp_path, content), "training")


@pytest.mark.parametrize(
    "name", ["v_-abc..def", "part one/video 7", "видео", "料理\u3000その一", "a\xa0b", "👩\u200d👧"]
)
def test_unusual_names_are_names(tmp_path, name):
    content = database()
    content[name] = content.pop("video_test_0000007")
    assert name in [video.name for video in load_annotations(write(tmp_path, content), "training").videos]


def test_an_unknown_label_or_subset_is_an_error(tmp_path):
    path = write(tmp_path, database())
    with pytest.raises(
        DataError, match="video 'video_test_0000007', annotation 2: label 'Jump' is not among the 1 classes"
    ):
        load_annotations(path, "training", ["Run"])
    with pytest.raises(DataError, match=r"no video is in subset 'train'; there are \['testing', 'training', 'valid"):
        load_annotations(path, "train")


@pytest.mark.parametrize(
    "content, message",
    [
        ("", "not a JSON file"),
        ('{"database": ', "not a JSON file"),
        ("[]", 'no "database" object'),
        ('{"database": []}', 'no "database" object'),
        ('{"database": {"a": {}, "a": {}}}', "the key 'a' is given twice"),
        ("[" * 100_000, "not a JSON file"),
        ('{"database": {}}', "no video is in subset 'training'"),
    ],
)
def test_other_files_are_refused(tmp_path, content, message):
    path = write(tmp_path, content)
    with pytest.raises(DataError, match=f"{path}: .*{message}"):
        load_annotations(path, "training")


def test_unreadable_files_are_named(tmp_path):
    with pytest.raises(DataError, match="none.json: no such file"):
        load_annotations(tmp_path / "none.json", "training")
    with pytest.raises(DataError, match="cannot be read"):
        load_annotations(tmp_path, "training")
    binary = tmp_path / "binary.json"
    binary.write_bytes(b"\x00\xff\xfe" * 50)
    with pytest.raises(DataError, match="not a JSON file"):
        load_annotations(binary, "training")
    with pytest.raises(DataError, match="none.txt: the file of classes cannot be read"):
        load_annotations(write(tmp_path, database()), "training", tmp_path / "none.txt")
    with pytest.raises(DataError, match="not UTF-8"):
        load_annotations(write(tmp_path, database()), "training", binary)


@pytest.mark.parametrize(
    "classes, message",
    [
        (["Run", "Jump", "Run"], "class 'Run' stands at 0 and again at 2"),
        (["Run", ""], "class 1 has no name"),
        ([], "names no class"),
    ],
)
def test_a_class_list_must_name_each_class_once(tmp_path, classes, message):
    with pytest.raises(DataError, match=message):
        load_annotations(write(tmp_path, database()), "training", classes)
