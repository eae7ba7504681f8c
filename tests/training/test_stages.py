"""LoFi-E2E's stages as one job: what each is given and leaves, and that a stopped job ends as an undisturbed one."""

import itertools
import json

import jax
import numpy as np
import pytest

from configs import anet_tsm18_lofi
from tadjax.config import checks as configs
from tadjax.inference.evaluate import evaluate_run
from tadjax.inference.predict import load
from tadjax.parallel import hosts
from tadjax.training.stages import stage_config, train_stages
from tadjax.workdir.run import load_run
from tests.conftest import make_small_config
from tests.training.test_loop import assert_same_bits

WEIGHTS = {"acp": "weights/tsm_r18", "imagenet": "weights/tsm_r18_imagenet"}


def small_job(small_data):
    """A tiny ViT, a head that compiles quickly, the low budget; a step or two a stage."""
    config = make_small_config(small_data)
    config.head.name, config.adaptation.method = "classifier", "full"
    config.features.dtype = "float32"
    config.augment.policy = "none"
    config.lofi.schedule, config.lofi.low, config.lofi.side_multiple = "low", (2, 2.0), 16
    config.lofi.t = (2, 1.0)  # a clip is 16 of the 32 frames
    config.window.size, config.window.short_side = 64, 64
    config.window.sampling = config.window.eval_sampling = "resize"  # features are then of the very windows evaluated
    config.lofi.stages = ("classify", "warmup", "encoder", "head")
    config.lofi.classify_epochs = config.lofi.warmup_epochs = config.optim.epochs = 1
    config.optim.backbone_lr = 1e-3
    config.optim.batch_size, config.lofi.head_optim.batch_size = 5, 5
    config.lofi.head_optim.epochs = 2
    config.lofi.head_optim.ema_decay = config.optim.ema_decay = 0.0
    config.evaluation.tiou = (0.05, 0.1)  # single steps are what this head proposes
    config.train.eval_from_epoch, config.train.eval_every_epochs = 1, 1
    return config


@pytest.fixture(scope="module")
def finished(small_data, tmp_path_factory):
    config = small_job(small_data)
    workdir = tmp_path_factory.mktemp("job")
    return config, workdir, train_stages(config, workdir)


def params(config, workdir, stage: str) -> dict:
    return load_run(stage_config(config, stage, workdir), workdir / stage, best=stage == "head").params


def largest_difference(a, b) -> float:
    return max(jax.tree.leaves(jax.tree.map(lambda x, y: float(np.abs(x - y).max()), a, b)))


def test_weights_are_handed_on(finished):
    config, workdir, _ = finished
    classify, warmup, encoder, head = (params(config, workdir, stage) for stage in config.lofi.stages)
    first = jax.jit(load_run(config, workdir).localizer.init)(jax.random.key(config.seed))
    assert largest_difference(classify["backbone"], first["backbone"]) > 1e-4
    assert_same_bits(warmup["backbone"], classify["backbone"])
    # One step of Adam from a new head, not from the classifier of the stage before, which is one step away already.
    assert largest_difference(warmup["head"], first["head"]) == pytest.approx(config.lofi.head_optim.head_lr, rel=0.1)
    assert largest_difference(encoder["backbone"], warmup["backbone"]) > 1e-4
    whole = load_run(config, workdir).params
    assert_same_bits(whole["backbone"], encoder["backbone"])
    assert_same_bits(whole["head"], head["head"])


def test_features_are_those_of_the_trained_encoder_at_full_fidelity(finished):
    config, workdir, _ = finished
    rules = json.loads((workdir / "features" / "features.json").read_text())
    assert rules["width"] == 48
    assert len(list((workdir / "features").glob("*.npy"))) == 7  # training and validation


def test_the_result_is_a_run_that_evaluates_from_videos_as_its_last_stage_did(finished):
    config, workdir, metrics = finished
    assert metrics["average_mAP"] > 1
    assert metrics["average_mAP"] == pytest.approx(evaluate_run(config, workdir)["average_mAP"], abs=1e-3)


