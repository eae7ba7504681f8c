"""Writes a data set that python -m tadjax.prepare has checked as TFDS data sets in ArrayRecord files.

python -m tadjax.prepare.builders thumos --output data/tfds            # annotations and file names; videos stay files
python -m tadjax.prepare.builders thumos --output data/tfds --embed    # and the videos, re-encoded and cut into pieces
python -m tadjax.prepare.builders custom --root data/mine --videos my/videos --output data/tfds --embed

Train on it with --config.data.tfds=data/tfds/thumos. Stopped or killed, it goes on with the same command. Exit status
0: all is written; 1: some videos cannot be packed, as printed, and nothing is finished; 2: nothing can be done.
"""

from tadjax import ending

if __name__ == "__main__":
    ending.catch_interrupts()  # before the other imports

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from tadjax.data.annotations import (
    derive_classes,
    known_names,
    load_annotations,
    read_classes,
    read_database,
    read_names,
)
from tadjax.data.built import read_built
from tadjax.flags import Parser, tidy
from tadjax.prepare.__main__ import DATASETS, DataSet
from tadjax.prepare.builders.catalogue import CATALOGUE, Entry
from tadjax.prepare.builders.write import Cutting, Source, write
from tadjax.prepare.reencode import add_options, encoding_from, encoding_of
from tadjax.video.folder import find_videos, some_of


def read_source(name: str, root: Path, videos: Path) -> Source:
    """A data set from its folder, as `prepare` leaves it. Raises DataError where annotations or videos are missing."""
    data = DATASETS.get(name, DataSet(str(root), ()))
    path = root / data.annotations
    database = read_database(path)
    subsets = data.subsets or tuple(dict.fromkeys(str(entry.get("subset")) for entry in database.values()))
    classes = root / data.classes
    labels = read_classes(classes) if classes.exists() else derive_classes(database, str(path))
    annotations = load_annotations(path, subsets, labels)  # what is wrong with the file is known now
    blocked = root / "blocked.txt"
    names, unknown = known_names(read_names(blocked) if blocked.exists() else (), database)
    if unknown:
        print(f"{blocked}: {len(unknown)} names are of no video of {path}: {some_of(unknown)}", file=sys.stderr)
    wanted = [video for video in annotations.videos if video.name not in names]
    files = dict(zip((video.name for video in wanted), find_videos(wanted, videos, data.prefix), strict=True))
    about = CATALOGUE.get(name, Entry(f"{root.name}: annotated videos.", "", ""))
    return Source(
        name if name in DATASETS else root.name,
        {video.name: database[video.name] for video in annotations.videos},
        annotations.classes,
        videos,
        files,
        about,
        names,
    )


def parser() -> Parser:
    parser = Parser("tadjax.prepare.builders", description=__doc__.partition("\n")[0])
    parser.add_argument("name", choices=(*DATASETS, "custom"), help="of the data set")
    parser.add_argument("--root", type=Path, help="its folder (default: where the configs look for it)")
    parser.add_argument("--videos", type=Path, help="the folder of its videos (default: ROOT/videos)")
    parser.add_argument("--output", type=Path, required=True, help="folder to write to")
    parser.add_argument("--embed", action="store_true", help="pack the videos, too")
    parser.add_argument("--seconds", type=float, default=10.0, help="of a piece, at least (default: %(default)s)")
    add_options(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    arguments = parser().parse_args(tidy(sys.argv[1:] if argv is None else argv))
    ending.tell(lambda: "what is written stays, and the same command goes on")
    return ending.run(lambda: build(arguments))


def build(arguments: argparse.Namespace) -> int:
    """Does what the arguments say; returns the exit status."""
    root = arguments.root or Path(DATASETS[arguments.name].root if arguments.name in DATASETS else "data/custom")
    videos = arguments.videos or root / "videos"
    source = read_source(arguments.name, root, videos)
    cutting = None
    if arguments.embed:
        fps = DATASETS[arguments.name].fps if arguments.name in DATASETS else 0.0
        encoding = encoding_of(videos) or encoding_from(arguments, fps)
        cutting = Cutting(encoding, encoding_of(videos) is not None, arguments.seconds)
    errors = write(source, arguments.output, cutting, arguments.processes)
    for error in errors:
        print(f"error: {error}", file=sys.stderr)
    if errors:
        print(f"mend this and give the same command again; videos named in {root / 'blocked.txt'} are left out")
        return 1
    written = read_built(str(arguments.output / source.name))
    left_out = len(source.database) - len(written.database)
    print(f"{written.folder} holds {len(written.database)} videos, without {left_out} blocked ones; train on it with")
    print("    " + shlex.quote(f"--config.data.tfds={written.folder}"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
