"""Frames of real and of made files, whose pictures carry their own frame number."""

import contextlib
import json
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from tadjax.errors import DataError
from tadjax.video import frame_index as frame_index_module
from tadjax.video import frames as video
from tadjax.video.frames import displayed_size, frame_index, probe, read_frames, times
from tests.golden import check_videos
from tests.video.numbered_videos import make, number_of, picture


def plain_decode(path) -> np.ndarray:
    """uint8 [frames, height, width, 3]: all frames, as a plain loop over the file gives them."""
    frames = []
    with av.open(path) as container:
        stream = container.streams.best("video")
        stream.codec_context.thread_count = 1
        for packet in container.demux(stream):
            with contextlib.suppress(av.error.InvalidDataError):
                frames += [frame.to_ndarray(format="rgb24", threads=1) for frame in packet.decode()]
    return np.stack(frames)


def decoded_packets(monkeypatch) -> list:
    """A list that grows with every packet that goes into a decoder."""
    seen = []
    needed = video._Reader._needed

    def spy(self, key, wanted):
        for packet in needed(self, key, wanted):
            if packet is not None:
                seen.append(packet.pts)
            yield packet

    monkeypatch.setattr(video._Reader, "_needed", spy)
    return seen


X264 = {"bf": 3, "g": 30, "preset": "fast"}
KINDS = {
    "mp4_b_frames": ("a.mp4", X264),
    "mp4_defaults": ("a.mp4", {"codec": "libx264"}),
    "mp4_open_gop": ("a.mp4", {**X264, "x264_params": "open-gop=1:keyint=24:min-keyint=24:scenecut=0:bframes=3"}),
    "mkv_gradual_refresh": ("a.mkv", {"x264_params": "intra-refresh=1:keyint=20:bframes=0"}),
    "mkv_slices": ("a.mkv", {**X264, "x264_params": "slices=3"}),
    "mp4_two_fields": ("a.mp4", {**X264, "x264_params": "tff=1"}),
    "mp4_odd_size": ("a.mp4", {**X264, "size": (171, 97), "pixels": "yuv444p"}),
    "mp4_fragments": ("a.mp4", {**X264, "container": {"movflags": "frag_keyframe+empty_moov"}}),
    "mpegts": ("a.ts", X264),
    "mp4_h265": ("a.mp4", {"codec": "libx265", "x265_params": "log-level=none:keyint=24:bframes=4"}),
    "mkv_h265_layers": ("a.mkv", {"codec": "libx265", "x265_params": "log-level=none:keyint=24:temporal-layers=2"}),
    "webm_vp8_hidden": ("a.webm", {"codec": "libvpx", "auto_alt_ref": 1, "lag_in_frames": 16, "g": 40}),
    "webm_vp9": ("a.webm", {"codec": "libvpx-vp9", "g": 40, "lag_in_frames": 16, "cpu_used": 8}),
    "webm_av1": ("a.webm", {"codec": "libsvtav1", "preset": 8, "crf": 15, "g": 40, "svtav1_params": "lp=1"}),
    "avi_b_frames": ("a.avi", {"codec": "mpeg4", "bf": 2, "g": 20, "bit_rate": 2_000_000}),
    "avi_no_b_frames": ("a.avi", {"codec": "mpeg4", "bf": 0, "g": 20, "bit_rate": 2_000_000}),
    "avi_pictures": ("a.avi", {"codec": "mjpeg", "pixels": "yuvj420p", "bit_rate": 8_000_000}),
    "mpeg2_program": ("a.mpg", {"codec": "mpeg2video", "bf": 2, "g": 12, "bit_rate": 4_000_000}),
    "elementary": ("a.h264", X264),
}


@pytest.fixture(scope="module", params=KINDS)
def made(request, tmp_path_factory):
    """(kind, path) of a file of 120 frames of each kind."""
    name, options = KINDS[request.param]
    return request.param, make(tmp_path_factory.mktemp(request.param) / name, 120, **options)


def test_every_frame_of_every_container_and_codec(made):
    kind, path = made
    assert probe(path).frames == 120
    assert probe(path).fps == pytest.approx(25, rel=1e-3)
    got = read_frames(path, np.arange(120), max_missing=0)
    assert [number_of(frame) for frame in got.frames] == list(range(120))
    np.testing.assert_array_equal(got.frames, plain_decode(path))  # bit for bit what decoding everything gives


