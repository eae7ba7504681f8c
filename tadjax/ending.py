"""How a command ends: with a status, and in one line where it is not as it was meant to.

    2     what the user gave is wrong, or the disk takes nothing more
    130   Ctrl-C: what is saved, and how to go on
    141   nobody reads any more what is printed, as after `| head`: nothing is said

Ctrl-C ends a command at once, whatever its threads and worker processes wait for; only training saves first. That is
safe, because all that is written appears whole or not at all. Those who import tadjax keep Python's KeyboardInterrupt:
only a `python -m tadjax...` calls `catch_interrupts`. That comes before all other imports, so what
takes long to import is imported where it is needed.
"""

import contextlib
import errno
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NoReturn

from tadjax.errors import DiskError, TadjaxError, WriteError

if TYPE_CHECKING:
    import pathlib

INTERRUPTED, UNREAD = 130, 141
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)  # what holds for every file of a disk
WRITING = (*FULL, errno.EEXIST)  # what no reader is told; the last of a --workdir that is a file
# What a disk may say to any reader or writer, the last of what lies below a file: nothing a traceback would explain.
DISK = (*WRITING, errno.EACCES, errno.EPERM, errno.EIO, errno.ENOTDIR)
LAUNCHER = "TADJAX_ENDS_WITH"  # in the environment: the process without which this one must not go on

_asks: Callable[[], None] | None = None  # what a first Ctrl-C does, while there is something to save
_asked = False
_shielded = _deferred = False
_told: Callable[[], str] = lambda: "the same command begins again"  # noqa: E731
_undo: list[Callable[[], object]] = []


def run(command: Callable[[], int], place: str = "the disk", *, any_file: bool = False) -> int:
    """What `command` returns; 2, and one line on stderr, where it fails by what the user can mend.

    place: what a disk's error is about where it names no file. any_file: any OSError is about a file that the user
    named, also that its folder is missing.
    """
    try:
        status = command()
        sys.stdout.flush()
        return status
    except (TadjaxError, OSError) as error:
        if isinstance(error, BrokenPipeError) and error.filename is None:
            leave(UNREAD)
        text = sentence(error, place, any_file)
        if text is None:
            raise
        if isinstance(error, DiskError):
            leave(2, f"error: {text}")  # Orbax's threads of a failed save would keep the process for ten minutes
    print(f"error: {text}", file=sys.stderr)
    return 2


def sentence(error: BaseException, place: str = "the disk", any_file: bool = False) -> str | None:
    """What to tell of an error in a line; None where it takes a traceback."""
    if isinstance(error, TadjaxError):
        return str(error)
    if isinstance(error, OSError) and (any_file or error.errno in DISK):
        failed = "written" if isinstance(error, WriteError) or error.errno in WRITING else "read or written"
        reason = error.strerror or error
        return f"{error.filename or place}: cannot be {failed} ({reason}); {_told()} once that is put right"
    return None


def leave(status: int, text: str = "") -> NoReturn:
    """Ends the process at once: no thread is waited for, and workers end too."""
    for undo in reversed(_undo):
        with contextlib.suppress(Exception):
            undo()
    if processes := sys.modules.get("multiprocessing"):
        for child in processes.active_children():
            child.kill()
    with contextlib.suppress(OSError, ValueError, RuntimeError):  # one who was just writing there
        sys.stdout.flush()
    cursor = "\x1b[?25h" if os.isatty(2) else ""  # a progress bar hides it
    with contextlib.suppress(OSError):
        os.write(2, (cursor + text + "\n" * bool(text)).encode(errors="backslashreplace"))
    os._exit(status)


def catch_interrupts() -> None:
    """Ctrl-C ends this process with one line and status 130 from now on; so does the end of its launcher, if any."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not where the shell wants it ignored
        signal.signal(signal.SIGINT, _interrupt)
    # A shared memory that no one closed is removed by this process of Python's, which need not tell the user.
    sys.warnoptions.append("ignore:resource_tracker:UserWarning")
    sys.excepthook = _excepthook
    if launcher := os.environ.get(LAUNCHER):
        threading.Thread(target=_follow, args=(int(launcher),), daemon=True).start()


def tell(saved: Callable[[], str]) -> None:
    """What to say of a command that is stopped: what is saved by then, and how to go on."""
    global _told
    _told = saved


def saved_in(workdir: str | os.PathLike[str]) -> str:
    """What is saved of a training, and how to go on."""
    import pathlib

    workdir = pathlib.Path(workdir)
    steps = [int(path.name) for path in workdir.glob("checkpoints/*") if path.name.isdigit()]
    if steps:
        return f"step {max(steps)} is saved, and the same command goes on from there"
    if any(workdir.glob("*/checkpoints/*")):
        return "what the stages have saved stays, and the same command goes on from there"
    return "no step is saved yet, and the same command begins at the first one"


@contextlib.contextmanager
def saving(ask: Callable[[], None]) -> Iterator[None]:
    """Within it a first Ctrl-C only calls `ask`; a second one ends the process at once."""
    global _asks
    before, _asks = _asks, ask
    try:
        yield
    finally:
        _asks = before


def asked() -> bool:
    """Whether Ctrl-C has asked to save and stop."""
    return _asked


@contextlib.contextmanager
def undone(undo: Callable[[], object]) -> Iterator[None]:
    """`undo` is called if the process is left at once within the block, and not otherwise."""
    _undo.append(undo)
    try:
        yield
    finally:
        _undo.remove(undo)


@contextlib.contextmanager
def temporary_folder(prefix: str = "tadjax-", beside: "pathlib.Path | None" = None) -> Iterator["pathlib.Path"]:
    """A new folder (in the system's place for such, or in `beside`) that is gone afterwards, also after Ctrl-C."""
    import pathlib
    import shutil
    import tempfile

    folder = pathlib.Path(tempfile.mkdtemp(prefix=prefix, dir=beside))

    def remove() -> None:
        shutil.rmtree(folder, ignore_errors=True)

    try:
        with undone(remove):
            yield folder
    finally:
        remove()


@contextlib.contextmanager
def shield() -> Iterator[None]:
    """Processes that are started within it get neither Ctrl-C nor a scheduler's SIGTERM, which reach whole groups.

    Ctrl-C waits for the end of the block: a process that is half started would complain of its parent's end.
    """
    global _shielded, _deferred
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    from multiprocessing import resource_tracker

    resource_tracker.ensure_running()  # which unblocks signals when it starts
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    _shielded = True
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        _shielded = False
        if _deferred:
            _deferred = False
            _interrupt()


def _interrupt(*_) -> None:
    global _asked, _deferred
    if _shielded:
        _deferred = True
    elif _asks is not None and not _asked:
        _asked = True
        _asks()
        if os.isatty(2):
            os.write(2, b"\nCtrl-C: saving after this step; once more to end at once\n")
    else:
        leave(INTERRUPTED, f"Ctrl-C: {_told()}")


def _excepthook(kind: type, error: BaseException, traceback: object) -> None:
    """TensorStore's threads report to an event loop that is gone after a failed save, once for every array."""
    if threading.current_thread() is threading.main_thread() or str(error) != "Event loop is closed":
        sys.__excepthook__(kind, error, traceback)


def _follow(launcher: int) -> None:
    while os.getppid() == launcher:
        time.sleep(1)
    os._exit(1)
