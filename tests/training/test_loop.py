"""Training on real files: what a run leaves behind, and that a killed run ends as an undisturbed one."""

import importlib
import itertools
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from tadjax.backbones.vit import SIZES
from tadjax.build import build
from tadjax.config import checks as configs
from tadjax.errors import ConfigError, TadjaxError
from tadjax.inference.evaluate import evaluate_run
from tadjax.parallel import hosts
from tadjax.training.loop import train
from tadjax.workdir import weights
from tadjax.workdir.checkpoint import Checkpoints, load_frozen
from tadjax.workdir.run import load_run
from tests.conftest import ROOT, make_small_config

TIMES = ("seconds/", "steps_per_second")

training = importlib.import_module("tadjax.training.loop")


def command(config, workdir: pathlib.Path) -> list[str]:
    """The command line of a run that differs from the tiny flagship as `config` does."""
    from configs import thumos_vitg

    plain = dict(configs.fields(thumos_vitg.get_config("tiny")))
    changed = [f"--config.{name}={value}" for name, value in configs.fields(config) if plain[name] != value]
    return [
        sys.executable,
        "-m",
        "tadjax.main",
        "--config=configs/thumos_vitg.py:tiny",
        f"--workdir={workdir}",
        *changed,
    ]


def start(config, workdir: pathlib.Path, log) -> subprocess.Popen:
    return subprocess.Popen(command(config, workdir), cwd=ROOT, stdout=log, stderr=log, env=os.environ)


def lines(workdir: pathlib.Path) -> list[dict]:
    """metrics.jsonl without what depends on the clock."""
    path = workdir / "metrics.jsonl"
    numbers = (
        [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")] if path.exists() else []
    )
    return [{name: value for name, value in line.items() if not name.startswith(TIMES)} for line in numbers]


def wait_for_step(workdir: pathlib.Path, step: int, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 300
    while not any(line["step"] >= step for line in lines(workdir)):
        assert process.poll() is None, "the run ended before it was to be stopped"
        assert time.monotonic() < deadline, f"step {step} was not reached"
        time.sleep(0.05)


def arrays(workdir: pathlib.Path, config) -> dict:
    return jax.tree.map(np.asarray, load_run(config, workdir, best=False).params)


def assert_same_bits(a, b) -> None:
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(x.view(np.uint8), y.view(np.uint8)), a, b)


@pytest.fixture(scope="module")
def finished(small_data, tmp_path_factory):
    """(config, workdir, final metrics) of an undisturbed run of 12 steps.

    Within its loop nothing moves between host and device unless it is told to: such moves would wait for the device.
    """
    config = make_small_config(small_data)
    workdir = tmp_path_factory.mktemp("run") / "run"
    plain = training.loop

    def guarded(*arguments):
        with jax.transfer_guard("disallow"):
            return plain(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "loop", guarded)
        return config, workdir, train(config, workdir)


def test_the_guard_of_the_loop_stops_what_is_not_told(finished):
    array = jax.device_put(np.ones(3))
    with jax.transfer_guard("disallow"):
        jax.device_get(array)
        with pytest.raises(jax.errors.JaxRuntimeError, match="Disallowed host-to-device transfer"):
            array + 1


def test_a_run_leaves_checkpoints_metrics_and_results(finished):
    config, workdir, metrics = finished
    steps = [line["step"] for line in lines(workdir) if "loss" in line]
    assert steps == list(range(1, 13))
    log = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    parts = ("input", "dispatch", "device", "evaluation", "checkpoint", "log")
    spent = sum(line.get(f"seconds/{part}", 0.0) for line in log for part in parts)
    assert 0.8 < spent / sum(line.get("seconds/all", 0.0) for line in log) <= 1.0
    assert json.loads((workdir / "metrics.json").read_text()) == {"step": 12, **metrics}
    assert set(json.loads((workdir / "results.json").read_text())["results"]) == {"video5", "video6"}
    assert list((workdir / "tensorboard").iterdir())
    saved = workdir / "checkpoints" / "12"
    assert {path.name for path in saved.iterdir() if path.is_dir()} >= {"trained", "ema", "resume"}
    assert not list(saved.rglob("*backbone*")), "the frozen backbone is saved once, in frozen/"


def test_a_finished_run_that_is_started_again_says_so_and_touches_nothing(finished, capfd):
    config, workdir = finished[:2]
    before = {path: path.read_bytes() for path in workdir.glob("*.json*")}
    metrics = json.loads((workdir / "metrics.json").read_text())
    evaluation = train(config, workdir)
    assert {"step": metrics["step"], **evaluation} == metrics
    assert f"{workdir}: this run is finished with an average mAP of" in capfd.readouterr().err
    assert {path: path.read_bytes() for path in workdir.glob("*.json*")} == before


def test_only_the_adapter_and_the_head_change(finished):
    config, workdir, _ = finished
    run = load_run(config, workdir)
    start_of = jax.jit(run.localizer.init)(jax.random.key(config.seed))
    assert_same_bits(jax.tree.map(np.asarray, run.params["backbone"]), jax.tree.map(np.asarray, start_of["backbone"]))
    moved = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), run.params["adapter"], start_of["adapter"])
    assert moved["up"]["kernel"] > 0
    assert set(load_frozen(workdir, {"backbone": run.params["backbone"]})) == {"backbone"}


