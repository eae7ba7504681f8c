"""detad.json and detad_per_prediction.npz, their ground truth and predictions beside them: every DETAD analysis."""

import json
import pathlib
from collections.abc import Iterator

import numpy as np

from tadjax.detections.results import read_results
from tadjax.files import read_json
from tadjax.metrics.diagnosis import ERROR_TYPES, Bins, Diagnosis, FalseNegatives, diagnose, false_negatives
from tadjax.metrics.instances import read_ground_truth
from tests.golden.compare import Row

EXACT = {"atol": 1e-9}


def matches(name: str, keys: set[str]) -> bool:
    return (
        {"bins", "min_tiou", "n_predictions"} <= keys
        or {"matched_gt_id", "error_type", "tiou"} <= keys
        or name in ("detad_ground_truth.json.gz", "detad_predictions.json.gz")
    )


def check(path: pathlib.Path) -> Iterator[Row]:
    if path.name.endswith("_per_prediction.npz"):
        yield from _check_per_prediction(path)
        return
    if path.suffix == ".gz":  # an input of the numbers beside it
        path = path.with_name("detad.json")
    golden = json.loads(path.read_text())
    bins = {name: Bins(tuple(map(float, edges)), tuple(names)) for name, (edges, names) in golden["bins"].items()}
    for section in (name for name, part in golden.items() if isinstance(part, dict) and "sensitivity" in part):
        want = golden[section]
        got = _diagnose(path, want["tiou"], bins, golden["params"]["limit"])
        yield from _check_curves(section, got, want)
        yield from _check_false_positives(f"{section}/false_positive", got, want["false_positive"])
        part = want["false_negative"]
        yield from _check_false_negatives(f"{section}/false_negative", got, got.false_negatives, part)
        yield from _check_sensitivity(f"{section}/sensitivity", got, want["sensitivity"])
    for least, want in golden.get("extra_min_precision_variants", {}).items():
        got = _diagnose(path, want["tiou"], bins, golden["params"]["limit"])
        part = false_negatives(got, float(least))
        name = f"min_precision_{least}"
        yield Row(f"{name}/ap_N_per_tiou_class", part.ap_normalized, want["ap_N_per_tiou_class"], **EXACT)
        yield from _check_false_negatives(
            name, got, part, {**want, "per_characteristic": want["false_negative"], "pairwise": {}}
        )


def _diagnose(path: pathlib.Path, tiou: list[float], bins: dict | str = "thumos", limit: int = 10) -> Diagnosis:
    stem = path.name.split(".")[0].removesuffix("_per_prediction")
    results = read_results(path.with_name(f"{stem}_predictions.json.gz"))
    source = read_json(path.with_name(f"{stem}_ground_truth.json.gz"))
    truth = read_ground_truth(source, rules="activitynet", predicted=results.videos)
    return diagnose(results, truth, tuple(tiou), bins, limit)


def _check_per_prediction(path: pathlib.Path) -> Iterator[Row]:
    with np.load(path, allow_pickle=False) as file:
        golden = dict(file)
    got = _diagnose(path, golden["tiou"].astype(np.float64).round(6).tolist())
    matched, error = np.full(golden["matched_gt_id"].shape, -1), np.full(golden["error_type"].shape, 5)
    matched[:, got.predictions.index], error[:, got.predictions.index] = got.matched, got.error
    yield Row("matched_gt_id", matched, golden["matched_gt_id"])
    yield Row("error_type", error, golden["error_type"])


def _check_curves(name: str, got: Diagnosis, want: dict) -> Iterator[Row]:
    order = [got.truth.classes.index(label) for label in want["classes"]]
    yield Row(f"{name}/classes", order, range(len(order)))
    yield Row(f"{name}/gt_per_class", got.truth.per_class(), [want["gt_per_class"][c] for c in got.truth.classes])
    yield Row(f"{name}/num_gt_used", len(got.truth), want["num_gt_used"])
    mean = len(got.truth) / len(got.truth.classes)
    yield Row(f"{name}/average_num_instance_per_class", mean, want["average_num_instance_per_class"], **EXACT)
    yield Row(f"{name}/matched_count_per_tiou", (got.matched >= 0).sum(axis=1), want["matched_count_per_tiou"])
    yield Row(f"{name}/ap_per_tiou_class", got.ap, want["ap_per_tiou_class"], **EXACT)
    yield Row(f"{name}/mAP_per_tiou", got.ap.mean(axis=1), want["mAP_per_tiou"], **EXACT)
    yield Row(f"{name}/average_mAP", got.ap.mean(), want["average_mAP"], **EXACT)
    yield Row(f"{name}/recall_per_tiou_class", got.recall, want["recall_per_tiou_class"], **EXACT)
    yield Row(f"{name}/precision_per_tiou_class", got.precision, want["precision_per_tiou_class"], **EXACT)
    yield Row(f"{name}/ap_N_per_tiou_class", got.ap_normalized, want["ap_N_per_tiou_class"], **EXACT)
    yield Row(f"{name}/mAP_N_per_tiou", got.ap_normalized.mean(axis=1), want["mAP_N_per_tiou"], **EXACT)
    yield Row(f"{name}/average_mAP_N", got.ap_normalized.mean(), want["average_mAP_N"], **EXACT)


