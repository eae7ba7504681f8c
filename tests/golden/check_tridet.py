"""TriDet (projection, neck, head, losses, gradients, proposals, detections) against the published PyTorch code."""

import json
import pathlib
from collections.abc import Iterator

import jax
import numpy as np

from convert.heads import TRIDET
from convert.mapping import to_flax, to_torch
from tadjax.detections.decode import top_candidates
from tadjax.detections.nms import suppress
from tadjax.detections.settings import PostSettings
from tadjax.heads.tridet import Pyramid, TriDet
from tests.golden.check_actionformer import pad_targets
from tests.golden.compare import Row

LOSS = {"rtol": 2e-5}


def matches(name: str, keys: set[str]) -> bool:
    return {"sd/rpn_head.cls_start_head.weight", "out/reg_bins_0", "out/train_decoded_offsets"} <= keys


def head_from_config(model: dict) -> TriDet:
    """The head that a config of the published code describes."""
    projection, rpn = model["projection"], model["rpn_head"]
    return TriDet(
        classes=rpn["num_classes"],
        width=projection["out_channels"],
        convs=tuple(projection["arch"]),
        window=tuple(projection["sgp_win_size"]),
        k=projection["k"],
        mlp_width=projection["sgp_mlp_dim"],
        max_length=projection["max_seq_len"],
        absolute_position=projection["use_abs_pe"],
        head_convs=rpn["num_convs"],
        bins=rpn["num_bins"],
        iou_power=rpn["iou_weight_power"],
        kernel_size=rpn.get("kernel_size", 3),
        boundary_kernel_size=rpn.get("boundary_kernel_size", 3),
        regression_ranges=tuple(map(tuple, rpn["prior_generator"]["regression_range"])),
        center_sample_radius=rpn["center_sample_radius"],
        filter_similar_gt=rpn.get("filter_similar_gt", True),
        label_smoothing=rpn["label_smoothing"],
        reg_loss_weight=rpn.get("loss_weight", 1.0),
        loss_normalizer_momentum=rpn["loss_normalizer_momentum"],
        drop_path=projection["path_pdrop"],
    )


def close(name: str, got: np.ndarray, want: np.ndarray, **tolerances: float) -> Row:
    """A row of the forward pass: tolerances relative to the reference's largest value."""
    scale = float(np.abs(want).max()) if want.size else 0.0
    return Row(name, got, want, **({"atol": 2e-5 * scale, "rtol": 1e-4} | tolerances))


def check(path: pathlib.Path) -> Iterator[Row]:
    arrays = dict(np.load(path, allow_pickle=False))
    config = json.loads(str(arrays["config"]))
    head = head_from_config(config["model"])
    parameters, report = to_flax({k[3:]: v for k, v in arrays.items() if k.startswith("sd/")}, TRIDET)
    report.check(path.name)
    params = parameters["head"]
    state = {"loss_normalizer": np.float32(parameters["state"]["loss_normalizer"])}
    features, valid = _features(arrays, "")
    segments = [arrays[f"in/gt_segments_{i}"] for i in range(len(valid))]
    labels = [arrays[f"in/gt_labels_{i}"] for i in range(len(valid))]
    targets = pad_targets(np.array([len(s) for s in labels]), np.concatenate(segments), np.concatenate(labels))

    def loss(params: dict, features: jax.Array, state: dict, targets: dict, train: bool = True) -> tuple:
        losses, new_state = head.losses(params, state, features, valid, targets, train=train)
        return losses["loss"], (losses, new_state)

    @jax.jit
    def everything(params: dict) -> tuple:  # one program: its compilation is what takes the time here
        pyramid = head.pyramid(params, features, valid, train=True)
        point_targets = head.point_targets(head.points(pyramid), targets)
        (_, trained), grads = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(params, features, state, targets)
        none = targets | {"segment_valid": np.zeros_like(targets["segment_valid"])}
        losses = {
            "train_": trained,
            "train2_": loss(params, features, trained[1], targets)[1],
            "empty_": loss(params, features, state, none)[1],
            "eval_": loss(params, features, state, targets, train=False)[1],
        }
        return pyramid, pyramid.offsets(), point_targets, losses, grads

    with jax.default_matmul_precision("highest"):
        pyramid, offsets, point_targets, losses, grads = everything(params)
        yield from _pyramid(pyramid, arrays)
        yield Row("out/points", head.points(pyramid), arrays["out/points"])
        yield close("out/train_decoded_offsets", offsets, arrays["out/train_decoded_offsets"])
        yield from _targets(point_targets, arrays)
        yield from _losses(losses, arrays)
        yield from _gradients(grads, arrays)
        yield from _proposals(head, params, arrays, config)


def _features(arrays: dict, suffix: str) -> tuple[np.ndarray, np.ndarray]:
    return arrays[f"in/x{suffix}"].transpose(0, 2, 1), arrays[f"in/mask{suffix}"].astype(bool)


def _pyramid(pyramid: Pyramid, arrays: dict) -> Iterator[Row]:
    fields = {"proj_feat": "features", "neck_feat": "normed", "cls_logits": "logits", "reg_bins": "bins"}
    for name, field in (fields | {"start_logits": "start", "end_logits": "end"}).items():
        for i, got in enumerate(getattr(pyramid, field)):
            yield close(f"out/{name}_{i}", np.swapaxes(got, 1, 2), arrays[f"out/{name}_{i}"])
    for i, got in enumerate(pyramid.valid):
        yield Row(f"out/proj_mask_{i}", got, arrays[f"out/proj_mask_{i}"])


