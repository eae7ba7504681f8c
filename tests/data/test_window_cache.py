"""Windows kept on disk are those that decoding gives, and stay within their room."""

import contextlib
import os

import numpy as np
import pytest

from tadjax.data import built, records
from tadjax.data.dataset import Dataset
from tadjax.data.loader import evaluation_batches, train_batches
from tadjax.data.window_cache import WindowCache
from tadjax.prepare.builders.__main__ import main
from tadjax.video.frames import Frames
from tests.conftest import make_small_config
from tests.data.test_loader import assert_same, take


@pytest.fixture
def config(small_data, tmp_path):
    config = make_small_config(small_data)
    config.window.sampling = "sliding"
    config.data.cache = str(tmp_path / "cache")
    return config


def batches(config, tmp_path, workers=0):
    dataset = Dataset(config)
    train, test = dataset.training_set(tmp_path / "index"), dataset.evaluation_set(tmp_path / "index")
    return take(train_batches(train, 2, workers=workers), 12) + list(evaluation_batches(test, 3, workers=workers))


def forbid_decoding(monkeypatch):
    def refuse(*arguments, **options):
        raise AssertionError("decoded")

    monkeypatch.setattr(records, "read_frames", refuse)
    monkeypatch.setattr(built.PackedVideo, "read_frames", refuse)


@pytest.mark.parametrize("form", ["files", pytest.param("pieces", marks=pytest.mark.slow)])
def test_kept_windows_are_the_decoded_ones(config, small_data, tmp_path, monkeypatch, form):
    if form == "pieces":
        arguments = ["thumos", "--root", str(small_data), "--output", str(tmp_path), "--embed", "--processes", "0"]
        assert main(arguments) == 0
        config.data.tfds = str(tmp_path / "thumos")
    folder, config.data.cache = config.data.cache, ""
    want = batches(config, tmp_path)
    config.data.cache = folder
    assert_same(batches(config, tmp_path), want)
    forbid_decoding(monkeypatch)
    assert_same(batches(config, tmp_path), want)


def test_windows_that_are_drawn_anew_are_not_kept(config, tmp_path):
    config.window.sampling = "random_trunc"
    train = Dataset(config).training_set(tmp_path)
    take(train_batches(train, 2), 3)
    assert not (tmp_path / "cache").exists()


def decoded(number: int, calls: list):
    def decode(out: np.ndarray) -> Frames:
        calls.append(number)
        out[:, :4, :6] = number
        return Frames(out, number)

    return decode


def test_room_damage_and_names(tmp_path):
    size, calls = (4, 6), []
    cache = WindowCache(str(tmp_path / "kept"), 600_000)  # ArrayRecord fills files up to 64 KiB: room for four
    for _ in range(2):
        for number in range(6):
            out = np.full((40, 5, 7, 3), 99, np.uint8)
            got = cache.frames(f"window {number}", size, out, decoded(number, calls))
            assert got.substituted == number
            assert (out[:, :4, :6] == number).all()
            assert (out[:, 4:] == 99).all() and (out[:, :, 6:] == 99).all()
    kept = sorted((tmp_path / "kept").iterdir())
    assert sum(path.stat().st_size for path in kept) <= 600_000 + 131_072
    assert calls[:6] == [0, 1, 2, 3, 4, 5] and calls[6:] == list(range(len(kept), 6))

    for path in kept:
        content = bytearray(path.read_bytes())
        content[len(content) // 3 :] = bytes(len(content) - len(content) // 3)
        path.write_bytes(content)
    calls.clear()
    out = np.zeros((40, 4, 6, 3), np.uint8)
    assert cache.frames("window 0", size, out, decoded(0, calls)).substituted == 0
    assert (calls, out.max()) == ([0], 0)


def test_windows_that_other_processes_keep_meanwhile(tmp_path, capsys, monkeypatch):
    """One of them gets its final name between the listing of the folder and the look at its size."""
    cache, calls, scandir = WindowCache(str(tmp_path), 1e9), [], os.scandir
    part = tmp_path / "other.array_record.7.part"
    part.write_bytes(bytes(1000))

    @contextlib.contextmanager
    def listed_before(folder):
        with scandir(folder) as files:
            files = list(files)
        part.unlink(missing_ok=True)
        yield files

    monkeypatch.setattr(os, "scandir", listed_before)
    for _ in range(2):
        cache.frames("window", (4, 6), np.zeros((3, 4, 6, 3), np.uint8), decoded(7, calls))
    assert calls == [7]
    assert not capsys.readouterr().err


def test_a_folder_that_cannot_be_written_costs_only_time(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    cache, calls = WindowCache(str(tmp_path / "file" / "kept"), 1e9), []
    for _ in range(2):
        cache.frames("window", (4, 6), np.zeros((3, 4, 6, 3), np.uint8), decoded(7, calls))
    assert calls == [7, 7]
    assert "a decoded window cannot be kept" in capsys.readouterr().err


def test_windows_of_a_video_that_changed_are_decoded_anew_in_their_own_room(tmp_path, capsys):
    cache, calls = WindowCache(str(tmp_path), 600_000), []  # room for four
    out = np.zeros((40, 4, 6, 3), np.uint8)
    for mark in ("1", "2", "2"):
        for window in range(4):
            number = 10 * int(mark) + window
            cache.frames(f"a.mp4 {window}", (4, 6), out, decoded(number, calls), ("a.mp4", mark))
            assert out.max() == number
    assert calls == [10, 11, 12, 13, 20, 21, 22, 23]
    line = "a.mp4: the video changed since its windows were kept; they are decoded anew\n"
    assert capsys.readouterr().err == line, "once"
