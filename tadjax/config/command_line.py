"""Flags of the commands that take --config: main and doctor."""

import sys
from collections.abc import Sequence
from typing import Any

from absl import flags

from tadjax.config import checks, recipes
from tadjax.errors import ConfigError
from tadjax.flags import tidy


def parse(argv: Sequence[str], values: flags.FlagValues, config: Any) -> list[str]:
    """Sets `values` from the arguments and returns the others; `config` is the holder of --config.

    ConfigError, in one sentence, for an unknown flag, a config that cannot be loaded, or an override of a field that
    is not there. --config may stand after its overrides, and may be the name of a recipe.
    """
    program, *given = tidy(argv)
    left, first, others = iter(given), [], []
    for argument in left:
        name, equals, value = argument.partition("=")
        if name == "--config":
            first.append(f"--config={recipes.locate(value if equals else next(left, ''))}")
        else:
            others.append(argument)
    argv = [program, *first, *others]
    recipes.make_importable()
    checks.check_overrides(argv)
    before, sys.argv = sys.argv, argv  # from where ml_collections takes the overrides
    try:
        rest = values(argv)
        list(checks.fields(config.value or {}))  # a file that failed to load says so only when it is read
    except flags.Error as error:
        raise ConfigError(" ".join(str(error).split())) from error
    except checks.LOADING_ERRORS as error:
        raise ConfigError(checks.loading_failure(error)) from error
    finally:
        sys.argv = before
    return rest
