import importlib.util
import json
import os
import subprocess
import sys

import jax
import pytest

from configs import anet_tsm18_lofi
from tadjax.adaptation import host_frames
from tadjax.config import checks as configs
from tadjax.config.schema import defaults
from tadjax.parallel import mesh as meshes
from tadjax.profiling import decode_speed, device_memory, profile, topologies
from tadjax.profiling.profile import _remedies, _verdict, training_step
from tests.config.test_checks import load
from tests.conftest import ROOT


def memory(training: int, evaluation: int = 1) -> dict:
    """In GiB: a chip's."""
    parts = {"state": 2, "work": 3, "batch": 4, "waiting": 5, "canvas": 6, "arrival": 0}
    parts |= {"training": training, "evaluation": evaluation, "peak": max(training, evaluation)}
    return {f"{name}_bytes_per_chip": size * 2**30 for name, size in parts.items()}


def test_verdict_names_what_would_help_cheapest_first():
    config = defaults()
    config.optim.batch_size = 1
    text = _verdict(config, {**memory(training=20), "limit_bytes_per_chip": 16 * 2**30, "fits": False})
    assert text.startswith(
        "does not fit: training needs 20.00 GiB a chip (of 16.00): parameters, averages and optimizer 2.00, the step's "
        "work 3.00, the batch in use 4.00, 1 waiting 5.00, the canvas on its way 6.00; between steps evaluation 1.00. "
        "Set config.memory.clips_per_group=8"
    )
    assert (
        text.index("device_batches=0")
        < text.index("nested")
        < text.index("offload")
        < text.index("mesh.clip")
        < text.index("method=side")
    )


def test_a_method_beside_the_backbone_has_its_own_remedies():
    config = defaults()
    config.adaptation.method, config.memory.taps, config.memory.clips_per_group = "side", "store", 8
    config.data.device_batches = 0
    ways = _remedies(config, memory(training=20))
    assert "taps=recompute" in ways[0] and not any("remat" in way for way in ways)


def test_windows_can_wait_on_the_host_beside_the_backbone_alone():
    config = defaults()
    config.adaptation.method = "side"
    assert any("config.memory.frames=host" in way for way in _remedies(config, {}))
    config.adaptation.method = "tia"
    assert not any("config.memory.frames" in way for way in _remedies(config, {}))


