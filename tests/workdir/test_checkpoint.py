"""What is kept on disk: the newest and the best, whole states only, and what damaged ones do."""

import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tadjax.errors import DiskError, WeightsError
from tadjax.parallel import hosts
from tadjax.training.state import TrainState
from tadjax.workdir.checkpoint import METRIC, Checkpoints, load_frozen, save_frozen


def state_at(step: int) -> TrainState:
    trained = {"head": {"kernel": jnp.full((3, 2), float(step)), "bias": jnp.ones(2)}}
    return TrainState(
        step=jnp.int32(step),
        skipped=jnp.int32(0),
        trained=trained,
        frozen={"backbone": {"kernel": jnp.ones(3, jnp.bfloat16)}},
        ema=jax.tree.map(lambda a: -a, trained),
        optimizer=(jnp.int32(step), {"mu": jnp.full(2, step / 3)}),
        head_state={"loss_normalizer": jnp.float32(step)},
    )


@pytest.fixture
def saved(tmp_path) -> pathlib.Path:
    checkpoints = Checkpoints(tmp_path, keep_last=2, keep_best=1)
    for step, metric in ((1, None), (2, 50.0), (3, None), (4, 40.0), (5, None), (6, None)):
        checkpoints.save(state_at(step), None if metric is None else {METRIC: metric})
    checkpoints.close()
    return tmp_path


def test_the_newest_and_the_best_are_kept(saved):
    assert Checkpoints(saved).steps() == [2, 5, 6]
    assert Checkpoints(saved).metrics(2) == {METRIC: 50.0}


def test_a_state_comes_back_bit_by_bit(saved):
    restored = Checkpoints(saved).restore(state_at(0))
    jax.tree.map(np.testing.assert_array_equal, restored, state_at(6))


def test_evaluation_reads_averaged_weights_of_the_best(saved):
    weights, step = Checkpoints(saved).weights(state_at(0).trained)
    assert step == 2
    np.testing.assert_array_equal(weights["head"]["kernel"], np.full((3, 2), -2.0))
    weights, step = Checkpoints(saved).weights(state_at(0).trained, ema=False, best=False)
    assert step == 6
    np.testing.assert_array_equal(weights["head"]["kernel"], np.full((3, 2), 6.0))


def test_a_state_without_an_average_is_saved_without(tmp_path):
    state = state_at(1).replace(ema={})
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state)
    checkpoints.wait()
    assert not (tmp_path / "checkpoints" / "1" / "ema").exists()
    jax.tree.map(np.testing.assert_array_equal, checkpoints.restore(state_at(0).replace(ema={})), state)
    weights, _ = checkpoints.weights(state.trained, ema=False)
    np.testing.assert_array_equal(weights["head"]["kernel"], np.full((3, 2), 1.0))
    checkpoints.close()


def test_a_state_without_an_average_comes_back_from_where_one_was_saved(saved):
    """Earlier versions kept one always."""
    restored = Checkpoints(saved).restore(state_at(0).replace(ema={}))
    jax.tree.map(np.testing.assert_array_equal, restored, state_at(6).replace(ema={}))


@pytest.mark.parametrize("item", ["trained", "ema", "resume"])
def test_a_truncated_newest_checkpoint_falls_back_to_the_one_before(saved, item, capsys):
    for path in (saved / "checkpoints" / "6" / item).rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    checkpoints = Checkpoints(saved)
    restored = checkpoints.restore(state_at(0))
    assert int(restored.step) == 5
    said = capsys.readouterr().err
    assert f"{saved}/checkpoints/6 is damaged: " in said and f"set aside in {saved}/damaged" in said
    assert [path.name for path in (saved / "damaged").iterdir()] == ["6"]
    checkpoints.save(state_at(6))
    checkpoints.close()
    assert int(Checkpoints(saved).restore(state_at(0)).step) == 6


