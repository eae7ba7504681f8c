"""Which file a name means: never one that the annotation was not made on, and every file that is there is found."""

import unicodedata
from pathlib import Path

import pytest

from tadjax.data.annotations import Video, known_names
from tadjax.errors import DataError
from tadjax.video import folder as video_folder
from tadjax.video.extensions import EXTENSIONS, without_extension
from tadjax.video.frames import read_frames
from tadjax.video.names import Finder, clean_name
from tests.video.numbered_videos import make, number_of

NFD = unicodedata.normalize("NFD", "Übung_é")


def matched(names, files, root="/x/videos", ignore_folders=False):
    return Finder({file: Path(file) for file in files}, Path(root), ignore_folders).match(map(clean_name, names))


@pytest.mark.parametrize(
    ("name", "cleaned"),
    [
        ("camA/clip1.mp4", "camA/clip1.mp4"),
        (" .\\camA\\clip1.mp4 ", "camA/clip1.mp4"),
        ("C:\\films\\a b.mp4", "/films/a b.mp4"),
        ("\\\\server\\share\\a.mp4", "/server/share/a.mp4"),
        ("file:///C:/films/a%20b.MTS", "/films/a b.MTS"),
        ("file://localhost/home/a.mp4", "/home/a.mp4"),
        ("file:/Users/anna/50%25 #1.mov", "/Users/anna/50% #1.mov"),
        ("https://host/x/a%20b.mp4?t=3#x", "/host/x/a b.mp4"),
        ("../media/a.mp4", "/media/a.mp4"),
        ("http://[", "/["),
        ("", ""),
    ],
)
def test_a_name_is_folders_and_a_file_however_it_is_written(name, cleaned):
    assert clean_name(name) == cleaned


@pytest.mark.parametrize(
    ("names", "files", "root", "found"),
    [
        # fiftyone 7069, coco-annotator 432: one file name in several folders
        (["camA/clip1.mp4", "camB/clip1.mp4"], ["clip1.mp4"], "/x/camA", {"camA/clip1.mp4": "clip1"}),
        (
            ["camA/1.mp4", "camB/1.mp4"],
            ["camA/1.mp4", "camB/1.mp4"],
            "/x",
            {f"cam{c}/1.mp4": f"cam{c}/1" for c in "AB"},
        ),
        (["d/camA/1", "d/camB/1"], ["camA/1.mp4", "camB/1.mp4"], "/x/d", {f"d/cam{c}/1": f"cam{c}/1" for c in "AB"}),
        (["camA/clip1.mp4", "camB/clip1.mp4"], ["clip1.mp4"], "/x/y", {}),
        (["films/clip1.mp4"], ["clip1.mp4"], "/x/y", {}),
        (
            ["C:\\camA\\1.mp4", "C:\\camB\\1.mp4", "C:\\camB\\2.mp4"],
            ["1.mp4", "2.mp4"],
            "/x/camA",
            {"/camA/1.mp4": "1"},
        ),
        (["C:\\camA\\1.mp4", "C:\\camB\\1.mp4"], ["1.mp4"], "/x/y", {}),
        (["C:\\a\\1.mp4", "D:\\b\\2.mp4"], ["1.mp4", "2.mp4"], "/x/y", {"/a/1.mp4": "1", "/b/2.mp4": "2"}),
        (["clip1"], ["camA/clip1.mp4"], "/x", {"clip1": "camA/clip1"}),
        (["clip1"], ["camA/clip1.mp4", "clip1.mp4"], "/x", {"clip1": "clip1"}),
        # spyglass 1652, photoprism 2899: other extension, other case
        (["clip1.mpg"], ["clip1.mp4"], "/x", {"clip1.mpg": "clip1"}),
        (["clip1.mp4", "clip1"], ["CLIP1.MP4"], "/x", {"clip1.mp4": "CLIP1", "clip1": "CLIP1"}),
        (["clip1.MTS", "clip1.mp4"], ["clip1.mp4"], "/x", {"clip1.mp4": "clip1"}),
        (["Clip1", "clip1"], ["clip1.mp4"], "/x", {"clip1": "clip1"}),
        (["Clip1"], ["clip1.mp4", "Clip1.mp4"], "/x", {"Clip1": "Clip1"}),
        # names from a Mac, names from a browser
        (["Übung_é.mp4"], [f"{NFD}.mp4"], "/x", {"Übung_é.mp4": NFD}),
        ([f"{NFD}.mp4"], ["Übung_é.mp4"], "/x", {f"{NFD}.mp4": "Übung_é"}),
        (["a%20b.mp4", "100%.mp4"], ["a b.mp4", "100%.mp4"], "/x", {"a%20b.mp4": "a b", "100%.mp4": "100%"}),
        (["a%20b.mp4", "a b.mp4"], ["a%20b.mp4", "a b.mp4"], "/x", {"a%20b.mp4": "a%20b", "a b.mp4": "a b"}),
    ],
)
def test_names_find_their_files_and_no_others(names, files, root, found):
    result = matched(names, files, root)
    assert result.files == found
    assert set(result.missing + result.namesakes) == set(map(clean_name, names)) - set(found)


