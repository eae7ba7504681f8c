"""A folder of video files: which there are, what each one is, and where those of a data set are."""

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePath

from rich.console import Console
from rich.progress import track

from tadjax.data.annotations import Video
from tadjax.data.video import VideoInfo, probe
from tadjax.errors import DataError

EXTENSIONS = (".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v")
NAMED = 3  # examples that a message about many videos gives


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


def find_videos(videos: Sequence[Video], folder: str | os.PathLike[str], prefix: str = "") -> list[Path]:
    """The file of every video, in order: FOLDER/PREFIX + name + one of EXTENSIONS, in upper or lower case.

    A name may hold subfolders; the prefix stands before its last part.

    Raises:
      DataError: no such folder, missing files (one message for all), two files of one video, or a name outside folder.
    """
    root = Path(folder)
    if not os.fspath(folder) or not root.is_dir():
        raise DataError(
            f"{os.fspath(folder)!r}: no such folder of videos; set config.data.videos to the folder that holds them"
        )
    listed: dict[Path, dict[str, list[str]]] = {}
    found, missing = [], []
    for video in videos:
        name = PurePath(video.name)
        if name.is_absolute() or ".." in name.parts or PurePath(prefix).name != prefix:
            raise DataError(f"video {video.name!r} with prefix {prefix!r}: the file would lie outside {root}")
        parent = root / name.parent
        if parent not in listed:
            listed[parent] = _files_by_stem(parent)
        files = listed[parent].get(prefix + name.name, [])
        if len(files) > 1:
            raise DataError(f"{parent}: video {video.name!r} has {len(files)} files, {', '.join(files)}; keep one")
        if files:
            found.append(parent / files[0])
        else:
            missing.append(video.name)
    if missing:
        others = next((stem for stems in listed.values() for stem in sorted(stems)), None)
        there = f"the folder holds files such as {others!r}" if others else "the folder holds no video file"
        raise DataError(
            f"{root}: {len(missing)} of {len(videos)} videos are missing: {some_of(missing)}; "
            f"put each there as {prefix}NAME with one of {', '.join(EXTENSIONS)}, "
            f"or set config.data.videos and config.data.prefix ({there})"
        )
    return found


def _files_by_stem(folder: Path) -> dict[str, list[str]]:
    files: dict[str, list[str]] = {}
    for name in sorted(os.listdir(folder)) if folder.is_dir() else ():
        stem, extension = os.path.splitext(name)
        if extension.lower() in EXTENSIONS:
            files.setdefault(stem, []).append(name)
    return files


def some_of(names: Sequence[str]) -> str:
    """The first few of many."""
    more = len(names) - NAMED
    return "; ".join(names[:NAMED]) + (f"; and {more} more" if more > 0 else "")
