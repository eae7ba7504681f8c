"""sampling.json: windows, frame indices, masks and ground truth, every number exactly as the reference has it.

Annotations go through `annotations.parse_database`, as a user's do; the reference's random draws are replayed.
"""

import json
import pathlib
from collections.abc import Iterator

import numpy as np

from tadjax.data import annotations, sampling
from tadjax.data.timeline import Grid, timeline_of
from tests.golden.compare import Row

CLASSES = ("Alpha", "Beta", "Gamma")
SECONDS_NOT_CUT_TO_FRAMES = ("Anet", "Charades")  # data set classes of the reference, by their first letters


def matches(name: str, keys: set[str]) -> bool:
    return {"sliding", "resize", "random_trunc"} <= keys


def check(path: pathlib.Path) -> Iterator[Row]:
    golden = json.loads(path.read_text())
    for number, case in enumerate(golden["sliding"]):
        yield from _check_sliding(f"sliding[{number}]", case)
    for number, case in enumerate(golden["resize"]):
        yield from _check_resize(f"resize[{number}]", case)
    for number, case in enumerate(golden["random_trunc"]):
        yield from _check_random_trunc(f"random_trunc[{number}]", case)
    for number, case in enumerate(golden["completeness"]):
        share, cut = sampling.completeness(np.array(case["gt"], np.float32), *case["anchor"])
        yield Row(f"completeness[{number}]/score", share, np.array(case["score"]))
        yield Row(f"completeness[{number}]/truncated", cut, np.array(case["truncated"]))
    for number, case in enumerate(golden["filter_same"]):
        segments, labels = np.array(case["gt_segments"], np.float32), np.array(case["gt_labels"], np.int32)
        yield from _check_truth(f"filter_same[{number}]", sampling.without_repetitions(segments, labels), case["out"])


def _check_sliding(name: str, case: dict) -> Iterator[Row]:
    spec = sampling.Sampling(
        method="sliding",
        feature_length=case["window_size"],
        frames_per_feature=case["scale_factor"],
        stride=case["feature_stride"] * case["sample_stride"],
        offset_frames=case["offset_frames"],
        overlap=case["window_overlap_ratio"],
        ioa_threshold=case["ioa_thresh"],
        filter_gt=case["filter_gt"],
        class_agnostic=case.get("class_agnostic", False),
        whole_frames=not case["dataset"].startswith(SECONDS_NOT_CUT_TO_FRAMES),
        coverage="reference",
    )
    yield Row(f"{name}/window_stride", np.array(spec.window_stride), np.array(case["window_stride"]))
    got = []
    for video in _videos(case["database"]):
        timeline = timeline_of(video, fps=_fps(case))
        truth = None
        if not case["test_mode"]:
            truth = sampling.ground_truth(spec, timeline, video)
            if video.name in case["get_gt"]:
                yield from _check_truth(f"{name}/{video.name}/get_gt", truth, case["get_gt"][video.name])
        for window in sampling.list_windows(spec, timeline.frames, truth):
            file_frames = case["decoder_total_frames"][video.name]
            got.append((video.name, window, sampling.sample(spec, timeline, file_frames, window=window, truth=truth)))

    want_order = [[window["video_name"], window["feature_start_idx"]] for window in case["windows"]]
    same = [[video, window.start] for video, window, _ in got] == want_order
    yield Row(f"{name}/order of the {len(want_order)} windows", np.array(same), np.array(True))
    if not same:
        return
    for number, ((_, window, sample), want) in enumerate(zip(got, case["windows"], strict=True)):
        at = f"{name}/windows[{number}]"
        last = window.start + window.steps - 1
        yield Row(f"{at}/feature_end_idx", np.array(last), np.array(want["feature_end_idx"]))
        start = np.array(sample.grid.window_start_frame)
        yield Row(f"{at}/window_start_frame", start, np.array(want["window_start_frame"]))
        yield from _check_sample(at, sample, want, case["test_mode"])


