"""Work on many files: what fails is collected, what dies is one sentence, settings that changed are refused."""

import os

import pytest

from tadjax.errors import DataError
from tadjax.prepare.jobs import keep_settings, run_all, write_whole


def half(number: int) -> int:
    if number == 99:
        os._exit(7)
    if number % 2:
        raise DataError(f"{number} is odd")
    return number // 2


@pytest.mark.parametrize("processes", [0, 2])
def test_errors_are_collected_and_the_rest_goes_on(processes):
    results, errors = run_all(half, {"a": (4,), "b": (5,), "c": (6,), "d": (7,)}, "halving", processes)
    assert results == {"a": 2, "c": 3}
    assert {name: str(error) for name, error in errors.items()} == {"b": "5 is odd", "d": "7 is odd"}
    assert run_all(half, {}, "halving", processes) == ({}, {})


def test_a_process_that_dies_is_one_sentence():
    with pytest.raises(DataError, match="halving: a process ended unexpectedly, most often because memory ran out"):
        run_all(half, {"a": (99,)}, "halving", 1)


def test_settings_are_kept(tmp_path):
    path = tmp_path / "folder" / "settings.json"
    keep_settings(path, {"size": (3, 4), "fps": 0.1})
    keep_settings(path, {"fps": 0.1, "size": [3, 4]})
    with pytest.raises(
        DataError, match=r"folder: was begun with other settings \(fps was 0.1, is 0.2; size was \[3, 4\]"
    ):
        keep_settings(path, {"fps": 0.2})
    path.write_text("{")
    with pytest.raises(DataError, match="settings.json: cannot be used"):
        keep_settings(path, {"fps": 0.2})
    write_whole(path, "text")
    assert [file.name for file in path.parent.iterdir()] == ["settings.json"]
