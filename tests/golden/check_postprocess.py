"""postprocess.npz: threshold and top-k, suppression, seconds, video classifiers, and two whole chains of them."""

import dataclasses
import json
import pathlib
from collections.abc import Iterator

import numpy as np

from tadjax.data.timeline import Grid, Timeline
from tadjax.detections.decode import Detections, postprocess, postprocess_video, top_candidates
from tadjax.detections.fusion import VideoClassifier, classify, merge_windows
from tadjax.detections.nms import suppress
from tadjax.detections.settings import PostSettings
from tests.golden.compare import Row

SOFT_METHODS = ("soft_hard", "linear", "gaussian", "improved_gaussian")  # by the reference's number
TIE = 1e-6  # scores closer than this have no order of their own


def matches(name: str, keys: set[str]) -> bool:
    return {"injson/nms", "in/nms_segments", "injson/params"} <= keys


def check(path: pathlib.Path) -> Iterator[Row]:
    with np.load(path, allow_pickle=False) as file:
        golden = {key: json.loads(str(file[key])) if "json/" in key else file[key] for key in file.files}
    yield from _check_candidates(golden)
    yield from _check_suppression(golden)
    for i, meta in enumerate(golden["injson/metas"]):
        got = _grid(meta).to_seconds(golden["in/grid_segments"])
        yield Row(f"seconds_{i}", got, golden[f"out/seconds_{i}"], atol=1e-5, rtol=1e-6)
    yield from _check_classifiers(golden)
    yield from _check_resized_chain(golden)
    yield from _check_sliding_chain(golden)


def _check_candidates(golden: dict) -> Iterator[Row]:
    segments, scores = golden["in/pre_proposals"], golden["in/pre_scores"]
    for i, settings in enumerate(golden["injson/params"]["pre"]):
        yield from _rows(f"pre_{i}", top_candidates(segments, scores, None, PostSettings(**settings)), golden)
    if "out/pre_single_scores" in golden:
        yield from _rows("pre_single", top_candidates(segments, scores[:, :1], None, PostSettings()), golden)


def _check_suppression(golden: dict) -> Iterator[Row]:
    given = [golden[f"in/nms_{part}"] for part in ("segments", "scores", "labels")]
    for i, settings in enumerate(golden["injson/nms"]):
        voted = {"atol": 2e-4, "rtol": 1e-6} if settings.get("voting_thresh") and not settings["multiclass"] else {}
        yield from _rows(f"nms_{i}", Detections(*suppress(*given, _settings(settings))), golden, **voted)
    none = [array[:0] for array in given]
    yield from _rows("nms_empty", Detections(*suppress(*none, PostSettings())), golden)


def _check_classifiers(golden: dict) -> Iterator[Row]:
    segments, scores = golden["in/cls_segments"], golden["in/cls_scores"]
    found = Detections(segments, scores, np.zeros(len(scores), np.int64))
    for i, settings in enumerate(golden["injson/classifiers"]):
        classifier = _classifier(settings, golden["injson/classifier_table"])
        got = classify(found, "vid_b", classifier)
        yield Row(f"cls_{i}_segments", got.segments, golden[f"out/cls_{i}_segments"])
        yield Row(f"cls_{i}_scores", got.scores, golden[f"out/cls_{i}_scores"], atol=1e-6)
        want = [classifier.classes.index(name) for name in golden[f"outjson/cls_{i}_labels"]]
        yield Row(f"cls_{i}_labels", got.labels, np.array(want))


def _check_resized_chain(golden: dict) -> Iterator[Row]:
    chain = golden["injson/chain_resize"]
    settings, video = _settings(chain["nms"]), chain["meta"]["video_name"]
    classifier = _classifier(chain["classifier"], golden["injson/classifier_table"])
    proposals, scores = golden["in/chain_resize_proposals"], golden["in/chain_resize_scores"]
    found = postprocess_video(proposals, scores, None, _grid(chain["meta"]), settings)
    got = classify(found, video, classifier).rounded()
    yield from _result_rows("chain_resize", got, golden["outjson/chain_resize_result"][video], classifier.classes)


