"""Frames in the order in which decoding the whole file gives them, whatever their stored times are."""

import contextlib
import re
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from tadjax.errors import DataError
from tadjax.video import frame_index as frame_index_module
from tadjax.video.demux import demuxed
from tadjax.video.frame_times import following, mixed_up, shifts
from tadjax.video.frames import frame_index, read_frames, times
from tests.video.numbered_videos import make, number_of
from tests.video.odd_files import X264, edit, join, remux, ts_part, with_sound


def plain(path) -> list[int]:
    """The numbers of all frames, as a plain loop over the file gives them."""
    numbers = []
    with av.open(str(path)) as container:
        for packet in container.demux(video=0):
            with contextlib.suppress(av.error.InvalidDataError):
                numbers += [number_of(frame.to_ndarray(format="rgb24")) for frame in packet.decode()]
    return numbers


def decoded_seconds(path) -> np.ndarray:
    """When FFmpeg shows the frames of a file without joins, from the first one on."""
    with av.open(str(path)) as container:
        seconds = np.array([frame.time for frame in container.decode(video=0)])
    return seconds - seconds[0]


def check(path, numbers: list[int], seconds: np.ndarray | None = None, timed: bool = True, off=1.5e-3) -> None:
    """The file's frames are these, in sequence, each alone and any few of them; the times are `seconds`."""
    assert plain(path) == numbers, "the file is not what the test takes it for"
    index = frame_index(path)
    assert len(index) == len(numbers) and index.timed == timed
    got = read_frames(path, np.arange(len(index)), max_missing=0).frames
    assert [number_of(rgb) for rgb in got] == numbers
    draws = np.random.default_rng(0)
    for wanted in [*np.arange(len(index))[::7, None], *(draws.integers(0, len(index), 5) for _ in range(8))]:
        np.testing.assert_array_equal(read_frames(path, wanted, max_missing=0).frames, got[wanted])
    seconds = np.arange(len(numbers)) / 30 if seconds is None else seconds
    np.testing.assert_allclose(times(path), seconds, atol=off)  # Matroska keeps milliseconds
    assert index.info.duration == pytest.approx(seconds[-1] + 1 / 30, abs=0.02)


# When the second part of a transport stream begins; the first one lasts from 10 s to 12 s.
SECOND = {
    "back": 5.0,
    "overlap of all": 10.015,
    "overlap of half": 11.0,
    "hour": 3600.0,
    "hours back": 0.0,
    "day": 90000.0,
}


@pytest.mark.parametrize("name", ["a.ts", "a.mp4", "a.m2ts"])
@pytest.mark.parametrize("second", SECOND.values(), ids=SECOND)
def test_joined_transport_streams(tmp_path, name, second):
    """As HLS downloaders join them: videojs-contrib-hls 266, mpv 10277."""
    parts = ts_part(tmp_path / "1", 0, 60, 10.0), ts_part(tmp_path / "2", 60, 60, second)
    check(path := join(tmp_path / name, *parts), [*range(120)])
    assert frame_index(path).constant_rate and frame_index(path).rate == 30


def test_the_same_part_thrice(tmp_path):
    part = ts_part(tmp_path / "1", 0, 40, 10.0)
    check(join(tmp_path / "a.ts", part, part, part), [*range(40)] * 3)


def test_a_part_is_sought_where_it_lies_in_the_file(tmp_path, monkeypatch):
    """Not read through from the start, though times lead nowhere."""
    parts = [ts_part(tmp_path / str(n), 60 * n, 60, (10.0, 5.0, 3600.0)[n]) for n in range(3)]
    path = join(tmp_path / "a.ts", *parts)
    opened = []
    open_video = frame_index_module.examine.__globals__["open_video"]
    monkeypatch.setattr("tadjax.video.frames.open_video", lambda *given: opened.append(given) or open_video(*given))
    assert [number_of(rgb) for rgb in read_frames(path, [130, 70, 20], max_missing=0).frames] == [130, 70, 20]
    assert len(opened) == 1


