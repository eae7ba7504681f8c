"""Step times against the frozen forward pass, on whatever this runs on: what the methods cost, as ratios."""

import time

import jax
import numpy as np
import pytest

from tadjax.adaptation import inside, taps
from tadjax.adaptation.inside import Memory
from tadjax.adaptation.side import Side
from tadjax.adaptation.tia import Tia
from tadjax.backbones.vit import Vit

BACKBONE = Vit(width=384, depth=8, heads=6, patch=16, mlp_width=1536)
LAYERS = tuple(range(4, 8))  # the last half, as published
ROUNDS = 9


def fastest(functions, *arguments):
    """Seconds of each function: the best of some rounds, in turn, so that what else the machine does hits all alike."""
    for function in functions.values():
        jax.block_until_ready(function(*arguments))
    seconds = {name: [] for name in functions}
    for _ in range(ROUNDS):
        for name, function in functions.items():
            start = time.perf_counter()
            jax.block_until_ready(function(*arguments))
            seconds[name].append(time.perf_counter() - start)
    return {name: min(values) for name, values in seconds.items()}


@pytest.mark.slow
def test_steps_cost_what_they_should():
    frames = np.random.default_rng(0).integers(0, 256, (1, 32, 112, 112, 3)).astype(np.uint8)
    params = jax.jit(BACKBONE.init)(jax.random.key(0))
    side = Side(Tia(48))
    adapters = side.init(jax.random.key(1), BACKBONE, LAYERS)

    def step_beside(storage):
        def loss(adapters, params, frames):
            memory = Memory(taps=storage)
            return (side.features(BACKBONE, params, adapters, frames, layers=LAYERS, memory=memory) ** 2).sum()

        return jax.jit(jax.grad(loss))

    def loss_inside(adapters, params, frames):
        options = dict(adapter=side.tia, adapter_params=adapters, layers=LAYERS, memory=Memory("block"))
        return (inside.run(BACKBONE, params, frames, **options) ** 2).sum()

    def forward(adapters, params, frames):
        return taps.run(BACKBONE, params, frames, tap=side.squeeze, tap_params=[], layers=())[1]

    functions = {
        "forward": jax.jit(forward),
        "store": step_beside("store"),
        "recompute": step_beside("recompute"),
        "inside": jax.jit(jax.grad(loss_inside)),
    }
    seconds = fastest(functions, adapters, params, frames)
    ratios = {name: value / seconds["forward"] for name, value in seconds.items()}
    print(ratios)
    assert ratios["store"] < 1.15, ratios
    assert ratios["recompute"] < 2.2, ratios
    assert ratios["inside"] < 3.6, ratios
