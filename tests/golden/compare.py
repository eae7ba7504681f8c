"""How arrays of ours are held against reference numbers; used by the tests and by `python -m tests.golden FILE...`.

A checker is a module `tests/golden/check_*.py` with two functions:

    matches(name, keys) -> bool     is this file (its name, and its keys) of the kind I check?
    check(path) -> Iterator[Row]    every array of it, ours beside the reference's
"""

import dataclasses
import gzip
import importlib
import json
import pathlib
import pkgutil
from collections.abc import Iterator
from types import ModuleType

import numpy as np

HERE = pathlib.Path(__file__).parent


@dataclasses.dataclass(frozen=True)
class Row:
    """One array: `got` is ours, `want` the reference's; equal if |got - want| <= atol + rtol * |want|."""

    name: str
    got: np.ndarray
    want: np.ndarray
    atol: float = 0.0
    rtol: float = 0.0

    def errors(self) -> tuple[float, float]:
        """Largest absolute error, and the largest relative to the reference's largest magnitude."""
        got, want = np.asarray(self.got, np.float64), np.asarray(self.want, np.float64)
        if got.shape != want.shape:
            return np.inf, np.inf
        if not got.size:
            return 0.0, 0.0
        difference = np.where((got == want) | (np.isnan(got) & np.isnan(want)), 0.0, np.abs(got - want))
        absolute = float(np.max(np.where(np.isnan(difference), np.inf, difference)))
        scale = float(np.max(np.abs(want)))
        return absolute, absolute / scale if scale else absolute

    def within(self) -> bool:
        got, want = np.asarray(self.got, np.float64), np.asarray(self.want, np.float64)
        if got.shape != want.shape:
            return False
        return bool(np.allclose(got, want, rtol=self.rtol, atol=self.atol, equal_nan=True))

    def __str__(self) -> str:
        got, want = np.shape(self.got), np.shape(self.want)
        if got != want:
            return f"{self.name}: shape {got}, reference {want}"
        absolute, relative = self.errors()
        return f"{self.name}: abs {absolute:.2e}, rel {relative:.2e} (atol {self.atol:g}, rtol {self.rtol:g})"


def keys_of(path: pathlib.Path) -> set[str]:
    """Names of the arrays of an .npz file, or the top-level keys of a .json / .json.gz file."""
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as arrays:
            return set(arrays.files)
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt") as file:
        return set(json.load(file))


def checkers() -> list[ModuleType]:
    names = sorted(m.name for m in pkgutil.iter_modules([str(HERE)]) if m.name.startswith("check_"))
    return [importlib.import_module(f"tests.golden.{name}") for name in names]


def check(path: pathlib.Path) -> Iterator[Row]:
    """Every array of one golden file, by the one checker that knows its format; ValueError where none does."""
    keys = keys_of(path)
    for checker in checkers():
        if checker.matches(path.name, keys):
            return checker.check(path)
    raise ValueError(f"{path}: no checker knows this format (keys {sorted(keys)[:5]} ...)")


def failures(path: pathlib.Path) -> list[str]:
    """The rows of a golden file beyond tolerance, as text: empty when all hold. ValueError if nothing was compared."""
    rows = list(check(path))
    if not rows:
        raise ValueError(f"{path}: nothing was compared")
    return [str(row) for row in rows if not row.within()]
