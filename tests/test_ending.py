"""How commands end: one line and a status, whatever their threads and workers wait for."""

import errno
import json
import os
import signal
import subprocess
import sys

import pytest

from tadjax import ending
from tadjax.errors import DataError
from tadjax.files import write_whole
from tadjax.report import __main__ as report
from tests.conftest import ROOT

BEGIN = "from tadjax import ending; ending.catch_interrupts(); import os, signal, sys, threading, time\n"
HANG = "print('ready', flush=True); threading.Event().wait()"


def started(code: str) -> subprocess.Popen:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL}
    process = subprocess.Popen([sys.executable, "-c", BEGIN + code], cwd=ROOT, text=True, **pipes)
    assert process.stdout.readline() == "ready\n"
    return process


def test_ctrl_c_ends_a_command_that_waits_for_a_thread_in_one_line():
    code = "threading.Thread(target=threading.Event().wait).start(); ending.tell(lambda: 'all is saved')\n"
    process = started(code + HANG)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (130, "Ctrl-C: all is saved\n")


def test_what_is_to_save_saves_at_the_first_ctrl_c_and_a_second_one_ends_at_once(tmp_path):
    code = "with ending.saving(lambda: print('asked', flush=True)):\n " + HANG
    process = started(code)
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "asked\n"
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (130, "Ctrl-C: the same command begins again\n")


def test_what_must_not_be_left_is_removed(tmp_path):
    process = started(f"with ending.temporary_folder('x', {str(tmp_path)!r}) as folder:\n " + HANG)
    assert len(list(tmp_path.iterdir())) == 1
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert not list(tmp_path.iterdir())


def test_processes_started_under_the_shield_get_no_ctrl_c():
    code = (
        "import subprocess\nwith ending.shield():\n"
        " os.kill(os.getpid(), signal.SIGINT)\n"
        " child = subprocess.Popen([sys.executable, '-c', 'import signal;"
        "print({2, 15} <= signal.pthread_sigmask(signal.SIG_BLOCK, []))'], stdout=subprocess.PIPE)\n"
        " print('ready'); print(child.communicate()[0].decode(), flush=True)\n"
        "print('never')"
    )
    process = started(code)
    assert process.stdout.readline() == "True\n"  # communicate() would miss what came together with the line before
    _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (130, "Ctrl-C: the same command begins again\n")


def test_a_process_ends_with_its_launcher(monkeypatch):
    monkeypatch.setenv(ending.LAUNCHER, str(os.getpid() + 1))  # which is not its parent
    run = subprocess.run([sys.executable, "-c", BEGIN + HANG], cwd=ROOT, capture_output=True, timeout=60, check=False)
    assert run.returncode == 1


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (DataError("no such video"), "no such video"),
        (OSError(errno.ENOSPC, "No space left on device", "a/b"), "a/b: cannot be written (No space left on device)"),
        (OSError(errno.EROFS, "Read-only file system"), "--workdir=x: cannot be written (Read-only file system)"),
    ],
)
def test_what_the_user_can_mend_is_a_sentence_and_status_2(error, sentence, capsys):
    def fails() -> int:
        raise error

    assert ending.run(fails, "--workdir=x") == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {sentence}") and said.count("\n") == 1


def test_a_failure_to_read_is_not_called_one_to_write(tmp_path, capsys):
    assert ending.run(tmp_path.read_bytes, any_file=True) == 2
    assert capsys.readouterr().err.startswith(f"error: {tmp_path}: cannot be read or written (Is a directory); ")
    assert ending.run(lambda: write_whole(tmp_path / "no" / "x", "x"), any_file=True) == 2
    assert capsys.readouterr().err.startswith(f"error: {tmp_path}/no/x: cannot be written (No such file or directory)")


def test_a_command_that_cannot_read_does_not_blame_its_output(tmp_path, capsys, monkeypatch):
    def fails(path: str) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO), path)

    monkeypatch.setattr(report, "read_results", fails)
    truth = tmp_path / "truth.json"
    annotation = {"segment": [1, 3], "label": "b"}
    truth.write_text(json.dumps({"database": {"v": {"subset": "x", "duration": 9, "annotations": [annotation]}}}))
    assert report.main(["mine.json", f"--ground_truth={truth}", "--video=v", f"--output={tmp_path}/p.png"]) == 2
    assert capsys.readouterr().err.startswith("error: mine.json: cannot be read or written (Input/output error)")


@pytest.mark.parametrize("flush", [True, False])
def test_what_nobody_reads_any_more_ends_without_a_word(flush):
    """As in `python -m tadjax.metrics ... | head -5`; it was "the disk: cannot be written (Broken pipe)"."""
    code = f"{BEGIN}sys.exit(ending.run(lambda: print('x' * 100_000, flush={flush}) or 0))"
    read, write = os.pipe()
    os.close(read)
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=write, stderr=subprocess.PIPE, check=False)
    os.close(write)
    assert (run.returncode, run.stderr) == (141, b"")


def test_other_errors_keep_their_traceback():
    with pytest.raises(OSError, match="Bad file"):
        ending.run(lambda: os.close(-1))


def test_what_a_full_disk_says_names_the_file():
    with pytest.raises(OSError, match="/dev/full/x") as caught:
        write_whole("/dev/full/x", "x")
    assert caught.value.filename == "/dev/full/x"


def test_what_is_no_regular_file_is_written_to_and_not_replaced(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_whole(pipe, "text")
    assert os.read(reader, 10) == b"text" and pipe.is_fifo()
    os.close(reader)


def test_what_is_saved_is_read_from_the_workdir(tmp_path):
    assert ending.saved_in(tmp_path) == "no step is saved yet, and the same command begins at the first one"
    for name in ("3", "12", "15.orbax-checkpoint-tmp"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    assert ending.saved_in(tmp_path) == "step 12 is saved, and the same command goes on from there"
