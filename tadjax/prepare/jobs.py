"""Long work on many files: in parallel, with a progress bar, and resumable, because what is there is whole."""

import json
import multiprocessing
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.progress import track

from tadjax import ending
from tadjax.errors import DataError
from tadjax.files import write_whole

Result = TypeVar("Result")


def run_all(
    function: Callable[..., Result], jobs: Mapping[str, Sequence], title: str, processes: int | None = None
) -> tuple[dict[str, Result], dict[str, DataError]]:
    """function(*job) of every job: (results, errors), each by the job's name. Other errors than DataError end it all.

    processes: that do the work; None for one a core, 0 to do it in this one.
    """
    results: dict[str, Result] = {}
    errors: dict[str, DataError] = {}
    console = Console(stderr=True)
    bar = {"description": title, "total": len(jobs), "console": console, "disable": not console.is_terminal}

    def keep(name: str, result: Callable[[], Result]) -> None:
        try:
            results[name] = result()
        except DataError as error:
            errors[name] = error

    if processes == 0 or not jobs:
        for name, job in track(jobs.items(), **bar):
            keep(name, lambda job=job: function(*job))
        return results, errors
    processes = min(processes or os.cpu_count() or 1, len(jobs))
    pool = ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), initializer=_follow_parent)
    try:
        with ending.shield():  # the processes start with the first jobs
            running = {pool.submit(function, *job): name for name, job in jobs.items()}
        for future in track(as_completed(running), **bar):
            keep(running[future], future.result)
    except BrokenProcessPool as error:
        raise DataError(
            f"{title}: a process ended unexpectedly, most often because memory ran out; start again with fewer "
            "(--processes), it goes on where it stopped"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)
    return results, errors


def _follow_parent() -> None:
    """A process whose parent was killed must not go on to write what the next run writes."""

    def wait() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def keep_settings(path: Path, settings: Mapping) -> None:
    """Writes down how the files beside `path` are made; DataError if those that are there were made in another way."""
    settings = json.loads(json.dumps(settings))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            write_whole(path, json.dumps(settings, indent=1) + "\n")
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be used ({error})") from error
    if found != settings:
        names = sorted(name for name in found.keys() | settings.keys() if found.get(name) != settings.get(name))
        differences = "; ".join(f"{name} was {found.get(name)!r}, is {settings.get(name)!r}" for name in names)
        raise DataError(f"{path.parent}: was begun with other settings ({differences:.300}); give another folder")
