"""Re-encoded videos show the frames that the originals show at the same seconds; runs go on where they were killed."""

import json
import os
from fractions import Fraction

import numpy as np
import pytest

from tadjax.errors import DataError
from tadjax.prepare.reencode import SETTINGS, Encoding, encoding_of, reencode, reencode_folder
from tadjax.video.frame_index import frame_index
from tadjax.video.frames import probe, read_frames
from tests.video.numbered_videos import make, number_of

SMALL = Encoding(short_side=48)


def numbers(path) -> list[int]:
    return [number_of(rgb) for rgb in read_frames(path, np.arange(probe(path).frames)).frames]


@pytest.mark.parametrize(("rate", "fps"), [(25, 0.0), (Fraction(30000, 1001), 0.0), (10, 25.0), (30, 12.0)])
def test_frames_and_rates(tmp_path, rate, fps):
    source = make(tmp_path / "a.mp4", 60, rate=rate, g=60, bf=2)
    reencode(source, tmp_path / "b.mp4", Encoding(short_side=48, fps=fps))
    info = probe(tmp_path / "b.mp4")
    wanted = Fraction(fps or rate)
    assert info.constant_rate
    assert info.fps == pytest.approx(float(wanted), rel=1e-9)
    assert info.frames == round(60 / rate * wanted)
    assert (info.width, info.height) == (80, 48)
    assert numbers(tmp_path / "b.mp4") == [int(n * rate / wanted) for n in range(info.frames)]
    index = frame_index(tmp_path / "b.mp4")
    keys = np.searchsorted(index.pts, index.key_pts)
    np.testing.assert_array_equal(keys, np.arange(0, info.frames, round(2 * wanted)))  # every two seconds


def test_a_variable_rate_becomes_constant(tmp_path):
    """Frame n was shown from second t[n] on; the new file shows at each second what the old one did."""
    t = np.cumsum([0] + [40, 120, 40, 40, 200] * 6)  # milliseconds
    source = make(tmp_path / "a.mkv", len(t), pts=t, time_base=Fraction(1, 1000))
    assert not probe(source).constant_rate
    reencode(source, tmp_path / "b.mp4", Encoding(short_side=48, fps=25.0))
    wanted = np.searchsorted(t, 40 * np.arange(probe(tmp_path / "b.mp4").frames), side="right") - 1
    assert numbers(tmp_path / "b.mp4") == wanted.tolist()


@pytest.mark.parametrize(("start", "end", "fps"), [(0.0, 1.0, 0.0), (2.52, 4.0, 0.0), (1.2, 99.0, 50.0)])
def test_a_part_of_a_video(tmp_path, start, end, fps):
    source = make(tmp_path / "a.mp4", 120, rate=25, g=50, bf=2)
    reencode(source, tmp_path / "b.mp4", Encoding(short_side=48, fps=fps), start, end)
    rate = fps or 25
    count = round((min(end, 4.8) - start) * rate)
    assert numbers(tmp_path / "b.mp4") == [int((start + n / rate) * 25 + 1e-6) for n in range(count)]
    with pytest.raises(DataError, match=r"a.mp4: has no part from 5 s to 6 s; it lasts 4.8 s"):
        reencode(source, tmp_path / "c.mp4", Encoding(short_side=48), 5.0, 6.0)


@pytest.mark.parametrize("rotation", [90, 180])
def test_pictures_are_upright(tmp_path, rotation):
    source = make(tmp_path / "a.mp4", 4, rotation=rotation, qp=0)
    reencode(source, tmp_path / "b.mp4", Encoding(short_side=96, crf=1))
    info, before = probe(tmp_path / "b.mp4"), probe(source)
    assert info.rotation == 0
    assert (info.width, info.height) == (before.width, before.height)
    got, want = (read_frames(path, [0, 3]).frames.astype(int) for path in (tmp_path / "b.mp4", source))
    assert np.abs(got - want).mean() < 2


@pytest.mark.parametrize("pixels", ["yuv420p", "yuvj420p", "yuv422p"])
def test_colours_and_sizes_stay(tmp_path, pixels):
    """A short side below the wanted one stays; odd sizes become even."""
    codec = "mjpeg" if pixels == "yuvj420p" else "libx264"
    source = make(tmp_path / "a.mkv", 4, codec=codec, size=(160, 96), pixels=pixels, bit_rate=10**7)
    reencode(source, tmp_path / "b.mp4", Encoding(crf=1))
    assert (probe(tmp_path / "b.mp4").width, probe(tmp_path / "b.mp4").height) == (160, 96)
    got, want = (read_frames(path, [2]).frames.astype(int) for path in (tmp_path / "b.mp4", source))
    assert np.abs(got - want).mean() < 3
    assert abs(got.mean() - want.mean()) < 0.5


