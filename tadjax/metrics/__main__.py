"""Evaluate anyone's results files: mAP, per-class AP, recall@kx, average recall; and diagnose them as DETAD does.

    python -m tadjax.metrics RESULTS.json GROUND_TRUTH.json
    python -m tadjax.metrics RESULTS.json GROUND_TRUTH.json --rules activitynet --json metrics.json
    python -m tadjax.metrics OURS.json THEIRS.json GROUND_TRUTH.json --diagnose --figure diagnosis.svg

Exit status: 0; 1 if something was left out (a defective entry, or a whole file), the rest evaluated; 2 if nothing was.
"""

from tadjax import ending

if __name__ == "__main__":
    ending.catch_interrupts()  # before the other imports

import argparse
import csv
import io
import json
import pathlib
import sys

import numpy as np

from tadjax.data.annotations import known_names, read_names
from tadjax.detections.results import Results, read_results
from tadjax.errors import ConfigError, DataError
from tadjax.files import read_json, write_whole
from tadjax.flags import Parser, tidy
from tadjax.metrics.diagnosis import BINS, Diagnosis, diagnose
from tadjax.metrics.evaluation import Evaluation, evaluate
from tadjax.metrics.instances import GroundTruth, read_ground_truth
from tadjax.metrics.rules import RULES


