"""The config of `prepare custom`: schedule by the number of windows, memory by the machine; and held-out videos."""

import json

import pytest

from tadjax.backbones.vit import SIZES
from tadjax.config import checks as configs
from tadjax.data.annotations import parse_database
from tadjax.data.recipe import schedule
from tadjax.demo import make_backbone
from tadjax.errors import DataError
from tadjax.prepare.__main__ import main
from tadjax.prepare.demo_videos import make_demo
from tadjax.prepare.held_out import draw, worth
from tadjax.prepare.own_config import Machine, choose_backbone, config_text
from tadjax.training.loop import train
from tadjax.video.frames import VideoInfo
from tadjax.workdir.checkpoint import METRIC
from tests.config.test_checks import load

CPU = Machine(False, 16.0, 1, 2)
INFO = VideoInfo(
    frames=900, fps=30.0, duration=30.0, width=640, height=360, rotation=0, constant_rate=True, codec="h264"
)


def written(tmp_path, windows=9, machine=CPU, backbone=""):
    annotation = {"segment": [1.0, 4.0], "label": "jump"}
    known = {"duration": 30.0, "annotations": [annotation]}
    database = {f"v{i}": {"subset": "training", **known} for i in range(windows)} | {"w": {"subset": "val", **known}}
    videos = parse_database(database, ("training", "val")).videos
    subsets = {name: [video for video in videos if video.subset == name] for name in ("training", "val")}
    text = config_text(tmp_path, tmp_path / "videos", subsets, ("jump",), [INFO], 30.0, backbone, machine)
    (tmp_path / "config.py").write_text(text)
    config = load(tmp_path / "config.py")
    configs.check(config)
    return config


@pytest.mark.parametrize(
    ("windows", "epochs", "steps", "rate"), [(9, 200, 1000, 9e-4), (48, 60, 1440, 6.3e-4), (200, 60, 6000, 1.5e-4)]
)
def test_schedules_see_small_sets_often_enough(windows, epochs, steps, rate):
    """200 windows are THUMOS14's: 60 epochs of 100 steps, an average over about a thousand."""
    found = schedule(windows, 2)
    assert (found.epochs, found.steps, found.learning_rate) == (epochs, steps, rate)


@pytest.mark.parametrize("windows", [1, 2, 9, 48, 200, 3000, 100_000])
@pytest.mark.parametrize("batch_size", [2, 8])
def test_nothing_of_the_initial_weights_is_left_in_what_is_evaluated(windows, batch_size):
    """With 0.999 and the 360 steps of 11 videos it was 70 %."""
    found = schedule(windows, batch_size)
    assert found.ema_decay**found.steps < 1e-4
    assert found.steps >= 1000 and found.epochs >= 15
    assert 1 <= found.warmup_epochs <= found.epochs / 10
    evaluated = [e for e in range(found.eval_from_epoch, found.epochs + 1) if e % found.eval_every_epochs == 0]
    assert 2 <= len({*evaluated, found.epochs}) <= 5


def test_the_config_follows_the_number_of_windows(tmp_path):
    few, many = written(tmp_path, 9), written(tmp_path, 200)
    assert (few.optim.epochs, few.optim.ema_decay, few.optim.warmup_epochs) == (200, 0.988, 13)
    assert (few.head.width, few.augment.policy) == (256, "none")
    assert (many.optim.epochs, many.optim.ema_decay, many.head.width) == (60, 0.998, 512)
    assert many.augment.policy == "randaugment"


@pytest.mark.parametrize(
    ("machine", "wanted"),
    [
        (CPU, ("float32", "s", 1, 2, "block")),
        (Machine(True, 15.0, 1, 12), ("bfloat16", "b", 8, 2, "block")),
        (Machine(True, 80.0, 1, 12), ("bfloat16", "l", 8, 2, "block")),
        (Machine(True, 80.0, 8, 96), ("bfloat16", "l", 8, 8, "none")),
    ],
)
def test_backbone_and_memory_follow_the_machine(tmp_path, machine, wanted):
    config = written(tmp_path, machine=machine)
    found = config.dtype, config.backbone.size, config.data.workers, config.optim.batch_size, config.memory.remat
    assert found == wanted
    assert written(tmp_path, machine=machine, backbone="vitg").backbone.weights == "weights/vitg"


def test_a_backbone_that_is_none_is_one_sentence(tmp_path):
    with pytest.raises(
        DataError, match="--backbone=vitx: is none of vits, vitb, .* and no folder of converted weights"
    ):
        written(tmp_path, backbone="vitx")


@pytest.mark.parametrize("count", range(1, 40))
def test_held_out_videos_leave_every_class_in_training_and_show_it(count):
    classes = {f"video{i}": {"common", f"class{i % 5}"} for i in range(count)}
    held = draw(classes)
    assert held == draw(dict(reversed(classes.items()))), "whatever the order"
    assert len(held) <= max(1, count // 3) and (len(held) >= 3 or count < 14)
    trained = {label for name in classes if name not in held for label in classes[name]}
    assert trained == {label for labels in classes.values() for label in labels}
    if count >= 15:
        assert len(held) >= round(count / 5)
        assert {label for name in held for label in classes[name]} == trained


def test_no_video_is_held_out_that_is_the_only_one_of_its_class():
    assert draw({"a": {"jump"}, "b": {"run"}}) == set()
    assert draw({"a": {"jump"}, "b": {"run"}, "c": {"run"}}) <= {"b", "c"}
    assert len(draw({"a": {"jump"}, "b": {"run"}, "c": set()})) == 1, "one without an action can go"


def test_what_few_held_out_videos_are_worth_is_said():
    known = {"subset": "s", "duration": 30.0, "annotations": [{"segment": [1, 2], "label": "jump"}]}
    videos = parse_database({f"v{i}": known for i in range(60)}, "s").videos
    assert worth(videos, ("jump",)) == []
    (line,) = worth(videos[:4], ("jump", "run"))
    assert (
        "of 4 videos with 4 instances of 1 of 2 classes" in line and "about 25 points; it says nothing of 'run'" in line
    )


def test_a_folder_of_weights_says_what_its_backbone_is(tmp_path):
    sizes = SIZES["demo"]
    (tmp_path / "weights").mkdir()
    info = {"format": 1, "geometry": {"backbone": {**sizes, "image": 64}}, "parameters": {}}
    (tmp_path / "weights" / "weights.json").write_text(json.dumps(info))
    config = written(tmp_path, backbone=str(tmp_path / "weights"))
    assert (config.backbone.size, config.backbone.image, config.backbone.weights) == ("demo", 64, f"{tmp_path}/weights")
    assert (config.window.size, config.window.short_side, config.head.width) == (64, 72, 128)
    info["geometry"]["backbone"]["name"] = "vjepa2"  # of the same shapes
    (tmp_path / "weights" / "weights.json").write_text(json.dumps(info))
    with pytest.raises(DataError, match="holds no weights of a vit"):
        choose_backbone(str(tmp_path / "weights"), CPU)


@pytest.mark.slow
def test_a_small_set_trained_with_the_written_config_beats_the_head_alone(tmp_path):
    """The demo's data and backbone: configs/demo.py reaches 58.3 there, the head alone 15.4 (README.md)."""
    data = make_demo(tmp_path / "data")
    make_backbone(tmp_path / "weights")
    flags = ["--output", str(tmp_path / "mine"), "--backbone", str(tmp_path / "weights")]
    assert main(["custom", "--videos", str(data.videos), "--annotations", str(data.annotations), *flags]) == 0
    assert train(load(tmp_path / "mine" / "config.py"), tmp_path / "run")[METRIC] > 58.3 - 10
