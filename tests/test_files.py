"""A file is whole or not there: also where the disk is full."""

import errno
import pathlib

import pytest

from tadjax.files import write_whole


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
