"""Damaged files of every kind: read whole, or refused by one sentence that names the file; never anything else.

`python -m tests.faults --examples=1000` tries more, and prints the counts.
"""

import pytest

from tests.faults.files import KINDS, trial

JSON = [kind for kind in KINDS if kind.name.endswith(".json")]


@pytest.mark.parametrize("examples", [30, pytest.param(1000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_damaged_bytes(kind, examples, tmp_path):
    tally = trial(kind, tmp_path, "bytes", examples)
    assert set(tally) <= {"read", "refused"} and tally.total() >= examples


@pytest.mark.parametrize("examples", [30, pytest.param(1000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", JSON, ids=lambda kind: kind.name)
def test_values_that_are_none(kind, examples, tmp_path):
    tally = trial(kind, tmp_path, "values", examples)
    assert set(tally) <= {"read", "refused"} and tally["refused"] >= 5
