"""No writer of a log holds a step up: full disks, dead threads and servers that never answer."""

import json
import os
import pathlib
import subprocess
import sys
import threading
import time

import pytest

from tadjax.training import log as logs
from tadjax.training import writers
from tadjax.training.log import MetricsLog
from tadjax.training.writers import Lines, Writer
from tests.conftest import ROOT


class Sink:
    """Takes entries, or fails, or never answers."""

    def __init__(self, error: Exception | None = None, never: threading.Event | None = None):
        self.entries, self.error, self.never = [], error, never

    def write(self, entry):
        if self.never:
            self.never.wait()
        if self.error:
            raise self.error
        self.entries.append(entry)

    def close(self):
        self.entries.append("closed")


def test_what_a_writer_cannot_write_is_said_once(capsys):
    writer = Writer("TensorBoard", Sink(OSError(28, "No space left on device")))
    for step in range(50):
        writer.put({"step": step})
    writer.close(time.monotonic() + 10)
    assert capsys.readouterr().err == (
        "TensorBoard cannot be written (No space left on device); training goes on, the log may lack entries\n"
    )


def test_a_writer_that_never_answers_holds_nothing_up(capsys, monkeypatch):
    monkeypatch.setattr(writers, "WAITING", 10)
    never = threading.Event()
    writer = Writer("W&B", Sink(never=never))
    begin = time.monotonic()
    for step in range(1000):
        writer.put({"step": step})
    writer.close(begin + 0.5)
    assert time.monotonic() - begin < 5
    never.set()
    assert capsys.readouterr().err.count("W&B cannot be written") == 1


def test_lines_that_a_full_disk_refused_are_written_later(tmp_path, monkeypatch):
    room = [4]  # bytes that the disk takes of the next line
    lines = Lines(tmp_path / "metrics.jsonl")
    lines.write({"step": 1})
    whole = type(lines._file).write

    class Full:
        def __init__(self, file):
            self.file = file

        def __getattr__(self, name):
            return getattr(self.file, name)

        def write(self, content):
            return whole(self.file, content[: room[0]])

    lines._file = Full(lines._file)
    for step in (2, 3):
        with pytest.raises(OSError, match="No space left"):
            lines.write({"step": step})
        assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1}\n'  # no half lines
    room[0] = None
    lines.write({"step": 4})
    lines.close()
    found = [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert found == [1, 2, 3, 4]


def test_a_log_on_a_full_disk_ends_and_says_so_once_for_each_file(tmp_path):
    """Files that may not grow beyond 20 kB, as a disk that is full: TensorBoard's own thread died of it, and then the
    training waited for ever in the queue that no one emptied."""
    code = (
        "import pathlib, resource, signal, sys; from tadjax.training.log import MetricsLog;"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000));"
        "log = MetricsLog(pathlib.Path(sys.argv[1]), 0);"
        "[log.write(step, {f'loss/{i}': 1.0 for i in range(20)}) for step in range(500)];"
        "log.close(); print('through')"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=120, check=True, cwd=ROOT
    )
    assert run.stdout == "through\n"
    said = sorted(run.stderr.splitlines())
    assert len(said) == 2 and "TensorBoard cannot be written (File too large)" in said[1], run.stderr
    assert f"{tmp_path}/metrics.jsonl cannot be written (No space left on device)" in said[0]


def test_tensorboard_goes_on_in_a_new_file_and_voids_what_a_resumed_run_repeats(tmp_path):
    from tensorboardX.proto.event_pb2 import Event, SessionLog

    log = MetricsLog(tmp_path, 4)
    log.write(5, {"loss": 2.0, "lr/head": 0.5})
    log.close()
    (file,) = (tmp_path / "tensorboard").iterdir()
    content, events = file.read_bytes(), []
    while content:
        size = int.from_bytes(content[:8], "little")
        events.append(Event.FromString(content[12 : 12 + size]))
        content = content[16 + size :]
    assert (events[1].session_log.status, events[1].step) == (SessionLog.START, 5)
    assert {v.tag: v.simple_value for v in events[2].summary.value} == {"loss": 2.0, "lr/head": 0.5}
    assert events[2].step == 5


def test_wandb_that_hangs_does_not_keep_the_run(tmp_path, monkeypatch, capsys):
    never = threading.Event()
    run = type("Run", (), {"log": lambda *_, **__: None, "finish": lambda _: never.wait()})()
    monkeypatch.setitem(sys.modules, "wandb", type("wandb", (), {"init": staticmethod(lambda **_: run)}))
    monkeypatch.setattr(logs, "CLOSING", 0.5)
    log = MetricsLog(pathlib.Path(tmp_path), 0, "project")
    log.write(1, {"loss": 1.0})
    log.close()
    never.set()
    assert "W&B cannot be written (it does not answer" in capsys.readouterr().err
    assert os.path.getsize(tmp_path / "metrics.jsonl")
