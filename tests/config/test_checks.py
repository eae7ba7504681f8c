"""Configs: every shipped one is right, and every wrong field is one sentence that helps."""

import contextlib
import importlib.util
import pathlib
import subprocess
import sys

import pytest

from tadjax.backbones import BACKBONES
from tadjax.config import checks as configs
from tadjax.config.backbones import BACKBONE_SIZES, CLIP_FRAMES, STEP_FRAMES
from tadjax.config.schema import defaults
from tadjax.errors import ConfigError
from tests.conftest import ROOT

FILES = sorted(path for path in (ROOT / "configs").glob("*.py") if path.stem not in ("common", "__init__"))


def load(path: pathlib.Path, variant: str = ""):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(variant) if variant else module.get_config()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
@pytest.mark.parametrize("variant", ["", "tiny"])
def test_every_shipped_config_is_right(path, variant):
    configs.check(load(path, variant))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_variant_that_a_config_does_not_have_is_refused(path):
    with pytest.raises(ConfigError, match="'tinny' is none of this config's variants"):
        load(path, "tinny")


def test_there_is_a_config_for_every_published_scale():
    names = {path.stem for path in FILES}
    assert {f"thumos_vit{size}" for size in "sblhg"} | {"thumos_vitg_1536x224", "demo"} <= names


def test_the_home_folder_is_known_in_every_field_that_names_files(monkeypatch):
    """Also in configs that a user wrote, where no shell expands it; in no other field."""
    monkeypatch.setenv("HOME", "/home/anna")
    config, paths = defaults(), ("data.annotations", "data.videos", "data.blocked", "backbone.weights")
    paths += ("data.classes", "data.tfds", "features.path")
    for name in (*paths, "data.name"):
        section, field = name.split(".")
        config[section][field] = "~/my data"
    config.data.classes = "a~/b"
    with contextlib.suppress(ConfigError):  # of fields that exclude each other
        configs.check(config)
    values = dict(configs.fields(config))
    assert {values[name] for name in paths if name != "data.classes"} == {"/home/anna/my data"}
    assert (values["data.name"], values["data.classes"]) == ("~/my data", "a~/b")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("optim.head_lr", -1.0, "config.optim.head_lr = -1.0: must be at least 0"),
        ("optim.head_lr", "fast", "config.optim.head_lr = 'fast': must be a number"),
        ("optim.head_lr", float("nan"), "config.optim.head_lr = nan: must be a number"),
        ("mesh.data", (1, 2), "config.mesh.data = (1, 2): must be an integer"),
        ("mesh.clip", 0, "config.mesh.clip = 0: must be a positive number of devices, or -1 for what is left"),
        ("memory.attention", "cudn", "did you mean 'cudnn'?"),
        ("head.attention_window", (9, 9.5), "must be an integer or a tuple of integers"),
        ("head.absolute_position", 1, "config.head.absolute_position = 1: must be True or False"),
        ("window.frames", 768.5, "config.window.frames = 768.5: must be an integer"),
        ("window.frames", True, "config.window.frames = True: must be an integer"),
        ("post.nms", "gausian", "did you mean 'gaussian'?"),
        ("backbone.size", "xl", "config.backbone.size = 'xl': must be one of 's', 'b', 'l', 'h', 'g'"),
        ("window.crop_ratio", (1.0, 0.9), "must be () or two numbers, ascending, from 0 to 1"),
        ("window.frames", 700, "is no multiple of config.window.feature_length = 768"),
        ("window.size", 200, "config.window.size = 200 is larger than config.window.short_side = 182"),
        ("head.convs", (2, 2, 3), "has 6 entries, but config.head.convs = (2, 2, 3) makes 4 levels"),
        ("optim.accumulate", 4, "config.optim.batch_size = 2 is no multiple of config.optim.accumulate = 4"),
        ("adaptation.kernel", (2, 1, 1), "() or three odd numbers"),
    ],
)
def test_a_wrong_value_is_named(field, value, message):
    config = load(ROOT / "configs" / "thumos_vitg.py")
    section, name = field.split(".")
    with config.ignore_type():
        config[section][name] = value
    with pytest.raises(ConfigError) as error:
        configs.check(config)
    assert message in str(error.value)


@pytest.mark.parametrize("field", ["durations", "neighbours"])
def test_a_window_too_short_for_gtad_is_named(field):
    config = load(ROOT / "configs" / "anet_tsm18_lofi.py")
    steps = config.window.feature_length
    config.head.gtad[field] = steps + 1
    with pytest.raises(ConfigError, match=rf"config.head.gtad.{field} = {steps + 1} is above config.window.feature_l"):
        configs.check(config)


