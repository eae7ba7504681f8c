"""Checks a data set before training, and makes one of your own videos.

python -m tadjax.data.prepare thumos --root data/thumos14
python -m tadjax.data.prepare thumos --source DIR                       # from the publisher's own annotation files
python -m tadjax.data.prepare thumos --reencode data/thumos14/videos_256
python -m tadjax.data.prepare custom --videos DIR --annotations FILE    # CSV, ELAN, VIA or ActivityNet JSON

The first compares annotations with videos (missing, extra, unreadable, wrong length, segments out of range), says how
long everything is and which sizes suit it, and writes what is missing: classes.txt, and blocked.txt with the videos
that cannot be used. --reencode writes the annotated videos anew at the size and frame rate of the recipes, and leaves
the originals alone. The last writes annotations.json, classes.txt and a config to train with. Exit status 0: all is
well; 1: some videos or segments are left out, as printed; 2: nothing can be done, with the reason.
"""

from tadjax import ending

if __name__ == "__main__":
    ending.catch_interrupts()  # before the other imports

import argparse
import dataclasses
import hashlib
import json
import shlex
import sys
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from tadjax.data.annotated import Annotated, read_annotated
from tadjax.data.annotations import Annotations, derive_classes, load_annotations, parse_database, read_database
from tadjax.data.extensions import without_extension
from tadjax.data.formats import Reading
from tadjax.data.own_config import train_command, write_config
from tadjax.data.publishers import CONVERTERS, ego4d_clips
from tadjax.data.recipe import advise, describe, rates, usual_rate
from tadjax.data.reencode import SETTINGS, Encoding, add_options, encoding_from, reencode_folder
from tadjax.data.video import VideoInfo
from tadjax.data.video_folder import all_videos, passed_over, probe_all, some_of, video_files
from tadjax.data.video_names import Finder
from tadjax.errors import DataError
from tadjax.files import expand_home, write_whole

NAMED = 5  # examples of each kind of problem
SECONDS_OFF, SHARE_OFF = 1.0, 0.02  # annotated durations are rounded: beyond both, it is another cut of the video
VALIDATION_SHARE = 0.2


@dataclasses.dataclass(frozen=True)
class DataSet:
    """Where a public data set's files lie under its folder, and how they are named."""

    root: str
    subsets: tuple[str, ...]
    annotations: str = "annotations.json"
    classes: str = "classes.txt"
    prefix: str = ""
    fps: float = 0.0  # that the recipe assumes of the files; 0: any


DATASETS = {
    "thumos": DataSet("data/thumos14", ("training", "validation")),
    "multithumos": DataSet("data/multithumos", ("training", "validation")),
    "anet": DataSet("data/anet", ("training", "validation"), prefix="v_"),
    "hacs": DataSet("data/hacs", ("training", "validation"), prefix="v_"),
    "epic_verb": DataSet("data/epic", ("train", "val"), "annotations_verb.json", "classes_verb.txt", fps=30),
    "epic_noun": DataSet("data/epic", ("train", "val"), "annotations_noun.json", "classes_noun.txt", fps=30),
    "ego4d": DataSet("data/ego4d", ("train", "val")),
    "charades": DataSet("data/charades", ("training", "testing"), fps=30),
}


@dataclasses.dataclass
class Findings:
    """Problems by kind, each a list of lines; and what is known of the readable files."""

    problems: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    infos: dict[str, VideoInfo] = dataclasses.field(default_factory=dict)
    blocked: list[str] = dataclasses.field(default_factory=list)  # annotated videos that cannot be used

    def add(self, kind: str, line: str) -> None:
        self.problems.setdefault(kind, []).append(line)

    def report(self) -> list[str]:
        lines = []
        for kind, found in self.problems.items():
            lines.append(f"{len(found)} x {kind}")
            lines += [f"    {line}" for line in found[:NAMED]]
            lines += [f"    ... and {len(found) - NAMED} more"] if len(found) > NAMED else []
        return lines


