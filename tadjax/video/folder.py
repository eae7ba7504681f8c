"""A folder of video files: which there are, what each one is, and where those of a data set are."""

import os
import unicodedata
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePath

from rich.console import Console
from rich.progress import track

from tadjax.data.annotations import Video
from tadjax.errors import DataError
from tadjax.video.extensions import EXTENSIONS, SOME, without_extension
from tadjax.video.frames import VideoInfo, probe

NAMED = 3  # examples that a message about many videos gives


def videos_in(folder: Path) -> list[Path]:
    """Video files of a folder, by name; DataError if it cannot be read."""
    return look_into(folder)[0]


def look_into(folder: Path) -> tuple[list[Path], list[str]]:
    """Video files of a folder, by name, and the names of what else it holds; DataError if it cannot be read.

    Hidden files are neither: a Mac leaves a "._NAME" beside every file that it copies to another disk.
    """
    try:
        entries = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise DataError(f"{folder}: the folder of videos cannot be read ({error.strerror})") from error
    videos = [path for path in entries if path.suffix.lower() in EXTENSIONS and path.is_file()]
    others = [f"{path.name}/" if path.is_dir() else path.name for path in entries if path not in set(videos)]
    return videos, others


def passed_over(folder: Path, others: Sequence[str]) -> str:
    """A line about what of a folder was passed over; empty for nothing."""
    if not others:
        return ""
    return f"{folder}: {len(others)} files and folders passed over that are no video files: {some_of(others)}"


def video_files(folder: Path) -> dict[str, Path]:
    """Video files of a folder by name without extension; DataError where there is no folder, no such file, or two of a
    name, since annotations could mean either."""
    found: dict[str, Path] = {}
    for path in videos_in(folder):
        other = found.setdefault(path.stem, path)
        if other != path:
            raise DataError(f"{folder}: {other.name} and {path.name} have the same name; move one of them away")
    if not found:
        raise DataError(f"{folder}: holds no video file ({SOME})")
    return found


def all_videos(folder: Path, without: str = "") -> tuple[dict[str, Path], list[str]]:
    """Video files of a folder and its subfolders, and the names of other files, both by relative name ("camA/a.mp4").

    without: a file that marks folders inside it that do not count. DataError for no folder, or one without a video.
    """
    videos, others = {}, []

    def refuse(error: OSError) -> None:
        raise DataError(f"{folder}: the folder of videos cannot be read ({error.strerror})") from error

    for parent, folders, files in os.walk(folder, onerror=refuse):
        if without in files and Path(parent) != folder:
            folders.clear()
            continue
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for path in (Path(parent, name) for name in sorted(files) if not name.startswith(".")):
            if path.suffix.lower() in EXTENSIONS:
                videos[path.relative_to(folder).as_posix()] = path
            else:
                others.append(path.relative_to(folder).as_posix())
    if not videos:
        raise DataError(f"{folder}: holds no video file ({SOME})")
    return videos, others


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

    A name may hold subfolders; the prefix stands before its last part. Where no file is called exactly so, another
    Unicode form of the name counts, the name with its extension, and upper or lower case where that leaves one file.

    Raises:
      DataError: no such folder, missing files (one message for all), two files of one video, a file of two videos, or
        a name outside folder.
    """
    root = Path(folder)
    if not os.fspath(folder) or not root.is_dir():
        raise DataError(
            f"{os.fspath(folder)!r}: no such folder of videos; set config.data.videos to the folder that holds them"
        )
    listed: dict[Path, _Folder] = {}
    found, missing = [], []
    owner: dict[Path, str] = {}
    for video in videos:
        name = PurePath(video.name)
        if name.is_absolute() or ".." in name.parts or PurePath(prefix).name != prefix:
            raise DataError(f"video {video.name!r} with prefix {prefix!r}: the file would lie outside {root}")
        parent = root / name.parent
        if parent not in listed:
            listed[parent] = _Folder(parent)
        files = listed[parent].called(prefix + name.name)
        if len(files) > 1:
            raise DataError(f"{parent}: video {video.name!r} has {len(files)} files, {', '.join(files)}; keep one")
        if not files:
            missing.append(video.name)
            continue
        found.append(parent / files[0])
        other = owner.setdefault(found[-1], video.name)
        if other != video.name:
            raise DataError(f"{found[-1]}: is the only file for two videos, {other!r} and {video.name!r}")
    if missing:
        others = next((stem for files in listed.values() for stem in files.stems), None)
        there = f"the folder holds files such as {others!r}" if others else "the folder holds no video file"
        raise DataError(
            f"{root}: {len(missing)} of {len(videos)} videos are missing: {some_of(missing)}; "
            f"put each there as {prefix}NAME with an extension of videos ({SOME}), "
            f"or set config.data.videos and config.data.prefix ({there})"
        )
    return found


class _Folder:
    """The video files of one folder by their names without extension."""

    def __init__(self, folder: Path):
        self.stems: dict[str, list[str]] = {}
        for name in sorted(os.listdir(folder)) if folder.is_dir() else ():
            stem, extension = os.path.splitext(name)
            if extension.lower() in EXTENSIONS:
                self.stems.setdefault(stem, []).append(name)
        self.forms: dict[str, list[str]] = {}
        for stem, names in self.stems.items():
            for form in {_form(stem), _form(stem).casefold()}:
                self.forms.setdefault(form, []).extend(names)

    def called(self, name: str) -> list[str]:
        """Files of the closest spelling of a name that there are."""
        if name in self.stems:
            return self.stems[name]
        bare = without_extension(name)
        named = [file for file in self.stems.get(bare, ()) if bare != name and file == name]
        forms = (_form(name), _form(bare), _form(name).casefold(), _form(bare).casefold())
        return named or next((self.forms[form] for form in forms if form in self.forms), [])


def _form(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def some_of(names: Sequence[str]) -> str:
    """The first few of many."""
    more = len(names) - NAMED
    return "; ".join(names[:NAMED]) + (f"; and {more} more" if more > 0 else "")
