"""Which video file an annotation means by a name: "camA/clip1.mp4", "C:\\films\\a.MTS", "file:///x/a%20b.mp4", "clip1".

A name finds the files that are called so, whatever their extension; Unicode forms do not count, and case does not where
one file is left. Folders in names are kept apart:

    camA/clip1            a folder camA, inside the folder of videos or being it
    /home/anna/x/clip1    a path of another machine: the folders that it shares with the files decide, if any name
                          shares some; otherwise the file's name alone, where only one path ends in it
    clip1                 the file of that name, at the top before those in subfolders

An action never goes to a video that it was not made on: what two files could be, or two names, is an error.
"""

import itertools
import math
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote

from tadjax.errors import DataError
from tadjax.video.extensions import without_extension


@dataclass(frozen=True)
class Matched:
    """What `Finder.match` found."""

    files: dict[str, str]  # of a name, the relative name of its file without extension, as on disk
    missing: list[str]  # names that have no file
    namesakes: list[str]  # names whose last part is a file's, which is another's: of another folder, case, extension
    by_last_part: list[str] = field(default_factory=list)  # names of `files` whose folders are not the files'


def clean_name(name: str) -> str:
    """A name as annotation files spell it -> folders and file name with "/" between; "/" in front of a whole path."""
    name = name.strip()
    address = re.match(r"(?i)file:(?://[^/\\]*)?(?=[/\\])", name)
    if address:
        name = unquote(name[address.end() :])
    elif re.match(r"(?i)[a-z][a-z0-9+.-]+://", name):
        name = "/" + unquote(re.split(r"[?#]", name.partition("://")[2])[0])
    drive = re.match(r"[/\\]?[a-zA-Z]:(?=[/\\])|\\\\", name)
    whole = bool(drive) or name[:1] in ("/", "\\")
    parts = [part for part in re.split(r"[/\\]", name[drive.end() :] if drive else name) if part not in ("", ".")]
    while ".." in parts:  # from the annotation file's folder, which says nothing about the videos'
        parts, whole = parts[parts.index("..") + 1 :], True
    return ("/" if whole else "") + "/".join(parts)