def check_videos(annotations: Annotations, folder: Path, prefix: str = "", fps: float = 0.0) -> Findings:
    """Compares annotated videos with the files of a folder, each of which is demuxed once."""
    findings = Findings()
    files = video_files(folder)
    wanted = {prefix + video.name: video for video in annotations.videos}
    for stem in sorted(set(files) - set(wanted)):
        findings.add("video files without annotations: not used", str(files[stem]))
    for name, video in wanted.items():
        if name not in files:
            findings.add("annotated videos without a file", video.name)
            findings.blocked.append(video.name)
    there = {name: files[name] for name in wanted if name in files}
    for name, result in probe_all(there).items():
        video = wanted[name]
        if isinstance(result, DataError):
            findings.add("files that cannot be read", str(result))
            findings.blocked.append(video.name)
            continue
        findings.infos[video.name] = result
        off = abs(result.duration - video.duration)
        if off > max(SECONDS_OFF, SHARE_OFF * video.duration):
            line = f"{there[name]}: lasts {result.duration:.2f} s, annotated are {video.duration:.2f} s"
            findings.add("durations that disagree: the file is cut differently from the annotated one", line)
        elif video.frames and abs(result.frames - video.frames) > max(2, SHARE_OFF * video.frames):
            line = f"{there[name]}: holds {result.frames} frames, annotated are {video.frames}"
            findings.add("frame counts that disagree: a file of another rate counts its own frames", line)
        if fps and abs(result.fps - fps) > 0.1:
            findings.add(f"files that are not at {fps:g} frames a second", f"{there[name]}: {result.fps:.3f}")
    for line in annotations.summary():
        findings.add("kinds of annotations out of order", line)
    return findings


def convert(name: str, source: Path, root: Path) -> None:
    """Writes a public data set's annotations and class list from its publisher's files in `source`."""
    data = DATASETS[name]
    database, classes = CONVERTERS[name](source, root / "videos")
    for path in (root / data.annotations, root / data.classes):
        if path.exists():
            raise DataError(f"{path} exists: remove it, or leave out --source to check it")
    root.mkdir(parents=True, exist_ok=True)
    write_whole(root / data.annotations, json.dumps({"database": database}) + "\n")
    write_whole(root / data.classes, "\n".join(classes) + "\n")
    print(
        f"wrote {root / data.annotations} ({len(database)} videos) and {root / data.classes} ({len(classes)} classes)"
    )


def cut_clips(source: Path, full_scale: Path, folder: Path, encoding: Encoding, processes: int | None) -> int:
    """Cuts the clips of Ego4D's moment queries out of its full-scale videos; returns the exit status."""
    files, clips = video_files(full_scale), ego4d_clips(source)
    missing = sorted({video for video, _, _ in clips.values()} - set(files))
    if missing:
        print(f"{len(missing)} videos of {len(clips)} clips are not in {full_scale} (first: {missing[0]}): left out")
    parts = {clip: (files[video], start, end) for clip, (video, start, end) in clips.items() if video in files}
    errors = reencode_folder(parts, folder, encoding, processes)
    for error in errors.values():
        print(f"error: {error}", file=sys.stderr)
    return 1 if errors or missing else 0


def prepare(name: str, root: Path) -> tuple[int, list[str]]:
    """Checks a public data set, prints what was found, writes classes.txt (if missing) and blocked.txt.

    Returns the exit status, and the names of the files of the videos that can be used.
    """
    data = DATASETS[name]
    database = read_database(root / data.annotations)
    classes = root / data.classes
    if not classes.exists():
        write_whole(classes, "\n".join(derive_classes(database, str(root / data.annotations))) + "\n")
        print(f"wrote {classes}, sorted; published checkpoints count labels by the data set's own list of classes")
    annotations = load_annotations(root / data.annotations, data.subsets, classes)
    findings = check_videos(annotations, root / "videos", data.prefix, data.fps)
    for subset in data.subsets:
        videos = [video for video in annotations.videos if video.subset == subset]
        print("\n    ".join([f"{subset}:", *describe(videos, annotations.classes)]))
    fps = [info.fps for info in findings.infos.values()]
    print("\n".join(advise(annotations.videos, data.fps or usual_rate(fps)) + ([] if data.fps else rates(fps))))
    print("\n".join(findings.report()) or "annotations and videos agree")
    write_whole(root / "blocked.txt", "".join(f"{video}\n" for video in findings.blocked))
    if findings.blocked:
        print(
            f"wrote {root / 'blocked.txt'}: with config.data.blocked set to it, training and evaluation go without "
            f"these {len(findings.blocked)} videos; mAP then is not that of the published evaluation"
        )
    return (1 if findings.problems else 0), [data.prefix + video for video in findings.infos]


