"""map_eval.npz with map_gt, map_pred and map_epic beside it: AP, mAP and top-kx recall by every set of rules."""

import gzip
import hashlib
import json
import pathlib
from collections.abc import Iterator

import numpy as np

from tadjax.detections.results import parse_results
from tadjax.metrics.average_precision import average_precision
from tadjax.metrics.instances import GroundTruth, Predictions, align, read_ground_truth
from tadjax.metrics.recall import top_kx_recall
from tests.golden.compare import Row

EXACT = {"atol": 1e-9}
AVX512 = "a33ede00d6b9"  # of the order below
EPIC_TIOU = (0.1, 0.2, 0.3, 0.4, 0.5)
EPIC_NOUNS = 300  # action id = verb * 300 + noun


def matches(name: str, keys: set[str]) -> bool:
    return {"out/a/opentad_ap", "out/a/tiou"} <= keys or name in (
        "map_gt.json.gz",
        "map_pred.json.gz",
        "map_epic.json.gz",
    )


def check(path: pathlib.Path) -> Iterator[Row]:
    if path.suffix == ".gz":  # an input of the numbers beside it
        path = path.with_name("map_eval.npz")
    with np.load(path, allow_pickle=False) as file:
        golden = dict(file)
    truth, entries = _beside(path, "map_gt"), _beside(path, "map_pred")["results"]
    recall_ks = (1, 5)
    for rules, prefix in (("opentad", "opentad"), ("activitynet", "official")):
        instances, predictions = _aligned(truth, entries, rules)
        for section in ("a", "b"):
            out = f"out/{section}/{prefix}"
            result = average_precision(instances, predictions, golden[f"out/{section}/tiou"])
            yield Row(f"{out}_ap", result.ap, golden[f"{out}_ap"], **EXACT)
            yield Row(f"{out}_map", result.mAP, golden[f"{out}_map"], **EXACT)
            yield Row(f"{out}_avg", result.average_mAP, golden[f"{out}_avg"], **EXACT)
            if f"{out}_recall" in golden:
                recall = top_kx_recall(instances, predictions, golden[f"out/{section}/tiou"], recall_ks)
                yield Row(f"{out}_recall", recall, golden[f"{out}_recall"], **EXACT)
                yield Row(f"{out}_mrecall", recall.mean(axis=2), golden[f"{out}_mrecall"], **EXACT)
    rounded = {video: [{**e, "score": round(e["score"], 2)} for e in found] for video, found in entries.items()}
    reverse = {video: found[::-1] for video, found in reversed(rounded.items())}
    for case, of_case in (("ties", rounded), ("ties_reversed", reverse)):
        result = average_precision(*_aligned(truth, of_case, "opentad"), golden["out/a/tiou"])
        close = EXACT if _sorts_equals_as_there() else {"atol": 2e-2}
        yield Row(f"out/{case}/opentad_ap", result.ap, golden[f"out/{case}/opentad_ap"], **close)
        yield Row(f"out/{case}/opentad_map", result.mAP, golden[f"out/{case}/opentad_map"], **close)
    yield from _check_epic(golden, _beside(path, "map_epic"))


def _sorts_equals_as_there() -> bool:
    """Whether NumPy leaves equal scores in the order of the machine that made the numbers.

    The reference's order of ties is numpy.argsort's, and NumPy has one sort for processors with AVX-512, one for AVX2
    and one for all others.
    """
    order = np.argsort(np.arange(2000) * 37 % 101 / 100)
    return hashlib.sha256(order.astype("<i8").tobytes()).hexdigest().startswith(AVX512)


def _check_epic(golden: dict, files: dict) -> Iterator[Row]:
    config = json.loads(str(golden["config"]))
    for task in ("verb", "noun", "action"):
        ids = config[f"epic_{task}_class_ids"]
        entries = files["prediction"]["results"]
        if task == "action":
            entries = {video: [_mistaken(entry, ids) for entry in found] for video, found in entries.items()}
        result = average_precision(*_aligned(files["ground_truth"], entries, "epic", task), EPIC_TIOU)
        yield Row(f"epic_{task}_class_ids", [_class_id(label) for label in result.classes], ids)
        yield Row(f"out/epic/{task}_ap", result.ap, golden[f"out/epic/{task}_ap"], **EXACT)
        yield Row(f"out/epic/{task}_map", result.mAP, golden[f"out/epic/{task}_map"], **EXACT)


def _mistaken(entry: dict, ids: list[int]) -> dict:
    """The entry as the EPIC evaluator takes it: it mistakes an unknown action id below the number of classes for an
    index into them. That is an error of its own, which we do not repeat but must to compare."""
    action = _class_id(entry["action"])
    if action in ids or action >= len(ids):
        return entry
    return {**entry, "action": "{},{}".format(*divmod(ids[action], EPIC_NOUNS))}


def _class_id(label: str) -> int:
    parts = [int(part) for part in label.split(",")]
    return parts[0] if len(parts) == 1 else parts[0] * EPIC_NOUNS + parts[1]


def _aligned(truth: dict, entries: dict, rules: str, task: str | None = None) -> tuple[GroundTruth, Predictions]:
    instances = read_ground_truth(truth, None, rules, task, predicted=entries)
    return instances, align(parse_results(entries, task or "label"), instances)[0]


def _beside(path: pathlib.Path, name: str) -> dict:
    with gzip.open(path.with_name(path.stem.replace("map_eval", name) + ".json.gz"), "rt") as file:
        return json.load(file)
