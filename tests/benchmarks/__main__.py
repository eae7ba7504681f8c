"""python -m tests.benchmarks [step] [input] [evaluation] [startup]

What a user waits for, as one table a benchmark; without a name, all of them. Nothing is checked: a timing is no test.
Run it on a machine that does nothing else.
"""

import argparse

from tests.benchmarks import evaluation, input_speed, startup, step

BENCHMARKS = {
    "step": step.main,
    "input": input_speed.main,
    "evaluation": evaluation.main,
    "startup": startup.main,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__.partition("\n\n")[2])
    parser.add_argument("names", nargs="*", metavar="|".join(BENCHMARKS))
    names = parser.parse_args().names or list(BENCHMARKS)
    if unknown := set(names) - set(BENCHMARKS):
        parser.error(f"no benchmark is called {', '.join(sorted(unknown))}; there are {', '.join(BENCHMARKS)}")
    for name in names:
        print(f"\n{name}: {BENCHMARKS[name].__doc__}", flush=True)
        BENCHMARKS[name]()


if __name__ == "__main__":
    main()