def test_all_wrong_fields_are_reported_at_once():
    config = load(ROOT / "configs" / "thumos_vitg.py")
    config.optim.head_lr, config.post.sigma = -1.0, 0.0
    with pytest.raises(ConfigError) as error:
        configs.check(config)
    assert len(str(error.value).splitlines()) == 2


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("optim.hed_lr", "config.optim.head_lr"),
        ("optim.lr", "config.optim.head_lr, config.optim.adapter_lr, config.optim.backbone_lr or config.optim.min_lr"),
        ("heads.width", "config.head.width"),
        ("dtyp", "config.dtype"),
        ("qqq", None),
    ],
)
def test_a_misspelt_field_suggests_the_right_one(name, hint):
    with pytest.raises(ConfigError) as error:
        configs.check_names([name])
    assert str(error.value) == f"config.{name}: no such field" + (f"; did you mean {hint}?" if hint else "")


def test_a_size_of_one_letter_is_no_near_miss_of_two():
    config = load(ROOT / "configs" / "thumos_vitg.py")
    config.backbone.size = "xl"
    with pytest.raises(ConfigError) as error:
        configs.check(config)
    assert str(error.value).endswith("'g', 'tiny', 'demo', the sizes of vit")


def test_backbones_and_sizes_of_the_config_are_those_there_are():
    there_are = {name: set(sizes) for name, (_, sizes) in BACKBONES.items()}
    assert {name: set(sizes) for name, sizes in BACKBONE_SIZES.items()} == there_are
    assert {*CLIP_FRAMES, *STEP_FRAMES} == set(BACKBONES)


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("slowfast", {}, "config.backbone.size = 'g': must be one of 'r50', 'r101', "),
        ("swin", {"backbone.size": "r50"}, "the sizes of swin"),
        ("tsm", {"backbone.size": "r18", "window.frames": 12}, "is no multiple of 8, the frames of one clip"),
        ("slowfast", {"backbone.size": "r50", "window.frames": 12}, "is no multiple of 8, as slowfast needs it"),
        ("swin", {"backbone.size": "b"}, "clips_per_group = 4: swin has no clips, it sees the whole window; set it to"),
        ("tsm", {"backbone.size": "r18"}, "config.backbone.drop_path = 0.1: tsm has no stochastic depth; set it to 0"),
        (
            "vit",
            {"mesh.clip": 5},
            "config.mesh.clip = 5: the 48 clips of config.window.frames = 768 cannot be shared out",
        ),
        ("vit", {"memory.attention": "cudnn", "dtype": "float32"}, "'cudnn' takes no float32: set config.dtype"),
        ("vit", {"memory.frames": "host"}, "'host' is for methods that fetch a group of clips at a time"),
        ("swin", {"adaptation.method": "aim"}, "'aim' is for the blocks of a vit, not of swin"),
    ],
)
def test_what_a_backbone_has_not_is_said(name, fields, message):
    config = load(ROOT / "configs" / "thumos_vitg.py")
    config.backbone.name = name
    config.update_from_flattened_dict(fields)
    with pytest.raises(ConfigError) as error:
        configs.check(config)
    assert message in str(error.value)


def test_differences_leave_out_what_changes_nothing():
    ours, theirs = (load(ROOT / "configs" / "thumos_vitg.py") for _ in range(2))
    theirs.data.workers, theirs.mesh.data, theirs.train.keep_last = 3, 4, 7
    assert configs.differences(ours, theirs) == []
    theirs.head.width = 256
    assert configs.differences(ours, theirs) == ["head.width: 256 there, 512 here"]


def test_a_saved_config_comes_back_equal(tmp_path):
    config = load(ROOT / "configs" / "thumos_vitg.py")
    configs.save(config, tmp_path / "config.json")
    back = configs.load(tmp_path / "config.json")
    assert configs.differences(config, back) == []
    configs.check(back)
    del back.data.cache, back.head
    with pytest.raises(ConfigError, match=r"^config\.\S+, config\.\S+ \.\.\. \(\d+ fields\) are missing.* --config$"):
        configs.check(back)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ConfigError, match="damaged"):
        configs.load(tmp_path / "config.json")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config=configs/thumos_vitg.py", "--config.optim.hed_lr=1"], "did you mean config.optim.head_lr?"),
        (["--config=configs/nothing.py"], "No such file or directory: 'configs/nothing.py'"),
        (["--config=configs/thumos_vitg.py", "--config.window.frames=700"], "is no multiple of"),
        (["--config=configs/thumos_vitg.py", "--profile_steps=15,10"], "give the first and the last step"),
        (["--mode=evaluate"], "config.json does not exist"),
        ([], "--config is missing"),
    ],
)
def test_the_command_line_says_what_is_wrong_before_jax_is_imported(arguments, message, tmp_path):
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "tadjax.main", f"--workdir={tmp_path / 'run'}", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert message in done.stderr
    assert "| jax\n" not in done.stderr, "JAX was imported before the config was checked"
    assert not (tmp_path / "run").exists()
