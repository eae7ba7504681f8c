import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from configs import thumos_vits
from convert import flax_to_torch, torch_to_flax
from convert.backbones import VIDEOMAE
from convert.layouts import layout_named
from convert.mapping import flat, to_flax, to_torch
from convert.runs import load_config
from tadjax.backbones.vit import SIZES, sine_cosine
from tadjax.build import build
from tadjax.config import checks as configs
from tadjax.errors import ConfigError, WeightsError
from tadjax.parallel.mesh import make_mesh
from tadjax.training.optimizer import make_optimizer
from tadjax.training.state import create, split
from tadjax.workdir import weights
from tadjax.workdir.checkpoint import Checkpoints, save_frozen
from tadjax.workdir.run import initial_params, load_run, write_classes
from tests.convert.checkpoints import bits, tensors, under, vit_shapes

CLASSES = ("run", "jump", "swim")
GTAD = ("--config.head.name=gtad", "--config.data.class_agnostic=True")
CASES = {  # --config and what follows it
    "opentad_adatad": ("configs/thumos_vits.py:tiny",),
    "opentad_adatad_side": ("configs/thumos_vitg_side_1536x224.py:tiny",),
    "opentad_adatad_tridet": ("configs/thumos_vits.py:tiny", "--config.head.name=tridet"),
    "opentad_adatad_side_gtad": ("configs/thumos_vits_side.py:tiny", *GTAD),
    "opentad_vit": ("configs/thumos.py:vits,finetune,tiny",),
    "opentad_slowfast_tridet": ("configs/thumos.py:slowfast50,frozen,tiny", "--config.head.name=tridet"),
    "opentad_tridet": ("configs/thumos_i3d.py:tridet,tiny",),
    "opentad_gtad": ("configs/thumos_i3d.py:tiny", *GTAD),
}


@pytest.fixture(params=["opentad_adatad", "opentad_adatad_side"])
def detector(request, tmp_path):
    """(layout, config file, the model, its parameters, an OpenTAD checkpoint of them in tmp_path/x.pth)."""
    layout = layout_named(request.param)
    file, *overrides = CASES[request.param]
    config = load_config(file, overrides)
    localizer = build(config, 1 if config.data.class_agnostic else len(CLASSES))
    params, random = jax.eval_shape(localizer.init, jax.random.key(0)), np.random.default_rng(0)
    params = jax.tree.map(lambda a: random.standard_normal(a.shape, np.float32), params)
    state_dict = {k: torch.from_numpy(v) for k, v in to_torch(params, layout.rules, localizer.layers).items()}
    width = localizer.backbone.width
    for drop in layout.drops:  # what a file holds beside our parameters
        if drop.positions:
            grid = localizer.backbone.image // localizer.backbone.patch
            state_dict[drop.torch] = torch.from_numpy(sine_cosine(8 * grid * grid, width)[None])
        else:
            state_dict[drop.torch.replace("*", "backbone.model.backbone.")] = torch.randn(width)
    if config.head.name != "gtad":
        state_dict["rpn_head.loss_normalizer"] = torch.tensor(77)
    saved = {"epoch": 3, "state_dict_ema": under("module.", state_dict)}
    torch.save(saved, tmp_path / "x.pth")
    (tmp_path / "classes.txt").write_text("\n".join(CLASSES) + "\n")
    return layout, file, localizer, params, saved


def to_run(tmp_path, file, *overrides):
    args = ["--input", f"{tmp_path}/x.pth", "--output", f"{tmp_path}/RUN", "--config", file]
    return torch_to_flax.main([*args, f"--config.data.classes={tmp_path}/classes.txt", *overrides])


SLOW = ("opentad_slowfast_tridet",)  # compiles for a quarter of a minute


