"""Recipes on published features: every number of the reference's settings stands in its config.

tests/golden/recipes_features.json holds the settings as facts under the reference's own key names.
"""

import json

import pytest

from tadjax.config import checks as configs
from tests.config.test_checks import load
from tests.conftest import ROOT

RECIPES = json.loads((ROOT / "tests" / "golden" / "recipes_features.json").read_text())
CLASSIFIERS = {"CUHKANETClassifier": "cuhk", "TCANetHACSClassifier": "tcanet"}
SHIPPED = {
    "actionformer/thumos_i3d": ("thumos_i3d", "actionformer"),
    "tridet/thumos_i3d": ("thumos_i3d", "tridet"),
    "actionformer/anet_tsp": ("anet_tsp", "actionformer"),
    "tridet/anet_tsp": ("anet_tsp", "tridet"),
    "actionformer/epic_kitchens_slowfast_noun": ("epic_slowfast", "noun,actionformer"),
    "actionformer/epic_kitchens_slowfast_verb": ("epic_slowfast", "verb,actionformer"),
    "tridet/epic_kitchens_slowfast_noun": ("epic_slowfast", "noun,tridet"),
    "tridet/epic_kitchens_slowfast_verb": ("epic_slowfast", "verb,tridet"),
    "actionformer/hacs_slowfast": ("hacs_slowfast", "actionformer"),
    "tridet/hacs_slowfast": ("hacs_slowfast", "tridet"),
    "actionformer/ego4d_slowfast": ("ego4d_features", "slowfast"),
    "actionformer/ego4d_egovlp": ("ego4d_features", "egovlp"),
    "actionformer/ego4d_internvideo": ("ego4d_features", "internvideo"),
}


def numbers(config) -> dict:
    """What a recipe states, from a config."""
    window, head, optim, post = config.window, config.head, config.optim, config.post
    resizes = window.sampling == "resize"
    found = {
        "head": head.name,
        "channels": config.features.width,
        "width": head.width,
        "convs": list(head.convs),
        "absolute_position": head.absolute_position,
        "max_length": head.max_length,
        "regression_ranges": [list(pair) for pair in head.regression_ranges],
        "loss_normalizer": head.loss_normalizer,
        "label_smoothing": head.label_smoothing,
        "reg_loss_weight": head.reg_loss_weight,
        "filter_similar_gt": head.filter_similar_gt,
        "length": window.feature_length,
        "keep_ratio": window.keep_ratio,
        "crop_ratio": list(window.crop_ratio),
        "stride": None if resizes else window.stride,
        "offset": None if resizes else window.offset,
        "fps": config.data.fps or None,
        "filter": window.filter_segments,
        "class_agnostic": config.data.class_agnostic,
        "batch": optim.batch_size,
        "clip": optim.clip_norm,
        "lr": optim.head_lr,
        "weight_decay": optim.head_weight_decay,
        "min_lr": optim.min_lr,
        "warmup": optim.warmup_epochs,
        "schedule": optim.schedule_epochs,
        "epochs": optim.epochs,
        "topk": post.pre_nms_topk,
        "sigma": post.sigma,
        "max_seg_num": post.max_seg_num,
        "min_score": post.min_score,
        "multiclass": post.multiclass,
        "voting": post.voting_thresh,
        "classifier": config.classifier.layout if config.classifier.path else None,
        "subset": config.data.eval_subset,
        "tiou": list(config.evaluation.tiou),
        "recall_kx": list(config.evaluation.recall_kx) or None,
        "levels": head.convs[2] + 1,
    }
    if head.name == "tridet":
        tridet = head.tridet
        windows = tridet.window if isinstance(tridet.window, (tuple, list)) else [tridet.window] * found["levels"]
        return found | {
            "mlp_width": tridet.mlp_width,
            "windows": list(windows),
            "k": tridet.k,
            "init_std": tridet.init_std,
            "input_noise": tridet.input_noise,
            "boundary_kernel_size": tridet.boundary_kernel_size,
            "iou_power": tridet.iou_power,
            "bins": tridet.bins,
        }
    attention = head.attention_window
    return found | {
        "attention_heads": head.heads,
        "attention_window": list(attention) if isinstance(attention, (tuple, list)) else attention,
        "input_dropout": head.input_dropout,
        "proj_dropout": head.proj_dropout,
    }