@pytest.mark.parametrize(
    ("names", "files", "message"),
    [
        (
            ["clip1.mp4"],
            ["camA/clip1.mp4", "camB/clip1.mp4"],
            "'clip1.mp4' could be 'camA/clip1.mp4', 'camB/clip1.mp4'",
        ),
        (["CLIP1"], ["clip1.mp4", "Clip1.mp4"], "'CLIP1' could be 'clip1.mp4', 'Clip1.mp4'"),
        (["clip1.mov"], ["clip1.mp4", "clip1.mkv"], "'clip1.mov' could be 'clip1.mp4', 'clip1.mkv'"),
        (["1.mov", "1.MTS"], ["1.mp4"], "'1.mov', '1.MTS' of the annotations differ, but '1.mp4' is their only file"),
        (["/a/camA/1", "/b/camA/1"], ["camA/1.mp4"], "'a/camA/1', 'b/camA/1' of the annotations differ"),
    ],
)
def test_what_could_be_two_is_an_error_that_names_both(names, files, message):
    with pytest.raises(DataError) as error:
        matched(names, files)
    assert message in str(error.value)


def test_folders_may_be_ignored_but_not_what_they_tell_apart():
    assert matched(["films/1.mp4"], ["1.mp4"], ignore_folders=True).files == {"films/1.mp4": "1"}
    assert matched(["C:\\a\\1.mp4"], ["1.mp4"]).by_last_part == ["/a/1.mp4"]


@pytest.mark.parametrize(
    "extension", [".mts", ".M2TS", ".ts", ".MPG", ".mpeg", ".vob", ".wmv", ".flv", ".3gp", ".ogv", ".mxf"]
)
def test_what_cameras_write_is_found_by_any_of_the_ways_to_find_videos(tmp_path, extension):
    """photoprism 2899: 00001.MTS; and what the extension stands for can be read."""
    codecs = {".wmv": "wmv2", ".flv": "flv", ".ogv": "libvpx", ".mxf": "mpeg2video", ".mpg": "mpeg2video"}
    codec = codecs.get(extension.lower(), "mpeg2video" if extension in (".mpeg", ".vob") else "libx264")
    made = make(tmp_path / f"made{extension.lower()}", 30, codec=codec, size=(176, 144), bit_rate=2_000_000)
    path = Path(made).rename(tmp_path / f"00001{extension}")
    assert extension.lower() in EXTENSIONS and without_extension(path.name) == "00001"
    assert video_folder.videos_in(tmp_path) == [path]
    assert video_folder.all_videos(tmp_path)[0] == {path.name: path}
    assert video_folder.find_videos([video("00001")], tmp_path) == [path]
    assert number_of(read_frames(path, [7]).frames[0]) == 7


def video(name: str) -> Video:
    return Video(name, "training", 1.0, 10, 10.0, None, None)


def test_training_finds_what_annotations_spell_differently(tmp_path):
    for name in (f"{NFD}.mp4", "clip1.MTS", "Clip2.mp4", "three.mp4", "THREE.mp4"):
        (tmp_path / name).touch()

    def found(*names):
        return [path.name for path in video_folder.find_videos(list(map(video, names)), tmp_path)]

    assert found("Übung_é", "clip1.mts", "clip2", "three") == [f"{NFD}.mp4", "clip1.MTS", "Clip2.mp4", "three.mp4"]
    with pytest.raises(DataError, match="'Three' has 2 files, THREE.mp4, three.mp4; keep one"):
        found("Three")
    with pytest.raises(DataError, match=r"clip1.MTS: is the only file for two videos, 'clip1' and 'CLIP1'"):
        found("clip1", "CLIP1")


def test_what_a_folder_holds_besides_is_counted_and_named(tmp_path):
    (tmp_path / "sub").mkdir()
    for name in ("a.mp4", "b.GIF", "notes.txt", "._a.mp4", "sub/c.mp4"):
        (tmp_path / name).touch()
    (tmp_path / "small").mkdir()
    (tmp_path / "small" / "a.mp4").touch()
    (tmp_path / "small" / "encoding.json").touch()
    videos, others = video_folder.look_into(tmp_path)
    assert [path.name for path in videos] == ["a.mp4"] and others == ["b.GIF", "notes.txt", "small/", "sub/"]
    line = video_folder.passed_over(tmp_path, others)
    assert line.endswith(
        ": 4 files and folders passed over that are no video files: b.GIF; notes.txt; small/; and 1 more"
    )
    inside, others = video_folder.all_videos(tmp_path, "encoding.json")
    assert sorted(inside) == ["a.mp4", "sub/c.mp4"] and others == ["b.GIF", "notes.txt"]


def test_lists_of_names_say_what_they_do_not_know():
    known = ["a", "Übung", "v.1", "Clip"]
    assert known_names({"a.MP4", unicodedata.normalize("NFD", "Übung"), "CLIP", "v.1", "zz"}, known) == (
        frozenset(known),
        ("zz",),
    )
    assert known_names({"CLIP"}, ["Clip", "clip"]) == (frozenset(), ("CLIP",))
