"""All eight ways in which a display matrix can turn and mirror a picture: front cameras (AVProVideo 956, ffms2 317)."""

import av
import numpy as np
import pytest
from av.sidedata.sidedata import Type as SideData

from tadjax.prepare.reencode import Encoding, reencode
from tadjax.video.frames import displayed_size, frame_index, probe, read_frames
from tests.video.numbered_videos import make
from tests.video.odd_files import turned

# (a, b, c, d), which moves (x, y) to (a x + c y, b x + d y), y downwards; what stands where R G / B Y stood.
MATRICES = {
    (1, 0, 0, 1): "RGBY",
    (-1, 0, 0, 1): "GRYB",
    (1, 0, 0, -1): "BYRG",
    (-1, 0, 0, -1): "YBGR",
    (0, 1, 1, 0): "RBGY",
    (0, -1, 1, 0): "GYRB",
    (0, 1, -1, 0): "BRYG",
    (0, -1, -1, 0): "YGBR",
}
COLOURS = {"R": (1, 0, 0), "G": (0, 1, 0), "B": (0, 0, 1), "Y": (1, 1, 0)}


@pytest.fixture(scope="module")
def corners(tmp_path_factory):
    """A picture with a colour in each corner, R G / B Y, twice."""
    path = tmp_path_factory.mktemp("corners") / "a.mp4"
    rgb = np.zeros((96, 160, 3), np.uint8)
    for number, colour in enumerate("RGBY"):
        y, x = divmod(number, 2)
        rgb[48 * y : 48 * y + 48, 80 * x : 80 * x + 80] = np.array(COLOURS[colour]) * 255
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"qp": "4"})
        stream.width, stream.height, stream.pix_fmt = 160, 96, "yuv420p"
        for _ in range(2):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(rgb, "rgb24")))
        container.mux(stream.encode())
    return path


def seen(rgb: np.ndarray) -> str:
    """The colours of a picture's corners."""
    height, width = rgb.shape[:2]
    found = ""
    for y in (height // 8, -height // 8):
        for x in (width // 8, -width // 8):
            bright = tuple((rgb[y, x] > 120).astype(int).tolist())
            found += next(name for name, colour in COLOURS.items() if colour == bright)
    return found


@pytest.mark.parametrize("matrix", MATRICES)
def test_pictures_are_as_a_player_shows_them(corners, tmp_path, matrix):
    path = turned(corners, tmp_path / "b.mp4", matrix)
    info = probe(path)
    assert (info.width, info.height) == ((160, 96) if matrix[0] else (96, 160))
    assert info.mirrored == (np.linalg.det(np.reshape(matrix, (2, 2))) < 0)
    for options in ({}, {"short_side": 48}, {"short_side": 48, "center_crop": 40}):
        got = read_frames(path, [1], max_missing=0, **options).frames[0]
        assert seen(got) == MATRICES[matrix]
        assert got.shape[:2] == displayed_size(info, **options)
    assert displayed_size(info, 48) == ((48, 80) if matrix[0] else (80, 48))


@pytest.mark.parametrize("matrix", MATRICES)
def test_re_encoded_pictures_are_upright_and_no_matrix_is_left(corners, tmp_path, matrix):
    reencode(turned(corners, tmp_path / "b.mp4", matrix), tmp_path / "c.mp4", Encoding(short_side=64, crf=4))
    with av.open(str(tmp_path / "c.mp4")) as container:
        frame = next(container.decode(video=0))
        assert seen(frame.to_ndarray(format="rgb24")) == MATRICES[matrix]
        assert (frame.width, frame.height) == ((106, 64) if matrix[0] else (64, 106))
        assert frame.side_data.get(SideData.DISPLAYMATRIX) is None
    info = probe(tmp_path / "c.mp4")
    assert (info.rotation, info.mirrored) == (0, False)


@pytest.mark.parametrize(
    ("matrix", "nearest"),
    [
        ((0.996, 0.087, -0.087, 0.996), (0, False)),  # a tripod that stands askew by 5 degrees
        ((-0.087, 0.996, 0.996, 0.087), (90, True)),
        ((-2, 0, 0, 1), (0, True)),  # mirrored and stretched
        ((0, 0, 0, 0), (0, False)),  # not set at all
    ],
)
def test_any_other_matrix_is_the_nearest_of_the_eight(corners, tmp_path, matrix, nearest):
    info = probe(turned(corners, tmp_path / "b.mp4", matrix))
    assert (info.rotation, info.mirrored) == nearest


def test_a_mirrored_file_in_random_access(tmp_path):
    """The index on disk knows of the reflection, too."""
    plain = make(tmp_path / "a.mp4", 40, g=10, bf=2)
    mirrored = turned(plain, tmp_path / "b.mp4", (-1, 0, 0, 1))
    frame_index(mirrored, tmp_path / "cache")
    for _ in range(2):
        got = read_frames(mirrored, [33, 4, 33], max_missing=0, cache_dir=tmp_path / "cache").frames
        np.testing.assert_array_equal(got, read_frames(plain, [33, 4, 33]).frames[:, :, ::-1])
        frame_index.__globals__["_frame_index"].cache_clear()