def _check_sliding_chain(golden: dict) -> Iterator[Row]:
    chain = golden["injson/chain_sliding"]
    classes, settings = tuple(chain["class_map"]), _settings({**chain["nms"], **chain["pre"], "rounding": True})
    windows: dict[str, list[Detections]] = {}
    for rank in range(chain["world_size"]):  # windows come together process by process
        for w, meta in enumerate(chain["metas"]):
            if chain["rank_of_window"][w] == rank:
                arrays = golden[f"in/win_{w}_proposals"], golden[f"in/win_{w}_scores"]
                found = postprocess(*arrays, None, _grid(meta), settings)
                windows.setdefault(meta["video_name"], []).append(found)
    before = golden["outjson/chain_sliding_before_merge"]
    for video, parts in windows.items():
        want = [entry for of_rank in before for entry in of_rank.get(video, [])]
        yield from _result_rows(f"chain_sliding_before_merge/{video}", Detections.concatenate(parts), want, classes)
        merged = _merge_by_appearance(parts, settings)
        yield from _result_rows(
            f"chain_sliding/{video}", merged, golden["outjson/chain_sliding_result"][video], classes
        )


def _merge_by_appearance(windows: list[Detections], settings: PostSettings) -> Detections:
    """Windows merged with classes numbered as they appear: of equal scores the reference keeps the first such class."""
    classes = np.array(list(dict.fromkeys(Detections.concatenate(windows).labels.tolist())), np.int64)
    number = np.zeros(classes.max(initial=-1) + 1, np.int64)
    number[classes] = np.arange(len(classes))
    merged = merge_windows([dataclasses.replace(w, labels=number[w.labels]) for w in windows], settings)
    return dataclasses.replace(merged, labels=classes[merged.labels])


def _settings(reference: dict) -> PostSettings:
    """Keyword arguments of the reference's suppression, whose defaults are its own."""
    fields = {"iou_threshold": 0.0, **reference}
    method = SOFT_METHODS[fields.pop("method", 2)]
    return PostSettings(nms=method if fields.pop("use_soft_nms", True) else "hard", **fields)


def _grid(meta: dict) -> Grid:
    if meta["fps"] == -1:
        return Grid(Timeline(meta["duration"], frames=1), feature_length=meta["resize_length"], stride=0)
    return Grid(
        Timeline(meta["duration"], declared_fps=meta["fps"]),
        feature_length=1,
        stride=meta["snippet_stride"],
        window_start_frame=meta.get("window_start_frame", 0),
        offset_frames=meta["offset_frames"],
    )


def _classifier(settings: dict, table: dict) -> VideoClassifier:
    kind = settings["type"]
    scores = {video: np.array(row, np.float64) for video, row in table["results"].items()}
    if kind == "TCANetHACSClassifier" or settings.get("apply_softmax"):
        scale = 2 if kind == "TCANetHACSClassifier" else 1
        scores = {video: scale * np.exp(row) / np.exp(row).sum() for video, row in scores.items()}
    fuse = "sqrt" if kind == "StandardClassifier" else "product"
    return VideoClassifier(tuple(table["class"]), scores, settings["topk"], fuse)


def _rows(name: str, got: Detections, golden: dict, **segment_tolerance: float) -> Iterator[Row]:
    want = Detections(*(golden[f"out/{name}_{part}"] for part in ("segments", "scores", "labels")))
    yield from _compare(name, got, want, segment_tolerance or {"atol": 1e-5}, 1e-5)


def _result_rows(name: str, got: Detections, result: list[dict], classes: tuple[str, ...]) -> Iterator[Row]:
    segments = np.array([entry["segment"] for entry in result]).reshape(-1, 2)
    labels = np.array([classes.index(entry["label"]) for entry in result], np.int64)
    want = Detections(segments, np.array([entry["score"] for entry in result]), labels)
    yield from _compare(name, got, want, {"atol": 0.011}, 1.1e-4)


def _compare(name: str, got: Detections, want: Detections, segments: dict, score: float) -> Iterator[Row]:
    if len(got) == len(want):  # equal scores have no order: both sides are sorted within them
        block = np.cumsum(np.diff(want.scores, prepend=want.scores[:1]) < -TIE)
        got, want = (side[np.lexsort((*side.segments.T, side.labels, block))] for side in (got, want))
    yield Row(f"{name}_segments", got.segments, want.segments, **segments)
    yield Row(f"{name}_scores", got.scores, want.scores, atol=score)
    yield Row(f"{name}_labels", got.labels, want.labels)
