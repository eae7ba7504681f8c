"""Arguments as every command of this project takes them."""

import argparse
import os
import re
import sys
from collections.abc import Sequence
from typing import NoReturn


def tidy(argv: Sequence[str]) -> list[str]:
    """Arguments with one spelling: names with underscores (`--min-score` is `--min_score`), and `~` as the home folder.

    The home folder stands in --flag=~/x, '~/x' and --config.a.b=~/x, also where no shell has put it there.
    """
    argv = [re.sub(r"^--[\w.-]+", lambda name: f"--{name[0][2:].replace('-', '_')}", argument) for argument in argv]
    return [re.sub(r"^((?:-[^=]*=)?)(~(?:/.*)?)$", _home, argument, flags=re.DOTALL) for argument in argv]


def _home(found: re.Match) -> str:
    return found[1] + os.path.expanduser(found[2])


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one sentence. Its name is the one it was started by: `tadjax prepare`, or the module's."""

    def __init__(self, module: str = "", **options):
        if module:
            options["prog"] = sys.argv[0] if sys.argv[0].startswith("tadjax ") else f"python -m {module}"
        super().__init__(**options)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}; {self.prog} --help says more\n")
