"""Recipes: every published AdaTAD setting is a variant of a config, equal to it field by field, and makes a step.

tests/golden/recipes_adatad.json holds the 51 settings as facts under the reference's own key names.
"""

import json
import re

import jax
import jax.numpy as jnp
import pytest

from tadjax.adaptation.inside import Memory
from tadjax.backbones.vit import SIZES
from tadjax.build import adapted_layers, build
from tadjax.config import checks as configs
from tadjax.config.schema import defaults
from tadjax.errors import ConfigError
from tests.config.test_checks import load
from tests.conftest import ROOT

RECIPES = json.loads((ROOT / "tests" / "golden" / "recipes_adatad.json").read_text())
METHODS = {"adatad": "tia", "adatad_side": "side", "frozen": "none", "full_finetune": "full"}
SAMPLING = {"random_trunc": "random_trunc", "sliding_window": "sliding", "resize": "resize"}
CLASSIFIERS = {"CUHKANETClassifier": "cuhk", "StandardClassifier": "internvideo"}


def variant_of(recipe: str) -> tuple[str, str]:
    """("thumos", "vitg,1536x224,side") for "thumos/thumos_videomaev2_g_768x2_224_side_2e-4"."""
    data, name = recipe.split("/")
    data = data.replace("multi_thumos", "multithumos")
    if data == "epic":
        return data, name.rpartition("_")[2]
    if data == "ego4d":
        return data, ""
    words = ["vit" + re.search(r"videomae(?:v2)?_([sblhg])_", name)[1]]
    words += ["1536x224"] if "_768x2_224" in name else ["224"] if "_192x4_224" in name else []
    endings = {"frozen": "frozen", "fullft": "finetune", "side": "side", "2e-4": "side", "cls": "cls"}
    endings |= {"internvideo": "internvideo", "internvideo2": "internvideo2"}
    words += [word for ending, word in endings.items() if name.rpartition("_")[2] == ending]
    return data, ",".join(words)


def recipe_config(recipe: str, extra: str = ""):
    data, variant = variant_of(recipe)
    return load(ROOT / "configs" / f"{data}.py", ",".join(word for word in (variant, extra) if word))


