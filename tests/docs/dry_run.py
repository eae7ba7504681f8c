"""python -m tests.docs.dry_run < COMMANDS.json: what each program says of its arguments, which it takes no further.

Reads [[words of a Python command, without "python"], ...] and writes a list of as many texts, "" where the program took
the arguments. A program runs as it would, in a process of its own, up to where its flags are parsed and its config is
loaded and checked. Imports are shared: a fork is cheaper than a start.
"""

import argparse
import contextlib
import importlib
import io
import json
import os
import runpy
import sys
import traceback

from absl import app, flags

from tadjax import ending
from tadjax.config import checks, command_line, recipes

SHARED = ("convert.torch_to_flax", "convert.flax_to_torch", "tadjax.training.loop", "tadjax.inference.predict")
parse_args, parse_flags = argparse.ArgumentParser.parse_args, command_line.parse


def taken() -> None:
    """The end of a program whose arguments are right: if it takes a recipe as text, what main would say of that."""
    checks.check_overrides(["", *(word for word in sys.argv[1:] if word.startswith("--config."))])
    if "--config" in sys.argv:
        path, _, variant = recipes.locate(sys.argv[sys.argv.index("--config") + 1]).partition(":")
        recipes.make_importable()
        checks.check(runpy.run_path(path)["get_config"](*[variant] if variant else []))
    sys.stdout.flush()
    os._exit(0)


def parse_and_end(parser, args=None, namespace=None) -> None:
    parse_args(parser, args, namespace)
    taken()


def parse_and_check(argv, values, config):
    """What main and the doctor do, and the check that main does next."""
    rest = parse_flags(argv, values, config)
    if config.value is not None:
        checks.check(config.value)
    return rest


def run_app(main, flags_parser=None) -> None:
    """absl's app.run, up to where main would begin."""
    rest = (flags_parser or flags.FLAGS)(sys.argv)
    if len(rest) > 1:
        sys.exit(f"unexpected arguments {rest[1:]}")
    if "mode" in flags.FLAGS and not flags.FLAGS.workdir:
        sys.exit("--workdir is missing")
    taken()


def run(words: list[str]) -> None:
    argparse.ArgumentParser.parse_args = parse_and_end
    command_line.parse, app.run = parse_and_check, run_app
    ending.run = lambda *_args, **_options: taken()
    if words[0] == "-m":
        sys.argv = words[1:]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = words
        sys.path.insert(0, os.getcwd())
        runpy.run_path(words[0], run_name="__main__")


def said(words: list[str]) -> str:
    """What the program says in its own process; "" if it takes its arguments."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.close(reader)
        os.dup2(writer, 2)
        sys.stderr = io.TextIOWrapper(os.fdopen(2, "wb"), write_through=True)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        try:
            run(words)
        except SystemExit as error:
            if error.code == 0:  # --help
                os._exit(0)
            print(error.code if isinstance(error.code, str) else "", file=sys.stderr)
        except BaseException:
            traceback.print_exc()
        sys.stderr.flush()
        os._exit(3)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        text = pipe.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return "" if status == 0 else text.strip() or f"it ended with status {status} before its arguments were parsed"


def main() -> None:
    for module in SHARED:
        with contextlib.suppress(ImportError):  # the converters' PyTorch may be missing
            importlib.import_module(module)
    json.dump([said(words) for words in json.load(sys.stdin)], sys.stdout)


if __name__ == "__main__":
    main()
