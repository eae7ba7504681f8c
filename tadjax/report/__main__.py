"""Ground truth and the best proposals of one video, for one results file or several beside each other.

python -m tadjax.report RESULTS.json [BASELINE.json ...] --ground_truth=GT.json --video=NAME --output=figure.svg
"""

from tadjax import ending

if __name__ == "__main__":
    ending.catch_interrupts()  # before the other imports

import argparse
import math
import pathlib
import sys
from collections.abc import Sequence

import numpy as np

from tadjax.data.annotations import Video, parse_database, read_database
from tadjax.detections.decode import Detections
from tadjax.detections.results import Results, read_results
from tadjax.errors import DataError
from tadjax.flags import Parser, tidy
from tadjax.report.timeline import FORMATS, draw_proposals


def main(argv: Sequence[str] | None = None) -> int:
    args = _parser().parse_args(tidy(sys.argv[1:] if argv is None else argv))
    return ending.run(lambda: draw(args), args.output, any_file=True)


def draw(args: argparse.Namespace) -> int:
    """Does what the arguments say; returns the exit status. Raises DataError where that is impossible."""
    names = args.names.split(",") if args.names else [_short_name(path) for path in args.results]
    if len(names) != len(args.results):
        raise DataError(f"--names gives {len(names)} names for {len(args.results)} results files")
    if pathlib.Path(args.output).suffix not in FORMATS:
        raise DataError(f"--output={args.output}: the picture's name must end in one of {', '.join(FORMATS)}")
    if args.top_k < 1:
        raise DataError(f"--top_k={args.top_k}: at least one proposal is drawn")
    truth, classes = _ground_truth(args.ground_truth, args.video)
    methods = {}
    for name, path in zip(names, args.results, strict=True):
        found, classes = _of_video(read_results(path), args.video, classes, path)
        methods[name if name not in methods else path] = found
    span = (args.start, truth.end if args.end is None else args.end)
    if not -math.inf < span[0] < span[1] < math.inf:
        raise DataError(f"--start={span[0]:g} and --end={span[1]:g}: seconds, the end after the start")
    draw_proposals(args.video, span, truth, methods, classes, args.output, args.top_k)
    print(f"wrote {args.output}")
    return 0


def _parser() -> Parser:
    parser = Parser(
        "tadjax.report",
        description="Ground truth above a line, the best proposals of each method below.",
    )
    parser.add_argument("results", nargs="+", metavar="RESULTS.json", help="results files, one panel each")
    parser.add_argument("--ground_truth", required=True, metavar="GT.json", help="ActivityNet-style annotations")
    parser.add_argument("--video", required=True, metavar="NAME", help="which video of theirs")
    parser.add_argument("--output", required=True, metavar="FILE", help=f"the picture: {', '.join(FORMATS)}")
    parser.add_argument("--names", metavar="A,B", help="what the panels are called; the files' names if not given")
    parser.add_argument("--start", type=float, default=0.0, metavar="S", help="from this second on")
    parser.add_argument("--end", type=float, metavar="S", help="to this second; the video's end if not given")
    parser.add_argument("--top_k", type=int, default=20, metavar="K", help="proposals of each method (20)")
    return parser


def _short_name(path: str) -> str:
    """runs/demo/results.json is "demo"; adatad.json is "adatad"."""
    file = pathlib.Path(path)
    return file.resolve().parent.name if file.stem in ("results", "detections") else file.stem


def _ground_truth(path: str, name: str) -> tuple[Video, tuple[str, ...]]:
    """A video's annotations, and the classes of the whole file."""
    database = read_database(path)
    if name not in database:
        raise DataError(
            f"{path}: no video {name!r} (there are {len(database)}, such as {next(iter(database), None)!r})"
        )
    subset = database[name].get("subset") if isinstance(database[name], dict) else None
    annotations = parse_database(database, str(subset), None, path)
    return next(video for video in annotations.videos if video.name == name), annotations.classes


def _of_video(results: Results, video: str, classes: tuple[str, ...], path: str) -> tuple[Detections, tuple[str, ...]]:
    """A video's detections with labels as indices into `classes`, which get the classes added that they lack."""
    if video not in results.videos:
        raise DataError(f"{path}: no detections of video {video!r} ({len(results.videos)} videos in the file)")
    classes = tuple(dict.fromkeys(classes + results.classes))
    numbers = np.array([classes.index(name) for name in results.classes] or [0])
    found = results.videos[video]
    return Detections(found.segments, found.scores, numbers[found.labels]), classes


if __name__ == "__main__":
    sys.exit(main())