def test_random_access_equals_sequential(made):
    kind, path = made
    everything = read_frames(path, np.arange(120)).frames
    rng = np.random.default_rng(0)
    for n in (1, 1, 1, 2, 3, 5, 8, 30):
        indices = rng.integers(0, 120, n)  # unsorted, repeated
        np.testing.assert_array_equal(read_frames(path, indices, max_missing=0).frames, everything[indices])


def test_only_what_is_needed_is_decoded(tmp_path, monkeypatch):
    path = make(tmp_path / "a.mp4", 600, x264_params="keyint=50:min-keyint=50:scenecut=0:bframes=3")
    seen = decoded_packets(monkeypatch)
    read_frames(path, [270])  # 20 frames into the group that starts at 250
    assert len(seen) <= 20 + 2
    assert min(seen) == frame_index(path).pts[250]
    seen.clear()
    got = read_frames(path, [3, 255, 599])
    assert [number_of(frame) for frame in got.frames] == [3, 255, 599]
    assert len(seen) <= 5 + 7 + 50  # nothing of the nine groups in between
    seen.clear()
    read_frames(path, np.arange(0, 600, 4))  # b-frames that nobody wants stay out of the decoder
    assert len(seen) < 450
    seen.clear()
    read_frames(path, np.arange(600))
    assert len(seen) == 600


VARIABLE = np.cumsum(np.random.default_rng(0).choice([20, 33, 40, 70, 120], 150)) + 480  # milliseconds


@pytest.fixture(scope="module", params=["mp4", "mkv"])
def variable(request, tmp_path_factory):
    """150 frames shown at VARIABLE."""
    path = tmp_path_factory.mktemp("variable") / f"a.{request.param}"
    return make(path, 150, pts=VARIABLE, time_base=Fraction(1, 1000), bf=3, g=40)


def test_variable_rate_has_true_presentation_times(variable):
    seconds = (VARIABLE - VARIABLE[0]) / 1000
    np.testing.assert_allclose(times(variable), seconds, atol=1e-9)
    info = probe(variable)
    assert not info.constant_rate
    assert info.duration == pytest.approx(seconds[-1] + np.median(np.diff(seconds)), abs=1e-9)
    assert info.fps == pytest.approx(150 / info.duration, rel=1e-12)
    indices = np.random.default_rng(1).integers(0, 150, 20)
    got = read_frames(variable, indices, max_missing=0)
    assert [number_of(frame) for frame in got.frames] == indices.tolist()