@pytest.mark.parametrize("kind, on_chip", [("pinned_host", 1000), (None, 1000 - 786432)])
def test_frames_on_the_host_are_not_counted_on_the_chip(kind, on_chip):
    """Compilers for TPUs leave them out by themselves, those for GPUs that are not there know no memory of the host."""
    mesh = jax.sharding.Mesh(jax.devices()[:1], ("data",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(), memory_kind=kind)
    frames = host_frames.packed(jax.ShapeDtypeStruct((1, 256, 32, 32, 3), "uint8", sharding=sharding))
    plan = device_memory.Plan(1000, 0, 0, 0, 5)
    found = device_memory.without_host_frames(plan, frames)
    assert found.arguments == on_chip and found.on_host == 5 + 1000 - on_chip
    assert device_memory.without_host_frames(plan, frames.words) == plan, "frames on the device"


def test_evaluation_that_needs_the_most_has_a_remedy_of_its_own():
    config = defaults()
    assert "evaluation.batch_size" in _remedies(config, memory(training=9, evaluation=10))[0]
    assert "evaluation.batch_size" not in _remedies(config, memory(training=10, evaluation=9))[0]
    too_large = {"peak_bytes_per_chip": None, "limit_bytes_per_chip": 2**34, "fits": False, "too_large": "evaluation"}
    text = _verdict(config, too_large)
    assert "more memory than there is (of 16.00) for the program of evaluation alone" in text
    assert "evaluation.batch_size=1" in text


def test_every_fidelity_of_a_schedule_stands_beside_full_fidelity(monkeypatch, tmp_path, capsys):
    def numbers(config, chips, topology, evaluated):
        assert evaluated.window.size == 224
        cost = config.window.feature_length * config.window.size**2
        return {
            "feature_length": config.window.feature_length,
            "size": config.window.size,
            "flops": 1e6 * cost,
            "peak_bytes_per_chip": None if config.window.feature_length * config.window.size > 20000 else 2**30,
            "fits": config.window.feature_length * config.window.size <= 20000,
        }

    monkeypatch.setattr(profile, "_numbers", numbers)
    found = profile.profile(anet_tsm18_lofi.get_config("c_long"), tmp_path, None)
    assert json.loads((tmp_path / "profile.json").read_text()) == found
    assert {name: (one["feature_length"], one["size"]) for name, one in found.items()} == {
        "s": (100, 112),
        "t": (25, 224),
        "st": (50, 158),
        "full": (100, 224),
    }
    lines = capsys.readouterr().err.splitlines()
    assert [line.split() for line in lines[1:]] == [
        ["s", "100", "112", "1.25", "T", "0.25", "1.00", "GiB", "yes"],
        ["t", "25", "224", "1.25", "T", "0.25", "1.00", "GiB", "yes"],
        ["st", "50", "158", "1.25", "T", "0.25", "1.00", "GiB", "yes"],
        ["full", "100", "224", "5.02", "T", "1.00", "too", "much", "no"],
    ]


def test_cores_are_counted_from_the_speed_of_decoding_and_of_the_step(monkeypatch, tmp_path):
    config = defaults()
    config.data.workers = 1
    numbers = {"roofline": {"seconds": 2.0}}
    assert profile._decoding(config, {}, 1600) == {}, "nothing says how fast the chips are"
    config.data.videos = str(tmp_path)
    assert profile._decoding(config, numbers, 1600) == {"cores_needed": None}, "no video to measure on"

    monkeypatch.setattr(decode_speed, "any_video", lambda config: tmp_path / "a.mp4")
    monkeypatch.setattr(decode_speed, "decoding_speed", lambda path, config: (150.0, 4))
    assert profile._decoding(config, numbers, 1600) == {
        "decoding_frames_per_second_per_core": 150.0,
        "cores_needed": 6,  # 800 frames a second
    }
    measured = profile._decoding(config, numbers | {"step_seconds": 4.0}, 1600)
    assert measured["cores_needed"] == 3
    assert measured["input_wait_seconds"] == pytest.approx(1600 / 150 - 4)
    config.features.path = "features"
    assert profile._decoding(config, numbers, 1600) == {}, "features are not decoded"


def test_a_program_of_known_speed_has_a_roofline_that_prints_in_a_line():
    text = "ENTRY %m (a: f32[8,8]) -> f32[8,8] {\n  %a = f32[8,8] parameter(0)\n  ROOT %b = f32[8,8] add(%a, %a)\n}\n"
    numbers = profile._program(text, topologies.Chips("chip", "tpu", [], None, 100.0, 256.0, 10.0))
    assert numbers["memory_traffic_bytes_per_chip"] == 2 * 256 and numbers["compiled_flops_per_chip"] == 0
    assert (
        profile._table(numbers)
        .splitlines()[-1]
        .endswith(" 2 s, bound by memory (operations 0 s, memory 2 s, network 0 s); kernel by kernel 2 s")
    )
    assert "roofline" not in profile._program(text, topologies.Chips("chip", "cpu", []))


def test_a_program_that_cannot_be_read_leaves_the_memory(monkeypatch):
    class Unreadable:
        def as_text(self):
            raise jax.errors.JaxRuntimeError("INTERNAL: async-update has 4 operands\nmore")

    plan = {**memory(training=1), "limit_bytes_per_chip": 2**34, "fits": True}
    monkeypatch.setattr(profile, "training_step", lambda *of: None)
    monkeypatch.setattr(profile, "_parameters", lambda *of: {})
    monkeypatch.setattr(profile, "_operations", lambda *of: 1)
    monkeypatch.setattr(profile, "_memory", lambda *of: (Unreadable(), plan))
    chips = topologies.Chips("chip", "tpu", jax.devices()[:1], 2**34, 100.0, 256.0, 10.0)
    config = defaults()
    numbers = profile._numbers(config, chips, "v6e:1", config)
    assert numbers["program"].endswith("not known (INTERNAL: async-update has 4 operands)")
    assert (
        numbers["verdict"].startswith("fits: training needs 1.00 GiB a chip (of 16.00)") and "roofline" not in numbers
    )


def test_utilisation_counts_no_recomputation(monkeypatch):
    here = jax.devices()
    monkeypatch.setattr(jax, "devices", lambda: here)  # only these: JAX_PLATFORMS=cuda leaves no CPU to ask for
    config = load(ROOT / "configs" / "thumos_vitg.py", "tiny")
    config.optim.batch_size = 1
    assert config.memory.remat == "nested"
    once = profile._operations(profile._without_recomputation(config))
    assert 0.6 < once / profile._operations(config) < 0.9


def abstract_step(config) -> dict:
    """Shapes of a step's batch and losses, without compiling anything."""
    step = training_step(config, meshes.make_mesh(config.mesh), "cpu")
    _, metrics = jax.eval_shape(step.function, step.state, step.batch)
    return {**{name: array.shape for name, array in step.batch.items()}, "loss": metrics["loss"].shape}


def test_a_step_on_features_takes_no_pictures():
    config = load(ROOT / "configs" / "thumos_i3d.py", "tiny")  # whose folder need not be there
    shapes = abstract_step(config)
    assert shapes["features"] == (2, 32, 2048) and "frames" not in shapes and shapes["loss"] == ()


def test_a_step_on_snippets_takes_the_frames_that_they_share():
    config = load(ROOT / "configs" / "thumos.py", "vits,finetune,tiny")
    config.window.representation, config.memory.clips_per_group = "snippet", 8
    configs.check(config)
    shapes = abstract_step(config)
    assert shapes["frames"][:2] == (2, 31 * 4 + 16) and shapes["loss"] == ()


def compiled_for(topology: str, workdir, *flags: str) -> dict:
    """The profile that the command writes."""
    command = [sys.executable, "-m", "tadjax.main", f"--workdir={workdir}", "--mode=profile", f"--topology={topology}"]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    subprocess.run([*command, *flags, "--config.optim.batch_size=1"], check=True, env=environment, timeout=3600)
    return json.loads((workdir / "profile.json").read_text())


needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu, TPU's compiler, is not installed"
)


