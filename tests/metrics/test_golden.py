import pytest

from tests.golden.compare import HERE, failures


@pytest.mark.parametrize("file", ["map_eval.npz", "detad.json", "detad_per_prediction.npz"])
def test_reference_numbers(file):
    assert failures(HERE / file) == []