def parse(argv: list[str]) -> argparse.Namespace:
    summary, _, rest = __doc__.partition("\n")
    parser = Parser(
        "tadjax.metrics",
        description=summary,
        epilog=rest,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("results", nargs="+", help="results files, .json or .json.gz, in ActivityNet's format")
    parser.add_argument("ground_truth", help="annotations, ActivityNet-style JSON")
    parser.add_argument("--subset", help="of the annotations; without it the one that holds most predicted videos")
    parser.add_argument("--rules", choices=RULES, default="opentad", help="whose evaluator (default: opentad)")
    parser.add_argument("--task", choices=("verb", "noun", "action"), help="EPIC-Kitchens files: which labels")
    parser.add_argument("--tiou", help="thresholds, 0.3:0.7:0.1 or 0.3,0.5 (default: those of the rules)")
    parser.add_argument("--recall", type=int, nargs="*", default=[1, 5], metavar="K", help="top-kx recall (1 5)")
    parser.add_argument("--proposals", type=int, default=100, help="average recall up to so many a video (100)")
    parser.add_argument("--blocked", help="file of videos that do not count, one a line, or a JSON list")
    parser.add_argument("--brief", action="store_true", help="no table of the classes")
    parser.add_argument("--json", help="write everything, in percent; a list if there are several results files")
    parser.add_argument("--csv", help="write results,metric,class,tiou,percent")
    parser.add_argument("--diagnose", action="store_true", help="DETAD's analyses, drawn to --figure")
    parser.add_argument("--figure", default="diagnosis.png", help=".png, .svg or .pdf (diagnosis.png)")
    parser.add_argument("--bins", choices=BINS, default="thumos", help="sizes of instances for --diagnose (thumos)")
    return parser.parse_args(tidy(argv))


def thresholds(text: str) -> tuple[float, ...]:
    """ "0.3:0.7:0.1" (both ends included) or "0.3,0.5" -> thresholds. Raises ConfigError."""
    try:
        if ":" in text:
            first, last, step = map(float, text.split(":"))
            values = tuple(float(round(t, 10)) for t in np.arange(first, last + step / 2, step))
        else:
            values = tuple(map(float, text.split(",")))
    except (ValueError, ZeroDivisionError):
        values = ()
    if not values or not all(0 < value <= 1 for value in values):
        raise ConfigError(f"--tiou {text}: thresholds above 0 and up to 1 are written 0.3:0.7:0.1 or 0.3,0.5")
    return values


def main(argv: list[str]) -> int:
    args = parse(argv)
    sys.stdout.reconfigure(errors="backslashreplace")  # as stderr is: JSON may hold what is no text
    return ending.run(lambda: run(args), any_file=True)


def run(args: argparse.Namespace) -> int:
    """Everything the arguments ask for; the exit status. Raises TadjaxError where nothing can be evaluated."""
    tiou = thresholds(args.tiou) if args.tiou else RULES[args.rules].tiou
    if args.proposals < 1 or any(k < 1 for k in args.recall):
        raise ConfigError("--proposals and --recall count from 1")
    if args.diagnose and pathlib.Path(args.figure).suffix not in (".png", ".svg", ".pdf"):
        raise ConfigError(f"--figure {args.figure}: pictures are written as .png, .svg or .pdf")
    source = read_json(args.ground_truth)
    blocked = blocked_videos(args, source)
    evaluations: list[Evaluation] = []
    diagnoses: dict[str, Diagnosis] = {}
    status = 0
    for path in args.results:
        problems: list[str] = []
        try:
            results, truth = read_pair(path, args.ground_truth, source, blocked, args, problems)
            evaluation = evaluate(results, truth, tiou, args.recall, args.proposals, path, problems)
            nothing_known = len(results) and not evaluation.predictions  # labels of another data set
            status = 1 if problems or nothing_known else status
            evaluations.append(evaluation)
            print(evaluation.table(classes=not args.brief), end="\n\n", flush=True)
            if args.diagnose:
                diagnoses[path] = diagnose(results, truth, tiou, args.bins)
        except DataError as error:
            print(f"error: {error}\n", file=sys.stderr)
            status = 1
    if not evaluations:
        return 2
    write(args, evaluations, diagnoses)
    return status


def blocked_videos(args: argparse.Namespace, source: object) -> frozenset[str]:
    """The videos of --blocked; stderr gets a line about names that are of no video of the ground truth."""
    if not args.blocked:
        return frozenset()
    database = source.get("database") if isinstance(source, dict) else None
    blocked, unknown = known_names(read_names(args.blocked), database if isinstance(database, dict) else ())
    if unknown:
        shown = ", ".join(unknown[:3]) + (", ..." if len(unknown) > 3 else "")
        print(f"{args.blocked}: {len(unknown)} names are of no video of {args.ground_truth}: {shown}", file=sys.stderr)
    return blocked


def read_pair(
    path: str, truth_path: str, source: object, blocked: frozenset, args: argparse.Namespace, problems: list[str]
) -> tuple[Results, GroundTruth]:
    results = read_results(path, args.task or "label", problems)
    videos = {video: found for video, found in results.videos.items() if video not in blocked}
    truth = read_ground_truth(source, args.subset, args.rules, args.task, blocked, predicted=videos, name=truth_path)
    return Results(videos, results.classes), truth


def write(args: argparse.Namespace, evaluations: list[Evaluation], diagnoses: dict[str, Diagnosis]) -> None:
    """The files that were asked for."""
    if args.json:
        content = [evaluation.to_dict() for evaluation in evaluations]
        for entry in content:
            if entry["results"] in diagnoses:
                entry["diagnosis"] = diagnoses[entry["results"]].to_dict()
        write_whole(args.json, json.dumps(content if args.results[1:] else content[0], indent=1))
        print(f"wrote {args.json}")
    if args.csv:
        text = io.StringIO(newline="")
        writer = csv.writer(text)
        writer.writerow(("results", "metric", "class", "tiou", "percent"))
        writer.writerows(row for evaluation in evaluations for row in evaluation.to_rows())
        write_whole(args.csv, text.getvalue().encode("utf-8", "backslashreplace"))
        print(f"wrote {args.csv}")
    if diagnoses:
        try:  # matplotlib is slow to load, and the numbers do without
            from tadjax.metrics.diagnosis_figure import draw
        except ImportError as error:
            raise ConfigError(f"--diagnose draws with matplotlib, which cannot be imported ({error})") from None

        draw(diagnoses, args.figure)
        print(f"wrote {args.figure}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
