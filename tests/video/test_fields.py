"""Interlaced H.264 of camcorders, whose containers give each field a packet: a frame is counted once."""

from pathlib import Path

import av
import numpy as np
import pytest

from tadjax.video.frame_index import frame_index
from tadjax.video.frames import decode_range, read_frames
from tadjax.video.nal_units import Fields
from tests.video.field_pictures import camcorder
from tests.video.numbered_videos import make, number_of

FILES = [
    ("a.MTS", "mpegts", True),  # AVCHD: the second field has no time
    ("a.m2ts", "mpegts", False),
    ("a.mp4", None, True),
    ("a.mp4", None, False),
    ("a.mkv", None, True),
    ("a.mkv", None, False),
    ("a.avi", None, False),
    ("a.flv", None, False),
    ("a.264", "h264", False),
]


def decoded(path) -> np.ndarray:
    """All frames as FFmpeg gives them, uint8 [frames, height, width, 3]."""
    with av.open(path) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


@pytest.mark.parametrize("high", [False, True])
@pytest.mark.parametrize(("name", "format", "together"), FILES)
def test_a_frame_of_two_fields_is_one(tmp_path, name, format, together, high):
    path = camcorder(tmp_path / name, 32, format=format, together=together, high=high)
    wanted = decoded(path)
    assert [number_of(rgb) for rgb in wanted] == [*range(32)], "the file is not what the test takes it for"
    index = frame_index(path)
    assert (len(index), index.info.fps, index.info.duration, index.constant_rate) == (32, 25.0, 1.28, True)
    keys = set(np.searchsorted(index.pts, index.key_pts).tolist())
    assert name == "a.264" or (index.timed and keys >= {0, 10, 20, 30}), "though their second fields are predicted"
    everything = read_frames(path, np.arange(32), max_missing=0).frames
    assert [number_of(rgb) for rgb in everything] == [*range(32)]
    draws = np.random.default_rng(0)
    for chosen in [*np.arange(32)[:, None], *(draws.integers(0, 32, 4) for _ in range(6))]:
        got = read_frames(path, chosen, max_missing=0).frames
        np.testing.assert_array_equal(got, everything[chosen], err_msg="both fields, whatever else is asked for")
    for number, frame in decode_range(index, 12, 22):
        np.testing.assert_array_equal(frame.to_ndarray(format="rgb24"), wanted[number])


def test_a_cut_recording_begins_with_a_second_field(tmp_path):
    """What lies before the first whole picture never decodes, and is not counted; fields pair up as before."""
    path = camcorder(tmp_path / "a.MTS", 30, format="mpegts")
    data = Path(path).read_bytes()
    cut = tmp_path / "b.MTS"
    cut.write_bytes(data[: 2 * 188] + data[len(data) // 4 // 188 * 188 :])
    wanted = [number_of(rgb) for rgb in decoded(str(cut))]
    index = frame_index(cut)
    got = [number_of(rgb) for rgb in read_frames(cut, np.arange(len(index)), max_missing=0.2).frames]
    assert got[-20:] == [*range(10, 30)] and abs(len(got) - len(wanted)) <= 1


def test_progressive_pictures_have_no_fields(tmp_path):
    path = make(tmp_path / "a.mp4", 20, bf=2)
    with av.open(path) as container:
        fields = Fields(container.streams.video[0].codec_context)
        assert not any(fields.is_second(packet) for packet in container.demux(video=0) if packet.size)
    assert fields.open is None
