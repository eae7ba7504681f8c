"""From a model's candidates to mAP and DETAD, for a test set of THUMOS14's size."""

import time

import numpy as np

from tadjax.data.timeline import Grid, Timeline
from tadjax.detections.decode import postprocess
from tadjax.detections.fusion import merge_windows
from tadjax.detections.results import Results
from tadjax.detections.settings import PostSettings
from tadjax.metrics.diagnosis import diagnose
from tadjax.metrics.evaluation import evaluate
from tadjax.metrics.instances import read_ground_truth

VIDEOS, INSTANCES, CLASSES = 213, 3358, 20
STEPS, STRIDE, LEVELS, FPS = 768, 4, 6, 30.0
TIOU = (0.3, 0.4, 0.5, 0.6, 0.7)


def main() -> None:
    """213 videos, windows of 768 steps that overlap by a half, 2,000 candidates a window; one process, wall seconds."""
    rng = np.random.default_rng(0)
    names = tuple(f"class{number}" for number in range(CLASSES))
    database = made_database(rng, names)
    settings = PostSettings(sigma=0.7, pre_nms_topk=2000, max_seg_num=2000)
    found, seconds, windows, candidates = {}, 0.0, 0, 0
    for name, entry in database.items():
        parts = []
        for number in range(max(1, int(entry["duration"] * FPS / STRIDE / STEPS * 2) - 1)):
            start = number * STEPS * STRIDE // 2
            grid = Grid(Timeline(entry["duration"], declared_fps=FPS), STEPS, STRIDE, window_start_frame=start)
            given = made_candidates(rng, entry["annotations"], start / FPS)
            begin = time.perf_counter()
            parts.append(postprocess(*given, grid, settings))
            seconds += time.perf_counter() - begin
        windows, candidates = windows + len(parts), candidates + sum(map(len, parts))
        begin = time.perf_counter()
        found[name] = merge_windows(parts, settings)
        seconds += time.perf_counter() - begin
    print(f"{windows} windows, {candidates} candidates: post-processing {seconds:.1f} s")
    truth = read_ground_truth({"database": database})
    results = Results(found, names)
    begin = time.perf_counter()
    average = evaluate(results, truth, TIOU).precision.average_mAP
    middle = time.perf_counter()
    diagnose(results, truth)
    end = time.perf_counter()
    print(f"{len(results)} detections: mAP ({100 * average:.1f} %) {middle - begin:.1f} s, DETAD {end - middle:.1f} s")


def made_database(rng: np.random.Generator, names: tuple[str, ...]) -> dict[str, dict]:
    """As long as THUMOS14's test videos (mean 217 s, a long tail), with as many instances."""
    durations = np.clip(rng.lognormal(np.log(150), 0.85, VIDEOS), 12, 1600)
    counts = rng.multinomial(INSTANCES - VIDEOS, durations / durations.sum()) + 1
    database = {}
    for number, (duration, count) in enumerate(zip(durations.tolist(), counts, strict=True)):
        starts = rng.uniform(0, duration - 6, count)
        annotations = [
            {"segment": [start, min(duration, start + length)], "label": names[number % CLASSES]}
            for start, length in zip(starts.tolist(), rng.lognormal(np.log(3.5), 0.6, count).tolist(), strict=True)
        ]
        database[f"video{number}"] = {"subset": "testing", "duration": duration, "annotations": annotations}
    return database


def made_candidates(rng: np.random.Generator, annotations: list[dict], start: float) -> tuple[np.ndarray, ...]:
    """(segments in feature steps, scores, valid) of all points of one window, some of them about the instances."""
    points = np.concatenate([np.arange(0, STEPS, 2**level) for level in range(LEVELS)])
    strides = np.repeat(2 ** np.arange(LEVELS), [STEPS >> level for level in range(LEVELS)])
    reach = rng.random((2, len(points))) * 2 * strides
    segments = np.stack([points - reach[0], points + reach[1]], axis=1)
    scores = rng.random((len(points), CLASSES)) ** 6 * 0.05
    for annotation in annotations:
        steps = (np.array(annotation["segment"]) - start) * FPS / STRIDE
        close = np.flatnonzero((points > steps[0]) & (points < steps[1]))
        segments[close] = steps + rng.normal(0, 0.15, (len(close), 2)) * np.diff(steps)
        scores[close, int(annotation["label"].removeprefix("class"))] = rng.random(len(close))
    return np.sort(segments, axis=1).astype(np.float32), scores.astype(np.float32), np.ones(len(points), bool)
