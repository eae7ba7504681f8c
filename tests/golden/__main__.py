"""python -m tests.golden FILE...: the largest absolute and relative error of every array; exit 1 beyond tolerance."""

import pathlib
import sys

from tests.golden.compare import check


def main(paths: list[str]) -> int:
    if not paths:
        print(__doc__)
        return 2
    beyond, total = 0, 0
    for path in paths:
        print(f"{path}")
        for row in check(pathlib.Path(path)):
            total += 1
            beyond += not row.within()
            print(f"  {'ok  ' if row.within() else 'FAIL'} {row}")
    print(f"{total} arrays, {beyond} beyond tolerance")
    return 1 if beyond or not total else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