@pytest.mark.parametrize("pts", [VARIABLE, 480 + 40 * np.arange(150)], ids=["variable", "constant"])
def test_a_time_that_is_stored_twice(tmp_path, pts):
    """As browsers and screen recorders write now and then: such a frame stands between its neighbours."""
    path = make(tmp_path / "a.mkv", 150, pts=pts, time_base=Fraction(1, 1000), bf=0, g=40)
    copy = str(tmp_path / "b.mkv")
    stored = pts.copy()
    stored[[50, 149]] = pts[[49, 148]]
    with av.open(path) as source, av.open(copy, "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate(p for p in source.demux(video=0) if p.size):
            packet.stream, packet.pts, packet.dts = stream, int(stored[number]), int(stored[number])
            target.mux(packet)
    seconds = (pts - pts[0]) / 1000
    np.testing.assert_allclose(np.delete(times(copy), [50, 149]), np.delete(seconds, [50, 149]), atol=1e-9)
    assert times(copy)[50] == pytest.approx((seconds[49] + seconds[51]) / 2)
    assert probe(copy).fps == pytest.approx(probe(path).fps, rel=0.02)
    indices = np.random.default_rng(1).integers(0, 150, 20)
    assert [number_of(frame) for frame in read_frames(copy, indices, max_missing=0).frames] == indices.tolist()


def test_seconds_and_frames_of_a_variable_rate(variable):
    index = frame_index(variable)
    seconds = np.random.default_rng(2).uniform(0, index.times[-1], 200)
    on_display = np.searchsorted(index.times, seconds, "right") - 1
    np.testing.assert_array_equal(np.floor(index.seconds_to_frame(seconds)), on_display)
    np.testing.assert_allclose(index.seconds_to_frame(index.times), np.arange(150), atol=1e-9)
    everywhere = np.linspace(-3, index.info.duration + 3, 500)
    places = index.seconds_to_frame(everywhere)
    assert np.all(np.diff(places) > 0)
    outside = (everywhere < 0) | (everywhere > index.info.duration)
    np.testing.assert_allclose((np.diff(places) / np.diff(everywhere))[outside[1:] & outside[:-1]], index.info.fps)


@pytest.mark.parametrize("rate", [24, Fraction(30000, 1001), 60])
@pytest.mark.parametrize("container", ["mp4", "mkv"])  # Matroska rounds times to milliseconds
def test_constant_rate(tmp_path, rate, container):
    info = probe(path := make(tmp_path / f"a.{container}", 90, rate=rate))
    assert (info.frames, info.constant_rate) == (90, True)
    assert info.fps == pytest.approx(float(rate), abs=1e-9)
    assert info.duration == pytest.approx(90 / float(rate), abs=1e-9)
    index = frame_index(path)
    assert index.seconds_to_frame(1.5) == pytest.approx(1.5 * float(rate), abs=1e-9)
    np.testing.assert_allclose(index.times, np.arange(90) / float(rate), atol=1e-3)


@pytest.mark.parametrize(("degrees", "turns"), [(90, 1), (-90, 3), (180, 2)])
def test_rotation(tmp_path, degrees, turns):
    """`degrees` counter-clockwise, as the display matrix has it; turned before or after scaling is the same."""
    plain = make(tmp_path / "plain.mp4", 10, size=(160, 96))
    turned = make(tmp_path / "turned.mp4", 10, size=(160, 96), rotation=degrees)
    info = probe(turned)
    assert info.rotation == degrees % 360
    assert (info.width, info.height) == ((96, 160) if turns % 2 else (160, 96))
    for options in ({}, {"short_side": 48}, {"short_side": 48, "center_crop": 40}):
        want = np.rot90(read_frames(plain, [3, 7], **options).frames, turns, axes=(1, 2))
        np.testing.assert_array_equal(read_frames(turned, [3, 7], **options).frames, want)


def test_pixels_count_as_square_whatever_the_file_says(tmp_path):
    path = make(tmp_path / "a.mp4", 5, size=(160, 96), x264_params="sar=2/1")
    with av.open(path) as container:
        assert container.streams.video[0].sample_aspect_ratio == 2
    assert read_frames(path, [0]).frames.shape == (1, 96, 160, 3)


def test_size_crop_and_canvas(tmp_path):
    path = make(tmp_path / "a.mp4", 20, size=(428, 240))
    info = probe(path)
    assert displayed_size(info, 182) == (182, 325)  # 428 * 182 / 240 = 324.57
    assert displayed_size(info, 182, 160) == (160, 160)
    whole = read_frames(path, [5, 2], short_side=182).frames
    assert whole.shape == (2, 182, 325, 3)
    cut = read_frames(path, [5, 2], short_side=182, center_crop=160).frames
    np.testing.assert_array_equal(cut, whole[:, 11:171, 82:242])
    canvas = np.zeros((2, 200, 400, 3), np.uint8)
    assert read_frames(path, [5, 2], short_side=182, out=canvas).frames is canvas
    np.testing.assert_array_equal(canvas[:, :182, :325], whole)
    assert not canvas[:, 182:].any() and not canvas[:, :, 325:].any()
    # Scaled pictures are the large ones made small: within the noise that bilinear interpolation leaves.
    small = read_frames(path, [5], short_side=60).frames[0].astype(int)
    blocks = read_frames(path, [5]).frames[0].reshape(60, 4, 107, 4, 3).mean((1, 3))
    assert np.abs(small - blocks).mean() < 3
    with pytest.raises(ValueError, match="cannot cut 200x200"):
        read_frames(path, [0], short_side=182, center_crop=200)
    with pytest.raises(ValueError, match="do not fit"):
        read_frames(path, [0, 1], out=canvas[:, :100])


@pytest.mark.parametrize("indices", [[], [-1], [0.5], [[1, 2]]])
def test_indices_that_are_none(tmp_path, indices):
    with pytest.raises(ValueError, match="frame indices"):
        read_frames(make(tmp_path / "a.mp4", 3), indices)


def test_the_best_stream_is_read_and_sound_is_not(tmp_path):
    """Of two streams that are marked alike `ffmpeg` takes the larger picture, wherever it stands."""
    path = str(tmp_path / "two.mkv")
    with av.open(path, "w") as output:
        sound = output.add_stream("aac", rate=16000)
        streams = [output.add_stream("libx264", rate=25) for _ in range(2)]
        for stream, size in zip(streams, ((64, 48), (160, 96)), strict=True):
            stream.width, stream.height = size
            stream.pix_fmt = "yuv420p"
            stream.disposition = av.stream.Disposition.default
        for i in range(30):
            for stream in streams:
                frame = av.VideoFrame.from_ndarray(picture(i, stream.width, stream.height), format="rgb24")
                output.mux(stream.encode(frame))
            samples = av.AudioFrame.from_ndarray(np.zeros((1, 640), np.float32), format="fltp", layout="mono")
            samples.sample_rate = 16000
            output.mux(sound.encode(samples))
        for stream in (*streams, sound):
            output.mux(stream.encode(None))
    assert (probe(path).width, probe(path).height, probe(path).frames) == (160, 96, 30)
    assert [number_of(frame) for frame in read_frames(path, [29, 4]).frames] == [29, 4]


def cut(path: str, to: Path, share: float) -> str:
    """A copy of the first `share` of a file's bytes."""
    data = Path(path).read_bytes()
    to.write_bytes(data[: int(len(data) * share)])
    return str(to)


def test_truncated_file_gives_all_that_is_left(tmp_path):
    whole = make(tmp_path / "whole.mkv", 200, bf=0, g=50)
    half = cut(whole, tmp_path / "half.mkv", 0.5)
    left = probe(half).frames
    assert 60 < left < 140
    np.testing.assert_array_equal(
        read_frames(half, np.arange(left - 1), max_missing=0).frames, read_frames(whole, np.arange(left - 1)).frames
    )
    # Four of a hundred frames lie beyond the end: the last one stands in for them.
    window = np.arange(left - 96, left + 4)
    got = read_frames(half, window)
    assert got.substituted == 4
    for missing in got.frames[96:]:
        np.testing.assert_array_equal(missing, got.frames[95])
    with pytest.raises(DataError, match=rf"half.mkv: frame {left} cannot be decoded; 6 of 100"):
        read_frames(half, window + 2)
    assert read_frames(half, window + 2, max_missing=0.06).substituted == 6
    with pytest.raises(DataError, match=f"frame {left + 7} "):
        read_frames(half, [left + 7], max_missing=1.0)  # nothing is left to stand in


def test_header_at_the_front_of_a_truncated_file(tmp_path):
    """The header still promises all frames."""
    whole = make(tmp_path / "whole.mp4", 200, bf=2, g=50, container={"movflags": "faststart"})
    half = cut(whole, tmp_path / "half.mp4", 0.7)
    with av.open(half) as container:
        assert container.streams.video[0].frames == 200
    left = probe(half).frames
    assert 100 < left < 200
    np.testing.assert_array_equal(read_frames(half, [left - 9]).frames, read_frames(whole, [left - 9]).frames)


def damage(path, fraction: float) -> None:
    """Overwrites the payload of the packets between `fraction` of the file and 2 % more of it."""
    data = bytearray(Path(path).read_bytes())
    start = int(len(data) * fraction)
    data[start : start + len(data) // 50] = np.random.default_rng(0).bytes(len(data) // 50)
    Path(path).write_bytes(data)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts"])
def test_damaged_file(tmp_path, name):
    """What random access gives does not depend on what else is read, and a missing frame is always missing."""
    good = make(tmp_path / f"good_{name}", 200, bf=3, g=40)
    bad = cut(good, tmp_path / name, 1)
    damage(bad, 0.5)
    frames = probe(bad).frames
    everything = read_frames(bad, np.arange(frames), max_missing=1.0)
    np.testing.assert_array_equal(everything.frames[:80], read_frames(good, np.arange(80)).frames)
    rng = np.random.default_rng(3)
    for n in (1, 2, 5, 20, 60):
        for _ in range(4):
            indices = rng.integers(0, frames, n)
            try:
                got = read_frames(bad, indices, max_missing=0)
            except DataError:
                assert everything.substituted
                continue
            np.testing.assert_array_equal(got.frames, everything.frames[indices])


def test_missing_frames_in_the_middle_are_replaced_by_the_one_before(tmp_path, monkeypatch):
    path = make(tmp_path / "a.mp4", 60)
    decode = video._decode

    def without_some(index, pts):
        lost = set(index.pts[[0, 1, 20, 21]].tolist())
        return ((time, frame) for time, frame in decode(index, pts) if time not in lost)

    monkeypatch.setattr(video, "_decode", without_some)
    got = read_frames(path, [20, 0, 19, 2, 40, 21, 20], max_missing=0.6)
    assert [number_of(frame) for frame in got.frames] == [19, 2, 19, 2, 40, 19, 19]
    assert got.substituted == 4
    with pytest.raises(
        DataError, match=r"a.mp4: frame 20 cannot be decoded; 1 of 19 wanted frames are missing, at most 5%"
    ):
        read_frames(path, np.arange(2, 21))
    assert read_frames(path, np.arange(2, 22)[:-1], max_missing=1 / 19).substituted == 1


def test_a_frame_that_fills_a_window_is_missing_once(tmp_path):
    """The last frame of a cut MP4 is rarely whole, and a window that is longer than the video repeats it."""
    whole = make(tmp_path / "whole.mp4", 150, bf=3, g=50, container={"movflags": "faststart"})
    half = cut(whole, tmp_path / "half.mp4", 0.5)
    left = probe(half).frames
    with pytest.raises(DataError, match=f"frame {left - 1} cannot be decoded; 1 of 1"):
        read_frames(half, [left - 1], max_missing=1.0)
    got = read_frames(half, np.minimum(np.arange(768), left - 1))
    assert got.substituted == 768 - (left - 1)
    assert (got.frames[left - 1 :] == got.frames[left - 2]).all()
    with pytest.raises(DataError, match=f"1 of {left} wanted frames are missing, at most 1% may be"):
        read_frames(half, np.minimum(np.arange(768), left - 1), max_missing=0.01)


def not_videos(folder):
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "text.mp4").write_text("not a video at all\n" * 100)
    (folder / "noise.mp4").write_bytes(np.random.default_rng(0).bytes(50_000))
    (folder / "list.mp4").write_text(f"ffconcat version 1.0\nfile '{folder}/good.mp4'\n")
    (folder / "list.m3u8").write_text("#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\ngood.mp4\n#EXT-X-ENDLIST\n")
    whole = make(folder / "good.mp4", 20)
    cut(whole, folder / "no_index.mp4", 0.5)
    with av.open(str(folder / "sound.mp4"), "w") as output:
        stream = output.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    (folder / "folder.mp4").mkdir()
    return {
        "empty.mp4": "the video file is empty",
        "text.mp4": "not a video file that FFmpeg can open",
        "noise.mp4": "not a video file that FFmpeg can open",
        "list.mp4": "not a video file that FFmpeg can open",
        "list.m3u8": "not a video file that FFmpeg can open",
        "no_index.mp4": "not a video file that FFmpeg can open",
        "sound.mp4": "no video stream",
        "folder.mp4": "the video cannot be read .Is a directory",
        "absent.mp4": "cannot be read .No such file",
    }


def test_what_is_no_video_is_an_error_that_names_the_file(tmp_path):
    for name, words in not_videos(tmp_path).items():
        for function in (probe, times, lambda path: read_frames(path, [0])):
            with pytest.raises(DataError, match=f"{name}: .*{words}"):
                function(tmp_path / name)


def test_no_frame_decodes(tmp_path):
    path = make(tmp_path / "a.mkv", 20, bf=0)
    data = bytearray(Path(path).read_bytes())
    with av.open(path) as container:
        places = [(packet.pos, packet.size) for packet in container.demux() if packet.size]
    for pos, size in places:
        data[pos + 8 : pos + size] = b"\xff" * (size - 8)
    Path(path).write_bytes(data)
    with pytest.raises(DataError, match="a.mkv: no frame of the video can be decoded"):
        probe(path)


def test_cache_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match="file: frame indices cannot be kept in this folder"):
        frame_index(make(tmp_path / "a.mp4", 3), tmp_path / "file")


