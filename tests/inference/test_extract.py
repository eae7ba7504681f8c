"""Extraction: a head sees of features on disk what it sees of videos, and nothing half done is taken as whole."""

import fcntl
import json
import pathlib
import shutil
import threading

import jax
import numpy as np
import pytest

import tadjax
from tadjax.build import build
from tadjax.config import checks as configs
from tadjax.data.dataset import Dataset
from tadjax.errors import ConfigError, DataError
from tadjax.inference import predict
from tadjax.inference.evaluate import evaluate_run
from tadjax.inference.extract import extract, extract_videos
from tadjax.parallel import mesh as meshes
from tadjax.training.arrival import Arrival
from tadjax.training.loop import train
from tadjax.workdir.run import initial_params, load_run
from tests.conftest import make_small_config

STEPS = 64  # of a window: all videos but the last fit into one


def head_only(small_data: pathlib.Path, representation: str = "frame"):
    from configs import common

    config = common.frozen(make_small_config(small_data))
    config.window.representation = representation
    config.window.frames = config.window.feature_length = config.head.max_length = STEPS
    config.window.crop_ratio = ()
    config.window.short_side = config.window.size = 32
    config.features.dtype = "float32"
    config.memory.clips_per_group = 0 if representation == "frame" else 16
    configs.check(config)
    return config


class Extracted:
    """A config that decodes videos, the same one that reads their features, and what the first one's backbone sees."""

    def __init__(self, small_data: pathlib.Path, folder: pathlib.Path, representation: str):
        self.videos = head_only(small_data, representation)
        self.classes = Dataset(self.videos).classes
        self.folder = extract(self.videos, folder)
        self.features = self.videos.copy_and_resolve_references()
        self.features.features.path = str(self.folder)
        self.localizer = build(self.videos, len(self.classes))
        mesh = meshes.make_mesh(self.videos.mesh)
        self.params = initial_params(self.videos, self.localizer, mesh)
        self.mesh = mesh
        self.see = jax.jit(self.localizer.features)


@pytest.fixture(scope="module")
def frame(small_data, tmp_path_factory) -> Extracted:
    return Extracted(small_data, tmp_path_factory.mktemp("frame"), "frame")


@pytest.fixture(scope="module")
def snippet(small_data, tmp_path_factory) -> Extracted:
    return Extracted(small_data, tmp_path_factory.mktemp("snippet"), "snippet")


def windows(of: Extracted, config) -> list:
    """[(record, window)] of the evaluation."""
    records = Dataset(config).evaluation_set()
    return [(records.record(i), records.windows[i]) for i in range(len(records))]


def test_evaluation_sees_the_same_features_of_disk_and_of_videos(frame):
    """All valid steps of windows that begin where the extraction's clips do; but that interpolation ends with a window
    of frames, and goes on over the whole video on disk."""
    shown = windows(frame, frame.videos)
    stored = windows(frame, frame.features)
    assert [w.grid for _, w in shown] == [w.grid for _, w in stored]
    assert [w.grid.window_start_frame for _, w in shown] == [0, 0, 6]  # video5: 125 frames; video6: 134
    for (record, _), (features, _) in list(zip(shown, stored, strict=True))[:2]:
        seen = frame.see(frame.params, record["frames"][None])[0]
        np.testing.assert_array_equal(record["valid"], features["valid"])
        steps = np.flatnonzero(record["valid"])[: STEPS - 1]
        np.testing.assert_allclose(features["features"][steps], seen[steps], rtol=1e-5, atol=1e-5)


def test_snippets_are_the_same_wherever_a_window_begins(snippet):
    shown, stored = windows(snippet, snippet.videos), windows(snippet, snippet.features)
    for (record, _), (features, _) in zip(shown, stored, strict=True):
        seen = snippet.see(snippet.params, record["frames"][None])[0]
        np.testing.assert_array_equal(record["valid"], features["valid"])
        np.testing.assert_allclose(features["features"][record["valid"]], seen[record["valid"]], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["frame", "snippet"])
