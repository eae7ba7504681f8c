"""G-TAD (graph blocks, alignment, map, losses, gradients, proposals, detections) against the published PyTorch code.

Of the file's two sets the one without rounding to float16 is compared (`_nohalf`): that rounding is not reproduced.
"""

import json
import pathlib
import re
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from convert.heads import GTAD
from convert.mapping import to_flax, to_torch
from tadjax.detections.decode import top_candidates
from tadjax.detections.nms import suppress
from tadjax.detections.settings import PostSettings
from tadjax.heads.alignment import alignment_weights, sample_positions
from tadjax.heads.gtad import GTad, Outputs, extended_segments, nearest_neighbours
from tadjax.heads.proposal_map import balanced_bce, balanced_l2, boundary_targets, map_segments, map_targets
from tests.golden.check_actionformer import pad_targets
from tests.golden.check_tridet import close
from tests.golden.compare import Row

LOSS = {"rtol": 2e-5}


def matches(name: str, keys: set[str]) -> bool:
    return {"out/map2d_nohalf", "out/anchors_extended", "in/align_rois"} <= keys


def head_from_config(model: dict, **changes) -> GTad:
    """The head that a config of the published code describes."""
    extractor, proposal = model["roi_head"]["proposal_roi_extractor"], model["roi_head"]["proposal_head"]
    settings = dict(
        width=model["neck"]["out_channels"],
        groups=model["neck"]["groups"],
        neighbours=model["neck"]["k"],
        durations=model["roi_head"]["proposal_generator"]["dscale"],
        roi_size=extractor["roi_size"],
        context_size=extractor["context_size"],
        extend=extractor.get("prop_extend_ratio", 0.5),
        aligned_width=extractor["out_channels"],
        map_width=proposal["feat_channels"],
        map_convs=proposal["num_convs"],
        map_kernel=proposal["kernel_size"],
    )
    return GTad(**(settings | changes))


def check(path: pathlib.Path) -> Iterator[Row]:
    arrays = dict(np.load(path, allow_pickle=False))
    config = json.loads(str(arrays["config"]))
    head = head_from_config(config["model"])
    parameters, report = to_flax({k[3:]: v for k, v in arrays.items() if k.startswith("sd/")}, GTAD)
    report.check(path.name)
    params = parameters["head"]
    features, valid = arrays["in/x"].transpose(0, 2, 1), arrays["in/mask"].astype(bool)
    segments = [arrays[f"in/gt_segments_{i}"] for i in range(len(valid))]
    counts = np.array([len(s) for s in segments])
    targets = pad_targets(counts, np.concatenate(segments), np.zeros(counts.sum(), np.int32))
    cells = map_segments(head.durations, valid.shape[1])[1]
    uniform = np.zeros((2, len(valid), *cells.shape), np.float32)
    uniform[:, :, cells] = arrays["in/rand_m"], arrays["in/rand_l"]

    def loss(params: dict, features: jax.Array) -> tuple:
        outputs = head.outputs(params, features, valid)
        losses = head.output_losses(outputs, targets, uniform)
        return losses["loss"], (losses, outputs)

    @jax.jit
    def everything(params: dict) -> tuple:
        (_, found), grads = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(params, features)
        with_scores = head_from_config(config["model"], boundary_scores=True)
        candidates = {"iou": head.candidates, "iouse": with_scores.candidates}
        return found, grads, {name: run(params, features, valid) for name, run in candidates.items()}

    with jax.default_matmul_precision("highest"):
        (losses, outputs), grads, candidates = everything(params)
        yield from _forward(head, outputs, arrays)
        yield from _targets(head, targets, outputs, arrays)
        for theirs, ours in {"tem": "boundaries", "cls": "classification", "reg": "regression"}.items():
            yield Row(f"out/loss_{theirs}_nohalf", losses[ours], arrays[f"out/loss_{theirs}_nohalf"], **LOSS)
        yield Row("out/cost_nohalf", losses["loss"], arrays["out/cost_nohalf"], **LOSS)
        yield from _unit_losses(arrays)
        yield from _unit_alignment(arrays)
        got = to_torch({"head": jax.tree.map(np.asarray, grads[0])}, GTAD) | {"in_x": np.swapaxes(grads[1], 1, 2)}
        for key in sorted(k for k in arrays if k.startswith("grad_nohalf/")):
            atol = 1e-5 * float(np.abs(arrays[key]).max())
            yield Row(key, got[key.removeprefix("grad_nohalf/")], arrays[key], atol)
        yield from _detections(candidates, arrays, config)


