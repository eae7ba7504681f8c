"""A file is whole or not there: also where the disk is full."""

import errno
import pathlib

import pytest

from tadjax.errors import DataError
from tadjax.files import read_text, write_whole
from tadjax.flags import tidy


def test_a_file_is_replaced_whole(tmp_path):
    path = tmp_path / "file.txt"
    write_whole(path, "old")
    write_whole(path, b"new")
    assert [p.read_text() for p in tmp_path.iterdir()] == ["new"]


def test_a_write_that_fails_leaves_the_old_content_and_nothing_beside_it(tmp_path, monkeypatch):
    def full(self, content):
        with self.open("wb") as file:
            file.write(content[:2])
        raise OSError(errno.ENOSPC, "No space left on device")

    write_whole(tmp_path / "file.txt", "old")
    monkeypatch.setattr(pathlib.Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        write_whole(tmp_path / "file.txt", "new")
    assert [p.read_text() for p in tmp_path.iterdir()] == ["old"]


def test_text_is_what_its_mark_says(tmp_path):
    for encoding in ("utf-8", "utf-8-sig", "utf-16", "utf-32"):
        (tmp_path / "a.txt").write_bytes("Über\r\n".encode(encoding))
        assert read_text(tmp_path / "a.txt") == "Über\r\n", encoding
    (tmp_path / "a.txt").write_bytes("a\nÜber".encode("cp1252"))
    with pytest.raises(DataError, match=r"a.txt, line 2: not UTF-8 text .*; save it as UTF-8"):
        read_text(tmp_path / "a.txt")
    assert read_text(tmp_path / "a.txt", encoding="cp1252") == "a\nÜber"
    with pytest.raises(DataError, match="not CP1 text .*unknown encoding"):
        read_text(tmp_path / "a.txt", encoding="cp1")


def test_the_home_folder_is_known_in_every_flag(monkeypatch):
    monkeypatch.setenv("HOME", "/home/anna")
    given = ["~", "~/a b", "--output=~/x", "--config.data.videos=~/v", "--names=a~b", "x~/y", "--labels=~tilde", "-o=~"]
    assert tidy(given) == [
        "/home/anna",
        "/home/anna/a b",
        "--output=/home/anna/x",
        "--config.data.videos=/home/anna/v",
        *given[4:7],
        "-o=/home/anna",
    ]
