"""Frames that wait in the host's memory: the same bits as frames on the device, from the canvas to the next state."""

import jax
import numpy as np

from tadjax.adaptation.host_frames import HostFrames, on_device
from tadjax.build import build
from tadjax.parallel import mesh as meshes
from tadjax.profiling.profile import SEGMENTS, training_step
from tadjax.training.arrival import Arrival
from tadjax.training.optimizer import make_optimizer
from tadjax.training.state import create, split
from tests.config.test_checks import load
from tests.conftest import ROOT


def after_a_step(where: str) -> tuple:
    """(the frames, the state after a step, its metrics) where frames wait on the "device" or on the "host"."""
    config = load(ROOT / "configs" / "thumos_vitg_side_1536x224.py", "tiny")
    config.memory.frames, config.mesh.data = where, 1
    mesh = meshes.make_mesh(config.mesh, jax.devices()[:1])
    rng, length = np.random.default_rng(0), config.window.feature_length
    canvas = rng.integers(0, 256, (2, config.window.frames, 36, 48, 3)).astype(np.uint8)
    batch = {
        "frames": canvas,
        "frame_size": np.full((2, 2), (36, 48), np.int32),
        "portrait": np.array([False, True]),
        "augment_seed": np.arange(2, dtype=np.uint32),
        "valid": np.ones((2, length), bool),
        "segments": np.tile(np.float32([3, 9]), (2, SEGMENTS, 1)),
        "labels": np.zeros((2, SEGMENTS), np.int32),
        "segment_valid": np.tile(np.arange(SEGMENTS) < 2, (2, 1)),
        "video": np.arange(2, dtype=np.int32),
        "substituted": np.zeros(2, np.int32),
    }
    batch = Arrival(config, mesh, {canvas.shape[1:]: config.window.size})(batch, 2)
    if where == "host":
        assert isinstance(batch["frames"], HostFrames)
        assert batch["frames"].words.sharding.memory_kind == "pinned_host"
    localizer, step = build(config, 20, "cpu"), training_step(config, mesh, "cpu")
    params = localizer.init(jax.random.key(0))
    state = create(params, tuple(step.state.trained), localizer, make_optimizer(config.optim, 100), 0.9)
    assert split(params, tuple(step.state.trained))[1].keys() == {"backbone"}
    state = jax.tree.map(lambda a, like: jax.device_put(a.astype(like.dtype), like.sharding), state, step.state)
    frames = np.asarray(jax.jit(on_device)(batch["frames"]))
    return frames, *jax.device_get(step.function(state, batch))


def test_a_step_of_frames_on_the_host_ends_with_the_same_bits():
    frames, state, metrics = after_a_step("host")
    want_frames, want_state, want_metrics = after_a_step("device")
    np.testing.assert_array_equal(frames, want_frames)
    assert metrics["loss"] > 0 and metrics["grad_norm"] > 0
    jax.tree.map(np.testing.assert_array_equal, (state.trained, metrics), (want_state.trained, want_metrics))