def reencode_videos(wanted: dict[str, Path], folder: Path, encoding: Encoding, processes: int | None) -> int:
    """Re-encodes videos, by name, into a folder; returns the exit status."""
    errors = reencode_folder(wanted, folder, encoding, processes)
    for error in errors.values():
        print(f"error: {error}", file=sys.stderr)
    flag = shlex.quote(f"--config.data.videos={folder}")
    print(f"{len(wanted) - len(errors)} re-encoded videos are in {folder}: train with {flag}")
    return 1 if errors else 0


def prepare_custom(
    videos: Path,
    source: Path,
    output: Path,
    backbone: str,
    reading: Reading = Reading(),  # noqa: B008  (frozen)
    ignore_folders: bool = False,
    reencoded: Path | None = None,
) -> int:
    """Makes a data set of a folder of videos and annotations of any known format, and a config for it.

    reencoded: the folder of the re-encoded videos to train on; names are still those of the originals.
    """
    files, others = all_videos(videos, SETTINGS)
    found = read_annotated(source, videos, files, reading, ignore_folders)
    if reencoded is not None:
        found.files = {name: reencoded / f"{name}.mp4" for name in found.files}
        videos = reencoded
    infos, problems = _readable(found)
    if found.whole:
        database = {
            name: {"subset": _subset(name), **_clock(info), **found.entries[name]} for name, info in infos.items()
        }
    else:
        database = _database(found, infos)
    if not database:
        raise DataError("none of the annotated videos can be used:\n" + "\n".join(problems.report()))
    train, evaluation = _split(database)
    classes = derive_classes(database, str(source))
    annotations = parse_database(database, tuple(dict.fromkeys((train, evaluation))), classes, str(source))
    for line in annotations.summary():
        problems.add("kinds of annotations out of order", line)
    for file in files:
        if without_extension(file) not in found.entries:
            problems.add("video files without annotations: not used", str(files[file]))

    output.mkdir(parents=True, exist_ok=True)
    write_whole(output / "annotations.json", json.dumps({"database": database}, indent=1) + "\n")
    write_whole(output / "classes.txt", "\n".join(classes) + "\n")
    fps = usual_rate([info.fps for info in infos.values()])
    config = write_config(output, videos, annotations, (train, evaluation), list(infos.values()), fps, backbone)
    for subset in dict.fromkeys((train, evaluation)):
        of_subset = [video for video in annotations.videos if video.subset == subset]
        print("\n    ".join([f"{subset}:", *describe(of_subset, classes)]))
    remarks = advise(annotations.videos, fps) + rates([info.fps for info in infos.values()])
    print("\n".join(filter(None, [*remarks, *found.remarks, *alike(classes), passed_over(videos, others)])))
    print("\n".join(problems.report()) or "annotations and videos agree")
    if train == evaluation:
        print(f"there is no subset but {train!r}: mAP will be that of the videos that were trained on")
    print(f"wrote {output / 'annotations.json'}, {output / 'classes.txt'}, {config}; train with\n")
    print("    " + train_command(config, output))
    return 1 if problems.problems else 0


def alike(classes: Sequence[str]) -> list[str]:
    """A line where classes differ in upper and lower case alone: they may be one, written in two ways."""
    forms: dict[str, list[str]] = {}
    for name in classes:
        forms.setdefault(name.casefold(), []).append(name)
    told = [" and ".join(map(repr, names)) for names in forms.values() if len(names) > 1]
    return [f"classes that differ in upper and lower case alone: {some_of(told)}"] if told else []


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


def _database(found: Annotated, infos: dict[str, VideoInfo]) -> dict:
    _refuse_frames(found, infos)
    database = {
        name: {"subset": "", "duration": info.duration, "frame": info.frames, **_clock(info), **found.entries[name]}
        for name, info in infos.items()
    }
    ordered = sorted(database, key=_draw)  # the same on every machine, and not the order of recording
    held_out = max(1, round(VALIDATION_SHARE * len(ordered))) if len(ordered) > 1 else 0
    for number, name in enumerate(ordered):
        database[name]["subset"] = "validation" if number < held_out else "training"
    return database


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


def _clock(info: VideoInfo) -> dict[str, float]:
    """Of an entry: its seconds are those of a player (timeline.py)."""
    return {"first_picture": info.start}


def _draw(name: str) -> str:
    return hashlib.sha256(unicodedata.normalize("NFC", name).encode("utf-8", "replace")).hexdigest()


