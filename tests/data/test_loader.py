"""Batches: the same whatever the workers and processes, resumable at any step, every window exactly once."""

import gc
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from tadjax.data import loader, records
from tadjax.data.loader import Share
from tadjax.errors import ConfigError, DataError
from tests.video.tiny_videos import SAMPLING, evaluation_set, make_video, train_set

ROOT = str(pathlib.Path(__file__).parents[2])


def take(batches, n: int) -> list[dict]:
    with batches:
        return [next(batches) for _ in range(n)]


def assert_same(got: list[dict], want: list[dict]) -> None:
    assert len(got) == len(want)
    for a, b in zip(got, want, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            assert a[name].dtype == b[name].dtype
            np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def test_a_training_batch_has_the_agreed_entries(sources):
    (batch,) = take(loader.train_batches(train_set(sources), 4), 1)
    shapes = {name: (array.dtype.name, array.shape) for name, array in batch.items()}
    assert shapes == {
        "frames": ("uint8", (4, 16, 24, 32, 3)),  # all videos are 32 x 24
        "frame_size": ("int32", (4, 2)),
        "portrait": ("bool", (4,)),
        "valid": ("bool", (4, 16)),
        "segments": ("float32", (4, 2, 2)),
        "labels": ("int32", (4, 2)),
        "segment_valid": ("bool", (4, 2)),
        "video": ("int32", (4,)),
        "augment_seed": ("uint32", (4,)),
        "substituted": ("int32", (4,)),
    }


def test_every_video_comes_exactly_once_an_epoch_also_when_the_batch_does_not_divide(sources):
    batches = take(loader.train_batches(train_set(sources), 2), 10)  # 20 records are 4 epochs of 5
    epochs = np.concatenate([batch["video"] for batch in batches]).reshape(4, 5)
    np.testing.assert_array_equal(np.sort(epochs, axis=1), np.tile(np.arange(5), (4, 1)))
    assert len({tuple(epoch) for epoch in epochs}) > 1  # another order each time
    assert loader.steps_per_epoch(train_set(sources), 2) == 3
    assert loader.steps_per_epoch(train_set(sources), 5) == 1


def test_draws_differ_between_epochs_and_seeds_and_repeat_for_the_same(sources):
    first, second = take(loader.train_batches(train_set(sources), 5), 2)
    (other,) = take(loader.train_batches(train_set(sources, seed=4), 5), 1)
    seeds = np.concatenate([b["augment_seed"] for b in (first, second, other)])
    assert len(set(seeds.tolist())) == 15
    by_video = [dict(zip(b["video"].tolist(), b["segments"].tolist(), strict=True)) for b in (first, second)]
    assert by_video[0] != by_video[1]
    assert_same(take(loader.train_batches(train_set(sources), 5), 2), [first, second])


@pytest.mark.parametrize("start", [1, 4, 7])
def test_starting_at_a_step_equals_dropping_the_steps_before(sources, start):
    whole = take(loader.train_batches(train_set(sources), 2), start + 2)
    assert_same(take(loader.train_batches(train_set(sources), 2, start_step=start), 2), whole[start:])


def test_starting_late_decodes_nothing_before(sources, monkeypatch):
    read, decoded = records.read_frames, []
    monkeypatch.setattr(records, "read_frames", lambda path, *a, **k: decoded.append(path) or read(path, *a, **k))
    take(loader.train_batches(train_set(sources), 2, start_step=10**9), 1)
    assert len(decoded) == 2


def test_stop_step_ends_the_stream(sources):
    batches = loader.train_batches(train_set(sources), 2, start_step=3, stop_step=5)
    assert batches.length == 2
    assert len(list(batches)) == 2


@pytest.mark.parametrize("count", [2, 3])
def test_processes_share_the_same_global_batches(sources, count):
    whole = take(loader.train_batches(train_set(sources), 6), 3)
    shares = [take(loader.train_batches(train_set(sources), 6, share=Share(p, count)), 3) for p in range(count)]
    joined = [{k: np.concatenate([share[step][k] for share in shares]) for k in whole[0]} for step in range(3)]
    assert_same(joined, whole)


def test_a_batch_that_cannot_be_shared_out_is_refused(sources):
    with pytest.raises(ConfigError, match="batch of 4 cannot be shared out evenly to 3 loading processes"):
        loader.train_batches(train_set(sources), 4, share=Share(0, 3))


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(sources, workers):
    whole = take(loader.train_batches(train_set(sources), 2), 6)
    parallel = take(loader.train_batches(train_set(sources), 2, start_step=2, workers=workers), 4)
    assert_same(parallel, whole[2:])


# Evaluation


@pytest.mark.parametrize("count", [1, 2])
def test_evaluation_covers_every_window_once_and_pads_the_last_batch(sources, count):
    data = evaluation_set(sources)
    shares = [list(loader.evaluation_batches(data, 4, share=Share(p, count))) for p in range(count)]
    assert {len(share) for share in shares} == {-(-len(data) // 4)}
    assert {batch["frames"].shape for share in shares for batch in share} == {(4 // count, 16, 16, 16, 3)}
    window = np.concatenate([np.concatenate([share[i]["window"] for share in shares]) for i in range(len(shares[0]))])
    real = np.concatenate([np.concatenate([share[i]["real"] for share in shares]) for i in range(len(shares[0]))])
    np.testing.assert_array_equal(window[real], np.arange(len(data)))
    assert (window[~real] == -1).all() and len(window) % 4 == 0
    assert all(batch["valid"].any(axis=1).all() for share in shares for batch in share)


# Devices


def test_batches_on_the_device_are_those_of_the_host(sources):
    sharding = NamedSharding(Mesh(np.array(jax.devices()[:1]), "data"), P("data"))
    whole = take(loader.train_batches(train_set(sources), 2), 4)
    with loader.to_device(loader.train_batches(train_set(sources), 2, stop_step=4), sharding, ahead=2) as batches:
        moved = []
        for batch in batches:
            assert all(array.sharding == sharding for array in batch.values())
            moved.append(jax.device_get(batch))
        assert batches.waited >= 0
    assert_same(moved, whole)


def test_waiting_is_measured(sources, monkeypatch):
    read = records.read_frames
    monkeypatch.setattr(records, "read_frames", lambda *a, **k: time.sleep(0.2) or read(*a, **k))
    sharding = NamedSharding(Mesh(np.array(jax.devices()[:1]), "data"), P("data"))
    with loader.to_device(loader.train_batches(train_set(sources), 1), sharding) as batches:
        next(batches)
        assert batches.waited > 0.1
        time.sleep(0.8)  # a step of the model, while the next batch is made
        next(batches)
        assert batches.waited < 0.1


def test_a_single_process_has_the_whole_batch():
    sharding = NamedSharding(Mesh(np.array(jax.devices()[:1]), "data"), P("data"))
    assert loader.share_of(sharding, 6) == Share(0, 1)
    assert list(Share(1, 3).rows(6)) == [2, 3]


# What goes wrong


@pytest.mark.parametrize("workers", [0, 2])
def test_a_video_that_breaks_while_training_is_one_sentence(folder, tmp_path, workers):
    """The file was whole when it was indexed; then its second half is overwritten."""
    path = tmp_path / "clip2.mp4"
    path.write_bytes((folder / "clip2.mp4").read_bytes())
    opened = records.open_sources([make_video(2)], [path], SAMPLING, tmp_path / "cache")
    data = train_set(opened, cache_dir=tmp_path / "cache")
    content = bytearray(path.read_bytes())
    start = content.index(b"mdat") + 4
    stamp = path.stat()
    content[start:] = bytes(len(content) - start)
    path.write_bytes(content)
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    batches = loader.train_batches(data, 1, workers=workers)
    with pytest.raises(DataError) as error:
        next(batches)
    assert "clip2.mp4" in str(error.value)
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="closed"):
        next(batches)


def worker_pids() -> set[int]:
    """The worker processes of this process."""
    tasks = pathlib.Path("/proc/self/task").iterdir()
    children = {int(pid) for task in tasks for pid in (task / "children").read_text().split()}
    return {pid for pid in children if b"spawn_main" in pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()}


def gone(pids: set[int], seconds: float = 10) -> bool:
    end = time.monotonic() + seconds
    while any(pathlib.Path(f"/proc/{pid}").exists() for pid in pids):
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True


linux = pytest.mark.skipif(not pathlib.Path("/proc/self/task").exists(), reason="counts processes in /proc")


@linux
def test_a_killed_worker_is_a_clear_error_in_bounded_time(sources):
    before = worker_pids()
    batches = loader.train_batches(train_set(sources), 2, workers=2)
    next(batches)
    pids = worker_pids() - before
    assert len(pids) == 2
    os.kill(min(pids), signal.SIGKILL)
    begin = time.monotonic()
    with pytest.raises(
        DataError, match=r"ended unexpectedly \(exit status -9\): it was killed, most often because memory"
    ):
        while True:
            next(batches)
    assert time.monotonic() - begin < 20
    assert gone(pids)


@linux
def test_workers_end_when_batches_are_closed_or_forgotten(sources):
    before = worker_pids()
    batches = loader.train_batches(train_set(sources), 2, workers=1)
    next(batches)
    pids = worker_pids() - before
    assert len(pids) == 1
    batches.close()
    batches.close()
    assert gone(pids)
    batches = loader.train_batches(train_set(sources), 2, workers=1)
    next(batches)
    pids = worker_pids() - before
    assert len(pids) == 1
    del batches
    gc.collect()
    assert gone(pids)


_PARENT = """
import os, pathlib, signal, sys, time
sys.path.insert(0, {root!r})
from tadjax.data import loader
from tests.data.test_loader import worker_pids
from tests.video.tiny_videos import open_videos, train_set

if __name__ == "__main__":
    batches = loader.train_batches(train_set(open_videos(pathlib.Path({folder!r}))), 2, workers=2)
    next(batches)
    print(*worker_pids(), flush=True)
    {end}
"""


def run_parent(folder, tmp_path, end: str, status: int) -> set[int]:
    """Runs a script with two workers that ends as `end` says; the process ids of its workers."""
    script = tmp_path / "run.py"
    script.write_text(_PARENT.format(root=ROOT, folder=str(folder), end=end))
    command = [sys.executable, str(script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, start_new_session=True)
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr
    return {int(pid) for pid in done.stdout.split()}


@linux
def test_no_worker_outlives_a_killed_parent(folder, tmp_path):
    pids = run_parent(folder, tmp_path, "os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL)
    assert len(pids) == 2 and gone(pids)


@linux
def test_a_signal_to_all_processes_leaves_the_parent_time_to_save(folder, tmp_path):
    """As schedulers send it. The workers go on, and end with a parent that closes nothing."""
    end = "signal.signal(15, lambda *_: None); os.killpg(0, 15); time.sleep(1); [*zip(range(20), batches)]; sys.exit(5)"
    pids = run_parent(folder, tmp_path, end, 5)
    assert len(pids) == 2 and gone(pids)


_PROCESS = """
import pathlib, sys
sys.path.insert(0, {root!r})
import jax
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 2)
jax.distributed.initialize("localhost:{port}", num_processes=2, process_id=int(sys.argv[1]))
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from tadjax.data import loader
from tests.data.test_loader import assert_same, take
from tests.video.tiny_videos import open_videos, train_set

jax.config.update("jax_transfer_guard", "disallow")
data = train_set(open_videos(pathlib.Path({folder!r})))
for shape in ((4, 1), (2, 2), (1, 4)):
    mesh = Mesh(np.array(jax.devices()).reshape(shape), ("data", "clip"))
    sharding = dict.fromkeys(data.record(0), NamedSharding(mesh, P("data")))
    sharding["frames"] = NamedSharding(mesh, P("data", "clip"))
    share = loader.share_of(sharding["valid"], 4)
    with loader.to_device(loader.train_batches(data, 4, share=share), sharding) as batches:
        batch = next(batches)
    whole = jax.jit(lambda x: x, out_shardings=NamedSharding(mesh, P()))(batch)
    whole = {{name: jax.device_get(array.addressable_data(0)) for name, array in whole.items()}}
    assert_same([whole], take(loader.train_batches(data, 4), 1))
    with open(sys.argv[2], "a") as shares:
        print(*share, file=shares)
"""


def test_two_processes_make_the_global_batch_of_one_on_any_mesh(folder, tmp_path):
    """Also where the devices of both hold parts of the same windows, by their clips: then both load the same rows."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    code = _PROCESS.format(root=ROOT, folder=str(folder), port=port)
    files = [tmp_path / "first.txt", tmp_path / "second.txt"]  # what they print is mixed with what Gloo prints
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    running = [subprocess.Popen([sys.executable, "-c", code, str(p), file], **pipes) for p, file in enumerate(files)]
    try:
        for p, (process, file) in enumerate(zip(running, files, strict=True)):
            out, _ = process.communicate(timeout=120)
            assert process.returncode == 0, out
            assert file.read_text().splitlines() == [f"{p} 2", f"{p} 2", "0 1"]
    finally:
        for process in running:
            process.kill()
