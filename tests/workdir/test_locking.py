"""One run at a time in a workdir: who holds it is named, and the dead hold nothing."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time

import pytest

from tadjax.errors import TadjaxError
from tadjax.workdir import locking
from tadjax.workdir.locking import FILE, alone, hold, is_held
from tests.conftest import ROOT

CODE = "import pathlib, sys; from tadjax.workdir.locking import hold\nwith hold(pathlib.Path(sys.argv[1])): {}"
HOLD = CODE.format("print('held', flush=True); sys.stdin.read()")


def holding(folder, prefix=(), code=HOLD) -> subprocess.Popen:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([*prefix, sys.executable, "-c", code, str(folder)], cwd=ROOT, text=True, **pipes)


def test_a_workdir_is_held_and_free_again(tmp_path):
    folder = tmp_path / "run"
    with hold(folder):
        assert json.loads((folder / FILE).read_text())["pid"] == os.getpid()
        assert is_held(folder)
        named = rf"a run is at work here, process {os.getpid()} on .* since .*python"
        with pytest.raises(TadjaxError, match=named), hold(folder):
            pass
        (folder / "kept").touch()
    assert [path.name for path in folder.iterdir()] == ["kept"] and not is_held(folder)


def test_a_run_that_is_refused_leaves_no_workdir_behind(tmp_path):
    @alone
    def refuses(config, workdir):
        raise TadjaxError("no")

    with pytest.raises(TadjaxError):
        refuses(None, tmp_path / "run")
    assert not list(tmp_path.iterdir())


def test_a_killed_holder_holds_nothing(tmp_path):
    holder = holding(tmp_path)
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(TadjaxError, match=f"process {holder.pid} on"), hold(tmp_path):
        pass
    holder.kill()
    holder.wait()
    begin = time.monotonic()
    with hold(tmp_path):
        assert time.monotonic() - begin < locking.PATIENCE / 2  # its number told, no waiting


def test_a_number_that_another_process_has_now_holds_nothing(tmp_path):
    with hold(tmp_path):
        about = json.loads((tmp_path / FILE).read_text())
    (tmp_path / FILE).write_text(json.dumps({**about, "process_started": "1"}))
    with hold(tmp_path):
        assert json.loads((tmp_path / FILE).read_text())["token"] != about["token"]


def test_a_holder_on_another_machine_lives_as_long_as_it_gives_signs(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(locking, "BEAT", 0.05)
    monkeypatch.setattr(locking, "PATIENCE", 1.5)
    with hold(tmp_path):
        monkeypatch.setattr(locking, "machine", lambda: "another")
        with pytest.raises(TadjaxError, match=f"process {os.getpid()} on"), hold(tmp_path):
            pass
        content = (tmp_path / FILE).read_bytes()
    (tmp_path / FILE).write_bytes(content)  # as if it had been killed
    begin = time.monotonic()
    with hold(tmp_path):
        assert time.monotonic() - begin >= 1.5
    assert "it counts as dead if it gives no sign within 1.5 s" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["", "[]", "{", '{"pid": "x"}'])
def test_a_file_that_names_no_one_counts_as_long_as_it_changes(tmp_path, monkeypatch, content):
    monkeypatch.setattr(locking, "PATIENCE", 0.3)
    (tmp_path / FILE).write_text(content)
    with hold(tmp_path):
        assert json.loads((tmp_path / FILE).read_text())["pid"] == os.getpid()


def test_of_many_that_take_over_from_a_dead_one_one_gets_it(tmp_path):
    for _ in range(20):
        with hold(tmp_path):
            about = json.loads((tmp_path / FILE).read_text())
        (tmp_path / FILE).write_text(json.dumps({**about, "process_started": "1"}))
        got, over = [], threading.Barrier(6)

        def start(got=got, over=over) -> None:
            try:
                with hold(tmp_path):
                    got.append(True)
                    over.wait()
            except TadjaxError:
                got.append(False)
                over.wait()

        threads = [threading.Thread(target=start) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(got) == [False] * 5 + [True]
        assert not list(tmp_path.iterdir())


def test_a_run_whose_workdir_was_taken_over_ends(tmp_path):
    """As after it was suspended for longer than others wait."""
    code = "from tadjax.workdir import locking; locking.BEAT = 0.1\n" + HOLD
    holder = holding(tmp_path, code=code)
    assert holder.stdout.readline() == "held\n"
    other = {"pid": 7, "host": "other", "since": "now", "command": "python"}
    (tmp_path / "new").write_text(json.dumps(other))
    (tmp_path / "new").replace(tmp_path / FILE)
    assert holder.wait(timeout=60) == 2
    assert "taken over by process 7 on other since now (python)" in holder.stderr.read()
    assert json.loads((tmp_path / FILE).read_text()) == other


def test_a_holder_in_another_container_is_watched(tmp_path):
    """A process number of another namespace tells nothing here."""
    prefix = ("unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child")
    able = shutil.which("unshare") and subprocess.run([*prefix, "true"], capture_output=True, check=False)
    if not able or able.returncode:
        pytest.skip("no process namespaces here")
    holder = holding(tmp_path, prefix, "from tadjax.workdir import locking; locking.BEAT = 0.1\n" + HOLD)
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(TadjaxError, match="a run is at work here"), hold(tmp_path):
        pass
    holder.stdin.close()
    assert holder.wait(timeout=60) == 0
    with hold(tmp_path):
        pass