def test_evaluation_of_the_workdir_gives_the_numbers_of_its_best_checkpoint(finished):
    config, workdir, _ = finished
    found, best = evaluate_run(config, workdir), load_run(config, workdir).step
    assert found == Checkpoints(workdir, read_only=True).metrics(best)
    assert json.loads((workdir / "evaluation.json").read_text()) == {"step": best, **found}
    assert load_run(config, workdir, best=False).step == 12


@pytest.mark.parametrize(
    ("first", "every", "epochs", "evaluated"),
    [
        (39, 5, 60, [40, 45, 50, 55, 60]),  # THUMOS14, frozen and fine-tuned
        (37, 2, 50, [38, 40, 42, 44, 46, 48, 50]),  # 1536 x 224
        (19, 2, 23, [20, 22, 23]),
        (0, 1, 2, [1, 2]),
    ],
)
def test_evaluations_follow_the_epochs_that_the_published_ones_follow(small_config, first, every, epochs, evaluated):
    """Those that `every` divides, from the first one that counts on, and the last."""
    small_config.train.eval_from_epoch, small_config.train.eval_every_epochs = first, every
    small_config.optim.epochs = epochs
    steps = [step for step in range(1, 3 * epochs + 1) if training.evaluates_after(small_config, step, 3)]
    assert steps == [3 * epoch for epoch in evaluated]


@pytest.mark.parametrize("killed_at", [3, pytest.param(8, marks=pytest.mark.slow)])
def test_a_killed_run_ends_as_an_undisturbed_one(finished, tmp_path, killed_at):
    config, undisturbed, _ = finished
    with (tmp_path / "log").open("w") as log:
        process = start(config, tmp_path / "run", log)
        wait_for_step(tmp_path / "run", killed_at, process)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert process.returncode == -signal.SIGKILL
        assert start(config, tmp_path / "run", log).wait() == 0, (tmp_path / "log").read_text()
    assert_same_bits(arrays(tmp_path / "run", config), arrays(undisturbed, config))
    assert lines(tmp_path / "run") == lines(undisturbed)


def test_sigterm_saves_and_exits_cleanly(finished, tmp_path):
    config, undisturbed, _ = finished
    with (tmp_path / "log").open("w") as log:
        process = start(config, tmp_path / "run", log)
        wait_for_step(tmp_path / "run", 1, process)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=120) == 0, (tmp_path / "log").read_text()
    assert "devices: 1 cpu; attention: xla" in (tmp_path / "log").read_text()
    saved = Checkpoints(tmp_path / "run", read_only=True).steps()[-1]
    assert saved == max(line["step"] for line in lines(tmp_path / "run"))
    assert f"saved at step {saved}" in (tmp_path / "log").read_text()
    train(config, tmp_path / "run")
    assert_same_bits(arrays(tmp_path / "run", config), arrays(undisturbed, config))


@pytest.mark.parametrize(
    "moment, step", [pytest.param(7, 6, marks=pytest.mark.slow), pytest.param(16, 12, marks=pytest.mark.slow), (17, 12)]
)
def test_sigterm_saves_before_an_evaluation_and_the_next_process_begins_with_it(
    finished, tmp_path, monkeypatch, moment, step
):
    config, undisturbed, metrics = finished
    asked = itertools.count(1)
    with monkeypatch.context() as patch:
        patch.setattr(hosts.Sigterm, "now", lambda _: next(asked) == moment)
        train(config, tmp_path)
    saved = Checkpoints(tmp_path, read_only=True)
    assert (saved.steps()[-1], saved.metrics(step)) == (step, None)
    assert not (tmp_path / "metrics.json").exists()
    assert train(config, tmp_path) == metrics
    assert json.loads((tmp_path / "metrics.json").read_text()) == {"step": 12, **metrics}
    assert Checkpoints(tmp_path, read_only=True).metrics(12) == metrics
    assert_same_bits(arrays(tmp_path, config), arrays(undisturbed, config))
    found, expected = ([line for line in lines(run) if len(line) > 1] for run in (tmp_path, undisturbed))
    assert found == expected


