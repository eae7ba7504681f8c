"""Published settings of the backbones other than ViT: their numbers stand in variants of the configs.

tests/golden/recipes_other_backbones.json holds them as facts under the reference's own key names.
"""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.common import LARGE, OTHER_BACKBONES, VIT_KIN
from tadjax.build import build
from tadjax.config import checks as configs
from tadjax.training.optimizer import HELD, labels, path_of
from tests.config.test_checks import load
from tests.conftest import ROOT

RECIPES = json.loads((ROOT / "tests" / "golden" / "recipes_other_backbones.json").read_text())
VARIANTS = {
    "e2e_thumos_actionformer_slowfast101": ("thumos", "slowfast101,finetune,1024x224"),
    "e2e_thumos_actionformer_swin_tiny": ("thumos", "swint,finetune,1024x224"),
    "e2e_anet_actionformer_slowfast101": ("anet", "slowfast101,finetune,224"),
    "e2e_anet_actionformer_swin_tiny": ("anet", "swint,finetune,224"),
}


def published(recipe: dict) -> dict:
    """The facts, by the fields of the config."""
    network, projection, post = recipe["backbone"]["backbone"], recipe["projection"], recipe["post"]
    steps = {step["type"].removeprefix("mmaction."): step for step in recipe["pipeline"]}
    load_frames, window = steps["LoadFrames"], recipe["train_window"]
    length = load_frames.get("trunc_len") or window["resize_length"]
    facts = {
        "backbone.name": {"ResNet3dSlowFast": "slowfast", "SwinTransformer3D": "swin"}[network["type"]],
        "backbone.drop_path": network.get("drop_path_rate", 0.0),
        "adaptation.method": "none" if recipe["backbone"]["custom"]["freeze_backbone"] else "full",
        "window.frames": length * load_frames["scale_factor"],
        "window.feature_length": length,
        "window.sampling": load_frames["method"],
        "window.filter_segments": window["filter_gt"],
        "window.short_side": 256,
        "window.size": 224,
        "augment.policy": "randaugment" if "ImgAug" in steps else "none",
        "augment.jitter": "ColorJitter" in steps,
        "augment.flip": steps["Flip"]["flip_ratio"],
        "head.width": projection["out_channels"],
        "head.convs": tuple(projection["arch"]),
        "head.heads": projection["attn_cfg"]["n_head"],
        "head.attention_window": projection["attn_cfg"]["n_mha_win_size"],
        "head.proj_dropout": projection["conv_cfg"]["proj_pdrop"],
        "head.drop_path": projection["path_pdrop"],
        "head.input_dropout": projection.get("input_pdrop", 0.0),
        "head.absolute_position": projection["use_abs_pe"],
        "head.max_length": projection["max_seq_len"],
        "optim.batch_size": recipe["solver"]["train"]["batch_size"],
        "optim.clip_norm": recipe["solver"]["clip_grad_norm"],
        "optim.head_lr": recipe["optimizer"]["lr"],
        "optim.head_weight_decay": recipe["optimizer"]["weight_decay"],
        "optim.backbone_lr": recipe["optimizer"]["backbone"]["lr"],
        "optim.backbone_weight_decay": recipe["optimizer"]["backbone"]["weight_decay"],
        "optim.warmup_epochs": recipe["scheduler"]["warmup_epoch"],
        "optim.schedule_epochs": recipe["scheduler"]["max_epoch"],
        **{f"post.{name}": post["nms"][name] for name in ("sigma", "max_seg_num", "min_score", "multiclass")},
        "post.voting_thresh": post["nms"]["voting_thresh"],
        "data.class_agnostic": window.get("class_agnostic", False),
    }
    if "feature_stride" in window:
        facts |= {"window.stride": window["feature_stride"], "window.keep_ratio": load_frames["trunc_thresh"]}
        facts["window.crop_ratio"] = tuple(load_frames["crop_ratio"])
    if "external_cls" in post:
        facts |= {"classifier.layout": "cuhk", "classifier.topk": post["external_cls"]["topk"]}
    return facts


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_number_of_a_published_setting_stands_in_its_config(recipe):
    data, variant = VARIANTS[recipe]
    config = load(ROOT / "configs" / f"{data}.py", variant)
    configs.check(config)
    got = dict(configs.fields(config))
    wrong = {name: (got[name], value) for name, value in published(RECIPES[recipe]).items() if got[name] != value}
    assert wrong == {}
    steps = [step for step in RECIPES[recipe]["pipeline"] if step["type"] == "mmaction.Resize"]
    assert steps[0]["scale"] == [-1, config.window.short_side]
    assert steps[1]["scale"] == [config.window.size] * 2


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_backbone_is_the_published_one(recipe):
    data, variant = VARIANTS[recipe]
    network = RECIPES[recipe]["backbone"]["backbone"]
    backbone = build(load(ROOT / "configs" / f"{data}.py", variant), 20, platform="cpu").backbone
    assert backbone.width == RECIPES[recipe]["projection"]["in_channels"]
    if network["type"] == "ResNet3dSlowFast":
        got = (backbone.resample, backbone.speed, backbone.channel_ratio, backbone.lateral_kernel)
        want = tuple(network[name] for name in ("resample_rate", "speed_ratio", "channel_ratio"))
        assert got == (*want, network["slow_pathway"]["fusion_kernel"])
        assert backbone.depths == (3, 4, 23, 3)
    else:
        assert backbone.window == tuple(network["window_size"])
    scale = RECIPES[recipe]["backbone"]["data_preprocessor"]
    frame = jax.ShapeDtypeStruct((1, 16, 32, 32, 3), jnp.uint8)
    assert jax.eval_shape(backbone.embed, jax.eval_shape(backbone.init, jax.random.key(0)), frame)
    mean, std = (np.asarray(getattr(backbone, name, scale[name])) for name in ("mean", "std"))
    np.testing.assert_array_equal((mean, std), (scale["mean"], scale["std"]))


