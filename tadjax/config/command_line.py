"""Flags of the commands that take --config: main and doctor."""

import sys
from collections.abc import Sequence
from typing import Any

from absl import flags

from tadjax.config import checks, recipes
from tadjax.errors import ConfigError, TadjaxError
from tadjax.flags import tidy


def parse(argv: Sequence[str], values: flags.FlagValues, config: Any) -> list[str]:
    """Sets `values` from the arguments and returns the others; `config` is the holder of --config.

    ConfigError, in one sentence, for an unknown flag, a config that cannot be loaded, or an override of a field that
    is not there. --config may stand after its overrides, and may be the name of a recipe.
    """
    program, *given = tidy(argv)
    of_config = [i for i, argument in enumerate(given) if argument.startswith("--config=") or argument == "--config"]
    for i in of_config:
        if given[i] == "--config":
            given[i : i + 2] = [f"--config={''.join(given[i + 1 : i + 2])}", ""]
    first = [given[i] for i in of_config]
    given = [argument for i, argument in enumerate(given) if i not in of_config and argument]
    argv = [program, *("--config=" + recipes.locate(arg.removeprefix("--config=")) for arg in first), *given]
    recipes.make_importable()
    checks.check_overrides(argv)
    before, sys.argv = sys.argv, argv  # from where ml_collections takes the overrides
    try:
        rest = values(argv)
        list(checks.fields(config.value or {}))  # a file that failed to load says so only when it is read
    except flags.Error as error:
        raise ConfigError(" ".join(str(error).split())) from error
    except TadjaxError:
        raise
    except checks.LOADING_ERRORS as error:
        raise ConfigError(checks.loading_failure(error)) from error
    finally:
        sys.argv = before
    return rest