def _check_resize(name: str, case: dict) -> Iterator[Row]:
    spec = sampling.Sampling(
        method="resize",
        feature_length=case["resize_length"],
        frames_per_feature=case["scale_factor"],
        filter_gt=case["filter_gt"],
        class_agnostic=case["class_agnostic"],
    )
    videos = {video.name: video for video in _videos(case["database"])}
    for want in case["videos"]:
        video = videos[want["video_name"]]
        timeline = timeline_of(video)
        truth = sampling.ground_truth(spec, timeline, video)
        sample = sampling.sample(spec, timeline, case["decoder_total_frames"][video.name], truth=truth)
        if "frame_inds_runs" not in want:  # the reference fails its own check here, as it has one index too many
            yield Row(f"{name}/{video.name}/count", np.array(len(sample.frame_indices)), np.array(spec.frames))
            continue
        yield from _check_sample(f"{name}/{video.name}", sample, want, "gt_segments" not in want)


def _check_random_trunc(name: str, case: dict) -> Iterator[Row]:
    spec = sampling.Sampling(
        method="random_trunc",
        feature_length=case["trunc_len"],
        frames_per_feature=case["scale_factor"],
        stride=case["feature_stride"] * case["sample_stride"],
        offset_frames=case["result"].get("offset_frames", 0),
        keep_ratio=case["trunc_thresh"],
        crop_ratio=tuple(case["crop_ratio"] or ()),
        filter_gt=case.get("filter_gt", False),
        class_agnostic=case.get("class_agnostic", False),
        whole_frames=not case["dataset"].startswith(SECONDS_NOT_CUT_TO_FRAMES),
        coverage="reference",
    )
    entry = {key: case[key] for key in ("duration", "frame", "annotations") if key in case}
    (video,) = _videos({case["video_name"]: entry | {"subset": "training"}})
    timeline = timeline_of(video, fps=_fps(case))
    truth = sampling.ground_truth(spec, timeline, video)
    whole = Grid(timeline, spec.feature_length, spec.stride, 0, spec.offset_frames)
    before = sampling.GroundTruth(whole.frames_to_steps(truth.segments), truth.labels)
    yield from _check_truth(f"{name}/before", before, case["gt_in_feature_units_before"])
    draws = Script(case["randint_calls"])
    sample = sampling.sample(spec, timeline, case["decoder_total_frames"], truth=truth, draws=draws)
    want = np.array(case["randint_calls"], np.int64).reshape(-1, 3)
    yield Row(f"{name}/randint_calls", np.array(draws.calls, np.int64).reshape(-1, 3), want)
    yield from _check_sample(name, sample, case["result"], False)


class Script:
    """The recorded draws of the reference, in place of a numpy.random.Generator."""

    def __init__(self, calls: list[list[int]]) -> None:
        self.values = [value for _, _, value in calls]
        self.calls: list[tuple[int, int, int]] = []

    def integers(self, low: int, high: int, *, endpoint: bool) -> int:
        number = len(self.calls)
        value = self.values[number] if endpoint and number < len(self.values) else low
        self.calls.append((low, high, value))
        return value


def _videos(database: dict) -> tuple[annotations.Video, ...]:
    subsets = sorted({entry["subset"] for entry in database.values()})
    return annotations.parse_database(database, subsets, CLASSES).videos


def _fps(case: dict) -> float | None:
    """The reference writes -1 where a data set declares no frame rate."""
    return case["fps"] if case.get("fps", -1) > 0 else None


def _check_sample(name: str, sample: sampling.Sample, want: dict, test_mode: bool) -> Iterator[Row]:
    indices = np.concatenate([first + step * np.arange(count) for first, step, count in want["frame_inds_runs"]])
    valid = np.concatenate([np.full(count, bool(value)) for value, count in want["masks_runs"]])
    yield Row(f"{name}/frame_inds", sample.frame_indices, indices)
    yield Row(f"{name}/masks", sample.valid, valid)
    fps = sample.grid.timeline.fps if sample.grid.stride else -1
    yield Row(f"{name}/fps", np.array(fps), np.array(want["fps"]))
    if not test_mode:
        yield from _check_truth(name, sample, want)


def _check_truth(name: str, got: sampling.GroundTruth | sampling.Sample, want: dict | None) -> Iterator[Row]:
    """Segments are float32 to us; the reference's are float64 in places."""
    want = want or {"gt_segments": [], "gt_labels": []}
    segments = np.array(want["gt_segments"], np.float64).reshape(-1, 2).astype(np.float32)
    yield Row(f"{name}/gt_segments", got.segments, segments)
    yield Row(f"{name}/gt_labels", got.labels, np.array(want["gt_labels"], np.int64))