def test_training_sees_the_same_features_of_disk_and_of_videos(kind, request):
    """Without augmentation: the same windows, segments and features, for videos that fit into a window."""
    of = request.getfixturevalue(kind)
    shown, stored = (Dataset(config).training_set() for config in (of.videos, of.features))
    for n in range(3):
        record, features = shown.record(n), stored.record(n)
        for name in ("valid", "segments", "labels", "segment_valid", "video", "augment_seed"):
            np.testing.assert_array_equal(record[name], features[name])
        batch = {name: np.asarray(array)[None] for name, array in record.items()}
        arrival = Arrival(of.videos, of.mesh, {shown.shape: of.videos.window.size})
        seen, valid = of.see(of.params, arrival(batch, 1)["frames"])[0], record["valid"]
        np.testing.assert_allclose(features["features"][valid], seen[valid], rtol=1e-4, atol=2e-4)


def test_a_snippet_is_what_the_backbone_makes_of_its_frames_alone(snippet):
    """Feature step 9 of stride 2 stands at frame 18: the mean over the steps of frames 10 to 25."""
    record = windows(snippet, snippet.videos)[0][0]
    clip = record["frames"][8 + 10 : 8 + 26]  # the window's first frame stands 8 before the video's
    alone = build(head_only_of(snippet.videos), 1).steps(snippet.params, clip[None])[0].mean(0)
    np.testing.assert_allclose(windows(snippet, snippet.features)[0][0]["features"][9], alone, rtol=1e-5, atol=1e-5)


def head_only_of(config):
    config = config.copy_and_resolve_references()
    config.window.representation, config.memory.clips_per_group = "frame", 0
    return config


