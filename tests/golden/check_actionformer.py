"""ActionFormer (projection, neck, head, losses, gradients, proposals) against the published PyTorch code."""

import json
import pathlib
from collections.abc import Iterator

import jax
import numpy as np

from convert.heads import ACTIONFORMER
from convert.mapping import to_flax, to_torch
from tadjax.heads.actionformer import ActionFormer, Pyramid
from tests.golden.compare import Row

FEATURES = {"atol": 5e-5, "rtol": 2.4e-7}  # features, logits, regression, proposals; 5e-5 is below one ulp at 600
LOSS = {"rtol": 2e-5}


def matches(name: str, keys: set[str]) -> bool:
    return {"out/proj_feat_0", "out/reg_0", "out/positive_mask", "out/proposals_0"} <= keys


def head_from_config(model: dict) -> ActionFormer:
    """The head that a config of the published code describes."""
    projection, rpn = model["projection"], model["rpn_head"]
    window = projection["attn_cfg"]["n_mha_win_size"]
    return ActionFormer(
        classes=rpn["num_classes"],
        width=projection["out_channels"],
        convs=tuple(projection["arch"]),
        heads=projection["attn_cfg"]["n_head"],
        attention_window=window if isinstance(window, int) else tuple(window),
        max_length=projection["max_seq_len"],
        absolute_position=projection["use_abs_pe"],
        head_convs=rpn["num_convs"],
        regression_ranges=tuple(map(tuple, rpn["prior_generator"]["regression_range"])),
        center_sample_radius=rpn["center_sample_radius"],
        filter_similar_gt=rpn.get("filter_similar_gt", True),
        label_smoothing=rpn["label_smoothing"],
        reg_loss_weight=rpn.get("loss_weight", 1.0),
        loss_normalizer_momentum=rpn["loss_normalizer_momentum"],
        drop_path=projection["path_pdrop"],
    )


def pad_targets(counts: np.ndarray, segments: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """Ragged ground truth, concatenated in sample order -> [B, M] arrays and their mask."""
    valid = np.arange(max(counts.max(), 1)) < counts[:, None]
    padded = {"segments": np.zeros((*valid.shape, 2), np.float32), "labels": np.zeros(valid.shape, np.int32)}
    padded["segments"][valid], padded["labels"][valid] = segments, labels
    return padded | {"segment_valid": valid}


def check(path: pathlib.Path) -> Iterator[Row]:
    arrays = dict(np.load(path, allow_pickle=False))
    head = head_from_config(json.loads(str(arrays["config"]))["model"])
    parameters, report = to_flax({k[3:]: v for k, v in arrays.items() if k.startswith("sd/")}, ACTIONFORMER)
    report.check(path.name)
    params, state = parameters["head"], parameters["state"]
    features, valid = _features(arrays)
    targets = pad_targets(arrays["in/gt_count"], arrays["in/gt_segments"], arrays["in/gt_labels"])

    def loss(params: dict, train: bool) -> tuple:
        losses, new_state = head.losses(params, state, features, valid, targets, train=train)
        return losses["loss"], (losses, new_state)

    @jax.jit
    def everything(params: dict) -> tuple:  # one program: its compilation is what takes the time here
        pyramid = head.pyramid(params, features, valid)
        point_targets = head.point_targets(head.points(pyramid), targets)
        (_, trained), grads = jax.value_and_grad(loss, has_aux=True)(params, True)
        return pyramid, point_targets, loss(params, False)[1], trained, grads, head.candidates(params, features, valid)

    with jax.default_matmul_precision("highest"):
        pyramid, point_targets, evaluated, trained, grads, candidates = everything(params)
        yield from _pyramid(pyramid, head.points(pyramid), arrays)
        yield from _targets(point_targets, pyramid, arrays)
        yield from _losses("eval", *evaluated, state["loss_normalizer"], arrays)
        yield from _losses("train", *trained, arrays["out/loss_normalizer_after"], arrays)
        yield from _gradients(grads, arrays)
        yield from _proposals("", candidates, arrays)
        for prefix in (p for p in ("short_", "long_") if f"in/{p}feats" in arrays):
            yield from _proposals(prefix, jax.jit(head.candidates)(params, *_features(arrays, prefix)), arrays)


def _features(arrays: dict, prefix: str = "") -> tuple[np.ndarray, np.ndarray]:
    return arrays[f"in/{prefix}feats"].transpose(0, 2, 1), arrays[f"in/{prefix}masks"].astype(bool)


def _pyramid(pyramid: Pyramid, points: np.ndarray, arrays: dict) -> Iterator[Row]:
    fields = {"proj_feat": "features", "neck_feat": "normed", "cls_logits": "logits", "reg": "offsets"}
    for name, field in fields.items():
        for i, got in enumerate(getattr(pyramid, field)):
            yield Row(f"out/{name}_{i}", np.swapaxes(got, 1, 2), arrays[f"out/{name}_{i}"], **FEATURES)
    for i, got in enumerate(pyramid.valid):
        yield Row(f"out/mask_{i}", got, arrays[f"out/mask_{i}"])
    yield Row("out/points", points, np.concatenate([arrays[f"out/points_{i}"] for i in range(len(pyramid.valid))]))


def _targets(point_targets: tuple, pyramid: Pyramid, arrays: dict) -> Iterator[Row]:
    classes, offsets = (np.asarray(x) for x in point_targets)
    some = arrays["out/cls_targets"].any(-1)  # elsewhere the offsets mean nothing
    positive = classes.any(-1) & np.concatenate(pyramid.valid, axis=1)
    yield Row("out/cls_targets", classes, arrays["out/cls_targets"])
    yield Row("out/reg_targets", offsets[some], arrays["out/reg_targets"][some], **FEATURES)
    yield Row("out/positive_mask", positive, arrays["out/positive_mask"])
    yield Row("out/num_pos", positive.sum(), arrays["out/num_pos"])


def _losses(mode: str, losses: dict, state: dict, normalizer: np.ndarray, arrays: dict) -> Iterator[Row]:
    for theirs, ours in {"cls_loss": "classification", "reg_loss": "regression", "cost": "loss"}.items():
        yield Row(f"out/{mode}_{theirs}", losses[ours], arrays[f"out/{mode}_{theirs}"], **LOSS)
    yield Row(f"loss_normalizer after {mode}", state["loss_normalizer"], normalizer, **LOSS)


def _gradients(grads: dict, arrays: dict) -> Iterator[Row]:
    got = to_torch({"head": jax.tree.map(np.asarray, grads)}, ACTIONFORMER)
    for key in sorted(k for k in arrays if k.startswith("grad/")):
        # The bias of keys, and of the norm before them, has no true gradient: softmax does not see it.
        noise = key.endswith(("attn.key.bias", "attn.key_norm.bias"))
        atol = 2e-8 if noise else max(3e-8, 3e-5 * float(np.abs(arrays[key]).max()))
        yield Row(key, got[key.removeprefix("grad/")], arrays[key], atol)


def _proposals(prefix: str, candidates: dict, arrays: dict) -> Iterator[Row]:
    for b, valid in enumerate(np.asarray(candidates["valid"])):
        for theirs, ours in {"proposals": "segments", "scores": "scores"}.items():
            name = f"out/{prefix}{theirs}_{b}"
            yield Row(name, np.asarray(candidates[ours][b])[valid], arrays[name], **FEATURES)