@pytest.mark.slow
@needs_libtpu
def test_a_step_is_compiled_for_a_chip_that_is_not_there(tmp_path):
    numbers = compiled_for("v5e:1", tmp_path, "--config=configs/thumos_vitg_side_1536x224.py:tiny")
    assert numbers["chips"] == 1 and numbers["fits"]
    assert 0 < numbers["state_bytes_per_chip"] < numbers["peak_bytes_per_chip"] < 2**30
    assert numbers["parameters_trained"] == numbers["parameters"]["adapter"] + numbers["parameters"]["head"]
    assert numbers["flops"] > 0
    assert numbers["roofline"]["operations_seconds"] == numbers["compiled_flops_per_chip"] / 197e12
    assert numbers["roofline"]["memory_seconds"] == numbers["memory_traffic_bytes_per_chip"] / 819e9 > 0


@pytest.mark.slow
@needs_libtpu
def test_the_flagship_is_compiled_for_four_chips_that_are_not_there(tmp_path):
    """One window of 1536 frames at 224^2 through ViT-g, adapters in all 40 blocks, a quarter of its clips on a chip."""
    flags = ["--config=configs/thumos_vitg_1536x224.py", "--config.adaptation.layers=()", "--config.mesh.clip=4"]
    numbers = compiled_for("v5e:2x2", tmp_path, *flags, "--config.memory.remat=block")
    assert numbers["fits"] and numbers["peak_bytes_per_chip"] < 10 * 2**30
    # Both counts of the operations agree, but for attention's backward kernel, which makes the scores once more.
    assert 1 < 4 * numbers["compiled_flops_per_chip"] / numbers["flops"] < 1.04
    assert numbers["roofline"]["bound_by"] == "operations"
    assert sum(kind["bytes"] for kind in numbers["collectives"].values()) < 500e6
