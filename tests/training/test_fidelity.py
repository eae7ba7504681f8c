"""Schedules of fidelities, a config at each, and training that changes between them."""

import itertools
import json

import jax
import numpy as np
import pytest

from configs import anet_tsm18_lofi, thumos_vitg
from tadjax.build import build
from tadjax.config import checks as configs
from tadjax.heads import HEADS
from tadjax.parallel import hosts
from tadjax.training import fidelity
from tadjax.training import loop as training
from tadjax.training.fidelity import CYCLE, Schedule, Stream
from tests.conftest import make_small_config

PUBLISHED = {"full": (100, 224), "s": (100, 112), "t": (25, 224), "st": (50, 158), "low": (25, 112)}


def test_cycles_take_turns_by_batches_and_by_epochs():
    lofi = anet_tsm18_lofi.get_config("c_short").lofi
    assert [fidelity.schedule(lofi, 7).at(step) for step in (0, 15, 16, 32, 47, 48)] == ["s", "s", "t", "st", "st", "s"]
    lofi = anet_tsm18_lofi.get_config("c_long").lofi
    assert [fidelity.schedule(lofi, 7).at(step) for step in (0, 6, 7, 14, 20, 21)] == ["s", "s", "t", "st", "st", "s"]
    lofi.cycle_epochs = 2
    assert [fidelity.schedule(lofi, 7).at(step) for step in (13, 14, 28, 42)] == ["s", "t", "st", "s"]
    assert {fidelity.schedule(anet_tsm18_lofi.get_config("st").lofi, 7).at(step) for step in range(99)} == {"st"}


@pytest.mark.parametrize("name", PUBLISHED)
def test_fidelities_have_the_published_sizes_and_their_own_anchors(name):
    config = fidelity.at(anet_tsm18_lofi.get_config("c_long"), name)
    steps, pixels = config.window.feature_length, config.window.size
    assert (steps, pixels) == PUBLISHED[name]
    assert config.memory.clips_per_group == 5  # snippets
    shapes = jax.eval_shape(
        lambda features: (head := build(config, 1, "cpu").head).candidates(
            head.init_params(jax.random.key(0), 512), features, np.ones((1, steps), bool)
        ),
        jax.ShapeDtypeStruct((1, steps, 512), np.float32),
    )
    assert shapes["valid"].shape == (1, steps * steps)  # all starts and durations
    cost = steps * pixels**2 / (100 * 224**2)
    np.testing.assert_allclose(1 / cost, {"full": 1, "low": 16}.get(name, 4), rtol=0.01)


def test_windows_of_frames_cover_the_same_stretch_and_sides_are_whole_patches():
    config = thumos_vitg.get_config()
    config.lofi.schedule, config.lofi.side_multiple = "c_long", 14
    config.memory.clips_per_group = 16
    configs.check(config)
    for name, at in fidelity.configs(config).items():
        r_t, _ = config.lofi[name]
        assert at.window.feature_length * at.window.stride == 768 * 4
        assert at.window.frames == 768 // r_t
        assert at.window.size % 14 == 0 and at.window.short_side >= at.window.size
        assert 48 // r_t % at.memory.clips_per_group == 0
        assert at.lofi.schedule == "full"
    assert config.window.stride == 4 and config.lofi.schedule == "c_long"
    config.lofi.t = (4.0, 1)  # as a whole number may be written
    configs.check(config)
    assert fidelity.at(config, "t").window.frames == 768 // 4


@pytest.mark.parametrize("head", sorted(HEADS))
def test_a_fidelity_is_a_config_for_every_head_and_changes_no_parameter(head):
    config = thumos_vitg.get_config("tiny")
    config.head.name, config.data.class_agnostic = head, head == "gtad"
    config.lofi.schedule, config.lofi.side_multiple = "c_short", 16
    shapes = [
        jax.eval_shape(build(at, 1, "cpu").init, jax.random.key(0))
        for at in (config, *fidelity.configs(config).values())
    ]
    assert shapes[1:] == shapes[:-1]


