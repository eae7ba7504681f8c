import pytest

from tests.golden.compare import HERE, failures


@pytest.mark.parametrize("name", ["vit_adapter.npz", "vit_ladder.npz", "videomae_official.npz", "checkpoint_keys.json"])
def test_reference_numbers(name):
    assert failures(HERE / name) == []
