"""python -m tests.faults [--rounds=20] [--only=FAULT] [--seed=0] [--examples=200]

Injects faults into real training and evaluation processes, damages files of every kind, and prints how often each was
tried, survived and lost. Exits with status 1 if anything was lost.
"""

import argparse
import pathlib
import random
import sys
import tempfile

from tests.conftest import make_small_data
from tests.faults.files import KINDS, trial
from tests.faults.jobs import Undisturbed, faults_config, namespaces
from tests.faults.runs import FAULTS, campaign


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults")
    parser.add_argument("--rounds", type=int, default=20, help="faults injected into training")
    parser.add_argument("--examples", type=int, default=200, help="damaged files of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--only", choices=FAULTS, action="append", help="this fault; may be repeated. All, if not given"
    )
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        lost = damaged_files(pathlib.Path(folder), args.examples) if args.examples else 0
        lost += faults(pathlib.Path(folder), args) if args.rounds else 0
    return 1 if lost else 0


def damaged_files(folder: pathlib.Path, examples: int) -> int:
    print(f"\n{'damaged file':32}{'tried':>8}{'read':>8}{'refused':>9}{'lost':>6}")
    lost = 0
    for kind in KINDS:
        for edits in ("bytes", "values") if kind.name.endswith(".json") else ("bytes",):
            wrong = 0
            try:
                tally = trial(kind, folder / f"{kind.name}-{edits}", edits, examples)
            except Exception as error:  # whatever a reader raised instead of a sentence
                print(f"{kind.name}: {error!r}", file=sys.stderr)
                tally, wrong = {}, 1
            tried = sum(tally.values()) + wrong
            counts = f"{tried:8}{tally.get('read', 0):8}{tally.get('refused', 0):9}{wrong:6}"
            print(f"{f'{kind.name} ({edits})':32}{counts}", flush=True)
            lost += wrong
    return lost


def faults(folder: pathlib.Path, args: argparse.Namespace) -> int:
    rounds, rng = args.rounds, random.Random(args.seed)
    wanted = args.only or list(FAULTS)
    names = [name for name in wanted if namespaces() or not name.startswith("disk")]
    chosen = [names[i % len(names)] for i in range(rounds)]
    rng.shuffle(chosen)
    expected = Undisturbed(faults_config(make_small_data(folder)), folder / "undisturbed")
    table = campaign(expected, folder, chosen, rng)
    print(f"\n{'fault':32}{'tried':>8}{'survived':>10}{'lost':>6}")
    for name in FAULTS:
        if name in table:
            tried, survived, lost = table[name]
            print(f"{name:32}{tried:8}{survived:10}{lost:6}")
    if len(names) < len(wanted):
        print("not tried, for want of mount namespaces: " + ", ".join(name for name in wanted if name not in names))
    return sum(lost for _, _, lost in table.values())


if __name__ == "__main__":
    sys.exit(main())
