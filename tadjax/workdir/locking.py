"""One run at a time in a workdir: WORKDIR/running.json names the one, and is free again once that one is dead.

The holder renews the file's time every BEAT seconds. On its own machine the number of its process tells whether it
lives. From another machine, or another container, only the time does: a newcomer watches for PATIENCE seconds whether
it changes (by its own clock, since clocks differ). Nothing but exclusive creation and renaming is asked of a shared
file system, as locks are not what every one has; newcomers on one machine take their turns by a lock of the system. Of
two that take over from two machines at once the one whose file is there in the end stays: the other finds at its next
beat that the file is not its own, and ends.
"""

import contextlib
import functools
import json
import os
import pathlib
import shlex
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

from tadjax import ending
from tadjax.errors import TadjaxError
from tadjax.parallel import hosts

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

FILE = "running.json"
BEAT = 5.0  # seconds
PATIENCE = 30.0


def alone(function: Callable) -> Callable:
    """function(config, workdir, ...) with the workdir held meanwhile, by process 0 for a whole job."""

    @functools.wraps(function)
    def held(config: Any, workdir: str | os.PathLike[str], *args, **options) -> Any:
        if not hosts.is_first():
            return function(config, workdir, *args, **options)
        with hold(pathlib.Path(workdir)):
            return function(config, workdir, *args, **options)

    return held


@contextlib.contextmanager
def hold(workdir: pathlib.Path) -> Iterator[None]:
    """Holds a workdir, which is made if need be. TadjaxError, naming the holder, if another run holds it."""
    path = workdir.resolve() / FILE
    new = not path.parent.exists()
    path.parent.mkdir(parents=True, exist_ok=True)
    mine, ended, lock = _content(), threading.Event(), threading.Lock()
    with _turn(path.parent):
        while not _create(path, mine):
            _remove_dead(path)

    def release() -> None:
        ended.set()
        lock.acquire(timeout=BEAT)  # a beat under way, unless the file system keeps it
        with contextlib.suppress(OSError):
            if path.read_bytes() == mine:
                path.unlink()
            if new:
                path.parent.rmdir()  # of a run that was refused before it wrote anything

    threading.Thread(target=_beat, args=(path, mine, ended, lock), daemon=True).start()
    try:
        with ending.undone(release):
            yield
    finally:
        release()


def is_held(workdir: pathlib.Path) -> bool:
    """Whether a run is at work there, as far as can be seen without waiting."""
    found = _read(pathlib.Path(workdir).resolve() / FILE)
    return found is not None and _lives(_parsed(found[0])) is not False


def machine() -> str:
    """What all have in common among whom process numbers mean the same: since when it runs, and the container."""
    with contextlib.suppress(OSError):
        boot = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{os.stat('/proc/self/ns/pid').st_ino}"
    return socket.gethostname()


@contextlib.contextmanager
def _turn(folder: pathlib.Path) -> Iterator[None]:
    """One newcomer of this machine at a time, where the file system can lock."""
    if fcntl is None:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _content() -> bytes:
    about = {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "since": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "command": shlex.join([os.path.basename(sys.executable), *sys.orig_argv[1:]])[:2000],
        "machine": machine(),
        "process_started": _started(os.getpid()),
        "token": uuid.uuid4().hex,
    }
    return (json.dumps(about, indent=1) + "\n").encode()


def _create(path: pathlib.Path, content: bytes) -> bool:
    """Whether the file was not there, and is this process's now."""
    try:
        file = path.open("xb")
    except FileExistsError:
        return False
    try:
        with file:
            file.write(content)
    except OSError as error:
        path.unlink()
        error.filename = os.fspath(path)
        raise
    return True


def _remove_dead(path: pathlib.Path) -> None:
    """Puts the file of a dead holder out of the way. TadjaxError if it lives."""
    found = _read(path)
    if found is None:
        return
    holder = _parsed(found[0])
    lives, who = _lives(holder), _described(holder)
    if lives is None:
        hosts.say(
            f"{path.parent}: {who} is said to be at work here, which cannot be seen from this machine; it counts as "
            f"dead if it gives no sign within {PATIENCE:g} s"
        )
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline and _read(path) == found:
            time.sleep(PATIENCE / 30)
        now = _read(path)
        if now is None:
            return
        lives = now != found
    if lives:
        raise TadjaxError(f"{path.parent}: a run is at work here, {who}. Wait for its end, or give another --workdir")
    aside = path.with_name(f"{FILE}.{uuid.uuid4().hex}")
    with contextlib.suppress(FileNotFoundError):  # another newcomer was faster
        path.rename(aside)
        if aside.read_bytes() == found[0]:
            aside.unlink()
        else:  # it is that of a newcomer who was faster
            aside.rename(path)


def _read(path: pathlib.Path) -> tuple[bytes, int] | None:
    """Content and time, None without a file. Opened anew: shared file systems show the newest only then."""
    try:
        with path.open("rb") as file:
            return file.read(), os.fstat(file.fileno()).st_mtime_ns
    except FileNotFoundError:
        return None


def _parsed(content: bytes) -> dict[str, Any]:
    try:
        found = json.loads(content)
    except ValueError:  # a holder that has just come, or that died in coming
        return {}
    return found if isinstance(found, dict) else {}


def _lives(holder: dict[str, Any]) -> bool | None:
    """Whether it does; None where its process cannot be seen from here."""
    if holder.get("machine") != machine() or not isinstance(holder.get("pid"), int):
        return None
    return _started(holder["pid"]) == holder.get("process_started", "")


def _started(pid: int) -> str | None:
    """When a process of this machine started, as the kernel counts; "" where only its being is known; None if dead."""
    try:
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if fields[0] in "ZX" else fields[19]
    except OSError:
        if pathlib.Path("/proc/self").exists():
            return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        return ""
    return ""


def _described(holder: dict[str, Any]) -> str:
    if not holder:
        return f"an unknown process ({FILE} does not name it)"
    named = {name: str(holder.get(name, "unknown")) for name in ("pid", "host", "since", "command")}
    return "process {pid} on {host} since {since} ({command:.300})".format(**named)


def _beat(path: pathlib.Path, mine: bytes, ended: threading.Event, lock: threading.Lock) -> None:
    """Runs in a thread: renews the file's time, and ends the process if the file has become another's."""
    while not ended.wait(BEAT):
        with lock, contextlib.suppress(OSError):  # a file system that is away comes back, or the run fails elsewhere
            found = _read(path)
            if ended.is_set():
                return
            if found is None:
                _create(path, mine)
            elif found[0] == mine:
                os.utime(path)
            else:
                break
    if not ended.is_set():
        who = _described(_parsed(found[0]))
        ending.leave(2, f"error: {path.parent}: taken over by {who}, as this run gave no sign for {PATIENCE:g} s")