def _check_false_positives(name: str, diagnosis: Diagnosis, want: dict) -> Iterator[Row]:
    got = diagnosis.false_positives
    yield Row(f"{name}/n_predictions_kept", got.kept, want["n_predictions_kept"])
    yield Row(f"{name}/mAP_N_per_tiou", got.ap_normalized.mean(axis=1), want["mAP_N_per_tiou"], **EXACT)
    yield Row(f"{name}/average_mAP_N", got.ap_normalized.mean(), want["average_mAP_N"], **EXACT)
    yield Row(f"{name}/recall_per_tiou_class", got.recall, want["recall_per_tiou_class"], **EXACT)
    counts = _with_average(got.counts)
    yield Row(f"{name}/overall_counts", counts, _types(want["overall_counts"]), **EXACT)
    yield Row(f"{name}/overall_fraction", counts / got.kept, _types(want["overall_fraction"]), **EXACT)
    wrong = ERROR_TYPES[1:]
    yield Row(f"{name}/average_mAP_N_gain", got.gain, [want["average_mAP_N_gain"][t] for t in wrong], **EXACT)
    without = [want["mAP_N_after_removal_per_tiou"][t] for t in wrong]
    yield Row(f"{name}/mAP_N_after_removal_per_tiou", got.map_without, without, **EXACT)
    for g, of_bin in enumerate(want["per_G"]):
        counts = _with_average(got.by_rank[:, g])
        yield Row(f"{name}/per_G/{of_bin['bin']}/n", counts[0].sum(), of_bin["n"])
        yield Row(f"{name}/per_G/{of_bin['bin']}/counts", counts, _types(of_bin["counts"]), **EXACT)
        yield Row(f"{name}/per_G/{of_bin['bin']}/fraction", counts / of_bin["n"], _types(of_bin["fraction"]), **EXACT)


def _check_false_negatives(name: str, diagnosis: Diagnosis, got: FalseNegatives, want: dict) -> Iterator[Row]:
    yield Row(f"{name}/mAP_N_per_tiou", got.ap_normalized.mean(axis=1), want["mAP_N_per_tiou"], **EXACT)
    yield Row(f"{name}/average_mAP_N", got.ap_normalized.mean(), want["average_mAP_N"], **EXACT)
    yield Row(f"{name}/matched_count_per_tiou", got.found.sum(axis=1), want["matched_count_per_tiou"])
    yield Row(f"{name}/recall_per_tiou_class", got.recall, want["recall_per_tiou_class"], **EXACT)
    cells = {key: (got.share[key], got.rate[key]) for key in want["per_characteristic"]}
    cells |= {key: (got.pair_share[*key.split("|")], got.pair_rate[*key.split("|")]) for key in want["pairwise"]}
    for key, (share, rate) in cells.items():
        names = [diagnosis.bins[part].names for part in key.split("|")]
        ours = [*rate, rate.mean(axis=0)]
        for of_tiou, table in zip(ours, _by_tiou({**want["per_characteristic"], **want["pairwise"]}[key]), strict=True):
            places = [tuple(n.index(b) for n, b in zip(names, cell.split("|"), strict=True)) for cell in table]
            wanted = np.array([(cell["fraction_of_gt"], cell["false_negative_rate"]) for cell in table.values()])
            yield Row(f"{name}/{key}/fraction_of_gt", [share[p] for p in places], wanted[:, 0], **EXACT)
            filled = [i for i, p in enumerate(places) if share[p]]  # an empty bin has no rate
            got_rate = [of_tiou[places[i]] for i in filled]
            yield Row(f"{name}/{key}/false_negative_rate", got_rate, wanted[filled, 1], **EXACT)


def _check_sensitivity(name: str, got: Diagnosis, want: dict) -> Iterator[Row]:
    base = got.ap_normalized.mean()
    yield Row(f"{name}/base_average_mAP_N", base, want["base_average_mAP_N"], **EXACT)
    for key, of_bins in want["average_mAP_N_per_bin"].items():
        ours = got.sensitivity[key]
        in_order = [ours[got.bins[key].names.index(bin_name)] for bin_name in of_bins]
        yield Row(f"{name}/{key}", in_order, list(of_bins.values()), **EXACT)
        change = [np.nanmin(ours) / base, np.nanmax(ours) / base]
        yield Row(f"{name}/{key}/relative_change_min_max", change, want["relative_change_min_max"][key], **EXACT)


def _with_average(of_thresholds: np.ndarray) -> np.ndarray:
    return np.concatenate([of_thresholds, of_thresholds.mean(axis=0, keepdims=True)])


def _by_tiou(table: dict) -> list[dict]:
    """Values of {tiou: ..., "avg": ...} by rising threshold, the average last."""
    return [table[key] for key in sorted(table, key=lambda key: np.inf if key == "avg" else float(key))]


def _types(table: dict) -> list[list[float]]:
    return [[of_tiou[kind] for kind in ERROR_TYPES] for of_tiou in _by_tiou(table)]