def _targets(point_targets: tuple, arrays: dict) -> Iterator[Row]:
    classes, offsets = (np.asarray(x) for x in point_targets)
    some = arrays["out/target_cls"].any(-1)  # elsewhere the offsets mean nothing
    yield Row("out/target_cls", classes, arrays["out/target_cls"])
    yield close("out/target_reg", offsets[some], arrays["out/target_reg"][some])


def _losses(losses: dict, arrays: dict) -> Iterator[Row]:
    for mode, (found, state) in losses.items():
        yield Row(f"out/{mode}cls_loss", found["classification"], arrays[f"out/{mode}cls_loss"], **LOSS)
        yield Row(f"out/{mode}reg_loss", found["regression"], arrays[f"out/{mode}reg_loss"], **LOSS)
        names = {"train_": "loss_normalizer_after", "train2_": "loss_normalizer_after2"}
        name = names.get(mode, f"{mode}loss_normalizer_after")
        if mode != "eval_":
            yield Row(f"out/{name}", state["loss_normalizer"], arrays[f"out/{name}"], **LOSS)
    yield Row("out/train_cost", losses["train_"][0]["loss"], arrays["out/train_cost"], **LOSS)
    unchanged = arrays["sd/rpn_head.loss_normalizer"]
    yield Row("loss_normalizer after eval", losses["eval_"][1]["loss_normalizer"], unchanged)


def _gradients(grads: tuple, arrays: dict) -> Iterator[Row]:
    got = to_torch({"head": jax.tree.map(np.asarray, grads[0])}, TRIDET)
    got["in_x"] = np.swapaxes(grads[1], 1, 2)
    for key in sorted(k for k in arrays if k.startswith("grad/")):
        atol = max(1.5e-7, 3.5e-5 * float(np.abs(arrays[key]).max()))
        yield Row(key, got[key.removeprefix("grad/")], arrays[key], atol)


def _proposals(head: TriDet, params: dict, arrays: dict, config: dict) -> Iterator[Row]:
    """What comes out of a window that is shorter than those of training, up to seconds."""
    found = {k: np.asarray(v) for k, v in jax.jit(head.candidates)(params, *_features(arrays, "_test")).items()}
    points, offsets = arrays["out/test_points"], arrays["out/test_offsets"].transpose(0, 2, 1, 3)
    width = found["segments"][..., 1] - found["segments"][..., 0]
    yield Row("out/test_padded_len", (points[:, 3] == 1).sum(), arrays["out/test_padded_len"])
    yield close("out/test_offsets (their sum)", width / points[:, 3, None], offsets.sum(-1))
    yield close("out/test_scores", found["scores"] * found["valid"][..., None], arrays["out/test_scores"])
    wanted = arrays["out/test_segments"].transpose(0, 2, 1, 3)
    yield close("out/test_segments", found["segments"], wanted, atol=1e-4)

    post = config["post"]
    soft = {"nms": "gaussian", "sigma": post["sigma"], "min_score": post["min_score"]}
    hard = {"nms": "hard", "iou_threshold": post["hard"]["iou_threshold"], "min_score": post["hard"]["min_score"]}
    modes = {
        "softnms_multiclass": soft | {"multiclass": True},
        "softnms_agnostic_vote": soft | {"multiclass": False, "voting_thresh": post["voting_thresh"]},
        "hardnms_multiclass": hard | {"multiclass": True},
    }
    for b, meta in enumerate(config["metas"]):
        for mode, options in {"nonms": {}, **modes}.items():
            settings = PostSettings(
                pre_nms_topk=post["pre_nms_topk"],
                pre_nms_thresh=post["pre_nms_thresh"],
                max_seg_num=post["max_seg_num"],
                **options,
            )
            kept = top_candidates(found["segments"][b], found["scores"][b], found["valid"][b], settings)
            detections = kept.segments, kept.scores, kept.labels
            if options:
                detections = suppress(*detections, settings)
            name = f"out/final_{mode}_{b}"
            yield from detection_rows(name, detections, arrays[name], meta)


def detection_rows(name: str, found: tuple, wanted: np.ndarray, meta: dict) -> Iterator[Row]:
    """found: segments, scores, labels in feature steps. wanted: rows of start, end (seconds), label and score."""
    segments, scores, labels = found
    frames = segments * meta["snippet_stride"] + meta["window_start_frame"] + meta["offset_frames"]
    seconds = np.round(np.clip(frames / meta["fps"], 0, meta["duration"]), 2)
    got = np.column_stack([seconds, labels, np.round(scores, 4)])
    if got.shape == wanted.shape:  # scores that rounding made equal may come in another order
        got, wanted = (a[np.lexsort((a[:, 1], a[:, 0], a[:, 2]))] for a in (got, wanted))
        yield Row(f"{name} seconds", got[:, :2], wanted[:, :2], atol=0.011)
        yield Row(f"{name} classes", got[:, 2], wanted[:, 2])
        yield Row(f"{name} scores", got[:, 3], wanted[:, 3], atol=2e-4)
    else:
        yield Row(name, got, wanted)