def test_index_is_cached_on_disk_and_follows_the_file(tmp_path, monkeypatch, capsys):
    demuxed = []
    demux = frame_index_module._demux
    monkeypatch.setattr(frame_index_module, "_demux", lambda path: demuxed.append(path) or demux(path))
    path, cache = make(tmp_path / "a.mp4", 30, pts=np.arange(30) ** 2, time_base=Fraction(1, 500)), tmp_path / "cache"

    def fresh():
        frame_index_module._frame_index.cache_clear()
        return frame_index(path, cache)

    first = fresh()
    assert frame_index(path, cache) is first  # from memory
    again = fresh()
    assert len(demuxed) == 1  # from disk
    assert again.info == first.info
    for name in ("pts", "key_pts", "key_seek"):
        np.testing.assert_array_equal(getattr(again, name), getattr(first, name))
    assert [file.suffix for file in cache.iterdir()] == [".npz"]

    (stored,) = cache.iterdir()
    stored.write_bytes(stored.read_bytes()[:200])  # damaged: made anew
    assert fresh().info == first.info and len(demuxed) == 2

    make(path, 40)  # another file under the same name
    assert capsys.readouterr().err.startswith(f"{stored}: damaged frame index, making it anew")
    assert fresh().info.frames == 40 and len(demuxed) == 3
    assert capsys.readouterr().err == f"{path}: the video changed since it was indexed; its index is made anew\n"
    assert len(list(cache.iterdir())) == 1, "the old index is not kept beside the new one"
    assert read_frames(path, [39], cache_dir=cache).frames.shape == (1, 96, 160, 3)