def numbers(config) -> dict:
    """What a recipe states, from a config; None where it has no say."""
    window, head, optim, post = config.window, config.head, config.optim, config.post
    sliding = window.eval_sampling == "sliding"
    layers = adapted_layers(tuple(config.adaptation.layers), SIZES[config.backbone.size]["depth"])
    vit = SIZES[config.backbone.size]
    adapted = config.adaptation.method in ("tia", "side")
    return {
        "method": config.adaptation.method,
        "vit.patch": vit["patch"],
        "vit.width": vit["width"],
        "vit.depth": vit["depth"],
        "vit.heads": vit["heads"],
        "vit.mlp_ratio": vit["mlp_width"] / vit["width"],
        "vit.pretrain_grid_image": config.backbone.image,
        "vit.clip_frames": 16,
        "vit.drop_path": config.backbone.drop_path or None,
        "adapter.layers": [layers[0], layers[-1]] if adapted else None,
        "adapter.bottleneck_ratio": config.adaptation.ratio if adapted else None,
        "adapter.lr": [optim.adapter_lr] if adapted else None,
        "adapter.weight_decay": [optim.adapter_weight_decay] if adapted else None,
        "backbone_lr": optim.backbone_lr if config.adaptation.method == "full" else None,
        "backbone_weight_decay": optim.backbone_weight_decay if config.adaptation.method == "full" else None,
        "frames.total": window.frames,
        "frames.feature_length": window.feature_length,
        "frames.frames_per_feature": window.frames // window.feature_length,
        "frames.stride_frames": window.stride if sliding else None,
        "frames.fps": config.data.fps or None,
        "frames.sampling": window.sampling,
        "frames.truncate_keep_ratio": window.keep_ratio if sliding else None,
        "frames.crop_ratio": list(window.crop_ratio) or None,
        "frames.train_short_side": window.short_side,
        "frames.train_size": window.size,
        "frames.test_size": [window.size],
        "frames.test_window_overlap": window.overlap if sliding else None,
        "frames.test_sampling": window.eval_sampling,
        "projection.width": head.width,
        "projection.arch_embed_stem_branch": list(head.convs),
        "projection.heads": head.heads,
        "projection.attention_window": _listed(head.attention_window),
        "projection.proj_dropout": head.proj_dropout,
        "projection.drop_path": head.drop_path,
        "projection.absolute_position": head.absolute_position,
        "projection.max_length": head.max_length,
        "projection.input_dropout": head.input_dropout,
        "head.type": {"actionformer": "ActionFormerHead"}[head.name],
        "head.classes": {True: 1}.get(config.data.class_agnostic, "of the data set"),
        "head.width": head.width,
        "head.convs": head.head_convs,
        "head.strides": [2**level for level in range(head.convs[2] + 1)],
        "head.regression_ranges": _listed(head.regression_ranges),
        "head.loss_normalizer": head.loss_normalizer,
        "head.loss_normalizer_momentum": head.loss_normalizer_momentum,
        "head.center_sample_radius": head.center_sample_radius,
        "head.label_smoothing": head.label_smoothing,
        "head.reg_loss_weight": head.reg_loss_weight,
        "head.filter_similar_gt": head.filter_similar_gt,
        "head.cls_prior": head.class_prior,
        "solver.batch": optim.batch_size,
        "solver.clip_grad_norm": optim.clip_norm,
        "solver.head_lr": optim.head_lr,
        "solver.head_weight_decay": optim.head_weight_decay,
        "solver.warmup_epochs": optim.warmup_epochs,
        "solver.schedule_epochs": optim.schedule_epochs,
        "solver.end_epoch": optim.epochs,
        "solver.ema": optim.ema_decay > 0,
        "solver.eval_from_epoch": config.train.eval_from_epoch,
        "solver.eval_every": config.train.eval_every_epochs,
        "post.pre_nms_topk": post.pre_nms_topk,
        "post.pre_nms_thresh": post.pre_nms_thresh,
        "post.use_soft_nms": post.nms == "gaussian",
        "post.sigma": post.sigma,
        "post.max_seg_num": post.max_seg_num,
        "post.min_score": post.min_score,
        "post.multiclass": post.multiclass,
        "post.voting_thresh": post.voting_thresh,
        "post.external_classifier.type": config.classifier.layout if config.classifier.path else None,
        "post.external_classifier.topk": config.classifier.topk if config.classifier.path else None,
        "evaluation.subset": config.data.eval_subset,
        "evaluation.tiou": list(config.evaluation.tiou),
        "evaluation.top_k": list(config.evaluation.recall_kx) or None,
    }


def _listed(value):
    return [_listed(v) for v in value] if isinstance(value, (tuple, list)) else value