class Finder:
    """The files of a folder of videos, found by the names that annotations give them."""

    def __init__(self, files: Mapping[str, Path], root: Path, ignore_folders: bool = False):
        """files: of relative name with extension, "camA/clip1.mp4". root: their folder. ignore_folders: folders in
        names count for nothing."""
        self.files, self.root, self.ignore_folders = files, root, ignore_folders
        self.roots = [_parts(path.as_posix()) for path in dict.fromkeys((root.absolute(), root.resolve()))]
        self.exact: dict[str, list[str]] = {}
        self.folded: dict[str, list[str]] = {}
        for file in files:
            self.exact.setdefault(_last(file), []).append(file)
            self.folded.setdefault(_last(file).casefold(), []).append(file)

    def match(self, names: Iterable[str]) -> Matched:
        """The file of every cleaned name.

        Raises DataError, naming all, where a name could be several files, or names that differ are one file's.
        """
        names = list(dict.fromkeys(names))
        found = {name: self.candidates(name) for name in names}
        anchored = any(name.startswith("/") and "/" in name[1:] and found[name] for name in names)
        paths: dict[str, set[str]] = {}
        for name in names:
            paths.setdefault(_last(name).casefold(), set()).add(_path(name))
        namesakes, flattened = set(), []
        for name in names:
            if found[name] or not (others := self.of_last_part(name)):
                continue
            if name.startswith("/") and not anchored and len(paths[_last(name).casefold()]) == 1:
                found[name] = others
                flattened.append(name)
            else:
                namesakes.add(name)
        claims: dict[str, list[str]] = {}
        for name, candidates in found.items():
            if len(candidates) > 1:
                raise DataError(
                    f"{self.root}: the annotated video {name.lstrip('/')!r} could be {_listed(candidates)}; "
                    "write the folder and extension of the right one in the annotations, or keep one of the files"
                )
            for file in candidates:
                claims.setdefault(file, []).append(name)
        for file, claimants in claims.items():
            kept = self._owners(file, claimants)
            if not kept:
                raise DataError(
                    f"{self.root}: {_listed([name.lstrip('/') for name in claimants])} of the annotations differ, "
                    f"but {file!r} is their only file; give each its own, with its folder or extension"
                )
            for name in set(claimants) - set(kept):
                found[name] = []
                namesakes.add(name)
        return Matched(
            {name: without_extension(candidates[0]) for name, candidates in found.items() if candidates},
            [name for name in names if not found[name] and name not in namesakes],
            [name for name in names if name in namesakes],
            [name for name in flattened if found[name]],
        )

    def single_files(self, stems: Iterable[str]) -> dict[str, Path]:
        """The files of names without extension; DataError where two of one folder have one: training takes either."""
        wanted: dict[str, list[str]] = {stem: [] for stem in stems}
        for file in self.files:
            wanted.get(without_extension(file), []).append(file)
        for files in wanted.values():
            if len(files) > 1:
                raise DataError(f"{self.root}: {_listed(files)} have the same name; move one of them away")
        return {stem: self.files[file] for stem, (file,) in wanted.items()}

    def closeness(self, name: str) -> int:
        """2 where a file fits the name with its folders, 1 where one has its last part, else 0."""
        return 2 if self.candidates(name) else int(bool(self.of_last_part(name)))

    def of_last_part(self, name: str) -> list[str]:
        """Files called as the last part of a name; as it would be without its URL coding where there are none."""
        forms = dict.fromkeys((_last(name), _last(unquote(name))))
        exact = (self.exact.get(form) for form in forms)
        folded = (self.folded.get(form.casefold()) for form in forms)
        return next(filter(None, (*exact, *folded)), [])

    def candidates(self, name: str) -> list[str]:
        """Files that the name means, the folders in it being theirs: one, or several that it cannot tell apart."""
        fits = {file: self._shared(name, file) for file in self.of_last_part(name)}
        fitting = [file for file in fits if fits[file] == max(fits.values()) > 0]
        wanted = _path(name).lstrip("/")
        for closest in (  # each leaves fewer, if any: that place, that extension, that place in upper and lower case
            lambda file: _parts(file) == _parts(wanted),
            lambda file: _extension(file) == _extension(name),
            lambda file: _path(file) == wanted,
        ):
            fitting = [file for file in fitting if closest(file)] or fitting
        return fitting

    def _owners(self, file: str, names: Sequence[str]) -> list[str]:
        """Those of the names of one file that are its own; none where they differ and none is more so than others."""
        shared = {name: self._shared(name, file) for name in names}
        best = [name for name in names if shared[name] == max(shared.values())]
        identity = _last if shared[best[0]] == math.inf else _path
        for kept in (best, [n for n in best if _last(n) == _last(file) and _extension(n) in ("", _extension(file))]):
            if len({identity(unquote(n)) for n in kept}) == 1 and len({_extension(n) for n in kept} - {""}) <= 1:
                return kept
        return []

    def _shared(self, name: str, file: str) -> float:
        """How many folders of a whole path are the file's, 0 if too few; infinite where all folders of a name are."""
        if self.ignore_folders:
            return math.inf
        return max(
            _shared(name, _parts(folders)[:-1], file, root) for folders in (name, unquote(name)) for root in self.roots
        )


def _shared(name: str, folders: list[str], file: str, root: list[str]) -> float:
    inside = _parts(file)[:-1]
    shared = sum(
        1
        for _ in itertools.takewhile(
            lambda pair: pair[0] == pair[1], zip(folders[::-1], (root + inside)[::-1], strict=False)
        )
    )
    if shared == len(folders) and (folders or not name.startswith("/") or not inside):
        return math.inf
    return shared if name.startswith("/") and shared >= max(1, len(inside)) else 0


def _parts(name: str) -> list[str]:
    """Folders and last part, without extension, as they are compared where case does not count."""
    return [part.casefold() for part in _path(name).split("/") if part]


def _path(name: str) -> str:
    return unicodedata.normalize("NFC", without_extension(name))


def _last(name: str) -> str:
    return _path(name).rpartition("/")[2]


def _extension(name: str) -> str:
    return name[len(without_extension(name)) :].lower()


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(map(repr, names[:4]))
    return f"{shown} and {len(names) - 4} more" if len(names) > 4 else shown