DAMAGE = {
    "halved": lambda content: content[: len(content) // 2],
    "one bit flipped": lambda content: (
        content[: len(content) // 2] + bytes([content[len(content) // 2] ^ 16]) + content[len(content) // 2 + 1 :]
    ),
    "emptied": lambda content: b"",
    "lost": None,
}


@pytest.fixture(scope="module")
def two_steps(tmp_path_factory) -> pathlib.Path:
    """Arrays large enough for files of their own, which TensorStore checks less than the small ones in its index."""
    workdir = tmp_path_factory.mktemp("two") / "run"
    checkpoints = Checkpoints(workdir)
    for step in (1, 2):
        checkpoints.save(large_state_at(step), {METRIC: 50.0 + step})
    checkpoints.close()
    return workdir


def large_state_at(step: int) -> TrainState:
    kernels = [jax.random.normal(jax.random.key(10 * step + i), (64, 64)) for i in range(3)]
    trained, ema, moment = ({"head": {"kernel": kernel}} for kernel in kernels)
    return state_at(step).replace(trained=trained, ema=ema, optimizer=(jnp.int32(step), moment))


@pytest.mark.parametrize(
    "damage",
    ["halved", "one bit flipped", *(pytest.param(name, marks=pytest.mark.slow) for name in ("emptied", "lost"))],
)
def test_whatever_file_is_damaged_a_state_is_whole_or_the_one_before(two_steps, tmp_path, damage, capsys):
    files = [path.relative_to(two_steps) for path in (two_steps / "checkpoints" / "2").rglob("*") if path.is_file()]
    fallen_back = 0
    for number, file in enumerate(sorted(files)):
        workdir = tmp_path / str(number)
        shutil.copytree(two_steps, workdir)
        if DAMAGE[damage] is None:
            (workdir / file).unlink()
        else:
            (workdir / file).write_bytes(DAMAGE[damage]((workdir / file).read_bytes()))
        checkpoints = Checkpoints(workdir)
        restored = checkpoints.restore(large_state_at(0))
        step = int(restored.step)
        jax.tree.map(np.testing.assert_array_equal, restored, large_state_at(step))
        assert (step == 1) == ("set aside" in capsys.readouterr().err)
        fallen_back += step == 1
    assert len(files) > 25 and fallen_back >= 8


def test_no_whole_checkpoint_left_is_said_and_nothing_is_deleted(two_steps, tmp_path):
    shutil.copytree(two_steps, tmp_path / "run")
    for path in (tmp_path / "run" / "checkpoints").glob("*/trained/**/*"):
        if path.is_file():
            path.write_bytes(b"")
    with pytest.raises(WeightsError, match=r"no checkpoint is whole; they lie in .*/damaged now"):
        Checkpoints(tmp_path / "run").restore(large_state_at(0))
    assert {path.name for path in (tmp_path / "run" / "damaged").iterdir()} == {"1", "2"}
    assert Checkpoints(tmp_path / "run").restore(large_state_at(0)) is None


def test_damaged_weights_are_not_evaluated(two_steps, tmp_path):
    shutil.copytree(two_steps, tmp_path / "run")
    data = max((tmp_path / "run" / "checkpoints" / "2" / "ema").rglob("*"), key=lambda path: path.stat().st_size)
    data.write_bytes(DAMAGE["one bit flipped"](data.read_bytes()))
    with pytest.raises(
        WeightsError, match="checkpoints/2 is damaged: the numbers in ema are not those that were saved"
    ):
        Checkpoints(tmp_path / "run", read_only=True).weights(large_state_at(0).ema)


def test_an_unfinished_checkpoint_is_no_checkpoint(saved):
    (saved / "checkpoints" / "7.orbax-checkpoint-tmp-1").mkdir()
    assert Checkpoints(saved).steps() == [2, 5, 6]


def test_another_geometry_is_one_clear_error(saved):
    with pytest.raises(
        WeightsError,
        match=r"checkpoints/2/ema has another geometry.*head/kernel is \[3, 2\] in the weights, \[3, 4\] in the model",
    ):
        Checkpoints(saved).weights({"head": {"kernel": jnp.ones((3, 4)), "bias": jnp.ones(2)}})


def test_a_folder_without_checkpoints_says_so(tmp_path):
    with pytest.raises(WeightsError, match="holds no checkpoint: train first"):
        Checkpoints(tmp_path, read_only=True).weights({})


def test_the_frozen_collections_are_those_written_last(tmp_path):
    frozen = state_at(1).frozen
    save_frozen(tmp_path, jax.tree.map(lambda a: 2 * a, frozen))
    save_frozen(tmp_path, frozen)
    restored = load_frozen(tmp_path, frozen)
    assert restored["backbone"]["kernel"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(restored["backbone"]["kernel"], frozen["backbone"]["kernel"])
    with pytest.raises(WeightsError, match="does not exist"):
        load_frozen(tmp_path / "elsewhere", frozen)


@pytest.mark.parametrize("reopened", [False, True])
def test_a_checkpoint_can_be_ranked_after_it_was_saved(tmp_path, reopened):
    """As where SIGTERM came before its evaluation."""
    checkpoints = Checkpoints(tmp_path, keep_last=1)
    checkpoints.save(state_at(1))
    if reopened:
        checkpoints.close()
        checkpoints = Checkpoints(tmp_path, keep_last=1)
    for metric in (30.0, 90.0):  # the second comes too late
        checkpoints.save(state_at(1), {METRIC: metric})
    for step, metrics in ((2, {METRIC: 10.0}), (3, None)):
        checkpoints.save(state_at(step), metrics)
    checkpoints.close()
    kept = Checkpoints(tmp_path, read_only=True)
    assert (kept.steps(), kept.metrics(1)) == ([1, 3], {METRIC: 30.0})
    assert kept.weights(state_at(0).trained)[1] == 1


@pytest.mark.parametrize(
    "processes, text, told",
    [
        (2, "UNKNOWN: Gloo AllGather failed: Connection reset by peer", ValueError),  # what the others then say counts
        (2, "Error writing: No space left on device", DiskError),
        (1, "RESOURCE_EXHAUSTED: Failed to write 9907 bytes to file", DiskError),
        (1, "UNAVAILABLE: connection to the bucket", DiskError),
    ],
)
def test_another_process_that_died_is_no_trouble_of_the_disk(tmp_path, monkeypatch, processes, text, told):
    def fail():
        raise ValueError(text)

    checkpoints = Checkpoints(tmp_path)
    monkeypatch.setattr(checkpoints._manager, "wait_until_finished", fail)
    monkeypatch.setattr(hosts, "count", lambda: processes)
    with pytest.raises((ValueError, DiskError)) as caught:
        checkpoints.wait()
    full = "a checkpoint cannot be written (no space left on device, "
    assert caught.type is told and (full if "writ" in text else text) in str(caught.value)
