"""The tiny twin of every shipped config trains on real files and is evaluated: the same program, small."""

import json
import math
import pathlib

import numpy as np
import pytest

from tadjax.training.loop import train
from tests.config.test_checks import FILES, load
from tests.conftest import ROOT

# Programs that another one's twin, or tests/test_extract.py, runs with other numbers, or that compile for a minute.
SLOW = (
    "anet_r2plus1d_lofi",
    "anet_tsm18_lofi",
    "anet_tsm50_lofi",
    "anet_tsp",
    "anet_vitb_losa",
    "anet_vitg_losa",
    "charades",
    "demo",
    "ego4d",
    "ego4d_features",
    "epic",
    "epic_slowfast",
    "hacs_slowfast",
    "hacs_tsm18_lofi",
    "multithumos",
    "thumos",
    "thumos_i3d",
    "thumos_slowfast101_losa",
    "thumos_vitb",
    "thumos_vitb_losa",
    "thumos_vitg",  # what tests/test_train.py trains
    "thumos_vitg_1536x224",
    "thumos_vith",
    "thumos_vitl",
    "thumos_vits",
    "thumos_vits_side",
)
OTHER_BACKBONES = ("slowfast50", "swinb", "slowfast50,side", "swint,finetune")  # of thumos.py
OTHER_BACKBONES += ("vjepa2_l", "vjepa21_b,side", "vjepa2_g,frozen", "vjepa21_G,finetune")
OTHER_BACKBONES += ("internvideo2_1b", "internvideo2_b,side", "videoprism_l", "videoprism_b,finetune")
TWINS = [
    *(pytest.param(path, "", marks=[pytest.mark.slow] if path.stem in SLOW else [], id=path.stem) for path in FILES),
    *(
        pytest.param(ROOT / "configs" / "thumos.py", f"{words},", marks=pytest.mark.slow, id=words)
        for words in OTHER_BACKBONES
    ),
]


def made_features(folder: pathlib.Path, width: int, stride: int) -> pathlib.Path:
    """Noise, for the small data set's videos of 80 frames and more."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for index in range(7):
        rows = (80 + 9 * index) // stride
        np.save(folder / f"video{index}.npy", rng.standard_normal((rows, width)).astype(np.float16))
    return folder


@pytest.mark.parametrize(("path", "words"), TWINS)
def test_the_twin_trains_and_is_evaluated(path, words, small_data, tmp_path):
    config = load(path, f"{words}tiny")
    config.data.annotations = str(small_data / "annotations.json")
    config.data.classes = str(small_data / "classes.txt")
    config.data.videos = str(small_data / "videos")
    config.data.prefix, config.data.fps = "", 0.0
    config.data.train_subset, config.data.eval_subset = "training", "validation"
    config.data.blocked = config.classifier.path = ""
    config.window.stride = 2 * config.window.frames // config.window.feature_length
    if config.features.path:
        config.features.path = str(made_features(tmp_path / "features", config.features.width, config.window.stride))
    if path.stem != "thumos_vitg":  # all augment alike, and compiling that takes the longest
        config.augment.policy, config.augment.jitter = "none", False
    config.optim.batch_size, config.optim.epochs = 5, 1  # one step
    config.train.log_every = 1
    metrics = train(config, tmp_path)
    [step] = [line for line in map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines()) if "loss" in line]
    assert step["step"] == 1
    assert math.isfinite(step["loss"])
    assert step["skipped"] == 0
    assert 0 <= metrics["average_mAP"] <= 100
    assert set(json.loads((tmp_path / "results.json").read_text())["results"]) == {"video5", "video6"}
