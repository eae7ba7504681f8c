"""A data set of your own videos: annotations held against the files, subsets to train and evaluate on, a config."""

import json
from collections.abc import Sequence
from pathlib import Path

from tadjax.data.annotations import Annotations, derive_classes, parse_database
from tadjax.data.recipe import advise, describe, rates, usual_rate
from tadjax.errors import DataError
from tadjax.prepare import held_out
from tadjax.prepare.agreement import SECONDS_OFF, Findings, compare
from tadjax.prepare.annotated import Annotated, read_annotated
from tadjax.prepare.formats import Reading
from tadjax.prepare.kept_files import write_unless_edited
from tadjax.prepare.own_config import config_text, train_command
from tadjax.prepare.reencode import SETTINGS
from tadjax.video.extensions import without_extension
from tadjax.video.folder import all_videos, passed_over, probe_all, some_of
from tadjax.video.frames import VideoInfo


def prepare_custom(
    videos: Path,
    source: Path,
    output: Path,
    backbone: str = "",
    reading: Reading = Reading(),  # noqa: B008  (frozen)
    ignore_folders: bool = False,
    reencoded: Path | None = None,
) -> int:
    """Makes a data set of a folder of videos and annotations of any known format, and a config for it.

    backbone: a size such as "vitb", a folder of converted weights, or "" for what suits the device. reencoded: the
    folder of the re-encoded videos to train on; names are still those of the originals. Returns the exit status.
    """
    files, others = all_videos(videos, SETTINGS)
    found = read_annotated(source, videos, files, reading, ignore_folders)
    if reencoded is not None:
        found.files = {name: reencoded / f"{name}.mp4" for name in found.files}
        videos = reencoded
    infos, problems = _readable(found)
    if not infos:
        raise DataError("none of the annotated videos can be used:\n" + "\n".join(problems.report()))
    database, remarks = _database(found, infos, problems, str(source), same_frames=reencoded is None)
    classes = derive_classes(database, str(source))
    annotations = parse_database(database, _subsets(database), classes, str(source))
    train, evaluation, passed = _split(annotations)
    for line in annotations.summary():
        problems.add("kinds of annotations out of order", line)
    for file in files:
        if without_extension(file) not in found.entries:
            problems.add("video files without annotations: not used", str(files[file]))

    fps = [info.fps for info in infos.values()]
    subsets = {subset: [v for v in annotations.videos if v.subset == subset] for subset in (train, evaluation)}
    texts = {
        "annotations.json": json.dumps({"database": database}, indent=1) + "\n",
        "classes.txt": "\n".join(classes) + "\n",
        "config.py": config_text(output, videos, subsets, classes, list(infos.values()), usual_rate(fps), backbone),
    }
    kept = write_unless_edited(output, texts)
    trained = {int(label) for video in subsets[train] for label in video.labels}
    if untrained := [repr(name) for label, name in enumerate(classes) if label not in trained]:
        passed.append(f"classes without an instance to train on: {some_of(untrained)}")
    for subset, of_subset in subsets.items():
        print("\n    ".join([f"{subset}:", *describe(of_subset, classes)]))
    remarks = [*advise(annotations.videos, usual_rate(fps)), *rates(fps), *found.remarks, *remarks, *passed]
    print("\n".join(filter(None, [*remarks, *_alike(classes), passed_over(videos, others)])))
    print("\n".join(problems.report()) or "annotations and videos agree")
    if train == evaluation:
        print(f"there is no other subset with instances than {train!r}: mAP will be that of the videos trained on")
    for line in [*held_out.worth(subsets[evaluation], classes), *kept.values()]:
        print(line)
    written = [str(output / name) for name in texts if name not in kept]
    print((f"written: {', '.join(written)}; " if written else "") + "train with\n")
    print("    " + train_command(output / "config.py", output))
    return 1 if problems.problems else 0


def _readable(found: Annotated) -> tuple[dict[str, VideoInfo], Findings]:
    findings = Findings()
    for kind, line in found.problems:
        findings.add(kind, line)
    for name, result in probe_all(found.files).items():
        if isinstance(result, DataError):
            findings.add("files that cannot be read: left out", str(result))
        else:
            findings.infos[name] = result
    return findings.infos, findings