@pytest.mark.parametrize("recipe", RECIPES)
def test_norms_are_held_where_the_setting_evaluates_them(recipe):
    backbone = build(load(ROOT / "configs" / f"{VARIANTS[recipe][0]}.py", VARIANTS[recipe][1]), 20, "cpu").backbone
    shapes = jax.eval_shape(backbone.init, jax.random.key(0))
    groups = {
        path_of(path): group for path, group in jax.tree_util.tree_flatten_with_path(labels({"backbone": shapes}))[0]
    }
    norms = {path for path in groups if "norm" in path}
    assert RECIPES[recipe]["backbone"]["custom"]["norm_eval"] and len(norms) > 10
    assert {path for path, group in groups.items() if group == HELD} == norms


@pytest.mark.parametrize("word", OTHER_BACKBONES)
@pytest.mark.parametrize("method", ["adatad", "side", "frozen", "finetune"])
def test_every_backbone_is_a_variant_with_every_method(word, method):
    for extra in ("", ",1536x224", ",tiny"):
        config = load(ROOT / "configs" / "thumos.py", f"{word},{method}{extra}")
        configs.check(config)
    assert config.backbone.name == OTHER_BACKBONES[word][0]


@pytest.mark.parametrize(
    ("file", "variant", "size"), [("anet", "slowfast50", "r50"), ("epic", "noun,slowfast50", "r50_pyslowfast")]
)
def test_other_data_sets_have_slowfast(file, variant, size):
    config = load(ROOT / "configs" / f"{file}.py", variant)
    configs.check(config)
    assert (config.backbone.name, config.backbone.size, config.backbone.drop_path) == ("slowfast", size, 0.0)
    assert config.adaptation.method == "tia"


@pytest.mark.parametrize("word", ["vjepa2_g", "vjepa21_G", "internvideo2_1b", "videoprism_l"])
@pytest.mark.parametrize("method", ["adatad", "side"])
def test_vits_kin_has_gradients_clip_group_by_clip_group(word, method):
    """Traced, at the twin's size; InternVideo2's stream is a pair, of which the groups of side asked for a shape."""
    config = load(ROOT / "configs" / "thumos.py", f"{word},{method},tiny")
    config.memory.clips_per_group = 1
    localizer = build(config, 3, "cpu")
    frames = jax.ShapeDtypeStruct((1, config.window.frames, *(config.window.size,) * 2, 3), jnp.uint8)
    params = jax.eval_shape(localizer.init, jax.random.key(0))

    def total(adapter, params, frames):
        return localizer.steps({**params, "adapter": adapter}, frames).sum()

    assert jax.eval_shape(jax.grad(total), params["adapter"], params, frames) == params["adapter"]


@pytest.mark.parametrize("word", VIT_KIN)
def test_words_of_vits_kin_are_adatads_settings_with_another_backbone(word):
    """In every file and with every method: nothing differs from the ViT's but the backbone, and what its memory and its
    patches ask for."""
    large = word in LARGE
    of = {
        "thumos": ("", "side", "frozen", "finetune", "1536x224", "side,1536x224", "1024x224"),
        "anet": ("", "224", "frozen", "finetune"),
        "epic": ("", "noun"),
        "ego4d": ("",),
    }
    free = ("backbone.", "memory.clips_per_group", "window.size", "window.short_side", "adaptation.layers")
    for file, variants in of.items():
        for variant in variants:
            config = load(ROOT / "configs" / f"{file}.py", f"{word},{variant}")
            configs.check(config)
            configs.check(load(ROOT / "configs" / f"{file}.py", f"{word},{variant},tiny"))
            words = "vitg" if large and file in ("thumos", "anet") else "vitl"
            vit = load(ROOT / "configs" / f"{file}.py", f"{words},{variant}")
            got, want = dict(configs.fields(config)), dict(configs.fields(vit))
            assert {name for name in want if got[name] != want[name] and not name.startswith(free)} == set()
            name, size, depth = VIT_KIN[word]
            assert (config.backbone.name, config.backbone.size) == (name, size)
            if config.adaptation.layers:
                assert config.adaptation.layers == (depth // 2, depth - 1)
    assert build(load(ROOT / "configs" / "thumos.py", word), 20, "cpu").backbone.depth == depth
