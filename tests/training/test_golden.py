import json

import numpy as np
import pytest

from tests.golden.compare import HERE, check, failures


def test_six_steps_equal_the_references():
    assert failures(HERE / "training.npz") == []


@pytest.mark.slow
def test_a_wrong_reference_is_noticed(tmp_path):
    """The comparison can fail: with another decay of the average, its rows, and only they, are beyond tolerance."""
    arrays = dict(np.load(HERE / "training.npz", allow_pickle=False))
    config = json.loads(str(arrays["config"])) | {"ema_decay": 0.9995}
    np.savez(tmp_path / "training.npz", **arrays | {"config": np.array(json.dumps(config))})
    beyond = {row.name.split("/")[0] for row in check(tmp_path / "training.npz") if not row.within()}
    assert beyond == {"ema"}