REAL = sorted(json.loads(check_videos.REFERENCE.read_text()))


@pytest.mark.parametrize("name", REAL)
def test_real_files_hold_what_other_readers_saw(name):
    for row in check_videos.check_video(real(name), json.loads(check_videos.REFERENCE.read_text())[name]):
        assert row.within(), str(row)


def real(name: str):
    file = check_videos.VIDEOS / name
    if not file.exists():
        pytest.skip(f"{file} is not there")
    return file


@pytest.mark.parametrize("name", [name for name in REAL if name != "derived_nasa_truncated.mp4"])
def test_real_files_random_access_equals_decoding_everything(name):
    frames = probe(file := real(name)).frames
    broken = [30] if name == "decord_corrupted.mp4" else []  # one packet of it is destroyed; what follows decodes
    everything = read_frames(file, np.arange(frames), max_missing=0.02)
    assert everything.substituted == len(broken)
    readable = np.setdiff1d(np.arange(frames), broken)
    np.testing.assert_array_equal(
        np.rot90(plain_decode(str(file)), probe(file).rotation // 90, (1, 2)), everything.frames[readable]
    )
    rng = np.random.default_rng(0)
    for n in (1, 1, 1, 2, 3, 5, 8, 13):
        indices = rng.choice(readable, n)
        np.testing.assert_array_equal(read_frames(file, indices, max_missing=0).frames, everything.frames[indices])


def test_real_broken_files():
    with pytest.raises(DataError, match="derived_nasa_truncated.mp4: not a video file that FFmpeg can open"):
        probe(real("derived_nasa_truncated.mp4"))
    with pytest.raises(DataError, match="decord_corrupted.mp4: frame 30 cannot be decoded; 1 of 8 wanted"):
        read_frames(real("decord_corrupted.mp4"), np.arange(24, 32))
    pancake = real("derived_pancake_truncated.mkv")
    assert read_frames(pancake, np.arange(20, 120)).substituted == 2  # it holds 118 frames, its header says 310
    with pytest.raises(DataError, match="frame 118 cannot be decoded; 12 of 100 wanted"):
        read_frames(pancake, np.arange(30, 130))
