"""Checks a data set before training, and makes one of your own videos.

python -m tadjax.prepare thumos --root data/thumos14
python -m tadjax.prepare thumos --source DIR                       # from the publisher's own annotation files
python -m tadjax.prepare thumos --reencode data/thumos14/videos_256
python -m tadjax.prepare custom --videos DIR --annotations FILE    # CSV, ELAN, VIA or ActivityNet JSON

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
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from tadjax.data.annotations import derive_classes, load_annotations, read_database
from tadjax.data.recipe import advise, describe, rates, usual_rate
from tadjax.errors import DataError
from tadjax.files import write_whole
from tadjax.flags import Parser, tidy
from tadjax.prepare.agreement import check_videos
from tadjax.prepare.formats import Reading
from tadjax.prepare.own_config import BACKBONES
from tadjax.prepare.own_data import prepare_custom
from tadjax.prepare.publishers import CONVERTERS, ego4d_clips
from tadjax.prepare.reencode import SETTINGS, Encoding, add_options, encoding_from, reencode_folder
from tadjax.video.extensions import without_extension
from tadjax.video.folder import all_videos, video_files
from tadjax.video.names import Finder


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


def parser() -> Parser:
    parser = Parser("tadjax.prepare", description=__doc__.partition("\n")[0])
    names = parser.add_subparsers(dest="name", required=True, metavar="NAME")
    for name, data in DATASETS.items():
        known = names.add_parser(name, help=f"checks {data.root}")
        known.add_argument("--root", type=Path, default=Path(data.root), help="its folder (default: %(default)s)")
        known.add_argument(
            "--source", type=Path, help="folder of the publisher's own annotation files, to convert first"
        )
    names.choices["ego4d"].add_argument(
        "--full_scale", type=Path, metavar="DIR", help="Ego4D's videos: cut the clips out of them into ROOT/videos"
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
        "--ignore_folders", action="store_true", help="find videos by file names, whatever folders annotations name"
    )
    custom.add_argument("--output", type=Path, default=Path("data/custom"), help="folder to write (%(default)s)")
    custom.add_argument(
        "--backbone",
        default="",
        metavar="SIZE",
        help=f"{', '.join(BACKBONES)}, or a folder of converted weights (default: what suits the device)",
    )
    for each in names.choices.values():
        each.add_argument("--reencode", type=Path, metavar="FOLDER", help="write the videos anew, smaller")
        add_options(each)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    arguments = parser().parse_args(tidy(sys.argv[1:] if argv is None else argv))
    ending.tell(lambda: "videos that are written anew stay, and the same command goes on")
    return ending.run(lambda: run(arguments), any_file=True)


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
            raise DataError("--full_scale needs --source, the folder of Ego4D's moments_train.json, for the clips")
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
