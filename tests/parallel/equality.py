"""Trains the tiny twin on one device and on meshes of 8 virtual ones, and prints how far they differ, as JSON.

    python -m tests.parallel.equality METHOD DATAxCLIPxFSDP ...

In a process of its own, because the number of virtual devices is fixed when JAX starts.
"""

import json
import sys

import jax
import numpy as np

from configs import thumos_vitg
from tadjax.build import build
from tadjax.config import checks as configs
from tadjax.data.records import usual_canvas
from tadjax.parallel.mesh import make_mesh
from tadjax.profiling.collectives import collectives
from tadjax.profiling.compiled_text import parse
from tadjax.profiling.profile import CLASSES, SEGMENTS, Step, training_step
from tadjax.training.arrival import Arrival
from tadjax.training.optimizer import make_optimizer
from tadjax.training.state import TrainState, create
from tests.adaptation.tiny import away_from_start, largest_difference

CLIPS, VIDEOS, STEPS = 8, 8, 3


def make_config(method: str):
    """Windows of 8 clips, 8 of them a batch; drop path and dropout on, and an augmentation that moves every pixel."""
    config = thumos_vitg.get_config("tiny")
    config.adaptation.method = method
    config.window.frames = config.window.feature_length = config.head.max_length = 16 * CLIPS
    config.optim.batch_size = VIDEOS
    config.augment.policy = "none"
    config.backbone.drop_path = 0.2
    return config


def random_batch(config) -> dict:
    rng = np.random.default_rng(0)
    length, side = config.window.feature_length, config.window.short_side
    start = rng.uniform(0, length - 20, (VIDEOS, SEGMENTS, 1))
    return {
        "frames": rng.integers(0, 256, (VIDEOS, config.window.frames, *usual_canvas(side), 3), np.uint8),
        "frame_size": np.full((VIDEOS, 2), side, np.int32),
        "portrait": np.zeros(VIDEOS, bool),
        "augment_seed": np.arange(VIDEOS, dtype=np.uint32),
        "valid": np.arange(length) < rng.integers(length // 2, length + 1, (VIDEOS, 1)),
        "segments": np.concatenate([start, start + rng.uniform(2, 20, start.shape)], -1).astype(np.float32),
        "labels": rng.integers(0, CLASSES, (VIDEOS, SEGMENTS)).astype(np.int32),
        "segment_valid": np.arange(SEGMENTS) < rng.integers(1, 5, (VIDEOS, 1)),
        "video": np.arange(VIDEOS, dtype=np.int32),
        "substituted": np.zeros(VIDEOS, np.int32),
    }


def starting_state(config) -> TrainState:
    """On the host, adapters away from their start, at which some of their gradients are zero."""
    localizer, trained = build(config, CLASSES), configs.trained_collections(config)
    params = jax.jit(localizer.init)(jax.random.key(0))
    if "adapter" in params:
        params["adapter"] = away_from_start(params["adapter"], 1)
    return jax.device_get(create(params, trained, localizer, make_optimizer(config.optim, 100), 0.9))


def arrived(config, mesh, batch: dict) -> dict:
    """The batch as a step on this mesh takes it, its frames made of the canvases by the mesh."""
    arrival = Arrival(config, mesh, {batch["frames"].shape[1:]: config.window.size})
    return arrival(batch, VIDEOS)


def place(values, like):
    return jax.tree.map(lambda a, l: jax.device_put(np.asarray(a, l.dtype), l.sharding), values, like)


def three_steps(step: Step, compiled, state: TrainState, batch: dict) -> dict:
    """Losses of the steps; the first step's gradients, as AdamW's first moment has them; what is trained at the end."""
    state = place(state, step.state)
    losses, gradients = [], None
    for _ in range(STEPS):
        state, metrics = compiled(state, batch)
        losses.append([metrics["loss"], metrics["grad_norm"]])
        if gradients is None:
            moments = jax.tree_util.tree_flatten_with_path(state.optimizer)[0]
            gradients = jax.device_get(
                [a for path, a in moments if "/mu/" in jax.tree_util.keystr(path, simple=True, separator="/")]
            )
    found = {"losses": losses, "gradients": gradients, "trained": state.trained, "ema": state.ema}
    return jax.device_get(found)


def main(method: str, shapes: list[str]) -> None:
    config = make_config(method)
    state, batch = starting_state(config), random_batch(config)
    results, report = {}, {}
    for shape in ["1x1x1", *shapes]:
        data, clip, fsdp = map(int, shape.split("x"))
        mesh = make_mesh(configs.ConfigDict(dict(data=data, clip=clip, fsdp=fsdp)), jax.devices()[: data * clip * fsdp])
        step = training_step(config, mesh, "cpu")
        compiled = step.function.lower(step.state, step.batch).compile()
        results[shape] = three_steps(step, compiled, state, arrived(config, mesh, batch))
        if shape in shapes:
            want = results["1x1x1"]
            errors = {name: largest_difference(results[shape][name], want[name]) for name in want}
            report[shape] = {"errors": errors, "collectives": collectives(parse(compiled.as_text()))}
    print(json.dumps(report))


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 8)
    main(sys.argv[1], sys.argv[2:])