def test_a_finished_job_is_not_done_again(finished, monkeypatch):
    config, workdir, metrics = finished
    monkeypatch.setattr("tadjax.training.stages.train", lambda *_, **__: pytest.fail("trained again"))
    assert train_stages(config, workdir)["average_mAP"] == metrics["average_mAP"]


def test_a_job_stopped_again_and_again_ends_with_the_same_bits(finished, tmp_path, monkeypatch):
    config, undisturbed, metrics = finished
    asked = itertools.count()
    monkeypatch.setattr(hosts.Sigterm, "now", lambda _: next(asked) % 5 < 2)  # after steps and within evaluations
    stopped = 0
    while not (found := train_stages(config, tmp_path)):
        stopped += 1
        assert stopped < 20, "it does not come to its end"
    assert stopped >= 5 and found == metrics
    assert_same_bits(load_run(config, tmp_path).params, load_run(config, undisturbed).params)


@pytest.mark.parametrize("variant", [*anet_tsm18_lofi.FIDELITIES, *anet_tsm18_lofi.BASELINES])
def test_every_stage_of_every_method_is_a_right_config(variant, tmp_path):
    config = anet_tsm18_lofi.get_config(variant)
    configs.check(config)
    for stage in config.lofi.stages:
        of_stage = stage_config(config, stage, tmp_path)
        configs.check(of_stage)
        assert tuple(of_stage.lofi.stages) == ()
        trained = {"warmup": ("head",), "head": ("head",)}.get(stage, ("backbone", "head"))
        assert configs.trained_collections(of_stage) == trained
        optim = of_stage.optim
        recipe = (optim.optimizer, optim.head_lr, optim.step_epochs, optim.step_factor, optim.batch_size)
        assert recipe == (("adam", 1e-3, 5, 0.1, 16) if trained == ("head",) else ("sgd", 0.1, 5, 0.5, 16))
        assert bool(of_stage.features.path) == (stage == "head")
        assert of_stage.data.class_agnostic == (stage != "classify")
    steps = 25 if variant.endswith("25") else 100
    assert config.window.feature_length == config.head.gtad.durations == steps
    assert config.backbone.weights == WEIGHTS.get(variant, "weights/tsm_r18")


@pytest.mark.slow
def test_the_best_of_the_searched_rates_is_the_result(finished, tmp_path):
    config, workdir, _ = finished
    config = config.copy_and_resolve_references()
    config.lofi.stages, config.lofi.head_lrs = ("head",), (1e-5, 1e-2)
    config.adaptation.method = "none"
    metrics = train_stages(config, tmp_path)
    found = [json.loads((tmp_path / f"head_lr_{rate}" / "metrics.json").read_text()) for rate in ("1e-05", "0.01")]
    best = max(found, key=lambda one: one["average_mAP"])
    assert metrics["average_mAP"] >= best["average_mAP"]
    assert not (tmp_path / "head").exists()


@pytest.mark.slow
def test_the_published_recipe_runs_as_one_job_and_predicts(small_data, tmp_path):
    """TSM, snippets and G-TAD, tiny: from the first stage to the detections of a video file."""
    config = anet_tsm18_lofi.get_config("low,tiny")
    config.data.annotations = str(small_data / "annotations.json")
    config.data.classes = str(small_data / "classes.txt")
    config.data.videos = str(small_data / "videos")
    config.data.blocked = config.data.prefix = config.classifier.path = ""
    metrics = train_stages(config, tmp_path)
    assert 0 <= metrics["average_mAP"] <= 100
    assert [(tmp_path / stage / "metrics.json").exists() for stage in config.lofi.stages] == [True] * 3
    assert evaluate_run(config, tmp_path)["average_mAP"] == pytest.approx(
        metrics["average_mAP"], abs=2
    )  # float16 files
    found = load(tmp_path).predict(small_data / "videos" / "video5.mp4")
    assert len(list(found)) > 0