def test_a_workdir_of_another_config_is_refused(finished, small_config):
    _, workdir, _ = finished
    small_config.optim.head_lr = 0.5
    small_config.data.workers = 1  # changes nothing of what is computed
    with pytest.raises(ConfigError, match=r"optim\.head_lr: 0\.0001 there, 0\.5 here") as error:
        train(small_config, workdir)
    assert "workers" not in str(error.value)


def test_a_config_that_is_refused_leaves_no_workdir_behind(small_config, tmp_path):
    """Otherwise the corrected one would be refused as another run's."""
    small_config.adaptation.layers = (0, 99)
    with pytest.raises(ConfigError, match="the backbone has layers 0 to 3"):
        train(small_config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_workdir_that_is_a_file_is_one_sentence(small_config, tmp_path):
    (tmp_path / "run").touch()
    done = subprocess.run(command(small_config, tmp_path / "run"), cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    said = f"error: {tmp_path / 'run'}: cannot be written (File exists); no step is saved yet, and the same command"
    assert done.stderr.startswith(said) and done.stderr.count("\n") == 1, done.stderr


class Begun(Exception):
    """Raised in place of the loop."""


def begin(config, workdir: pathlib.Path, *, saves: bool):
    """The state that a run begins its loop with; `saves`: as a checkpoint, too."""

    def loop(config, workdir, state, train_step, batches, evaluator, checkpoints, *_):
        batches.close()
        if saves:
            checkpoints.save(state)
        raise Begun(state)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Begun) as begun:
        patch.setattr(training, "loop", loop)
        train(config, workdir)
    return begun.value.args[0]


def test_sigterm_ends_the_process_again_once_train_is_over(small_config, tmp_path):
    """However it is over, here by an error in the loop, after the handler was set."""

    class Ended(Exception):
        pass

    def ended(*_):
        raise Ended

    def loop(config, workdir, state, train_step, batches, *_):
        hosts.Sigterm()
        batches.close()
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, ended)
    try:
        with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(training, "loop", loop)
            train(small_config, tmp_path)
        with pytest.raises(Ended):
            signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.fixture
def two_weights(small_config, tmp_path) -> list[str]:
    """Folders of weights of the tiny backbone, and the config told to take some."""
    geometry = {"backbone": {**SIZES["tiny"], "image": small_config.backbone.image}}
    backbone = build(small_config, 1).backbone
    for name in "ab":
        weights.save(tmp_path / name, {"backbone": backbone.init(jax.random.key(ord(name)))}, geometry, layout="random")
    small_config.backbone.random_init = False
    return [str(tmp_path / name) for name in "ab"]


def test_a_run_without_a_checkpoint_begins_anew_also_with_other_weights(small_config, two_weights, tmp_path):
    """What was kept of the first weights would else take their place when the run resumes or is evaluated."""
    for small_config.backbone.weights in two_weights:
        state = begin(small_config, tmp_path / "run", saves=False)
        assert_same_bits(load_frozen(tmp_path / "run", state.frozen), state.frozen)


def test_a_run_resumes_where_the_weights_it_began_with_are_gone(small_config, two_weights, tmp_path):
    small_config.adaptation.method, small_config.backbone.weights = "full", two_weights[0]
    state = begin(small_config, tmp_path / "run", saves=True)
    shutil.rmtree(two_weights[0])
    assert_same_bits(begin(small_config, tmp_path / "run", saves=False).trained, state.trained)


def test_weights_must_be_named_or_random_ones_wanted(small_config, tmp_path):
    small_config.backbone.random_init = False
    small_config.backbone.weights = ""
    with pytest.raises(ConfigError, match=r"config\.backbone\.weights names no pre-trained weights"):
        train(small_config, tmp_path)


def test_a_run_that_diverges_stops_and_names_its_videos(small_config, tmp_path):
    small_config.optim.head_lr = 1e30
    small_config.optim.clip_norm = 0.0
    small_config.train.max_skipped = 2
    with pytest.raises(TadjaxError, match="not finite in 2 steps in a row"):
        train(small_config, tmp_path / "run")
    noted = json.loads((tmp_path / "run" / "not_finite.json").read_text())
    assert len(noted) == 2
    assert all(name.startswith("video") for step in noted for name in step["videos"])
