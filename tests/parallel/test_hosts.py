"""Several real processes: the same numbers as of one, the same step to stop at, and no waiting for the dead."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from launch.local import free_port
from tadjax.config import checks as configs
from tadjax.errors import ConfigError, TadjaxError
from tadjax.parallel import hosts
from tadjax.workdir.checkpoint import Checkpoints
from tadjax.workdir.run import check_workdir
from tests.conftest import ROOT, make_small_config
from tests.parallel.jobs import job
from tests.training.test_loop import arrays, assert_same_bits, lines


class Ended(Exception):
    """Raised by SIGTERM in place of the end of the process."""


# What SLURM tells the tasks of a step; here of two on this machine.
SLURM = {"SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": "2", "SLURM_STEP_TASKS_PER_NODE": "2"}

EXCHANGE = """
import json, pathlib, sys
import jax, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from tadjax.errors import DataError
from tadjax.parallel import hosts

folder = pathlib.Path(sys.argv[1])
hosts.connect(heartbeat_timeout=20)
with hosts.together():
    hosts.say("said once")
    me = hosts.index()
    with hosts.in_order():
        seen = sorted(path.name for path in folder.glob("in_order.*"))
        (folder / f"in_order.{me}").touch()
    rows = np.arange(12.0).reshape(4, 3)
    sharding = NamedSharding(Mesh(np.array(jax.devices()), "data"), P("data"))
    spread = jax.make_array_from_process_local_data(sharding, rows[2 * me : 2 * me + 2])
    gathered = hosts.gather({"a": np.arange(me + 1) / 3, "b": np.full((me, 2), me, np.int64)})
    found = {
        "count": hosts.count(),
        "seen": seen,
        "rows_here": hosts.rows_here({"rows": spread})["rows"].tolist(),
        "all_rows": hosts.all_rows(spread).tolist(),
        "gathered": [{name: [array.tolist(), str(array.dtype)] for name, array in one.items()} for one in gathered],
    }
    (folder / f"found.{me}").write_text(json.dumps(found))
    if me == 1:
        raise DataError("cat.mp4 holds a dog")
    jax.block_until_ready(hosts.all_rows(spread))  # waits for process 1, in vain
"""


EVALUATE = """
import json, pathlib, sys
import jax, jax.numpy as jnp, numpy as np
from tadjax.config import checks as configs
from tadjax.inference.evaluate import Evaluator
from tadjax.parallel import hosts
from tadjax.parallel import mesh as meshes
from tadjax.data.dataset import Dataset
import types

folder, address, count, index = pathlib.Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
config = configs.load(folder / "config.json")
hosts.connect(address, count, index)

def candidates(params, batch):  # what moves, by how much: other segments and scores in every window
    frames = batch["frames"].astype(jnp.float32) / 255
    change = jnp.abs(frames[:, 1:] - frames[:, :-1]).mean(axis=(2, 3, 4))  # [B, T - 1]
    start = jnp.arange(0.0, change.shape[1], 2.0)
    segments = jnp.broadcast_to(jnp.stack([start, start + 8], -1), (len(frames), len(start), 2))
    scores = jnp.stack([change[:, ::2], 0.9 * change[:, ::2], 0.5 * change[:, ::2]], -1) * 10
    return {"segments": segments, "scores": scores, "valid": jnp.ones(segments.shape[:2], bool)}

with hosts.together():
    mesh = meshes.make_mesh(config.mesh)
    localizer = types.SimpleNamespace(candidates=candidates)
    evaluator = Evaluator(Dataset(config), localizer, mesh, folder / "index")
    metrics, detections = evaluator({})
    found = {name: [a.tolist() for a in vars(one).values()] for name, one in detections.items()}
    (folder / f"found.{count}.{index}").write_text(json.dumps([metrics, found]))
