"""Every head trains and predicts in the tiny twin of the flagship, and fits every config, by its name alone."""

import jax
import numpy as np
import pytest

from configs import thumos_vitg
from tadjax.build import build
from tadjax.config import checks as configs
from tadjax.heads import HEADS
from tests.config.test_checks import FILES, load

CLASSES = {"actionformer": 3, "tridet": 3, "gtad": 1, "classifier": 3}


@pytest.mark.parametrize("name", sorted(HEADS))
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_shipped_config_takes_every_head(path, name):
    for variant in ("", "tiny"):
        config = load(path, variant)
        config.head.name = name
        config.data.class_agnostic |= name == "gtad"
        configs.check(config)
        head = build(config, CLASSES[name], "cpu").head
        assert type(head) is HEADS[name] and head.width == config.head.width


@pytest.mark.parametrize(  # the flagship's own head trains in tests/test_train.py
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name == "actionformer" else []) for name in sorted(CLASSES)]
)
def test_a_step_of_training_lowers_the_loss(name):
    config = thumos_vitg.get_config("tiny")
    config.head.name, config.data.class_agnostic = name, name == "gtad"
    configs.check(config)
    model = build(config, CLASSES[name], "cpu")
    params = model.init(jax.random.key(0))
    rng = np.random.default_rng(0)
    length = config.window.feature_length
    batch = {
        "frames": rng.integers(0, 256, (1, config.window.frames, 32, 32, 3)).astype(np.float32),
        "valid": np.arange(length)[None] < length - 5,
        "segments": np.array([[[4.0, 9.5], [12.0, 25.0]]], np.float32),
        "labels": np.array([[0, CLASSES[name] - 1]], np.int32),
        "segment_valid": np.ones((1, 2), bool),
    }

    @jax.jit
    @jax.value_and_grad
    def loss_and_gradient(head):
        return model.losses(params | {"head": head}, model.head.init_state(), batch)[0]["loss"]

    before, gradient = loss_and_gradient(params["head"])
    after, _ = loss_and_gradient(jax.tree.map(lambda p, g: p - 1e-2 * g, params["head"], gradient))
    assert after < before
    found = jax.eval_shape(model.candidates, params, batch)
    count = found["valid"].shape[1]
    assert found["scores"].shape == (1, count, CLASSES[name])
    assert found["segments"].shape in ((1, count, 2), (1, count, CLASSES[name], 2))
