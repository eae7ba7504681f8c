import jax
import numpy as np
import pytest

from tadjax.adaptation.host_frames import HostFrames, on_device, pack, words_shape


@pytest.mark.parametrize("side", [32, 20])  # whole tiles of words, and not
def test_frames_come_back_bit_by_bit(side):
    frames = np.random.default_rng(0).integers(0, 256, (2, 64, side, side + 4, 3)).astype(np.uint8)
    packed = jax.jit(pack)(frames)
    assert packed.shape == frames.shape and packed.words.shape == words_shape(frames.shape)
    assert packed.words.shape[2] % 8 == 0 and packed.words.shape[3] == 128, "whole tiles"
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0], memory_kind="pinned_host")
    packed = jax.device_put(packed, here)
    np.testing.assert_array_equal(jax.jit(on_device)(packed), frames)
    some = jax.jit(on_device, static_argnums=2)
    np.testing.assert_array_equal(some(packed, 16, 32), frames[:, 16:48])
    np.testing.assert_array_equal(some(frames, 16, 32), frames[:, 16:48])


def test_they_take_a_word_for_four_bytes():
    b, clips, rows, columns = words_shape((1, 32768, 224, 224, 3))
    assert 4 * b * clips * rows * columns == 32768 * 224 * 224 * 3


def test_frames_that_are_no_whole_clips():
    with pytest.raises(ValueError, match="72 frames are no whole number of clips of 16"):
        words_shape((1, 72, 32, 32, 3))
    packed = HostFrames(np.zeros(words_shape((1, 32, 32, 32, 3)), np.uint32), (32, 32, 3))
    with pytest.raises(ValueError, match="groups of 8 frames"):
        on_device(packed, 0, 8)
