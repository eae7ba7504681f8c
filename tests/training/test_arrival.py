"""Batches as they come to the devices: the same frames in one go or in parts, and nothing of the canvas left."""

import jax
import numpy as np
import pytest

from tadjax.config import checks as configs
from tadjax.config.schema import defaults
from tadjax.data.augment import Augmentation, augment
from tadjax.parallel import mesh as meshes
from tadjax.training import arrival
from tadjax.training.arrival import Arrival

SIDE, FRAMES, CANVAS = 16, 12, (20, 36)


def make_arrival(device_batches: int) -> Arrival:
    config = defaults()
    config.data.device_batches = device_batches
    one = meshes.make_mesh(configs.ConfigDict(dict(data=1, clip=1, fsdp=1)), jax.devices()[:1])
    return Arrival(config, one, {(FRAMES, *CANVAS, 3): SIDE})


def decoded() -> dict:
    rng = np.random.default_rng(0)
    return {
        "frames": rng.integers(0, 256, (2, FRAMES, *CANVAS, 3), np.uint8),
        "frame_size": np.array([[20, 36], [20, 30]], np.int32),
        "portrait": np.array([False, True]),
        "augment_seed": np.array([3, 8], np.uint32),
        "valid": np.ones((2, FRAMES), bool),
    }


@pytest.mark.parametrize(("device_batches", "calls"), [(1, 1), (0, 3)])
def test_frames_are_the_augmented_canvas_and_the_canvas_is_let_go(monkeypatch, device_batches, calls):
    """In parts of 4 of 12 frames (8 of two windows), or whole; to the bit."""
    monkeypatch.setattr(arrival, "FRAMES_AT_ONCE", 8)
    arrive, batch = make_arrival(device_batches), decoded()
    fill, counted = arrive.fill, []
    arrive.fill = lambda *arguments: counted.append(arguments[2].shape[1]) or fill(*arguments)
    got = arrive(batch, 2)
    assert counted == [FRAMES // calls] * calls
    of_canvas = [batch[name] for name in ("frames", *arrival.OF_CANVAS)]
    want = jax.jit(lambda *a: augment(*a, size=SIDE, settings=Augmentation()))(*of_canvas)
    assert set(got) == {"frames", "valid"} and got["frames"].dtype == np.uint8
    np.testing.assert_array_equal(got["frames"], want)
    assert not [a for a in jax.live_arrays() if a.shape[2:] == (*CANVAS, 3)]


def test_features_come_as_they_are():
    got = make_arrival(1)({"features": np.ones((2, 4, 3), np.float32), "augment_seed": np.zeros(2, np.uint32)}, 2)
    assert set(got) == {"features"} and got["features"].shape == (2, 4, 3)
