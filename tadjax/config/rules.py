"""What a field of a config is made of: its default, its meaning, and the rule that its values must keep."""

import dataclasses
import sys
from collections.abc import Callable
from typing import Any

from tadjax.errors import did_you_mean


@dataclasses.dataclass(frozen=True)
class Rule:
    """`text` ends the sentence "must be ..."; `choices` are what a wrong value is compared with."""

    text: str
    holds: Callable[[Any], bool]
    choices: tuple[Any, ...] = ()

    def problem(self, value: Any) -> str | None:
        """What is wrong with a value of the right type, as the end of a sentence; None if nothing is."""
        if self.holds(value):
            return None
        hint = did_you_mean(str(value), map(str, self.choices)) if self.choices else ""
        return f"must be {self.text}" + (f"; {hint}" if hint else "")


@dataclasses.dataclass(frozen=True)
class Field:
    """One leaf of a config. Its type is its default's; `rule` says what else a value must be.

    per_level: an integer may also be a tuple of integers, one a level of the pyramid.
    may_change: the value may differ between a run and its resumption. It changes nothing of what is computed, or, as
      memory.stream and memory.taps do, its rounding alone.
    """

    default: Any
    meaning: str
    rule: Rule | None = None
    per_level: bool = False
    may_change: bool = False

    @property
    def kind(self) -> str:
        """The type of its values, as the end of a sentence."""
        kinds = {bool: "True or False", int: "an integer", float: "a number", str: "a string"}
        return kinds.get(type(self.default), "a tuple")


class Section:
    """Fields and sections by name; with `may_change`, all of them may change."""

    def __init__(self, meaning: str, may_change: bool = False, **fields: "Field | Section"):
        self.meaning, self.may_change, self.fields = meaning, may_change, fields


def one_of(*choices: Any, what: str = "") -> Rule:
    """One of the choices; `what` says of what they are."""
    text = ", ".join([*map(repr, choices), *([what] if what else [])])
    return Rule(f"one of {text}", lambda value: value in choices, choices)


def within(low: float, high: float = float("inf"), *, above: bool = False) -> Rule:
    """low <= value <= high, or low < value where `above`."""
    text = f"{'above' if above else 'at least'} {low}"
    text += f" and at most {high}" if high != float("inf") else ""
    return Rule(text, lambda value: (value > low if above else value >= low) and value <= high)


def each(low: float, high: float = float("inf"), *, whole: bool = False) -> Rule:
    """A tuple of numbers, low <= number <= high; integers where `whole`."""
    text = f"a tuple of {'integers' if whole else 'numbers'} of at least {low}"
    text += f" and at most {high}" if high != float("inf") else ""
    return Rule(
        text,
        lambda value: all(is_number(n) and low <= n <= high and not (whole and isinstance(n, float)) for n in value),
    )


def pair_within(low: float, high: float) -> Rule:
    numbers = each(low, high)
    return Rule(
        f"() or two numbers, ascending, from {low} to {high}",
        lambda value: len(value) == 0 or (len(value) == 2 and numbers.holds(value) and value[0] <= value[1]),
    )


def subset_of(*choices: Any) -> Rule:
    return Rule(
        f"some of {', '.join(map(repr, choices))}, each once",
        lambda value: len(value) > 0 and all(value.count(v) == 1 and v in choices for v in value),
    )


def in_order(*choices: Any) -> Rule:
    return Rule(
        f"some of {', '.join(map(repr, choices))}, in this order, or none",
        lambda value: tuple(value) == tuple(choice for choice in choices if choice in value),
    )


def is_number(value: Any) -> bool:
    """Whether it is one that a float can hold, and neither infinite nor NaN."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _ascending_pairs(value: Any) -> bool:
    pairs = all(isinstance(pair, (tuple, list)) and len(pair) == 2 and all(map(is_number, pair)) for pair in value)
    return pairs and all(low < high for low, high in value)


positive, share = within(0, above=True), within(0, 1)
ranges = Rule("pairs of ascending numbers", _ascending_pairs)
devices = Rule("a positive number of devices, or -1 for what is left", lambda value: value > 0 or value == -1)
path = Rule("a path; ~ is the home folder", lambda value: True)