@pytest.mark.parametrize(
    "detector", [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in CASES], indirect=True
)
def test_a_detector_becomes_a_run_and_comes_back_bit_by_bit(detector, tmp_path):
    layout, file, localizer, params, saved = detector
    assert to_run(tmp_path, *CASES[layout.name]) == 0
    info = weights.read_info(tmp_path / "RUN")
    assert info["layout"] == layout.name
    assert info["geometry"]["head"]["name"] == type(localizer.head).__name__.lower()
    assert info["counts"]["unknown"] == info["counts"]["missing"] == 0
    assert info["counts"]["mapped"] + info["counts"]["dropped"] == len(saved["state_dict_ema"])
    run = load_run(configs.load(tmp_path / "RUN" / "config.json"), tmp_path / "RUN")
    assert run.classes == (("action",) if layout.name.endswith("gtad") else CLASSES)
    assert {*flat(run.params)} == {*flat(params)}
    ours = flat(params)
    for path, got in flat(run.params).items():
        assert np.array_equal(np.asarray(got), ours[path]), path
    args = ["--input", f"{tmp_path}/RUN", "--output", f"{tmp_path}/back.pth", "--layout", "opentad"]
    assert flax_to_torch.main(args) == 0
    back, want = torch.load(tmp_path / "back.pth")["state_dict_ema"], saved["state_dict_ema"]
    assert list(back) == list(want)
    for key in want:
        assert back[key].dtype == want[key].dtype and bits(back[key]) == bits(want[key]), key


def test_training_can_go_on_from_it(detector, tmp_path):
    """Step 0 is a whole checkpoint: optimizer, head state (the source's loss normaliser), counters."""
    _, file, localizer, params, _ = detector
    assert to_run(tmp_path, file) == 0
    config = configs.load(tmp_path / "RUN" / "config.json")
    tx = make_optimizer(config.optim, 10)
    like = create(jax.tree.map(jnp.asarray, params), configs.trained_collections(config), localizer, tx, 0.9)
    state = Checkpoints(tmp_path / "RUN").restore(like)
    assert int(state.step) == 0
    assert float(state.head_state["loss_normalizer"]) == 77
    for kept in (state.trained, state.ema):
        assert np.array_equal(kept["adapter"]["alpha"], params["adapter"]["alpha"])


def test_frozen_weights_of_a_run_load_as_the_bfloat16_rounding(detector, tmp_path):
    _, file, _, params, _ = detector
    assert to_run(tmp_path, file, "--config.dtype=bfloat16") == 0
    run = load_run(configs.load(tmp_path / "RUN" / "config.json"), tmp_path / "RUN")
    got = run.params["backbone"]["blocks"]["mlp"]["fc1"]["kernel"]
    want = params["backbone"]["blocks"]["mlp"]["fc1"]["kernel"].astype(jnp.bfloat16)
    assert got.dtype == jnp.bfloat16
    assert np.array_equal(np.asarray(got).view(np.int16), want.view(np.int16))


def test_a_trained_run_becomes_a_complete_opentad_checkpoint(detector, tmp_path):
    """Averaged weights; frozen ones as the run kept them (bfloat16), positions and norms that OpenTAD expects added."""
    layout, file, localizer, params, saved = detector
    config = load_config(file, [])
    trained = configs.trained_collections(config)
    state = create(jax.tree.map(jnp.asarray, params), trained, localizer, make_optimizer(config.optim, 10), 0.9)
    state = state.replace(step=jnp.int32(12), ema=jax.tree.map(lambda a: a * 2, state.ema))
    run = tmp_path / "RUN"
    run.mkdir()
    configs.save(config, run / "config.json")
    write_classes(run, CLASSES)
    frozen = jax.tree.map(lambda a: a.astype(jnp.bfloat16), split(params, trained)[1])
    save_frozen(run, frozen)
    checkpoints = Checkpoints(run)
    checkpoints.save(state, {"average_mAP": 50.0})
    checkpoints.close()
    args = ["--input", str(run), "--output", f"{tmp_path}/y.pth", "--layout", "opentad"]
    assert flax_to_torch.main(args) == 0
    written = torch.load(tmp_path / "y.pth")
    assert set(written) == {"epoch", "state_dict", "state_dict_ema"}
    assert set(written["state_dict_ema"]) == set(saved["state_dict_ema"])
    assert {tensor.dtype for tensor in written["state_dict_ema"].values()} == {torch.float32}
    plain = {key.removeprefix("module."): tensor.numpy() for key, tensor in written["state_dict_ema"].items()}
    got = flat(to_flax(plain, layout.rules)[0])
    for path, array in flat(params).items():
        want = array * 2 if path.split("/")[0] in trained else np.asarray(array.astype(jnp.bfloat16), np.float32)
        assert np.array_equal(got[path], want), path


