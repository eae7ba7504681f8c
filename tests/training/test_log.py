"""What a run tells: spikes with their videos, and where every second went."""

import json
import subprocess
import sys
import time
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tadjax.training.log import Clock, MetricsLog, Spikes, Trace, progress
from tadjax.training.loop import Watch


def test_a_spike_is_above_a_multiple_of_the_median_and_a_new_level_is_none():
    spikes = Spikes(3.0)
    assert [spikes(1.5) for _ in range(20)] == [None] * 20
    assert spikes(4.5) is None
    assert spikes(4.6) == 1.5
    assert [spikes(9.0) for _ in range(30)].count(None) >= 10
    assert spikes(9.0) is None


@pytest.mark.parametrize(("factor", "first"), [(4.0, 19), (0.0, 25)])
def test_nothing_stands_out_before_there_is_a_level_or_where_none_is_wanted(factor, first):
    spikes = Spikes(factor)
    assert [spikes(loss) for loss in [1.0] * first + [1e9]] == [None] * (first + 1)


def test_a_spike_is_logged_with_its_videos(tmp_path, capsys):
    settings = SimpleNamespace(spike_factor=4.0, log_every=1, max_skipped=2)
    log = MetricsLog(tmp_path, 0)
    rates = {"head_no_decay": [1e-4] * 31}
    watch = Watch(SimpleNamespace(train=settings), tmp_path, ["a", "b", "c"], log, rates, Trace(tmp_path, None))
    for step in range(1, 32):
        metrics = {"loss": np.float32(9 if step == 30 else 2), "skipped": np.float32(0), "updates": step - 1}
        watch.after(step, metrics, {"substituted": np.zeros(2), "video": np.array([2, 0])})
    watch.flush()
    watch.close()
    (line,) = (json.loads(line) for line in (tmp_path / "spikes.jsonl").read_text().splitlines())
    assert line == {"step": 30, "loss": 9.0, "median": 2.0, "videos": ["c", "a"]}
    assert "step 30: loss 9, of late 2; videos c, a" in capsys.readouterr().err


def test_the_logged_learning_rate_is_that_of_the_updates_done_so_far(tmp_path):
    """Step 2 was skipped, which does not move the optimizer's schedule on: step 3 repeats its rate."""
    settings = SimpleNamespace(spike_factor=0.0, log_every=1, max_skipped=2)
    rates, log = {"head_no_decay": [0.1, 0.2, 0.3, 0.4]}, MetricsLog(tmp_path, 0)
    watch = Watch(SimpleNamespace(train=settings), tmp_path, ["a"], log, rates, Trace(tmp_path, None))
    for step, skipped, updates in ((1, 0, 0), (2, 1, 1), (3, 0, 1), (4, 0, 2)):
        metrics = {"loss": np.float32(1), "skipped": np.int32(skipped), "updates": np.int32(updates)}
        watch.after(step, metrics, {"substituted": np.zeros(2), "video": np.array([0])})
    watch.flush()
    watch.close()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["lr/head_no_decay"] for line in lines] == [0.1, 0.2, 0.2, 0.3]


def test_the_clock_knows_where_every_second_went():
    clock = Clock()
    with clock("evaluation"):
        time.sleep(0.05)
    clock.add("input", 0.01)
    lap = clock.lap()
    assert list(lap) == ["seconds/evaluation", "seconds/input", "seconds/all"]
    assert 0.05 <= lap["seconds/evaluation"] <= lap["seconds/all"]
    assert clock.lap().keys() == {"seconds/all"}


def test_the_profiler_traces_the_steps_it_is_asked_for(tmp_path):
    trace = Trace(tmp_path, (2, 3))
    double = jax.jit(lambda x: 2 * x)
    x = np.ones(3)
    for step in range(1, 6):
        with trace(step):
            x = double(x)
        trace.after(step, {"loss": x})
    trace.close()
    assert traced(tmp_path) == [2, 3]


def test_a_run_that_resumes_or_ends_within_the_traced_steps_has_a_trace(tmp_path):
    trace = Trace(tmp_path, (1, 9))
    for step in (8,):
        with trace(step):
            x = jnp.ones(3)
        trace.after(step, {"loss": x})
    trace.close()
    assert traced(tmp_path) == [8]


def test_without_steps_there_is_no_trace(tmp_path):
    trace = Trace(tmp_path, None)
    with trace(1):
        pass
    trace.after(1, {})
    trace.close()
    assert not list(tmp_path.iterdir())


def traced(folder) -> list[int]:
    """The steps in a run's trace."""
    [file] = (folder / "profile").rglob("*.xplane.pb")  # what TensorBoard and XProf read
    planes = jax.profiler.ProfileData.from_file(str(file)).planes
    events = [event for plane in planes for line in plane.lines for event in line.events if event.name == "train"]
    return sorted(dict(event.stats)["step_num"] for event in events)


def test_training_does_not_load_pytorch(tmp_path):
    """TensorBoard's writer would, where it is installed: seconds of every start."""
    code = (
        "import pathlib, sys, tadjax.training.loop; from tadjax.training.log import MetricsLog;"
        "log = MetricsLog(pathlib.Path(sys.argv[1]), 0); log.write(1, {'loss': 2.0}); log.close();"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    assert any((tmp_path / "tensorboard").iterdir())


def test_without_a_terminal_progress_is_a_line_a_minute(monkeypatch, capsys):
    now = iter(range(0, 1000, 25))
    monkeypatch.setattr("tadjax.training.log.time", SimpleNamespace(monotonic=lambda: float(next(now))))
    with progress("training", 10, 2) as advance:
        for _ in range(6):
            advance("loss 0.5")
    assert capsys.readouterr().err.splitlines() == [
        "training: 5 of 10, 2:05.0 left; loss 0.5",
        "training: 8 of 10, 0:50.0 left; loss 0.5",
    ]