"""


@pytest.fixture(scope="module")
def small(small_data):
    """12 steps, an evaluation after 6 and at the end; little to trace and to compile."""
    config = make_small_config(small_data)
    config.augment.policy, config.augment.jitter, config.backbone.drop_path = "none", False, 0.0
    config.memory.remat = "none"
    config.head.convs, config.head.head_convs = (1, 0, 1), 1
    config.head.regression_ranges = ((0, 4), (4, 10000))
    config.evaluation.tiou = (0.1, 0.3)
    return config


@pytest.fixture(scope="module")
def alone(small, tmp_path_factory):
    """Workdir of a single process that has as many devices as the jobs here: so it computes in the same order."""
    workdir = tmp_path_factory.mktemp("alone") / "run"
    with job(small, workdir, 1, "--devices=2") as one:
        assert one.wait() == 0, one.text
    return workdir


def numbers(workdir) -> list[dict]:
    """The metrics of every step, but for lines that hold times alone."""
    return [line for line in lines(workdir) if line.keys() - {"step"}]


def assert_same_run(workdir, expected, config) -> None:
    """Parameters, every step's numbers, every evaluation and detection, bit by bit."""
    assert_same_bits(arrays(workdir, config), arrays(expected, config))
    assert numbers(workdir) == numbers(expected)
    for name in ("metrics.json", "results.json", "classes.txt"):
        assert (workdir / name).read_bytes() == (expected / name).read_bytes(), name


def assert_close_run(workdir, expected, config) -> None:
    """As `assert_same_run` to 1e-5: four numbers that are summed over processes are summed in another order."""
    errors = jax.tree.map(
        lambda a, b: float((np.abs(a - b).max() - 1e-9) / (np.abs(b).max() + 1e-30)),  # 1e-9: biases of keys, whose
        arrays(workdir, config),  # gradient is rounding alone
        arrays(expected, config),
    )
    print("largest relative difference of a parameter array:", max(jax.tree.leaves(errors)))
    assert max(jax.tree.leaves(errors)) <= 1e-5
    for here, there in zip(numbers(workdir), numbers(expected), strict=True):
        assert here == pytest.approx(there, rel=1e-5, abs=1e-9)
    mine, theirs = (json.loads((folder / "results.json").read_text())["results"] for folder in (workdir, expected))
    assert mine.keys() == theirs.keys()
    for video in theirs:
        scores = [[detection["score"] for detection in found[video]] for found in (mine, theirs)]
        assert scores[0] == pytest.approx(scores[1], rel=1e-5, abs=1e-7)


# The pieces


def test_a_single_process_is_left_alone():
    hosts.connect()
    assert (hosts.index(), hosts.count(), hosts.is_first(), hosts.several()) == (0, 1, True, False)
    assert not jax.distributed.is_initialized()
    [same] = hosts.gather({"a": np.arange(3)})
    assert same["a"].tolist() == [0, 1, 2]
    with pytest.raises(ZeroDivisionError), hosts.together():
        print(1 / 0)


def test_sigterm_between_two_stages_of_a_job_stops_the_next():
    code = (
        "import os, signal; from tadjax.parallel import hosts; hosts.Sigterm(); "
        "os.kill(os.getpid(), signal.SIGTERM); print(hosts.Sigterm().now())"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "True\n", done.stderr


@pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt])
def test_sigterm_does_after_the_outermost_block_what_it_did_before(error):
    def ended(*_):
        raise Ended

    def job() -> None:
        with hosts.signals_restored():
            with hosts.signals_restored():
                assert not hosts.Sigterm().now()
            signal.raise_signal(signal.SIGTERM)  # between two stages
            assert hosts.Sigterm().now()
            if error:
                raise error

    before = signal.signal(signal.SIGTERM, ended)
    try:
        for _ in range(2):  # the second is not stopped by what stopped the first
            with pytest.raises(error) if error else contextlib.nullcontext():
                job()
            assert hosts.stopped_by_sigterm()
            with pytest.raises(Ended):
                signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)


def test_incomplete_or_impossible_jobs_are_refused():
    with pytest.raises(ConfigError, match="--coordinator, --num_processes and --process_id belong together"):
        hosts.connect("localhost:1", 2)
    with pytest.raises(ConfigError, match="process 2 of 2: the last is 1"):
        hosts.connect("localhost:1", 2, 2)


