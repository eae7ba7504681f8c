"""The count of what lies in a chip's memory, against the arrays that are alive in the training loop itself."""

import gc
import importlib

import jax
import pytest

from tadjax.data.dataset import Dataset
from tadjax.inference.evaluate import Evaluator
from tadjax.parallel import mesh as meshes
from tadjax.profiling import device_memory, profile, topologies
from tadjax.profiling.device_memory import Plan, alive
from tadjax.training.arrival import Arrival
from tadjax.workdir.checkpoint import Checkpoints
from tests.conftest import CLASSES

training = importlib.import_module("tadjax.training.loop")


def test_every_part_is_counted_in_its_moments():
    step, evaluation = Plan(1000 + 100 + 7, 1003, 1000, 500, 0), Plan(300 + 40, 5, 0, 60, 0)
    arrival = Plan(100 + 250, 100, 100, 30, 0)
    counted = alive(step, arrival, evaluation, others=7, params=300, waiting=2)
    parts = {"state": 1000, "batch": 107, "waiting": 2 * 107, "canvas": 250, "work": 503}
    moments = {"training": 1000 + 3 * 107 + 250 + 503, "arrival": 0, "evaluation": 1000 + 2 * 107 + 2 * 45 + 60}
    assert counted == {**parts, **moments}
    counted = alive(step, arrival, evaluation, others=7, params=300, waiting=0)
    moments = {"training": 1000 + 107 + 503, "arrival": 1000 + 107 + 250 + 30, "evaluation": 1000 + 45 + 60}
    assert counted == {**parts, "waiting": 0, "canvas": 0, **moments}


def alive_now() -> int:
    """Bytes of all buffers. Saving makes arrays that are views of others', so each buffer counts once."""
    arrays = [array for array in jax.live_arrays() if not array.is_deleted()]
    return sum({array.unsafe_buffer_pointer(): array.nbytes for array in arrays}.values())


class Seen:
    """The most that was alive in each moment of a run beyond what was before it."""

    def __init__(self, patch: pytest.MonkeyPatch, waiting: int):
        gc.collect()  # what earlier tests left would go while this is counted
        self.before, self.most = alive_now(), dict.fromkeys(device_memory.MOMENTS, 0)
        seen = self

        class Watched(Arrival):
            def __init__(self, *arguments):
                super().__init__(*arguments)
                fill = self.fill

                def watched(*arguments):
                    filled = fill(*arguments)
                    seen.note("training" if waiting else "arrival")
                    return filled

                self.fill = watched

        after, start, save = training.Watch.after, Evaluator._start, Checkpoints.save

        def saved(checkpoints, *arguments):
            """Waits: what Orbax copies to the host to write it is, on a CPU, in the memory that is looked at."""
            save(checkpoints, *arguments)
            checkpoints._manager.wait_until_finished()

        patch.setattr(Checkpoints, "save", saved)
        patch.setattr(training, "Arrival", Watched)
        patch.setattr(training.Watch, "after", lambda *a: (after(*a), seen.note("training"))[0])
        patch.setattr(Evaluator, "_start", lambda *a: (start(*a), seen.note("evaluation"))[0])

    def note(self, moment: str) -> None:
        self.most[moment] = max(self.most[moment], alive_now() - self.before)


def counted(config, canvas: tuple[int, int], patch: pytest.MonkeyPatch) -> dict:
    """What the profile counts, on pictures and classes of the small data set, without what programs work with."""
    patch.setattr(profile, "CLASSES", len(CLASSES))
    patch.setattr(profile, "usual_canvas", lambda short_side: canvas)
    mesh = meshes.make_mesh(config.mesh)
    step = profile.training_step(config, mesh, "cpu")
    plans = {
        name: device_memory.plan_of(lowered().compile())._replace(temporary=0)
        for name, lowered in profile._programs(config, config, step, mesh, "cpu").items()
    }
    plans["training"] = plans["training"]._replace(results=plans["training"].aliased)
    return profile._alive(config, step, plans)


@pytest.mark.parametrize("waiting", [0, 1, pytest.param(2, marks=pytest.mark.slow)])
def test_the_count_is_what_lives_in_the_training_loop(small_config, tmp_path, monkeypatch, waiting):
    """To a percent; a batch's frames are a tenth of it. 0: one canvas comes in two parts."""
    config = small_config
    config.optim.epochs, config.train.eval_from_epoch, config.train.eval_every_epochs = 2, 1, 1
    config.data.device_batches = waiting
    monkeypatch.setattr("tadjax.training.arrival.FRAMES_AT_ONCE", 32)  # of two windows of 32
    canvas = Dataset(config).training_set().canvas
    want = counted(config, canvas, monkeypatch)
    seen = Seen(monkeypatch, waiting)
    training.train(config, tmp_path / "run")
    assert seen.most == {moment: pytest.approx(want[moment], rel=0.01) for moment in device_memory.MOMENTS}
    assert want["batch"] > 0.05 * want["training"]


def test_the_verdict_counts_what_waits(small_config):
    config = small_config
    config.data.device_batches = 1
    mesh = meshes.make_mesh(config.mesh)
    step = profile.training_step(config, mesh, "cpu")
    _, numbers = profile._memory(config, config, step, mesh, topologies.at_hand())
    frames = 2 * 32 * 32 * 32 * 3
    canvas = 2 * 32 * 36 * 64 * 3
    assert numbers["waiting_bytes_per_chip"] >= frames
    assert canvas <= numbers["canvas_bytes_per_chip"] < 1.01 * canvas
    parts = ("state", "batch", "waiting", "canvas", "work")
    assert numbers["training_bytes_per_chip"] == sum(numbers[f"{name}_bytes_per_chip"] for name in parts)
    assert numbers["peak_bytes_per_chip"] >= numbers["training_bytes_per_chip"]
