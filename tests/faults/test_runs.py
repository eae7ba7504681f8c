"""Faults in real runs: a few here, `python -m tests.faults --rounds=20` for as many as wanted, with a table."""

import random

import pytest

from tests.faults.jobs import Undisturbed, faults_config, namespaces
from tests.faults.runs import FAULTS, campaign

mounts = pytest.mark.skipif(not namespaces(), reason="no mount namespaces here: disks cannot be made full or read-only")


@pytest.fixture(scope="module")
def expected(small_data, tmp_path_factory) -> Undisturbed:
    return Undisturbed(faults_config(small_data, epochs=3), tmp_path_factory.mktemp("undisturbed") / "run")


@mounts
def test_a_full_disk_is_one_sentence_and_the_run_goes_on_once_there_is_room(expected, tmp_path):
    assert campaign(expected, tmp_path, ["disk full"], random.Random(0)) == {"disk full": [1, 1, 0]}


@pytest.mark.slow
def test_every_fault_is_survived(small_data, tmp_path):
    names = [name for name in FAULTS if namespaces() or not name.startswith("disk")]
    expected = Undisturbed(faults_config(small_data), tmp_path / "undisturbed")
    assert campaign(expected, tmp_path, names, random.Random(1)) == {name: [1, 1, 0] for name in names}