def test_without_jaxs_private_store_a_single_process_works_and_several_are_told_what_to_do(monkeypatch):
    monkeypatch.setattr(hosts, "_job", None)
    hosts.connect()
    assert (hosts.index(), hosts.count(), hosts.is_first(), hosts.several()) == (0, 1, True, False)
    with pytest.raises(TadjaxError, match=r"jax [\d.]+ no longer has where it was: pip install -r requirements.txt"):
        hosts.connect("localhost:1", 2, 0)


def test_a_workdir_that_only_process_0_sees_is_refused(small, tmp_path, monkeypatch):
    monkeypatch.setattr(hosts, "index", lambda: 1)
    with pytest.raises(ConfigError, match="process 1 does not see there what process 0 writes"):
        check_workdir(small, tmp_path)
    assert not (tmp_path / "config.json").exists()


def test_processes_of_a_slurm_step_exchange_data_and_end_together(tmp_path):
    job_id = 100_000 + os.getpid() % 4096  # sets the port
    begin = time.monotonic()
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", EXCHANGE, str(tmp_path)],
            cwd=ROOT,
            env={**os.environ, **SLURM, "SLURM_JOB_ID": str(job_id), "SLURM_PROCID": i, "SLURM_LOCALID": i},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for i in "01"
    ]
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [2, 2], outputs
    assert time.monotonic() - begin < 60
    for output in outputs:
        assert "error: process 1 of 2: cat.mp4 holds a dog" in output
    assert ["said once" in output for output in outputs] == [True, False]

    found = [json.loads((tmp_path / f"found.{i}").read_text()) for i in range(2)]
    assert [one["seen"] for one in found] == [[], ["in_order.0"]]
    assert [one["rows_here"] for one in found] == [[[0, 1, 2], [3, 4, 5]], [[6, 7, 8], [9, 10, 11]]]
    for one in found:
        assert one["count"] == 2
        assert one["all_rows"] == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11]]
        assert one["gathered"] == [
            {"a": [[0.0], "float64"], "b": [[], "int64"]},
            {"a": [[0.0, 1 / 3], "float64"], "b": [[[1, 1]], "int64"]},
        ]


def test_evaluation_spread_over_processes_finds_exactly_what_one_finds(small, tmp_path):
    """Also where the windows, five, do not divide by the batch, nor that and the videos by the processes."""
    config = small.copy_and_resolve_references()
    config.post.pre_nms_thresh, config.evaluation.tiou = 0.0, (0.1, 0.3)
    config.data.eval_subset, config.evaluation.batch_size = "training", 3
    configs.save(config, tmp_path / "config.json")
    address = "localhost:0"
    for count in (1, 2):
        if count > 1:
            address = f"localhost:{free_port()}"
        processes = [
            subprocess.Popen([sys.executable, "-c", EVALUATE, tmp_path, address, str(count), str(i)], cwd=ROOT)
            for i in range(count)
        ]
        assert [process.wait(timeout=120) for process in processes] == [0] * count
    metrics, found = json.loads((tmp_path / "found.1.0").read_text())
    assert metrics["average_mAP"] > 1
    assert sorted(found) == [f"video{i}" for i in range(5)]
    for index in range(2):
        assert json.loads((tmp_path / f"found.2.{index}").read_text()) == [metrics, found]


# The whole


def test_a_job_that_is_stopped_and_killed_ends_as_a_single_process_that_was_not(small, alone, tmp_path):
    workdir = tmp_path / "run"
    with job(small, workdir, 2) as stopped:
        stopped.wait_for_step(2)
        stopped.send(1, signal.SIGSTOP)  # so that the job does not end before the signal is known
        stopped.send(0, signal.SIGTERM)
        time.sleep(3)
        stopped.send(1, signal.SIGCONT)
        assert stopped.wait() == 75, stopped.text
        [saved] = re.findall(r"^\[0\] SIGTERM: saved at step (\d+)", stopped.text, re.MULTILINE)
        assert stopped.text.count("saved at step") == 1
        assert stopped.text.count("devices: 2 cpu") == 1  # process 0 talks for both
    assert Checkpoints(workdir, read_only=True).steps()[-1] == int(saved) < 6

    with job(small, workdir, 2) as killed:
        killed.wait_for_step(7)  # both have taken part in the evaluation after step 6
        killed.send(1, signal.SIGKILL)
        begin = time.monotonic()
        assert killed.wait(seconds=100) not in (0, 75), killed.text
        print(f"the other process ended {time.monotonic() - begin:.1f} s later")
        assert f"resuming at step {saved}" in killed.text
        assert re.search(r"^\[0\] error: process 0 of 2: another process died", killed.text, re.MULTILINE), killed.text

    with job(small, workdir, 1, "--devices=2") as resumed:
        assert resumed.wait() == 0, resumed.text
    assert_same_run(workdir, alone, small)