def test_another_geometry_than_the_config_names_the_fields(detector, tmp_path, capsys):
    _, file, *_ = detector
    (tmp_path / "classes.txt").write_text("run\njump\n")
    assert to_run(tmp_path, file, "--config.adaptation.ratio=0.5") == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    assert "head/classification/out/bias is [3] in the weights, [2] in the model" in error
    assert "config.data.classes" in error and "config.adaptation.ratio" in error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["classes.txt", "x.pth"]


def test_training_starts_from_the_bfloat16_rounding_of_the_source(tmp_path):
    config = thumos_vits.get_config("tiny")
    size = SIZES[config.backbone.size]
    dims = {name: size[name] for name in ("width", "depth", "patch", "mlp_width")}
    official = {k: v.numpy() for k, v in tensors(vit_shapes(**dims)).items()}
    torch.save({"module": {k: torch.from_numpy(v) for k, v in official.items()}}, tmp_path / "x.pth")
    assert torch_to_flax.main(["--input", f"{tmp_path}/x.pth", "--output", f"{tmp_path}/vit"]) == 0
    config.backbone.weights, config.backbone.random_init, config.dtype = f"{tmp_path}/vit", False, "bfloat16"
    got = initial_params(config, build(config, 3), make_mesh(config.mesh))["backbone"]
    want = to_flax(official, VIDEOMAE)[0]["backbone"]
    for path, array in flat(want).items():
        ours = np.asarray(flat(got)[path])
        assert ours.dtype == jnp.bfloat16 and np.array_equal(
            ours.view(np.int16), array.astype(jnp.bfloat16).view(np.int16)
        )
    config.backbone.size = "s"
    with pytest.raises(
        WeightsError, match=r"change config.backbone.size\): backbone/.* in the weights, .* in the model"
    ):
        initial_params(config, build(config, 3), make_mesh(config.mesh))


def test_what_no_shape_tells_is_checked_too(detector, tmp_path, capsys):
    layout, file, localizer, *_ = detector
    assert to_run(tmp_path, file, "--config.backbone.image=112") == 2
    assert "224 x 224 pixels; config.backbone.image = 112" in capsys.readouterr().err
    if layout.adapter == "tia":  # beside the backbone the names count adapters, not layers
        saved = torch.load(tmp_path / "x.pth")["state_dict_ema"]
        moved = {key: tensor for key, tensor in saved.items() if "blocks.1.adapter" not in key}
        torch.save({"state_dict": moved}, tmp_path / "x.pth")
        assert to_run(tmp_path, file, "--config.adaptation.layers=(0, 1, 2)") == 2
        assert "adapts layers [0, 2, 3], config.adaptation.layers says [0, 1, 2]" in capsys.readouterr().err


def test_overrides_are_checked():
    changed = load_config(
        "configs/thumos_vits.py:tiny", ["--config.window.crop_ratio=(0.5, 0.9)", "--config.head.name=actionformer"]
    )
    assert changed.window.crop_ratio == (0.5, 0.9)
    with pytest.raises(ConfigError, match=r"did you mean config.head.width"):
        load_config("configs/thumos_vits.py", ["--config.head.widht=3"])
    with pytest.raises(ConfigError, match="overrides look like"):
        load_config("configs/thumos_vits.py", ["--verbose"])
    with pytest.raises(ConfigError, match="field 'window'.*a config file may give a field another type"):
        load_config("configs/thumos_vits.py", ["--config.head.tridet.window=(1, 3, 1)"])
    with pytest.raises(ConfigError, match="no such file"):
        load_config("configs/nowhere.py", [])