@pytest.mark.parametrize("name", ["a.mkv", "a.webm", "a.avi"])
def test_other_containers_joined(tmp_path, name):
    codec = {"a.webm": {"codec": "libvpx", "g": 30, "rate": 30}}.get(name, {**X264, "bf": 0})
    parts = [make(tmp_path / f"{first}{name}", 60, first=first, **codec) for first in (0, 60)]
    check(join(tmp_path / name, *parts), [*range(120)])


def test_joined_program_streams(tmp_path):
    """The VOB files of a DVD: mkvtoolnix 1544, HandBrake 4066. Most packets have no place in the file."""
    options = {"codec": "mpeg2video", "bf": 2, "g": 12, "bit_rate": 4_000_000, "rate": 30}
    parts = [make(tmp_path / f"{first}.vob", 60, first=first, **options) for first in (0, 60)]
    check(join(tmp_path / "a.vob", *parts), [*range(120)])


def test_a_clock_of_33_bits_starts_again(tmp_path):
    """After 26.5 hours: xbmc 1770, videojs http-streaming 1049."""
    check(ts_part(tmp_path / "a.ts", 0, 150, 2**33 / 90000 - 2.5), [*range(150)])


def test_a_part_that_begins_without_a_key_frame(tmp_path, caplog):
    """As recordings do that begin anywhere: times tell nothing of the order in which its pictures come."""
    first = ts_part(tmp_path / "1", 0, 60, 10.0)
    data = Path(ts_part(tmp_path / "2", 60, 90, 5.0)).read_bytes()
    (tmp_path / "3").write_bytes(data[: 2 * 188] + data[len(data) // 4 // 188 * 188 :])
    path = join(tmp_path / "a.ts", first, tmp_path / "3")
    numbers = plain(path)
    assert numbers[:56] == [*range(56)] and 60 + 40 < len(numbers) < 150 and np.any(np.diff(numbers) < 0)
    check(path, numbers, timed=False)
    assert "--reencode FOLDER" in caplog.text


def test_times_in_the_order_of_decoding(tmp_path):
    """Of a camera whose program takes no heed of B-frames: Kinesis 279, decord 52. The first frames are as shown."""

    def change(number, packet):
        packet.pts = packet.dts = number * round(1 / 30 / packet.time_base)

    path = remux(make(tmp_path / "a.mp4", 90, **X264), tmp_path / "b.mkv", change)
    check(path, [*range(90)], timed=False)


def test_fragments_with_a_header_each(tmp_path):
    """FFmpeg leaves the second header out and cannot decode what follows: livestream_saver 6."""
    options = {**X264, "container": {"movflags": "frag_keyframe+empty_moov"}}
    parts = [make(tmp_path / f"{first}.mp4", 60, first=first, **options) for first in (0, 60)]
    path = join(tmp_path / "a.mp4", *parts)
    with pytest.raises(DataError, match=r"a\.mp4: \d+ of \d+ frames cannot be decoded.*ffmpeg -f concat -i LIST.txt"):
        frame_index(path)


# What FFmpeg reads one part of, or a part and some of the next.
UNJOINED = {
    "a.flv": X264,
    "b.flv": {"codec": "flv"},
    "a.f4v": X264,
    "a.mp4": X264,
    "b.mp4": {**X264, "container": {"movflags": "frag_keyframe+empty_moov+default_base_moof"}},
    "a.mov": X264,
    "a.3gp": {"codec": "mpeg4"},
    "a.wmv": {"codec": "wmv2"},
    "a.ivf": {"codec": "libvpx"},
    "a.nut": X264,
    "a.rm": {"codec": "rv20", "size": (176, 144)},
}


@pytest.mark.parametrize("name", UNJOINED)
def test_a_second_file_of_which_nothing_would_be_read_is_refused(tmp_path, name):
    """As after `cat a.flv b.flv > c.flv`: every player ends after the first part, or shows a mixture."""
    parts = [make(tmp_path / f"{first}{name}", 40, first=first, **UNJOINED[name]) for first in (0, 40)]
    assert len(frame_index(parts[0])) == 40
    path = join(tmp_path / name, *parts)
    for index in (frame_index, lambda path: frame_index_module.index_content(Path(path).read_bytes(), path)):
        with pytest.raises(DataError, match=rf"{name}: another file begins inside this one.*ffmpeg -f concat"):
            index(path)


def test_a_header_again_before_each_fragment(tmp_path):
    """As some downloaders of HLS leave it: one clock runs through."""
    options = {**X264, "container": {"movflags": "frag_keyframe+empty_moov+default_base_moof"}}
    data = Path(make(tmp_path / "a.mp4", 90, **options)).read_bytes()
    head, *fragments = re.split(rb"(?=.{4}moof)", data, flags=re.DOTALL)
    (tmp_path / "b.mp4").write_bytes(b"".join(head + fragment for fragment in fragments))
    assert len(fragments) == 3
    check(tmp_path / "b.mp4", [*range(90)])


def test_what_only_looks_like_a_second_beginning(tmp_path):
    """In the pictures' own bytes, of a container whose boxes say where they end; and nothing at all behind them."""
    data = Path(make(tmp_path / "a.mp4", 30, **X264)).read_bytes()
    free = b"ftypisom....moovFLV\x01\x05\0\0\0\x09\0\0\0\0"
    (tmp_path / "b.mp4").write_bytes(data + (len(free) + 8).to_bytes(4) + b"free" + free)
    check(tmp_path / "b.mp4", [*range(30)])


def test_a_stream_that_only_the_second_part_has(tmp_path):
    """PyAV knows no stream that appears after the start, and ends with an IndexError."""
    part = ts_part(tmp_path / "1", 0, 60, 10.0)
    sound = with_sound(tmp_path / "2", 0.0, frames=60, format="mpegts", x264_params="scenecut=0")
    path = join(tmp_path / "a.ts", part, sound)
    got = read_frames(path, np.arange(120), max_missing=0).frames
    assert [number_of(rgb) for rgb in got] == [*range(60)] * 2 and len(frame_index(path)) == 120

    class Container:
        def demux(self, stream):
            yield stream
            raise IndexError("list index out of range")

    assert list(demuxed(Container(), "packet")) == ["packet"]


def test_a_long_pause_stays(tmp_path):
    """In containers whose clocks do not jump a frame may be shown for an hour."""

    def change(number, packet):
        if number >= 60:
            packet.pts, packet.dts = (time + round(3600 / packet.time_base) for time in (packet.pts, packet.dts))

    path = remux(make(tmp_path / "a.mp4", 90, **X264), tmp_path / "b.mkv", change)
    check(path, [*range(90)], np.arange(90) / 30 + 3600 * (np.arange(90) >= 60))


def test_slides_stay(tmp_path):
    """A picture each 15 seconds is no jump of the clock, in a transport stream neither."""
    pts = 15 * np.arange(8)
    path = make(tmp_path / "a.ts", 8, pts=pts, time_base=Fraction(1, 1), bf=0, g=1, rate=30)
    np.testing.assert_allclose(times(path), pts, atol=1e-3)


# (milliseconds, first frame) of the pieces of a video of 120 frames with a key frame each 30; the frames shown.
PIECES = {
    "two": ([(1000, 0), (1000, 60)], [*range(30), *range(60, 90)]),
    "from the midst of a group": ([(1000, 0), (1000, 75)], [*range(30), *range(75, 105)]),
    "the end first": ([(1000, 60), (1000, 0)], [*range(60, 90), *range(30)]),
    "loop": ([(1000, 30)] * 3, [*range(30, 60)] * 3),
    "loop in the midst": ([(500, 40)] * 3, [*range(40, 55)] * 3),
    "what follows anyway": ([(1000, 0), (1000, 30), (1000, 60)], [*range(90)]),
    "late": ([(2000, -1), (1000, 0), (1000, 60)], [*range(30), *range(60, 90)]),
    "one, from the midst": ([(2000, 45)], [*range(45, 105)]),
}


@pytest.mark.parametrize("pieces", PIECES)
def test_pieces_of_an_edit_list(tmp_path, pieces):
    """lossless-cut 3057, HandBrake 1900, mediabunny 341; what is cut off stands nowhere in the index."""
    entries, numbers = PIECES[pieces]
    path = edit(make(tmp_path / "a.mp4", 120, **X264), tmp_path / "b.mp4", entries)
    check(path, numbers, decoded_seconds(path))
    index = frame_index(path)
    assert index.start == (2.0 if pieces == "late" else 0.0)
    keys = [numbers[place] for place in np.searchsorted(index.pts, index.key_pts)]
    assert all(number % 30 == 0 for number in keys)
    assert set(index.key_pts.tolist()) <= set(index.pts.tolist())


def test_many_pieces_cut_anywhere(tmp_path):
    """Their times overlap by parts of a frame: they stay on the player's clock all the same."""
    entries = [(333, 7 * n) for n in range(12)]
    path = edit(make(tmp_path / "a.mp4", 120, **X264), tmp_path / "b.mp4", entries)
    numbers = plain(path)
    seconds = decoded_seconds(path)
    assert np.any(np.diff(seconds) < 0), "the file is not what the test takes it for"
    check(path, numbers, seconds, off=0.034)  # a frame, where two are shown at once
    assert np.all(np.diff(times(path)) > 0)


def test_an_index_in_parts_survives_the_disk(tmp_path):
    path = join(tmp_path / "a.ts", ts_part(tmp_path / "1", 0, 60, 10.0), ts_part(tmp_path / "2", 60, 60, 5.0))
    first = frame_index(path, tmp_path / "cache")
    frame_index_module._frame_index.cache_clear()
    again = frame_index(path, tmp_path / "cache")
    assert first is not again and first.info == again.info and again.in_parts and again.seek_bytes
    for name in ("pts", "key_pts", "key_seek", "key_pos", "key_shift", "joins"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
    got = read_frames(path, [119, 61, 3], max_missing=0, cache_dir=tmp_path / "cache").frames
    assert [number_of(rgb) for rgb in got] == [119, 61, 3]


def test_shifts_of_groups():
    pts = np.array([0, 10, 20, 30, 5, 15, 25, 900])
    groups = np.array([0, 0, 1, 1, 2, 2, 3, 4])
    assert shifts(pts, groups, 1000.0, False).tolist() == [0, 0, 0, 0, 26, 26, 17, 0]  # a glitch of 25 ms: 31, 41, 42
    assert shifts(pts, groups, 100.0, False).tolist() == [0, 0, 0, 0, 35, 35, 35, 35]  # 250 ms back: a new part
    assert shifts(pts, groups, 10.0, True).tolist() == [0, 0, 0, 0, 35, 35, 35, -830]  # and 83 s on: another
    assert shifts(np.array([0, 20, 10, 30]), np.array([0, 0, 1, 1]) * 0, 10.0, True).tolist() == [0] * 4


def test_times_of_frames_whose_order_is_known():
    assert following([0, 10, 20, None, 40, 5, 15, 2000], 10.0, True).tolist() == [0, 10, 20, 30, 40, 50, 60, 70]
    assert following([0, 20, 10, 30], 10.0, False).tolist() == [0, 10, 20, 30]
    assert not mixed_up(np.array([0, 2, 1, 3])) and mixed_up(np.arange(120) % 60 * 2 + np.arange(120) // 60)