@pytest.mark.parametrize(
    ("ratios", "message"),
    [
        ((3, 1.0), "config.lofi.t = (3, 1.0): r_t must divide config.window.frames = 100"),
        ((0.5, 1.0), "config.lofi.t = (0.5, 1.0): (r_t, r_s), a whole number and a number, both at least 1"),
        ((4,), "config.lofi.t = (4,): (r_t, r_s), a whole number and a number, both at least 1"),
    ],
)
def test_impossible_ratios_are_named(ratios, message):
    config = anet_tsm18_lofi.get_config("t")
    config.lofi.t = ratios
    with pytest.raises(configs.ConfigError) as error:
        configs.check(config)
    assert message in str(error.value)


def test_what_a_fidelity_cannot_do_is_said_with_its_name():
    config = thumos_vitg.get_config()
    config.lofi.schedule, config.lofi.t = "c_long", (32, 1.0)
    with pytest.raises(
        configs.ConfigError, match="config.lofi.schedule = 'c_long', at t: config.window.frames = 24 is"
    ):
        configs.check(config)


def test_the_last_stage_needs_an_encoder_without_adapters():
    config = anet_tsm18_lofi.get_config()
    config.backbone.name, config.backbone.size, config.window.snippet_frames = "vit", "b", 16
    config.adaptation.method = "tia"
    with pytest.raises(configs.ConfigError, match="config.adaptation.method = 'tia': the last stage of config.lofi.st"):
        configs.check(config)


class _Named:
    def __init__(self, name: str):
        self.name = name

    def __len__(self) -> int:
        return 10

    def record(self, n: int) -> dict:
        return {"name": self.name, "n": n}


def test_all_records_of_a_batch_have_the_fidelity_of_its_step():
    stream = Stream({name: _Named(name) for name in CYCLE}, Schedule(CYCLE, period=2), batch_size=3)
    assert len(stream) == 10
    found = [stream.record(n) for n in range(21)]
    assert [record["n"] for record in found] == list(range(21))
    assert [record["name"] for record in found] == ["s"] * 6 + ["t"] * 6 + ["st"] * 6 + ["s"] * 3


def cycling(small_data):
    """AdaTAD on a tiny ViT, 3 steps an epoch, another fidelity after every step; a head that compiles quickly."""
    config = make_small_config(small_data)
    config.head.name = "classifier"
    config.window.size, config.window.short_side = 64, 64
    config.lofi.schedule, config.lofi.cycle_batches, config.lofi.side_multiple = "c_short", 1, 16
    config.lofi.t = (2, 1.0)  # a clip is 16 of the 32 frames
    config.optim.epochs, config.train.eval_from_epoch = 2, 2
    return config


def test_each_fidelity_compiles_once_and_a_stopped_run_goes_on_within_the_cycle(small_data, tmp_path, monkeypatch):
    config, traced = cycling(small_data), []
    step_of = training.step_of

    def counted(config, *args):
        step = step_of(config, *args)

        def train_step(state, batch):  # Python runs once for every compilation
            traced.append((config.window.frames, config.window.size))
            assert batch["frames"].shape[1] == config.window.frames
            return step(state, batch)

        return train_step

    monkeypatch.setattr(training, "step_of", counted)
    whole = training.train(config, tmp_path / "whole")
    assert sorted(traced) == sorted([(32, 32), (16, 64), (16, 48)])

    with monkeypatch.context() as patch:
        asked = itertools.count(1)
        patch.setattr(hosts.Sigterm, "now", lambda _: next(asked) == 2)
        training.train(config, tmp_path / "stopped")
    assert training.train(config, tmp_path / "stopped") == whole
    lines = [[json.loads(line) for line in (tmp_path / run / "metrics.jsonl").open()] for run in ("whole", "stopped")]
    losses = [[line["loss"] for line in of_run if "loss" in line] for of_run in lines]
    assert losses[0] == losses[1] and len(losses[0]) == 6
