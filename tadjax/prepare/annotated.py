"""Annotations of your own videos: read, each name given its file, labels made alike; what does not fit is said."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tadjax.errors import DataError
from tadjax.prepare.formats import Reading, annotation_files, is_activitynet, read_databases, read_instances
from tadjax.prepare.segments import clean_label
from tadjax.video.folder import some_of
from tadjax.video.names import Finder, clean_name

MISSING = "annotated videos without a file: left out"
NAMESAKES = (
    "annotated videos of which only a namesake in another folder, case or kind of file is there: left out "
    "(--ignore_folders goes by the files' names alone)"
)


@dataclasses.dataclass
class Annotated:
    """What annotation files say of the videos of a folder, by relative name without extension, "camA/clip1"."""

    entries: dict[str, dict[str, Any]]  # ActivityNet-style; where `whole`, with all that the files say
    whole: bool  # the files are ActivityNet-style
    files: dict[str, Path]  # of the videos of `entries`
    places: dict[str, list[str]]  # file and line of every annotation
    problems: list[tuple[str, str]]  # kind and line
    remarks: list[str]  # lines about what was passed over, or taken to be so


def read_annotated(
    source: Path, root: Path, files: Mapping[str, Path], reading: Reading, ignore_folders: bool = False
) -> Annotated:
    """The annotations of a file or folder for the videos of a folder.

    files: by relative name with extension, `video_folder.all_videos`. ignore_folders: names are matched without their
    folders. Raises DataError for what cannot be read, and where an annotation could belong to several videos.
    """
    finder, remarks = Finder(files, root, ignore_folders), []
    sources = annotation_files(source)
    kinds = {is_activitynet(path): path for path in sources}
    if len(kinds) > 1:
        raise DataError(f"{source}: {kinds[True]} is ActivityNet-style, {kinds[False]} is not; give files of one kind")
    whole = True in kinds
    if whole:
        annotated = _databases(sources, remarks)
    else:
        reading = dataclasses.replace(reading, closeness=finder.closeness)
        annotated = {}
        for video, start, end, label, where in read_instances(sources, reading, remarks):
            name, entry, places = annotated.setdefault(video, (video, {"annotations": []}, []))
            entry["annotations"].append({"segment": [start, end], "label": label})
            places.append(where)
    matched = finder.match(annotated)
    entries: dict[str, dict[str, Any]] = {}
    places: dict[str, list[str]] = {}
    first: dict[str, str] = {}
    for name, file in matched.files.items():
        given, entry, lines = annotated[name]
        if file not in entries:
            entries[file], places[file], first[file] = entry, lines, given
        elif whole:
            raise DataError(f"{source}: {first[file]!r} and {given!r} are both of the video {file!r}; keep one")
        else:
            entries[file]["annotations"] += entry["annotations"]
            places[file] += lines
    if matched.by_last_part:
        told = [f"{name.lstrip('/')} is {matched.files[name]}" for name in matched.by_last_part]
        remarks.append(
            f"{len(told)} videos found by their files' names alone, their folders being others: {some_of(told)}"
        )
    problems = [(MISSING, name.lstrip("/")) for name in matched.missing]
    problems += [(NAMESAKES, name.lstrip("/")) for name in matched.namesakes]
    return Annotated(entries, whole, finder.single_files(entries), places, problems, remarks)


def _databases(sources: list[Path], remarks: list[str]) -> dict[str, tuple[str, dict[str, Any], list[str]]]:
    """Of each video, by cleaned name: the name as it is written, its entry with clean labels, and places."""
    annotated: dict[str, tuple[str, dict[str, Any], list[str]]] = {}
    cleaned = {}
    for name, entry in read_databases(sources).items():
        where = f"{sources[0] if len(sources) == 1 else sources[0].parent}: video {name!r}"
        if not isinstance(entry, dict):
            raise DataError(f"{where}: is {entry!r:.80}, not an object")
        annotations = entry.get("annotations", [])
        for index, annotation in enumerate(annotations if isinstance(annotations, list) else ()):
            label = annotation.get("label") if isinstance(annotation, dict) else None
            if isinstance(label, str) and label:  # anything else is refused with the rest of the entry's checks
                try:
                    annotation["label"] = clean_label(label)
                except DataError as error:
                    raise DataError(f"{where}, annotation {index}: {error}") from None
                if annotation["label"] != label:
                    cleaned[label] = annotation["label"]
        key = clean_name(name)
        if key in annotated:
            raise DataError(f"{where}: is the same video as {annotated[key][0]!r}; keep one")
        annotated[key] = (name, entry, [])
    if cleaned:
        told = [f"{before!r} is {after!r}" for before, after in cleaned.items()]
        remarks.append(
            f"{len(cleaned)} labels written anew, without spaces around them and line breaks: {some_of(told)}"
        )
    return annotated