@pytest.mark.slow
@pytest.mark.parametrize("processes, devices, clip", [(2, 1, 1), (2, 2, 2), (2, 1, 2), (4, 1, 1)])
def test_several_processes_train_and_evaluate_as_one(small, tmp_path, processes, devices, clip):
    """Videos over processes, clips of a window over the devices of one, and over processes."""
    small = small.copy_and_resolve_references()
    small.optim.batch_size = small.evaluation.batch_size = 4
    mesh = f"--config.mesh.clip={clip}"
    with job(small, tmp_path / "one", 1, f"--devices={processes * devices}", mesh) as one:
        assert one.wait() == 0, one.text
    with job(small, tmp_path / "several", processes, f"--devices={devices}", mesh) as several:
        assert several.wait() == 0, several.text
    compare = assert_same_run if processes * devices == 2 else assert_close_run
    compare(tmp_path / "several", tmp_path / "one", small)
    with job(small, tmp_path / "several", processes, "--mode=evaluate") as evaluated:
        assert evaluated.wait() == 0, evaluated.text
    trained, again = (
        json.loads((tmp_path / "several" / f"{name}.json").read_text()) for name in ("metrics", "evaluation")
    )
    assert again["average_mAP"] >= trained["average_mAP"] - 1e-9  # of the best checkpoint


@pytest.mark.slow
def test_ctrl_c_ends_all_processes_with_one_sentence(small, tmp_path):
    with job(small, tmp_path / "run", 2) as stopped:
        stopped.wait_for_step(2)
        stopped.send(1, signal.SIGSTOP)  # so that the job does not end before the signal is known
        stopped.interrupt()
        time.sleep(3)
        stopped.send(1, signal.SIGCONT)
        assert stopped.wait() == 130, stopped.text
        assert not stopped.alive(0) and not stopped.alive(1)
        assert len(re.findall(r"Ctrl-C: saved at step \d+; the same command goes on", stopped.text)) == 1, stopped.text
        assert "Traceback" not in stopped.text


@pytest.mark.slow
def test_the_others_end_when_the_coordinator_is_killed(small, tmp_path):
    with job(small, tmp_path / "run", 2, "--heartbeat_timeout=20") as orphaned:
        orphaned.wait_for_step(2)
        orphaned.send(0, signal.SIGKILL)
        begin = time.monotonic()
        assert orphaned.wait(seconds=60) == 128 + signal.SIGKILL, orphaned.text
        print(f"the other process ended {time.monotonic() - begin:.1f} s later")
        assert not orphaned.alive(1)
        assert re.search(r"^\[1\] .*(another process died|leader)", orphaned.text, re.MULTILINE), orphaned.text


@pytest.mark.slow
def test_a_process_that_falls_silent_is_missed_within_the_heartbeats_timeout(small, tmp_path):
    """One that is stopped breaks no connection: only the heartbeat tells."""
    with job(small, tmp_path / "run", 2, "--heartbeat_timeout=10") as silent:
        silent.wait_for_step(2)
        silent.send(1, signal.SIGSTOP)
        begin = time.monotonic()
        while silent.alive(0):
            assert time.monotonic() - begin < 60, silent.text
            time.sleep(0.2)
        print(f"the other process ended {time.monotonic() - begin:.1f} s later")
        assert "heartbeat" in silent.text
