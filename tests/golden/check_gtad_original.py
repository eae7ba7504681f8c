"""G-TAD's authors' own losses, gradients, proposals and soft-NMS, from probabilities, against their code's numbers."""

import json
import pathlib
from collections.abc import Iterator

import jax
import numpy as np

from tadjax.detections.nms import suppress
from tadjax.detections.settings import PostSettings
from tadjax.heads.gtad_original import (
    ACTION_WEIGHT,
    action_loss,
    every_segment,
    node_loss,
    overlap_loss,
    proposals,
)
from tadjax.heads.proposal_map import map_segments, map_targets
from tests.golden.check_actionformer import pad_targets
from tests.golden.compare import Row

LOSS = {"rtol": 2e-5}


def matches(name: str, keys: set[str]) -> bool:
    return {"in/pred_map", "out/subgraph_loss", "out/node_loss"} <= keys


def check(path: pathlib.Path) -> Iterator[Row]:
    arrays = dict(np.load(path, allow_pickle=False))
    config = json.loads(str(arrays["config"]))
    durations, length = config["D"], config["T"]
    valid = map_segments(durations, length)[1]
    yield Row("out/mask", valid, arrays["out/mask"])
    yield from _targets(arrays, config)

    iou, uniform = arrays["in/gt_iou_map"], np.stack([arrays["in/rand_m"], arrays["in/rand_l"]])

    def subgraph(cells: jax.Array) -> tuple:
        overlap = overlap_loss(cells[:, 0], iou, uniform, valid)
        action = action_loss(cells[:, 1], iou, valid)
        return overlap + ACTION_WEIGHT * action, (overlap, action)

    def node(start: jax.Array, end: jax.Array) -> jax.Array:
        return node_loss(start, arrays["in/gt_start"] > 0.5) + node_loss(end, arrays["in/gt_end"] > 0.5)

    (total, (overlap, action)), of_map = jax.value_and_grad(subgraph, has_aux=True)(arrays["in/pred_map"])
    of_nodes = jax.grad(node, argnums=(0, 1))(arrays["in/pred_start"], arrays["in/pred_end"])
    yield Row("out/map_channel0_mse_loss", overlap, arrays["out/map_channel0_mse_loss"], **LOSS)
    yield Row("out/map_channel1_bce_loss", action, arrays["out/map_channel1_bce_loss"], **LOSS)
    yield Row("out/subgraph_loss", total, arrays["out/subgraph_loss"], **LOSS)
    yield Row("out/node_loss", node(arrays["in/pred_start"], arrays["in/pred_end"]), arrays["out/node_loss"], **LOSS)
    for name, got in (("pred_map", of_map), ("pred_start", of_nodes[0]), ("pred_end", of_nodes[1])):
        want = arrays[f"grad/{name}"]
        yield Row(f"grad/{name}", got, want, max(1e-7, 1e-6 * float(np.abs(want).max())))
    yield from _detections(arrays, config)


def _targets(arrays: dict, config: dict) -> Iterator[Row]:
    segments = [np.array(segments, np.float32) for segments in config["gts"]]
    counts = np.array([len(s) for s in segments])
    targets = pad_targets(counts, np.concatenate(segments), np.zeros(counts.sum(), np.int32))
    iou = map_targets(every_segment(config["D"], config["T"]), targets)
    yield Row("in/gt_iou_map", iou, arrays["in/gt_iou_map"], atol=1e-5)


def _detections(arrays: dict, config: dict) -> Iterator[Row]:
    """Of the first video: frames and scores of all proposals, then what soft-NMS keeps of those below 300 frames."""
    cells = arrays["in/pred_map"][0]
    chosen = proposals(config["D"], config["T"])
    segments = every_segment(config["D"], config["T"])[chosen] * config["skip"] + config["offset"]
    scores = (cells[0] * cells[1])[chosen]
    want = arrays["out/enumerated"]
    order, theirs = np.lexsort(segments.T), np.lexsort(want[:, :2].T)
    yield Row("out/enumerated", np.column_stack([segments, scores])[order], want[theirs], atol=1e-6, rtol=1e-5)
    for key in sorted(k for k in arrays if k.startswith("out/softnms_")):
        settings = PostSettings(
            nms="gaussian", sigma=float(key.rpartition("_")[2]), max_seg_num=config["num_prop"], multiclass=False,
            voting_thresh=0.0, min_score=0.0,
        )  # fmt: skip
        found = suppress(segments, scores, np.zeros(len(scores), int), settings)
        yield Row(key, np.column_stack(found[:2]), arrays[key], atol=1e-4, rtol=1e-4)
