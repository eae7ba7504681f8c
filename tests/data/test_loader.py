"""Batches: the same whatever the workers and processes, resumable at any step, every window exactly once."""

import gc
import os
import pathlib
import signal
import subprocess
import sys
import time

import av
import jax
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from tadjax.data import loader, records
from tadjax.data.annotations import Video
from tadjax.data.loader import Share
from tadjax.data.sampling import Sampling
from tadjax.errors import ConfigError, DataError

FRAMES = (40, 25, 64, 33, 50)  # of the five videos, at 10 frames a second
SEGMENTS = ([[0.5, 1.5], [2.0, 3.0]], [[1.0, 2.0]], [[0.5, 1.0], [3.0, 4.5], [5.0, 6.0]], [[1.0, 3.0]], [[2.0, 2.5]])
SAMPLING = Sampling("random_trunc", feature_length=16, stride=2, crop_ratio=(0.9, 1.0))  # 32 of a video's frames
SLIDING = Sampling("sliding", feature_length=16, stride=1, overlap=0.5)


def gray(frame: int) -> int:
    return 20 + 3 * frame


def write_video(path: pathlib.Path, frames: int, width: int = 32, height: int = 24) -> None:
    """Frame i is a plane of gray(i), so that a decoded picture tells its number."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"qp": "0", "g": "10"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for i in range(frames):
            picture = np.full((height, width, 3), gray(i), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        container.mux(stream.encode())


def make_video(index: int) -> Video:
    segments = np.array(SEGMENTS[index], np.float64)
    labels = np.arange(len(segments), dtype=np.int32) % 3
    return Video(f"clip{index}", "training", FRAMES[index] / 10, FRAMES[index], 10.0, segments, labels)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    for i, frames in enumerate(FRAMES):
        size = (24, 32) if i == 3 else (32, 24)  # video 3 is a portrait
        write_video(folder / f"clip{i}.mp4", frames, *size)
    return folder


@pytest.fixture(scope="module")
def sources(folder):
    videos = [make_video(i) for i in range(len(FRAMES))]
    return records.open_sources(videos, records.find_videos(videos, folder), SAMPLING)


def train_set(sources, sampling=SAMPLING, **options) -> records.TrainSet:
    return records.TrainSet(sources, sampling, **{"seed": 3, "short_side": 24, **options})


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
        "frames": ("uint8", (4, 16, 24, 43, 3)),  # 43 = ceil(24 * 16 / 9)
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


def test_frames_and_segments_of_a_record_agree(sources):
    """Feature step t shows frame start + 2 t, and the segments stand where the annotated seconds are on it."""
    data = train_set(sources)
    for n in range(10):
        record = data.record(n)
        height, width = record["frame_size"]
        assert (height, width) == (24, 32)
        assert bool(record["portrait"]) == (record["video"] == 3)
        assert not record["frames"][:, height:].any() and not record["frames"][:, :, width:].any()
        level = record["frames"][:, :height, :width].mean(axis=(1, 2, 3))
        number = (level - gray(0)) / 3
        steps = int(record["valid"].sum())
        start = round(number[0])
        np.testing.assert_allclose(number[:steps], start + 2 * np.arange(steps), atol=0.7)
        np.testing.assert_allclose(number[steps:], number[steps - 1], atol=0.01)  # padding repeats the last frame
        kept = record["segments"][record["segment_valid"]]
        seconds = (kept * 2 + start) / 10
        for segment in seconds:
            overlap = [min(segment[1], e) - max(segment[0], s) for s, e in SEGMENTS[record["video"]]]
            np.testing.assert_allclose(max(overlap), segment[1] - segment[0], atol=1e-5)
        assert not record["segments"][~record["segment_valid"]].any()


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


def test_the_order_is_the_one_it_has_always_been(sources):
    """A checkpoint of an older version must go on with the same records: these numbers may never change."""
    data = train_set(sources)
    assert [data.locate(n)[1].index for n in range(10)] == [1, 4, 2, 3, 0, 2, 3, 1, 4, 0]
    assert [int(data.record(n)["augment_seed"]) for n in range(2)] == [106314868, 4006498671]


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


def test_sliding_windows_of_training_come_once_an_epoch(sources):
    data = train_set(sources, SLIDING)
    windows = [data.locate(n)[1:] for n in range(len(data))]
    listed = {(source.index, window.start) for source, window in windows}
    assert len(listed) == len(data) == 8  # none of video 3: its 20 frames of action fit into no window of 16
    assert all(data.record(n)["segment_valid"].any() for n in range(len(data)))


def test_max_segments_is_reached_and_never_exceeded(sources):
    data = train_set(sources)
    assert data.max_segments == 2  # no window of 3.2 s holds three quarters of each of video 2's three segments
    counts = [int(data.record(n)["segment_valid"].sum()) for n in range(40)]
    assert max(counts) == 2


def test_segments_that_do_not_fit_are_an_error(sources):
    data = train_set(sources, max_segments=1)
    with pytest.raises(DataError, match=r"clip\d.mp4: a window holds 2 segments, but max_segments is 1"):
        take(loader.train_batches(data, 5), 1)


def test_videos_without_segments_are_left_out(folder):
    empty = Video("clip1", "training", 2.5, 25, 10.0, np.zeros((0, 2)), np.zeros(0, np.int32))
    videos = [make_video(0), empty]
    opened = records.open_sources(videos, records.find_videos(videos, folder), SAMPLING)
    assert len(train_set(opened)) == 1
    with pytest.raises(DataError, match="none of the 1 training videos"):
        train_set(opened[1:])


def test_a_picture_wider_than_the_canvas_is_refused_with_the_aspect_it_needs(sources):
    with pytest.raises(ConfigError, match=r"max_aspect is 1.2, but 5 of 5 .* 32 x 24 pixels: set it to 1.334"):
        train_set(sources, max_aspect=1.2)
    assert train_set(sources, max_aspect=1.334).canvas == (24, 33)


# Evaluation


def evaluation_set(sources, sampling=SLIDING) -> records.EvaluationSet:
    return records.EvaluationSet(sources, sampling, size=16)


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


def test_evaluation_windows_reach_every_frame_and_know_their_seconds(sources):
    data = evaluation_set(sources)
    seen = {source.index: set() for source in sources}
    for i, window in enumerate(data.windows):
        record = data.record(i)
        assert record["video"] == window.video
        steps = np.flatnonzero(record["valid"])
        number = (record["frames"][steps].mean(axis=(1, 2, 3)) - gray(0)) / 3
        frames = window.grid.to_seconds(steps) * 10
        np.testing.assert_allclose(number, frames, atol=0.7)  # shades are three levels apart; YUV rounds by one or two
        seen[window.video] |= set(np.round(frames).astype(int).tolist())
    assert seen == {source.index: set(range(FRAMES[source.index])) for source in sources}


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


def test_missing_videos_are_named_in_one_error(folder):
    videos = [make_video(0), *(Video(f"gone{i}", "t", 1, 10, 10, np.zeros((0, 2)), np.zeros(0)) for i in range(5))]
    with pytest.raises(DataError) as error:
        records.find_videos(videos, folder)
    text = str(error.value)
    assert text.startswith(
        f"{folder}: 5 of 6 videos are missing: gone0; gone1; gone2; and 2 more; put each there as NAME"
    )
    assert "the folder holds files such as 'clip0'" in text
    with pytest.raises(DataError, match="no such folder of videos"):
        records.find_videos(videos, folder / "none")


def test_files_are_found_by_any_usual_extension_and_prefix(tmp_path):
    for name in ("v_a.MP4", "v_b.c.webm", "d.mkv", "notes.txt"):
        (tmp_path / name).touch()
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "v_e.avi").touch()

    def named(*names):
        return [Video(name, "t", 1, 10, 10, np.zeros((0, 2)), np.zeros(0)) for name in names]

    found = records.find_videos(named("a", "b.c", "sub/e"), tmp_path, "v_")
    assert [str(path.relative_to(tmp_path)) for path in found] == ["v_a.MP4", "v_b.c.webm", "sub/v_e.avi"]
    assert records.find_videos(named("d"), tmp_path) == [tmp_path / "d.mkv"]
    for name in ("../d", "/etc/passwd"):
        with pytest.raises(DataError, match="outside"):
            records.find_videos(named(name), tmp_path)
    with pytest.raises(DataError, match="outside"):
        records.find_videos(named("d"), tmp_path, "../")
    (tmp_path / "d.mp4").touch()
    with pytest.raises(DataError, match="'d' has 2 files, d.mkv, d.mp4; keep one"):
        records.find_videos(named("d"), tmp_path)


def test_a_file_that_is_no_video_is_reported_before_training(folder, tmp_path):
    (tmp_path / "clip0.mp4").write_bytes(b"nothing" * 100)
    (tmp_path / "clip1.mp4").write_bytes(b"")
    videos = [make_video(0), make_video(1)]
    paths = records.find_videos(videos, tmp_path)
    with pytest.raises(
        DataError, match=r"2 of 2 videos cannot be used: .*clip0.mp4.*clip1.mp4: the video file is empty"
    ):
        records.open_sources(videos, paths, SAMPLING)


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


_ORPHANS = """
import os, pathlib, signal, sys
sys.path.insert(0, {root!r})
from tests.data import test_loader as t
from tadjax.data import loader, records

if __name__ == "__main__":
    folder = pathlib.Path({folder!r})
    videos = [t.make_video(i) for i in range(5)]
    sources = records.open_sources(videos, records.find_videos(videos, folder), t.SAMPLING)
    batches = loader.train_batches(t.train_set(sources), 2, workers=2)
    next(batches)
    print(*t.worker_pids(), flush=True)
    {end}
"""


@linux
@pytest.mark.parametrize("end", ["os.kill(os.getpid(), signal.SIGKILL)", "sys.exit(5)"])
def test_no_worker_outlives_its_parent(folder, tmp_path, end):
    root = str(pathlib.Path(__file__).parents[2])
    script = tmp_path / "run.py"
    script.write_text(_ORPHANS.format(root=root, folder=str(folder), end=end))
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=60)
    assert done.returncode == (5 if "exit" in end else -signal.SIGKILL), done.stderr
    pids = {int(pid) for pid in done.stdout.split()}
    assert len(pids) == 2
    assert gone(pids)
    if "exit" in end:
        assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr
