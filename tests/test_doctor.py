"""The doctor: every usual mistake is one line with the command that mends it, and the exit status tells."""

import hashlib
import json
import os
import pathlib
import threading
import time
import types

import jax
import numpy as np
import pytest
import torch

from convert import torch_to_flax
from tadjax import doctor
from tadjax.backbones.vit import SIZES
from tadjax.build import build
from tadjax.data import loader
from tadjax.data.annotations import read_database
from tadjax.data.dataset import Dataset
from tadjax.data.records import usual_canvas
from tadjax.errors import DataError
from tadjax.training.loop import train
from tadjax.workdir import weights
from tests.convert.checkpoints import tensors, vit_shapes
from tests.video.numbered_videos import make


def examine(config) -> list[doctor.Finding]:
    return list(doctor.examine(config))


def wrong(findings) -> list[doctor.Finding]:
    return [finding for finding in findings if finding.right is False]


def test_a_right_config_has_nothing_to_mend(small_config, small_data):
    findings = examine(small_config)
    assert wrong(findings) == []
    texts = [finding.text for finding in findings]
    assert "training: 5 videos" in "".join(texts) and "validation: 2 videos" in "".join(texts)
    instances = sum(len(entry["annotations"]) for entry in read_database(small_data / "annotations.json").values())
    counted = [int(text.split(", ")[1].split()[0]) for text in texts if text.endswith("instances")]
    assert sum(counted) == instances
    assert any("every 2. of video0.mp4, 48 x 40 h264" in text for text in texts)
    assert any("starts from random weights" in text for text in texts)


def test_without_a_config_it_looks_at_the_machine(capsys):
    assert doctor.main(["doctor"]) == 0
    printed = capsys.readouterr().out
    assert "JAX computes on" in printed and "of a made video of 320 x 240" in printed
    assert printed.endswith("nothing is wrong\n")


def test_no_weights_is_wrong_unless_it_is_meant(small_config):
    small_config.backbone.random_init, small_config.backbone.weights = False, ""
    (finding,) = wrong(examine(small_config))
    assert finding.text == "config.backbone.weights names no pre-trained weights: training will not start"
    assert finding.remedy == "python convert/torch_to_flax.py --input CHECKPOINT --output weights/NAME"


def test_weights_are_described_and_compared_with_the_config(small_config, tmp_path):
    torch.save({"module": tensors(vit_shapes())}, tmp_path / "vit.pth")
    assert torch_to_flax.main(["--input", f"{tmp_path}/vit.pth", "--output", f"{tmp_path}/vit"]) == 0
    small_config.backbone.random_init, small_config.backbone.weights = False, str(tmp_path / "vit")
    (finding,) = wrong(examine(small_config))
    assert "config.backbone.size" in finding.text, "the checkpoint has another width than the tiny backbone"


def test_right_weights_are_named_by_source_and_geometry(small_config, tmp_path):
    sizes = SIZES["tiny"]
    shapes = vit_shapes(**{name: sizes[name] for name in ("width", "depth", "patch", "mlp_width")})
    torch.save({"module": tensors(shapes)}, tmp_path / "vit.pth")
    assert torch_to_flax.main(["--input", f"{tmp_path}/vit.pth", "--output", f"{tmp_path}/vit"]) == 0
    small_config.backbone.random_init, small_config.backbone.weights = False, str(tmp_path / "vit")
    (finding,) = doctor.pretrained(Dataset(small_config))
    digest = hashlib.sha256((tmp_path / "vit.pth").read_bytes()).hexdigest()[:12]
    assert finding.right and f"from vit.pth (sha256 {digest})" in finding.text and "depth 4" in finding.text


def test_missing_videos_and_annotations_are_named_with_what_lists_them(small_config, small_data, tmp_path):
    content = json.loads((small_data / "annotations.json").read_text())
    content["database"]["lost"] = {**content["database"]["video0"]}
    (tmp_path / "annotations.json").write_text(json.dumps(content))
    small_config.data.annotations = str(tmp_path / "annotations.json")
    (finding,) = wrong(examine(small_config))
    assert "1 of 6 videos are missing: " in finding.text and "lost" in finding.text
    videos, file = small_config.data.videos, small_config.data.annotations
    assert finding.remedy == f"python -m tadjax.prepare custom --videos {videos} --annotations {file} --output DIR"
    small_config.data.annotations = str(tmp_path / "none.json")
    (finding,) = wrong(examine(small_config))
    assert f"config.data.annotations: {tmp_path / 'none.json'} does not exist" in finding.text


def test_weights_that_were_not_converted_are_named_by_their_maker(small_config, tmp_path):
    """The demo pre-trains its own: weights.json holds no source file."""
    params = build(small_config, 1, "cpu").init(jax.random.key(0))
    geometry = {"backbone": {**SIZES["tiny"], "image": small_config.backbone.image}}
    weights.save(tmp_path / "own", {"backbone": params["backbone"]}, geometry, layout="made by hand")
    small_config.backbone.random_init, small_config.backbone.weights = False, str(tmp_path / "own")
    (finding,) = doctor.pretrained(Dataset(small_config))
    assert finding.right and finding.text.endswith("from made by hand")
    small_config.backbone.image //= 2
    (finding,) = doctor.pretrained(Dataset(small_config))
    assert not finding.right and "its positions are those of pictures" in finding.text
    assert "of these weights (width" in finding.remedy


def test_a_classifier_without_scores_and_a_subset_that_is_not_there_are_wrong(small_config, tmp_path):
    classes = (tmp_path / "scores.json", ["one", "two"])
    classes[0].write_text(json.dumps({"class": classes[1], "results": {"video0": [0.1, 0.9]}}))
    small_config.data.class_agnostic, small_config.classifier.path = True, str(classes[0])
    small_config.classifier.layout = "cuhk"
    (finding,) = wrong(examine(small_config))
    assert (
        "the video classifier has no scores for video" in finding.text and "--config.classifier.path" in finding.remedy
    )
    small_config.classifier.path, small_config.data.eval_subset = "", "test"
    (finding,) = wrong(examine(small_config))
    assert "no video is in subset 'test'" in finding.text and "--config.data.eval_subset" in finding.remedy


def test_features_that_are_not_there_are_wrong(small_config, tmp_path):
    small_config.features.path, small_config.features.width = str(tmp_path / "none"), 8
    findings = wrong(doctor.pretrained(Dataset(small_config)))
    assert [finding.text for finding in findings] == [f"config.features.path: {tmp_path / 'none'} is no folder"]


def test_a_wrong_field_ends_the_examination_of_the_config(small_config):
    small_config.post.sigma = 0.0
    (finding,) = wrong(examine(small_config))
    assert finding.text == "config.post.sigma = 0.0: must be above 0"


def test_little_shared_memory_is_wrong(small_config, monkeypatch):
    small_config.data.workers, small_config.data.prefetch, small_config.optim.batch_size = 3, 1, 2
    window, evaluated = 32 * 36 * 64 * 3, 32 * 32 * 32 * 3  # frames, height, width, colours
    needed = 14 * window + 14 * evaluated  # 14 of a kind were measured
    for free, right in ((needed, True), (needed - 1, False)):
        monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path, free=free: types.SimpleNamespace(free=free))
        (finding,) = doctor.shared_memory(Dataset(small_config))
        assert finding.right == right and ("--shm-size" in finding.remedy) != right
    small_config.data.workers = 0
    assert not wrong(doctor.shared_memory(Dataset(small_config)))


class SharedMemory(threading.Thread):
    """Watches how much lies in /dev/shm in pieces of the given sizes, which no other process has."""

    def __init__(self, *sizes: int):
        super().__init__(daemon=True)
        self.most, self._sizes, self._over = 0, sizes, threading.Event()

    def now(self) -> int:
        with os.scandir("/dev/shm") as entries:
            found = [size_of(entry) for entry in entries if entry.name.startswith("psm_")]
        return sum(size for size in found if size in self._sizes)

    def run(self) -> None:
        while not self._over.wait(0.002):
            self.most = max(self.most, self.now())

    def stop(self) -> int:
        self._over.set()
        self.join()
        return self.most


def size_of(entry: os.DirEntry) -> int:
    try:
        return entry.stat().st_size
    except FileNotFoundError:  # taken meanwhile
        return 0


@pytest.mark.skipif(not pathlib.Path("/dev/shm").exists(), reason="no shared memory to look at")
def test_the_workers_of_training_and_of_evaluation_stay_within_what_is_asked_for(small_config):
    """Evaluation while training's workers are full: more than training alone is counted with, as the loader has it."""
    config = small_config
    config.window.short_side, config.window.size = 54, 52  # sizes that nothing else has
    config.data.workers, config.data.prefetch, config.evaluation.batch_size = 2, 1, 2
    dataset = Dataset(config)
    training, evaluated = dataset.training_set(), dataset.evaluation_set()
    window, other = int(np.prod(training.shape)), 32 * 52 * 52 * 3
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    options = {"workers": 2, "prefetch": 1}
    watch = SharedMemory(window, other)
    watch.start()
    with loader.to_device(loader.train_batches(training, 2, **options), sharding) as batches:
        next(batches)
        seen = [0]
        while seen[-1] < 4 * window or seen[-3:] != seen[-1:] * 3:  # until all wait for a step that is not asked for
            time.sleep(1)
            seen.append(watch.now())
        with loader.to_device(loader.evaluation_batches(evaluated, 2, **options), sharding) as others:
            assert len(list(others)) == -(-len(evaluated) // 2)
    most = watch.stop()
    usual = usual_canvas(54)
    needed = doctor.shared_bytes(dataset) - 10 * (
        32 * usual[0] * usual[1] * 3 - window
    )  # the small videos are narrower
    assert needed == 10 * window + 10 * other
    assert 10 * window < most <= needed, (seen[-1] / window, most / window)


def test_an_accelerator_that_jax_does_not_see_is_wrong(monkeypatch):
    monkeypatch.setattr(doctor, "_hidden_accelerator", lambda: ("an NVIDIA GPU", "install it"))
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    (finding,) = wrong(doctor.devices())
    assert finding.text.endswith("though an NVIDIA GPU is there") and finding.remedy == "unset JAX_PLATFORMS"


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--config=configs/thumos.py:vitx"], 2, "there are vits, vitb,"),
        (["--config=configs/none.py"], 2, "No such file or directory: 'configs/none.py'"),
        (["--config=configs/thumos_vitgg.py"], 2, "did you mean configs/thumos_vitg.py?"),
        (["--config=configs/thumos_vits.py", "--config.optim.hed_lr=1"], 2, "did you mean config.optim.head_lr?"),
        (["--config=configs/thumos_vits.py"], 1, "things to mend"),
        (["stray"], 2, "unexpected arguments stray"),
        (["--memry"], 2, "error: Unknown command line flag 'memry'. Did you mean: memory ?"),
        (["--help"], 0, "Any leaf of the config can be overridden, as in training. Exit status 0: nothing is wrong"),
    ],
)
def test_the_exit_status_tells(arguments, status, message, capsys, monkeypatch):
    monkeypatch.chdir(doctor.pathlib.Path(doctor.__file__).parents[1])
    assert doctor.main(["doctor", *arguments]) == status
    printed = capsys.readouterr()
    assert message in printed.out + printed.err


def test_a_subset_without_an_instance_is_wrong_as_in_training(small_config, small_data, tmp_path):
    content = json.loads((small_data / "annotations.json").read_text())
    for entry in content["database"].values():
        if entry["subset"] == "validation":
            entry["annotations"] = []
    (tmp_path / "annotations.json").write_text(json.dumps(content))
    small_config.data.annotations = str(tmp_path / "annotations.json")
    (finding,) = wrong(examine(small_config))
    assert finding.text == "validation: 2 videos, 0 instances"
    with pytest.raises(DataError, match="subset 'validation' has no annotated instance"):
        train(small_config, tmp_path / "run")


def test_frame_rates_are_told_as_in_training(small_config, small_data, tmp_path):
    """One video of 20 frames a second among those of 10 is said; it is wrong where the config states the rate."""
    (tmp_path / "videos").mkdir()
    for file in (small_data / "videos").iterdir():
        (tmp_path / "videos" / file.name).symlink_to(file)
    (tmp_path / "videos" / "video0.mp4").unlink()
    make(tmp_path / "videos" / "video0.mp4", 200, rate=20, size=(48, 40))
    small_config.data.videos = str(tmp_path / "videos")
    findings = examine(small_config)
    (line,) = (finding.text for finding in findings if "frame rates differ" in finding.text)
    assert "from 10 to 20 a second" in line and wrong(findings) == []
    small_config.data.fps = 10.0
    found = wrong(examine(small_config))
    assert len(found) == 1 and "1 of 5 videos are not at config.data.fps = 10" in found[0].text
    assert "video0.mp4" in found[0].text