def _forward(head: GTad, outputs: Outputs, arrays: dict) -> Iterator[Row]:
    steps = {"proj": "projected", "neck": "features", "tem_logits": "boundaries"}
    for name, field in (steps | {"extractor_gcnext": "graph", "extractor_graph_mean": "context"}).items():
        yield close(f"out/{name}", np.swapaxes(getattr(outputs, field), 1, 2), arrays[f"out/{name}"])
    index = np.sort(nearest_neighbours(outputs.graph, head.neighbours), axis=-1)
    wanted = np.sort(arrays["out/knn_idx_extractor"], axis=-1)
    same = np.asarray([x[i] for x, i in zip(np.asarray(outputs.graph), index, strict=True)])
    theirs = np.asarray([x[i] for x, i in zip(np.asarray(outputs.graph), wanted, strict=True)])
    yield Row("out/knn_idx_extractor (the features there)", same.sum(2), theirs.sum(2), atol=1e-4)

    length = outputs.graph.shape[1]
    anchors = extended_segments(head.durations, length, head.extend)
    yield Row("out/anchors_extended", anchors, arrays["out/anchors_extended"])
    proposals, valid = map_segments(head.durations, length)
    yield Row("out/proposal_map", proposals, arrays["out/proposal_map"])
    yield Row("out/valid_mask", valid, arrays["out/valid_mask"])
    some = anchors.reshape(-1, 2)[::7]
    for name, x, bins in (("inner", outputs.graph, head.roi_size), ("context", outputs.context, head.context_size)):
        weights = alignment_weights(*sample_positions(some, bins, length), length)
        got = jnp.einsum("apt,btc->bacp", weights, x)
        yield close(f"out/align_{name}_nohalf", got, arrays[f"out/align_{name}_nohalf"])
    yield close("out/map2d_nohalf", np.moveaxis(outputs.aligned, -1, 1), arrays["out/map2d_nohalf"])
    yield close("out/iou_logits_nohalf", np.moveaxis(outputs.map, -1, 1), arrays["out/iou_logits_nohalf"])


def _targets(head: GTad, targets: dict, outputs: Outputs, arrays: dict) -> Iterator[Row]:
    length = outputs.map.shape[2]
    segments, valid = map_segments(head.durations, length)
    iou = np.asarray(map_targets(segments, targets))
    yield Row("out/target_iou", iou[:, valid], arrays["out/target_iou"], atol=1e-6)
    yield Row(
        "out/target_iou_map", np.where(valid, iou, 0), np.where(valid, arrays["out/target_iou_map"], 0), atol=1e-6
    )
    edges = np.asarray(boundary_targets(targets, length))
    total = 0.0
    for i, name in enumerate(("start", "end")):
        yield Row(f"out/target_{name}_float", edges[..., i], arrays[f"out/target_{name}_float"], atol=1e-6)
        yield Row(f"out/target_{name}", edges[..., i] >= 1, arrays[f"out/target_{name}"])
        total += balanced_bce(outputs.boundaries[..., i], edges[..., i] > 0.5)
    yield Row("out/loss_tem_with_float_targets", total, arrays["out/loss_tem_with_float_targets"], **LOSS)


def _unit_losses(arrays: dict) -> Iterator[Row]:
    for case in sorted({k[len("in/lossunit_") : -len("_pred")] for k in arrays if re.match(r"in/lossunit_.*_pred", k)}):
        predicted, iou, middle, low = (arrays[f"in/lossunit_{case}_{x}"] for x in ("pred", "gt", "rand_m", "rand_l"))
        name = f"out/lossunit_{case}"
        yield Row(f"{name}_l2", balanced_l2(predicted, iou, np.stack([middle, low])), arrays[f"{name}_l2"], **LOSS)
        logits = np.log(predicted / (1 - predicted))
        for threshold in ("09", "05"):
            got = balanced_bce(logits, iou > np.float32(int(threshold) / 10))
            yield Row(f"{name}_bce{threshold}", got, arrays[f"{name}_bce{threshold}"], **LOSS)


def _unit_alignment(arrays: dict) -> Iterator[Row]:
    features, rois = arrays["in/align_feat"], arrays["in/align_rois"]
    for key in sorted(k for k in arrays if re.fullmatch(r"out/align_P\d+_ratio\d+", k)):
        bins, ratio = map(int, re.findall(r"\d+", key))
        weights = alignment_weights(*sample_positions(rois[:, 1:], bins, features.shape[2], ratio), features.shape[2])
        yield close(key, jnp.einsum("npt,nct->ncp", weights, features[rois[:, 0].astype(int)]), arrays[key])


def _detections(candidates: dict, arrays: dict, config: dict) -> Iterator[Row]:
    methods = {None: "gaussian", 3: "improved_gaussian"}
    for kind, found in candidates.items():
        for b, meta in enumerate(config["metas"]):
            kept = top_candidates(*(np.asarray(found[x][b]) for x in ("segments", "scores", "valid")), PostSettings())
            if f"out/raw_{kind}_{b}" in arrays:
                order = np.argsort(-kept.scores, kind="stable")
                got = np.column_stack([kept.segments[order], np.round(kept.scores[order], 4)])
                yield from _rows(f"out/raw_{kind}_{b}", got, arrays[f"out/raw_{kind}_{b}"])
            for name, options in config["nms"].items():
                settings = PostSettings(
                    nms=methods[options.get("method")],
                    **{k: v for k, v in options.items() if k not in ("use_soft_nms", "method")},
                )
                segments, scores, _ = suppress(kept.segments, kept.scores, kept.labels, settings)
                frames = segments * meta["snippet_stride"] + meta["window_start_frame"] + meta["offset_frames"]
                seconds = np.round(np.clip(frames / meta["fps"], 0, meta["duration"]), 2)
                got = np.column_stack([seconds, np.round(scores, 4)])
                key = f"out/final_nohalf_{name}_{kind}_{b}"
                yield from _rows(key, got, arrays[key])


def _rows(name: str, got: np.ndarray, want: np.ndarray) -> Iterator[Row]:
    """As sets: scores that rounding made equal may come in another order."""
    if got.shape != want.shape:
        yield Row(name, got, want)
        return
    got, want = (a[np.lexsort((a[:, 1], a[:, 0]))] for a in (got, want))
    yield Row(f"{name} segments", got[:, :2], want[:, :2], atol=0.011)
    yield Row(f"{name} scores", got[:, 2], want[:, 2], atol=2e-4)
