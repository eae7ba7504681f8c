"""SGD and Adam as PyTorch has them (L2 in the gradient), and the learning rate that falls in steps."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tadjax.config.schema import defaults
from tadjax.training.optimizer import make_optimizer, schedules

RATES = (0.1, 0.1, 0.05, 0.05, 0.025)  # halved every epoch of two steps


def optim(**changes):
    optim = defaults().optim
    optim.update(schedule="step", step_epochs=1, step_factor=0.5, head_lr=0.1, head_weight_decay=0.01, clip_norm=0.0)
    optim.update(changes)
    return optim


def run(optim, gradients) -> np.ndarray:
    """Two parameters, one of which AdamW would not decay, after a step for each gradient."""
    tx = make_optimizer(optim, steps_per_epoch=2)
    params = {"head": {"kernel": jnp.array(2.0), "bias": jnp.array(-1.0)}}
    state = tx.init(params)
    for gradient in gradients:
        updates, state = tx.update({"head": dict(zip(("kernel", "bias"), gradient, strict=True))}, state, params)
        params = optax.apply_updates(params, updates)
    return np.array([params["head"]["kernel"], params["head"]["bias"]])


GRADIENTS = jnp.array([[0.3, -0.2], [0.1, 0.4], [-0.5, 0.2], [0.2, 0.2], [0.1, -0.3]])


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_sgd_decays_everything_through_the_gradient(momentum):
    p, velocity = np.array([2.0, -1.0]), np.zeros(2)
    for gradient, rate in zip(np.asarray(GRADIENTS, np.float64), RATES, strict=True):
        velocity = momentum * velocity + gradient + 0.01 * p
        p = p - rate * velocity
    np.testing.assert_allclose(run(optim(optimizer="sgd", momentum=momentum), GRADIENTS), p, rtol=1e-6)


def test_adam_has_the_decay_in_its_moments():
    p, m, v = np.array([2.0, -1.0]), np.zeros(2), np.zeros(2)
    for step, (gradient, rate) in enumerate(zip(np.asarray(GRADIENTS, np.float64), RATES, strict=True), 1):
        g = gradient + 0.01 * p
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        p = p - rate * (m / (1 - 0.9**step)) / (np.sqrt(v / (1 - 0.999**step)) + 1e-8)
    np.testing.assert_allclose(run(optim(optimizer="adam"), GRADIENTS), p, rtol=1e-5)


def test_the_rate_falls_after_every_five_epochs():
    rate = schedules(optim(step_epochs=5, warmup_epochs=99), steps_per_epoch=10)["backbone"]
    base = defaults().optim.backbone_lr
    np.testing.assert_allclose([rate(s) / base for s in (0, 49, 50, 99, 100)], [1, 1, 0.5, 0.5, 0.25], rtol=1e-6)