def published(recipe: dict) -> dict:
    """The same, from the reference's facts; where they are silent, its defaults."""
    model, data, solver, post = recipe["model"], recipe["train_data"], recipe["solver"], recipe["post"]
    projection, head, optimizer = model["projection"], model["rpn_head"], recipe["optimizer"]
    truncation = next(step for step in data["sampling"] if step["type"] == "RandomTrunc")
    found = {
        "head": model["type"].lower(),
        "channels": projection["in_channels"],
        "width": projection["out_channels"],
        "convs": projection["arch"],
        "absolute_position": projection["use_abs_pe"],
        "max_length": projection["max_seq_len"],
        "regression_ranges": head["prior_generator"]["regression_range"],
        "loss_normalizer": head["loss_normalizer"],
        "label_smoothing": head["label_smoothing"],
        "reg_loss_weight": head.get("loss_weight", 1.0),
        "filter_similar_gt": head.get("filter_similar_gt", True),
        "length": data["resize_length"] or truncation["trunc_len"],
        "keep_ratio": truncation["trunc_thresh"],
        "crop_ratio": truncation["crop_ratio"],
        "stride": data["feature_stride"],
        "offset": data["offset_frames"],
        "fps": data["fps"],
        "filter": data["filter_gt"],
        "class_agnostic": bool(data["class_agnostic"]),
        "batch": solver["train"]["batch_size"],
        "clip": solver["clip_grad_norm"],
        "lr": optimizer["lr"],
        "weight_decay": optimizer["weight_decay"],
        "min_lr": recipe["scheduler"].get("eta_min", 1e-8),
        "warmup": recipe["scheduler"]["warmup_epoch"],
        "schedule": recipe["scheduler"]["max_epoch"],
        "epochs": recipe["end_epoch"] or recipe["scheduler"]["max_epoch"],
        "topk": post.get("pre_nms_topk", 2000),
        "sigma": post["nms"]["sigma"],
        "max_seg_num": post["nms"]["max_seg_num"],
        "min_score": post["nms"]["min_score"],
        "multiclass": post["nms"]["multiclass"],
        "voting": post["nms"]["voting_thresh"],
        "classifier": CLASSIFIERS.get(post.get("external_cls", {}).get("type")),
        "subset": recipe["evaluation"]["subset"],
        "tiou": recipe["evaluation"]["tiou_thresholds"],
        "recall_kx": recipe["evaluation"].get("top_k"),
        "levels": model["neck"]["num_levels"],
    }
    if model["type"] == "TriDet":
        return found | {
            "mlp_width": projection["sgp_mlp_dim"],
            "windows": projection["sgp_win_size"],
            "k": projection["k"],
            "init_std": projection["init_conv_vars"],
            "input_noise": projection["input_noise"],
            "boundary_kernel_size": head["boundary_kernel_size"],
            "iou_power": head["iou_weight_power"],
            "bins": head["num_bins"],
        }
    return found | {
        "attention_heads": projection["attn_cfg"]["n_head"],
        "attention_window": projection["attn_cfg"]["n_mha_win_size"],
        "input_dropout": projection.get("input_pdrop", 0.0),
        "proj_dropout": projection["conv_cfg"]["proj_pdrop"],
    }


@pytest.mark.parametrize("recipe", SHIPPED)
def test_every_number_of_a_published_setting_stands_in_its_config(recipe):
    file, variant = SHIPPED[recipe]
    config = load(ROOT / "configs" / f"{file}.py", variant)
    configs.check(config)
    got, want = numbers(config), published(RECIPES[recipe])
    assert {name: (got[name], value) for name, value in want.items() if got[name] != value} == {}
    assert set(got) == set(want)