def test_features_json_says_what_the_files_are(frame, snippet):
    rules = json.loads((frame.folder / "features.json").read_text())
    assert (rules["representation"], rules["stride"], rules["offset"], rules["width"]) == ("frame", 2, 0, 48)
    assert rules["backbone"] == {"name": "vit", "size": "tiny", "image": 224}
    other = json.loads((snippet.folder / "features.json").read_text())
    assert (other["representation"], other["snippet_frames"], other["snippet_stride"]) == ("snippet", 16, 1)
    assert other["weights_sha256"] == rules["weights_sha256"] and len(rules["weights_sha256"]) == 64
    shapes = {path.stem: np.load(path).shape for path in sorted(frame.folder.glob("*.npy"))}
    assert shapes == {f"video{i}": (-(-(80 + 9 * i) // 2), 48) for i in range(7)}


def test_only_what_is_missing_or_damaged_is_made_again(frame, capsys):
    files = {path.name: path for path in frame.folder.glob("*.npy")}
    before = {name: (path.read_bytes(), path.stat().st_mtime_ns) for name, path in files.items()}
    files["video1.npy"].unlink()
    files["video2.npy"].write_bytes(before["video2.npy"][0][:-100])
    (frame.folder / "video3.info.json").unlink()
    (frame.folder / "video4.npy.part").write_bytes(b"half")  # of a process that was killed
    assert extract_videos(frame.videos, frame.folder.parent) == []
    assert "3 videos extracted, 4 were there already" in capsys.readouterr().out
    after = {name: (path.read_bytes(), path.stat().st_mtime_ns) for name, path in files.items()}
    for name in files:
        assert after[name][0] == before[name][0]
        assert (after[name] == before[name]) == (name not in ("video1.npy", "video2.npy", "video3.npy"))
    assert not list(frame.folder.glob("*.part"))


def test_another_process_s_videos_are_waited_for_not_made_twice(frame, capsys):
    """While a file is locked the others are made; it is looked at again once it is let go."""
    target = frame.folder / "video0.npy"
    content = target.read_bytes()
    target.unlink()
    (frame.folder / "video5.npy").unlink()
    with (frame.folder / "video0.npy.part").open("ab") as part:
        fcntl.flock(part, fcntl.LOCK_EX)

        def finish() -> None:
            part.write(content)
            part.flush()
            pathlib.Path(part.name).rename(target)
            fcntl.flock(part, fcntl.LOCK_UN)

        timer = threading.Timer(1.0, finish)
        timer.start()
        assert extract_videos(frame.videos, frame.folder.parent) == []
        timer.join()
    assert target.read_bytes() == content
    assert "1 videos extracted, 6 were there already" in capsys.readouterr().out
    assert not list(frame.folder.glob("*.part"))


def test_two_at_once_share_the_videos_out_and_never_wait_for_each_other(frame, tmp_path, capsys):
    """With batches that hold windows of several videos: an unfinished one must not keep the other from finishing."""
    both = [threading.Thread(target=extract_videos, args=(frame.videos, tmp_path), daemon=True) for _ in range(2)]
    for one in both:
        one.start()
    for one in both:
        one.join(timeout=120)
        assert not one.is_alive()
    lines = [line.split(" -> ")[0] for line in capsys.readouterr().out.splitlines()]
    made, found = zip(*[(int(line.split()[0]), int(line.split()[3])) for line in lines], strict=True)
    assert sum(made) == 7 and sum(found) == 7
    for path in frame.folder.glob("*.npy"):
        np.testing.assert_array_equal(np.load(tmp_path / "features" / path.name), np.load(path))
    assert not list((tmp_path / "features").glob("*.part"))


def test_other_settings_need_another_folder(frame):
    config = frame.videos.copy_and_resolve_references()
    config.window.stride = 4
    with pytest.raises(
        ConfigError, match=r"features of other settings; give another --output(.|\n)*stride: 2 there, 4"
    ):
        extract_videos(config, frame.folder.parent)


def test_a_bad_video_is_one_sentence_and_the_rest_goes_on(frame, small_data, tmp_path, capsys):
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "broken.mp4").write_bytes(b"nothing that FFmpeg knows")
    (tmp_path / "videos" / "good.mp4").write_bytes((small_data / "videos" / "video0.mp4").read_bytes())
    videos = (str(tmp_path / "videos"),)
    missing, broken = extract_videos(frame.videos, tmp_path, (*videos, str(tmp_path / "gone.mp4")))
    printed = capsys.readouterr().err
    assert "gone.mp4" in missing and missing in printed
    assert "broken.mp4" in broken and broken in printed
    assert "2 of 3 videos could not be used" in printed
    assert sorted(path.name for path in (tmp_path / "features").iterdir()) == [
        "features.json",
        "good.info.json",
        "good.npy",
    ]
    np.testing.assert_array_equal(np.load(tmp_path / "features" / "good.npy"), np.load(frame.folder / "video0.npy"))
    with pytest.raises(DataError, match="no features of: .*broken.mp4"):
        extract(frame.videos, tmp_path, videos=videos)


@pytest.fixture(scope="module")
def run(frame, tmp_path_factory) -> tuple:
    """(config, workdir, last evaluation) of a head trained on features."""
    config, workdir = frame.features.copy_and_resolve_references(), tmp_path_factory.mktemp("run")
    config.optim.epochs, config.train.keep_last = 2, 10
    return config, workdir, train(config, workdir)


def weights_of(config, workdir: pathlib.Path) -> dict:
    return jax.tree.map(np.asarray, load_run(config, workdir, best=False).params)


def test_a_run_on_features_goes_on_where_it_was_killed_and_is_evaluated(run):
    """With the bits of the run that was not killed; evaluation of its checkpoint repeats the training's last one."""
    config, workdir, whole = run
    assert not (workdir / "frozen").exists()  # nothing is
    before = weights_of(config, workdir)
    for step in (4, 6):
        shutil.rmtree(workdir / "checkpoints" / str(step))
    assert train(config, workdir) == whole
    jax.tree.map(np.testing.assert_array_equal, weights_of(config, workdir), before)
    assert evaluate_run(config, workdir) == whole


def test_a_run_on_features_predicts_videos(run, small_data):
    """With the backbone that made the features; as evaluation found it on disk. (Not to the last detection: beyond a
    video's end there are zeros on disk and repeated frames in videos, which the convolution of its last step sees.)"""
    config, workdir, _ = run
    evaluate_run(config, workdir)
    stored = json.loads((workdir / "results.json").read_text())["results"]["video5"][:30]
    found = list(tadjax.load(workdir).predict(small_data / "videos" / "video5.mp4", top_k=30))
    np.testing.assert_allclose([score for *_, score in found], [d["score"] for d in stored], atol=1e-4)
    np.testing.assert_allclose([d[:2] for d in found[:10]], [d["segment"] for d in stored[:10]], atol=1e-2)


def test_features_of_another_backbone_are_not_taken_for_its_own(run):
    config, workdir, _ = run
    config = config.copy_and_resolve_references()
    config.seed = 1  # of the random backbone
    with pytest.raises(ConfigError, match=r"were not made as this config would make them now:\s+weights_sha256"):
        predict.load(workdir, config)
    published = workdir / "published"
    shutil.copytree(config.features.path, published)
    (published / "features.json").unlink()
    config.features.path = str(published)
    with pytest.raises(ConfigError, match=r"this run knows published features only"):
        predict.load(workdir, config)