def _subset(name: str) -> str:
    """Of a video whose entry names none: one in five is held out, whatever the others are."""
    return "validation" if int(_draw(name), 16) % round(1 / VALIDATION_SHARE) == 0 else "training"


def _split(database: dict) -> tuple[str, str]:
    """The subsets to train and to evaluate on; one and the same where there is no other."""
    subsets = list(dict.fromkeys(entry["subset"] for entry in database.values()))
    train = next((s for s in subsets if s.lower().startswith("train")), subsets[0])
    others = [s for s in subsets if s != train]
    return train, next((s for s in others if s.lower().startswith("val")), (others or [train])[0])


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tadjax.data.prepare", description=__doc__.partition("\n")[0])
    names = parser.add_subparsers(dest="name", required=True, metavar="NAME")
    for name, data in DATASETS.items():
        known = names.add_parser(name, help=f"checks {data.root}")
        known.add_argument("--root", type=Path, default=Path(data.root), help="its folder (default: %(default)s)")
        known.add_argument(
            "--source", type=Path, help="folder of the publisher's own annotation files, to convert first"
        )
    names.choices["ego4d"].add_argument(
        "--full-scale", type=Path, metavar="DIR", help="Ego4D's videos: cut the clips out of them into ROOT/videos"
    )
    custom = names.add_parser("custom", help="makes a data set of your own videos")
    custom.add_argument("--videos", type=Path, required=True, help="folder of video files")
    custom.add_argument("--annotations", type=Path, required=True, help="CSV, .eaf, VIA, JSON; or a folder")
    custom.add_argument(
        "--tier",
        "--attribute",
        dest="tracks",
        action="append",
        default=[],
        metavar="NAME",
        help="ELAN's tier or VIA's attribute that holds the actions, * for any letters; may be repeated",
    )
    custom.add_argument("--encoding", default="", help="of CSV files that are not UTF-8, such as cp1252")
    custom.add_argument(
        "--ignore-folders", action="store_true", help="find videos by file names, whatever folders annotations name"
    )
    custom.add_argument("--output", type=Path, default=Path("data/custom"), help="folder to write (%(default)s)")
    custom.add_argument("--backbone", choices=("vits", "vitb", "vitl", "vith", "vitg"), default="vitb")
    for each in names.choices.values():
        each.add_argument("--reencode", type=Path, metavar="FOLDER", help="write the videos anew, smaller")
        add_options(each)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    arguments = parser().parse_args(expand_home(sys.argv[1:] if argv is None else argv))
    ending.tell(lambda: "videos that are written anew stay, and the same command goes on")
    return ending.run(lambda: run(arguments), writes_only=True)


def run(arguments: argparse.Namespace) -> int:
    """Does what the arguments say; returns the exit status."""
    if arguments.name == "custom":
        status = 0
        if arguments.reencode is not None:
            files = Finder(all_videos(arguments.videos, SETTINGS)[0], arguments.videos)
            wanted = files.single_files(map(without_extension, files.files))
            status = reencode_videos(wanted, arguments.reencode, encoding_from(arguments), arguments.processes)
        reading = Reading(tuple(arguments.tracks), arguments.encoding)
        where = arguments.videos, arguments.annotations, arguments.output, arguments.backbone
        return status | prepare_custom(*where, reading, arguments.ignore_folders, arguments.reencode)
    status, full_scale = 0, getattr(arguments, "full_scale", None)
    if full_scale is not None:
        if arguments.source is None:
            raise DataError("--full-scale needs --source, the folder of Ego4D's moments_train.json, for the clips")
        videos = arguments.root / "videos"
        status = cut_clips(arguments.source, full_scale, videos, encoding_from(arguments), arguments.processes)
    done = full_scale is not None and (arguments.root / DATASETS[arguments.name].annotations).exists()
    if arguments.source is not None and not done:  # cutting takes long, and goes on where it was stopped
        convert(arguments.name, arguments.source, arguments.root)
    found, names = prepare(arguments.name, arguments.root)
    status |= found
    if arguments.reencode is not None:
        encoding = encoding_from(arguments, DATASETS[arguments.name].fps)
        files = video_files(arguments.root / "videos")
        status |= reencode_videos(
            {name: files[name] for name in names}, arguments.reencode, encoding, arguments.processes
        )
    return status


if __name__ == "__main__":
    sys.exit(main())