def _database(
    found: Annotated, infos: dict[str, VideoInfo], problems: Findings, source: str, *, same_frames: bool
) -> tuple[dict, list[str]]:
    """Entries of the readable videos, each in a subset and with what its file says of itself; and remarks."""
    if not found.whole:
        _refuse_frames(found, infos)
    given = {name: {"duration": info.duration, **found.entries[name]} for name, info in infos.items()}
    named = [name for name, entry in given.items() if "subset" in entry]
    for name in given if named else ():
        given[name].setdefault("subset", held_out.by_name(name))
    for entry in () if named else given.values():
        entry["subset"] = "training"
    disagreeing = 0
    annotated = parse_database(given, _subsets(given), file=source)
    for video in annotated.videos:
        agrees = compare(problems, found.files[video.name], video, infos[video.name], same_frames=same_frames)
        disagreeing += not agrees
    database = {}
    for name, entry in given.items():
        info = infos[name]
        own = {"duration": info.duration, "frame": info.frames}  # the pictures', which the annotations' may not be
        database[name] = {"first_picture": info.start, **entry, **own}
        database[name].pop("fps", None)
    if not named:
        annotated = parse_database(database, "training", annotated.classes, source)  # without what lies outside
        held = held_out.draw({video.name: set(video.labels.tolist()) for video in annotated.videos})
        for name in held:
            database[name]["subset"] = "validation"
    remark = (
        "taken to be true where annotations and files disagree: the seconds of the annotated segments, on a player's "
        "clock; duration, number of frames and frame rate of the files' pictures"
    )
    return database, [remark] if disagreeing else []


def _refuse_frames(found: Annotated, infos: dict[str, VideoInfo]) -> None:
    """DataError where times can be no seconds but may be frames: whole numbers beyond videos' ends, none beyond their
    frames."""
    beyond = None
    for name, info in infos.items():
        for annotation, place in zip(found.entries[name]["annotations"], found.places[name], strict=True):
            start, end = annotation["segment"]
            if start % 1 or end % 1 or end > info.frames + 1:
                return
            if beyond is None and end > info.duration + SECONDS_OFF:
                beyond = (
                    f"{place}: {start:g} to {end:g} of a video that lasts {info.duration:.2f} s ({info.frames} frames)"
                )
    if beyond is not None:
        raise DataError(f"{beyond} are frame numbers, it seems; give seconds: frame / frame rate")


def _subsets(database: dict) -> tuple[str, ...]:
    """In the order of the file. What is no name of one is refused where entries are checked."""
    return tuple(dict.fromkeys(entry["subset"] for entry in database.values() if isinstance(entry["subset"], str)))


def _split(annotations: Annotations) -> tuple[str, str, list[str]]:
    """The subsets to train and to evaluate on, both with instances, one and the same where there is no other; and a
    line about those without any."""
    instances = dict.fromkeys((video.subset for video in annotations.videos), 0)
    for video in annotations.videos:
        instances[video.subset] += len(video.labels)
    subsets = [subset for subset, count in instances.items() if count]
    if not subsets:
        raise DataError("no annotated segment lies inside its video; are its times in seconds?")
    train = next((s for s in subsets if s.lower().startswith("train")), subsets[0])
    others = [s for s in subsets if s != train]
    evaluation = next((s for s in others if s.lower().startswith("val")), (others or [train])[0])
    empty = [repr(subset) for subset, count in instances.items() if not count]
    lines = [f"subsets without a single instance, neither trained nor evaluated on: {some_of(empty)}"] if empty else []
    return train, evaluation, lines


def _alike(classes: Sequence[str]) -> list[str]:
    """A line where classes differ in upper and lower case alone: they may be one, written in two ways."""
    forms: dict[str, list[str]] = {}
    for name in classes:
        forms.setdefault(name.casefold(), []).append(name)
    told = [" and ".join(map(repr, names)) for names in forms.values() if len(names) > 1]
    return [f"classes that differ in upper and lower case alone: {some_of(told)}"] if told else []