def test_a_folder_goes_on_where_it_stopped(tmp_path):
    files = {}
    for name in ("a", "b"):
        files[name] = tmp_path / "videos" / f"{name}.mkv"
        files[name].parent.mkdir(exist_ok=True)
        make(files[name], 8)
    content = files["a"].read_bytes()
    (tmp_path / "videos" / "broken.mkv").write_bytes(content[:300])
    files["broken"] = tmp_path / "videos" / "broken.mkv"
    folder = tmp_path / "small"
    folder.mkdir()
    (folder / "a.mp4.part").write_bytes(b"of a run that was killed")
    errors = reencode_folder(files, folder, SMALL, processes=0)
    assert list(errors) == ["broken"]
    assert "broken.mkv" in str(errors["broken"])
    assert sorted(path.name for path in folder.iterdir()) == ["a.mp4", "b.mp4", SETTINGS]
    assert encoding_of(folder) == SMALL
    assert encoding_of(tmp_path / "videos") is None
    assert files["a"].read_bytes() == content

    stamp, whole = (folder / "a.mp4").stat().st_mtime_ns, (folder / "b.mp4").read_bytes()
    (folder / "b.mp4").unlink()
    reencode_folder({name: files[name] for name in ("a", "b")}, folder, SMALL, processes=1)
    assert (folder / "a.mp4").stat().st_mtime_ns == stamp, "what is whole is not written again"
    assert (folder / "b.mp4").read_bytes() == whole, "the same bytes, in another process"

    with pytest.raises(DataError, match=r"begun with other settings \(fps was 0.0, is 30"):
        reencode_folder(files, folder, Encoding(short_side=48, fps=30), processes=0)
    with pytest.raises(DataError, match="holds the originals"):
        reencode_folder(files, tmp_path / "videos", SMALL, processes=0)
    with pytest.raises(DataError, match="its file would lie outside"):
        reencode_folder({"../b": files["b"]}, folder, SMALL, processes=0)
    assert json.loads((folder / SETTINGS).read_text()) == {"short_side": 48, "fps": 0.0, "crf": 18}


def test_a_damaged_file_is_refused_by_name(tmp_path):
    path = make(tmp_path / "a.mp4", 60, g=10)
    content = bytearray((tmp_path / "a.mp4").read_bytes())
    start, end = content.index(b"mdat") + 4, content.index(b"moov") - 4
    third = (end - start) // 3
    content[start + third : end - third] = bytes(end - start - 2 * third)
    (tmp_path / "a.mp4").write_bytes(content)
    with pytest.raises(DataError, match=r"a.mp4: \d+ of 60 frames cannot be decoded, at most 5% may be"):
        reencode(path, tmp_path / "b.mp4", SMALL)
    assert not list(tmp_path.glob("b.mp4*"))


def test_a_file_whose_original_changed_is_made_anew_and_said(tmp_path, capsys):
    """Also where name, size and time are the old ones, and where the new original cannot be used."""
    source, folder = tmp_path / "a.mp4", tmp_path / "small"
    files = {"a": source, "b": tmp_path / "b.mp4"}
    make(source, 8)
    make(files["b"], 8)
    reencode_folder(files, folder, SMALL, processes=0)
    stamp = (folder / "b.mp4").stat().st_mtime_ns
    reencode_folder(files, folder, SMALL, processes=0)
    assert "anew" not in capsys.readouterr().out

    make(source, 16, first=100)
    assert reencode_folder(files, folder, SMALL, processes=0) == {}
    printed = capsys.readouterr().out
    assert f"1 videos in {folder} are made anew, since their originals changed: a" in printed
    assert probe(folder / "a.mp4").frames == 16
    assert number_of(read_frames(folder / "a.mp4", [0]).frames[0]) == 100
    assert (folder / "b.mp4").stat().st_mtime_ns == stamp, "that one did not change"

    before, content = source.stat(), bytearray(source.read_bytes())
    content[-1] ^= 1
    source.write_bytes(content)
    os.utime(source, ns=(before.st_atime_ns, before.st_mtime_ns))
    reencode_folder(files, folder, SMALL, processes=0)
    assert "1 videos" in capsys.readouterr().out, "the last byte is another one"

    source.write_bytes(b"broken")
    assert list(reencode_folder(files, folder, SMALL, processes=0)) == ["a"]
    assert not (folder / "a.mp4").exists(), "the old one must not stand in for it"


def test_a_part_that_was_moved_is_cut_anew(tmp_path):
    make(tmp_path / "a.mp4", 100, rate=10)
    for start in (1.0, 3.0):
        reencode_folder({"clip": (tmp_path / "a.mp4", start, start + 2)}, tmp_path / "clips", SMALL, processes=0)
        assert number_of(read_frames(tmp_path / "clips" / "clip.mp4", [0]).frames[0]) == 10 * start
