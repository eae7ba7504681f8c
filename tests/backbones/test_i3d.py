"""I3D against plain PyTorch, with TensorFlow's padding written out; the real weights where they are at hand."""

import math
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.nn import functional

from tadjax.backbones import i3d
from tests.backbones.test_contract import params_of
from tests.golden.check_i3d import WEIGHTS
from tests.golden.compare import HERE, failures

TINY = i3d.I3d(divisor=16)


def padded(x, window, stride, value):
    """SAME: of what is needed to have ceil(n / stride) outputs, the smaller half in front."""
    around = []
    for n, k, s in zip(x.shape[-3:], window, stride, strict=True):
        total = max((math.ceil(n / s) - 1) * s + k - n, 0)
        around = [total // 2, total - total // 2, *around]
    return functional.pad(x, around, value=value)


def unit(p, x, stride=(1, 1, 1)):
    p = jax.tree.map(lambda a: torch.tensor(np.asarray(a)), p["unit"])
    kernel = p["conv"]["kernel"].permute(4, 3, 0, 1, 2)
    y = functional.conv3d(padded(x, kernel.shape[-3:], stride, 0.0), kernel, stride=stride)
    norm = p["norm"]
    return torch.relu(functional.batch_norm(y, norm["mean"], norm["var"], norm["scale"], norm["bias"], eps=1e-3))


def pool(x, window, stride=(1, 1, 1)):
    return functional.max_pool3d(padded(x, window, stride, -math.inf), window, stride)


def reference(params, frames):
    """The feature map after every Mixed block, [B, C, T, H, W]."""
    x = torch.tensor(frames).permute(0, 4, 1, 2, 3) / 127.5 - 1
    stem = params["stem"]
    x = pool(unit(stem["conv1a"], x, (2, 2, 2)), (1, 3, 3), (1, 2, 2))
    x = pool(unit(stem["conv2c"], unit(stem["conv2b"], x)), (1, 3, 3), (1, 2, 2))
    outputs = []
    for name in i3d.MIXED:
        p = jax.tree.map(lambda a: a[0], params[f"mixed_{name}"])
        if name in i3d.POOLS:
            x = pool(x, *i3d.POOLS[name])
        branches = (
            unit(p["branch0"], x),
            unit(p["branch1"], unit(p["branch1_reduce"], x)),
            unit(p["branch2"], unit(p["branch2_reduce"], x)),
            unit(p["branch3"], pool(x, (3, 3, 3))),
        )
        x = torch.cat(branches, 1)
        outputs.append(x)
    return outputs


@pytest.mark.parametrize("frames, height, width", [(16, 32, 48), (13, 45, 37)])
def test_every_block_equals_pytorch_also_at_odd_sizes(frames, height, width):
    params = params_of(TINY)
    pictures = np.random.default_rng(0).integers(0, 256, (1, frames, height, width, 3)).astype(np.float32)
    want = reference(params, pictures)
    x = jax.jit(TINY.embed)(params, pictures)
    for stage, output in zip(TINY.stages(params), want, strict=True):
        x = jax.jit(stage.block)(jax.tree.map(lambda a: a[0], stage.params), x)
        output = output.permute(0, 2, 3, 4, 1).numpy()
        np.testing.assert_allclose(x, output, atol=2e-5 * np.abs(output).max())
    assert TINY.pool(x).shape == (1, TINY.steps(frames), TINY.width)


def test_the_classifier_means_over_two_steps_at_a_time():
    """The ends count half as much as what lies between them."""
    x = jnp.arange(4.0).reshape(1, 4, 1, 1, 1) * jnp.ones((1, 4, 2, 3, 5))
    kernel, bias = jnp.ones((5, 2)), jnp.array([0.0, 10.0])
    np.testing.assert_allclose(i3d.logits(x, kernel, bias), [[7.5, 17.5]])
    np.testing.assert_allclose(i3d.logits(x[:, 2:3], kernel, bias), [[10.0, 20.0]])


@pytest.mark.skipif(not WEIGHTS.exists(), reason="weights/i3d is missing: `make real` puts it there")
def test_the_real_weights_give_the_published_networks_numbers():
    assert failures(HERE / "i3d_real.npz") == []


class Runs:
    def __reduce__(self):
        return print, ("this must not run",)


@pytest.mark.parametrize("hidden", [Runs(), np.array([Runs()], object)])
def test_a_pickle_that_would_run_something_is_refused(hidden, tmp_path, capsys):
    from convert import torch_to_flax

    path = tmp_path / "i3d-kinetics-400.ckpt"
    path.write_bytes(pickle.dumps({"params": {"a": np.zeros(2, np.float32), "b": hidden}}))
    assert torch_to_flax.main(["--input", str(path), "--output", str(tmp_path / "x")]) == 2
    said = capsys.readouterr()
    assert "must not run" not in said.out + said.err and str(path) in said.err
    assert not (tmp_path / "x").exists()