def facts(recipe: dict, prefix: str = ""):
    for name, value in recipe.items():
        if isinstance(value, dict):
            yield from facts(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def published(recipe: dict) -> dict:
    """The facts in the config's words. A learning rate of 0, an adapter or classifier of None: there is none."""
    found = dict(facts(recipe))
    for group in ("adapter", "post.external_classifier"):
        if found.pop(group, ...) is None:
            prefix = [name for name in numbers(defaults()) if name.startswith(f"{group}.")]
            found |= dict.fromkeys(prefix)
    found["method"] = METHODS[found["method"]]
    found["frames.sampling"] = SAMPLING[found["frames.sampling"]]
    found["frames.test_sampling"] = SAMPLING[found["frames.test_sampling"]]
    found["post.external_classifier.type"] = CLASSIFIERS.get(found["post.external_classifier.type"])
    for name in ("backbone_lr", "backbone_weight_decay"):
        found[name] = found[name] or None
    if found["frames.total"] is None:  # the feature-by-feature baselines state it as a product only
        found["frames.total"] = found["frames.feature_length"] * found["frames.frames_per_feature"]
    if found["head.classes"] > 1:
        found["head.classes"] = "of the data set"
    found.setdefault("post.min_score", 0.0)
    return found


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_number_of_a_published_setting_stands_in_its_config(recipe):
    config = recipe_config(recipe)
    configs.check(config)
    got, want = numbers(config), published(RECIPES[recipe])
    assert set(got) == set(want)
    assert {name: (got[name], value) for name, value in want.items() if got[name] != value} == {}


def test_all_settings_are_different_configs():
    assert len(RECIPES) == 51
    assert len({variant_of(recipe) for recipe in RECIPES}) == 51


QUICK = {recipe.split("/")[0]: recipe for recipe in RECIPES}.values()  # one of each data set


@pytest.mark.parametrize(
    "recipe", [pytest.param(recipe, marks=[] if recipe in QUICK else [pytest.mark.slow]) for recipe in RECIPES]
)
def test_every_setting_makes_a_localizer(recipe):
    """Abstractly: shapes of all parameters, and of what the head yields for features of a window."""
    config, classes = recipe_config(recipe), RECIPES[recipe]["head"]["classes"]
    localizer = build(config, classes, platform="cpu")
    params = jax.eval_shape(localizer.init, jax.random.key(0))
    vit, length = RECIPES[recipe]["vit"], config.window.feature_length
    assert params["backbone"]["blocks"]["attention"]["qkv"]["kernel"].shape == (
        vit["depth"],
        vit["width"],
        3 * vit["width"],
    )
    adapter = RECIPES[recipe].get("adapter")
    assert ("adapter" in params) == bool(adapter)
    if adapter:
        first, last = adapter["layers"]
        hidden = int(vit["width"] * adapter["bottleneck_ratio"])
        down = params["adapter"]["down"]["kernel"]
        assert down.shape == (last - first + 1, vit["width"], hidden)
    assert isinstance(localizer.memory, Memory)
    found = jax.eval_shape(
        localizer.head.candidates,
        params["head"],
        jax.ShapeDtypeStruct((1, length, vit["width"]), jnp.float32),
        jax.ShapeDtypeStruct((1, length), bool),
    )
    padded = config.head.max_length
    points = sum(padded // stride for stride in RECIPES[recipe]["head"]["strides"])
    assert found["segments"].shape == (1, points, 2)
    assert found["scores"].shape == (1, points, classes)


@pytest.mark.parametrize(
    "recipe", ["anet/anet_videomae_s_192x4_160_frozen", "epic/epic_videomae_l_ft_768x8_160_adapter_noun"]
)
def test_frozen_settings_alone_see_plain_centre_crops(recipe):
    augment = recipe_config(recipe).augment
    plain = recipe.endswith("frozen")
    assert (augment.policy, augment.crop, augment.flip, augment.jitter) == (
        ("none", False, 0.0, False) if plain else ("randaugment", True, 0.5, True)
    )


@pytest.mark.parametrize(
    ("file", "variant"),
    [
        *((f"thumos_vit{size}", f"vit{size}") for size in "sblhg"),
        ("thumos_vits_side", "vits,side"),
        ("thumos_vitg_1536x224", "vitg,1536x224"),
        ("thumos_vitg_side_1536x224", "side,1536x224,vitg"),
    ],
)
def test_files_of_one_setting_are_the_variants_of_the_data_set(file, variant):
    one = dict(configs.fields(load(ROOT / "configs" / f"{file}.py")))
    assert one == dict(configs.fields(load(ROOT / "configs" / "thumos.py", variant)))


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_tiny_twin_is_right(recipe):
    config = recipe_config(recipe, "tiny")
    configs.check(config)
    assert config.backbone.size == "tiny"
    assert config.window.frames == 32 * RECIPES[recipe]["frames"]["frames_per_feature"]


@pytest.mark.parametrize(
    ("variant", "message"),
    [
        ("slofast50", "variant 'slofast50': 'slofast50' is none of this config's variants; did you mean 'slowfast50'?"),
        ("vitx", "'vitx' is none of this config's variants; there are vits, vitb, vitl, vith, vitg, slowfast50"),
        ("vitb,vitg", "variant 'vitb,vitg': 'vitg' cannot stand beside another of its kind; give one"),
        ("9000", "'9000' is none of this config's variants; there are vits, vitb, vitl, vith, vitg, slowfast50"),
    ],
)
def test_a_wrong_variant_is_named(variant, message):
    with pytest.raises(ConfigError) as error:
        load(ROOT / "configs" / "thumos.py", variant)
    assert message in str(error.value)
