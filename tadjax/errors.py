"""The errors that a user can act on: `main` prints them as one sentence and exits with status 2."""

import difflib
import re
from collections.abc import Callable, Iterable

MOST = 4  # names that a message suggests; if more are as close, none of them is meant


class TadjaxError(Exception):
    """Something the user gave is wrong; the message says what, where, and what would be right."""


class ConfigError(TadjaxError):
    """A field of the config: misspelt, of a wrong type, out of range, or at odds with another."""


class DataError(TadjaxError):
    """An annotation, a video, a feature file or a results file."""


class WeightsError(TadjaxError):
    """A checkpoint or pre-trained weights: missing, damaged, or of another geometry."""


class DiskError(TadjaxError):
    """A disk that is full, read-only or gone: what cannot be written."""


class WriteError(OSError):
    """An OSError of a file that was to be written; of others only some error numbers tell that."""


def first_line(error: BaseException) -> str:
    """What to quote of another library's error."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def similar(given: str, known: Iterable[str]) -> list[str]:
    """The names that may be meant: those that hold `given` as whole words (lr: head_lr), or else the closest ones.

    Names of one or two letters are never close to anything: half of them would have to be wrong.
    """
    known = list(dict.fromkeys(known))
    holding = [name for name in known if f"_{_words(given)}_" in f"_{_words(name)}_"]
    if given and 0 < len(holding) <= MOST:
        return holding
    ratios = {
        name: difflib.SequenceMatcher(None, name.lower(), given.lower()).ratio()
        for name in known
        if min(len(name), len(given)) > 2
    }
    best = max(ratios.values(), default=0.0)
    closest = [name for name in known if ratios.get(name) == best >= 0.6]
    return closest if len(closest) <= MOST else []


def did_you_mean(given: str, known: Iterable[str], show: Callable[[str], str] = repr) -> str:
    """ "did you mean 'a' or 'b'?" where some of `known` may be meant, as `show` writes them; "" where none is."""
    *others, last = [show(name) for name in similar(given, known)] or [""]
    return f"did you mean {', '.join(others)}{' or ' if others else ''}{last}?" if last else ""


def _words(name: str) -> str:
    return re.sub(r"[\W_]+", "_", name.lower()).strip("_")
