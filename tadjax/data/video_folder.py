"""A folder of video files: which there are, and what each one is."""

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rich.console import Console
from rich.progress import track

from tadjax.data.records import EXTENSIONS
from tadjax.data.video import VideoInfo, probe
from tadjax.errors import DataError


def videos_in(folder: Path) -> list[Path]:
    """Video files of a folder, by name; DataError if it cannot be read.

    Hidden files are none: a Mac leaves a "._NAME" beside every file that it copies to another disk.
    """
    try:
        files = sorted(path for path in folder.iterdir() if path.suffix.lower() in EXTENSIONS)
    except OSError as error:
        raise DataError(f"{folder}: the folder of videos cannot be read ({error.strerror})") from error
    return [path for path in files if path.is_file() and not path.name.startswith(".")]


def video_files(folder: Path) -> dict[str, Path]:
    """Video files of a folder by name without extension; DataError where there is no folder, no such file, or two of a
    name, since annotations could mean either."""
    found: dict[str, Path] = {}
    for path in videos_in(folder):
        other = found.setdefault(path.stem, path)
        if other != path:
            raise DataError(f"{folder}: {other.name} and {path.name} have the same name; move one of them away")
    if not found:
        raise DataError(f"{folder}: holds no video file ({', '.join(EXTENSIONS)})")
    return found


def probe_all(files: Mapping[str, Path]) -> dict[str, VideoInfo | DataError]:
    """What is known of every file, by name; for a file that cannot be read, the error."""

    def probed(path: Path) -> VideoInfo | DataError:
        try:
            return probe(path)
        except DataError as error:
            return error

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = track(
            pool.map(probed, files.values()),
            "reading videos",
            len(files),
            console=Console(stderr=True),
            disable=not Console(stderr=True).is_terminal,
            transient=True,
        )
        return dict(zip(files, results, strict=True))
