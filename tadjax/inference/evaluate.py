"""A data set -> detections -> mAP."""

import functools
import json
import pathlib
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from tadjax.data.dataset import Dataset
from tadjax.data.loader import Batch, evaluation_batches, share_of, to_device
from tadjax.detections.decode import Detections, postprocess, postprocess_video
from tadjax.detections.fusion import classify, merge_windows
from tadjax.detections.results import Results, write_results
from tadjax.detections.settings import PostSettings
from tadjax.files import write_whole
from tadjax.inference.stream import one_ahead, one_by_one
from tadjax.localizer import Localizer
from tadjax.metrics.average_precision import average_precision
from tadjax.metrics.instances import align
from tadjax.metrics.recall import top_kx_recall
from tadjax.parallel import hosts
from tadjax.parallel import mesh as meshes
from tadjax.parallel.shard import spread
from tadjax.training.log import progress
from tadjax.workdir.checkpoint import METRIC
from tadjax.workdir.locking import is_held
from tadjax.workdir.run import load_run, read_classes


class Evaluator:
    """Evaluates parameters on the evaluation subset of a data set, as often as called.

    classes: the labels of its detections. index: folder that keeps what is known of the videos' files.
    """

    def __init__(self, dataset: Dataset, localizer: Localizer, mesh: Mesh, index: pathlib.Path):
        self.config = dataset.config
        self.mesh = mesh
        self.classifier = dataset.classifier
        for video in dataset.evaluation.videos if self.classifier else ():
            self.classifier.of_video(video.name)  # one without scores is known now, not after hours of training
        self.classes, self.truth = dataset.labels, dataset.truth
        with hosts.in_order():  # process 0 indexes the videos for all
            self.records = dataset.evaluation_set(index)
        self._candidates = jax.jit(localizer.candidates, out_shardings=meshes.batch_sharding(mesh))

    def detect(self, params: dict, stop: Callable[[], bool] = lambda: False) -> dict[str, Detections] | None:
        """Detections of every video of the subset, best first; on every process, though each finds its share of them.

        Process p of P takes its rows of every batch, and then suppresses in the videos p, p + P, ... `stop` is asked
        after every batch, on all processes; None where it said so.
        """
        config = self.config
        settings = PostSettings(**config.post)
        size = meshes.rounded_up(config.evaluation.batch_size, self.mesh)
        loaded = evaluation_batches(
            self.records,
            size,
            share=share_of(meshes.batch_sharding(self.mesh), size),
            workers=min(config.data.workers, len(self.records)),
            prefetch=config.data.prefetch,
        )
        found: dict[int, Detections] = {}  # by window
        where = config.memory.frames
        on_mesh = to_device(loaded, meshes.batch_shardings(self.mesh, where), packed=where == "host")
        start = functools.partial(self._start, params)
        with on_mesh as batches, progress("evaluating", loaded.length) as advance:
            ahead = one_ahead if config.data.device_batches else one_by_one
            for batch, candidates in ahead(batches, start):
                self._collect(batch, candidates, settings, found)
                advance()
                if stop():
                    return None
        by_video: dict[int, list[Detections]] = defaultdict(list)
        for number, detections in gather(found).items():
            by_video[self.records.windows[number].video].append(detections)
        names = {window.video: window.name for window in self.records.windows}
        mine = list(by_video)[hosts.index() :: hosts.count()]
        finished = gather({video: self._finish(by_video[video], settings, names[video]) for video in mine})
        return {names[video]: finished[video] for video in by_video}

    def _start(self, params: dict, batch: Batch) -> dict[str, jax.Array]:
        """Candidates of a batch of windows."""
        shown = batch["features"] if self.config.features.path else batch["frames"]
        return self._candidates(params, {"frames": shown, "valid": batch["valid"]})

    def _collect(self, batch: Batch, candidates: dict, settings: PostSettings, found: dict) -> None:
        """Takes note of a batch's detections; lets go of its frames before the next one's come to the devices."""
        jax.block_until_ready(candidates)
        batch.pop("frames", None)
        rows = hosts.rows_here({**candidates, "window": batch["window"], "real": batch["real"]})
        to_detections = postprocess if self._sliding else postprocess_video
        for row in np.flatnonzero(rows["real"]):
            number = int(rows["window"][row])
            one = (rows[name][row] for name in ("segments", "scores", "valid"))
            found[number] = to_detections(*one, self.records.windows[number].grid, settings)

    @property
    def _sliding(self) -> bool:
        return self.config.window.eval_sampling == "sliding"

    def _finish(self, parts: list[Detections], settings: PostSettings, name: str) -> Detections:
        found = merge_windows(parts, settings) if self._sliding else Detections.concatenate(parts)
        if self.classifier is None:
            return found
        labelled = classify(found, name, self.classifier)
        return labelled[np.argsort(-labelled.scores, kind="stable")]

    def score(self, detections: dict[str, Detections]) -> dict[str, float]:
        """{"average_mAP": percent, "mAP@0.30": ..., ...}, and "recall@1x@0.30" ... for the config's recall_kx."""
        predictions, _ = align(Results(detections, self.classes), self.truth)
        result = average_precision(self.truth, predictions, self.config.evaluation.tiou)
        by_threshold = {f"mAP@{t:.2f}": 100 * float(m) for t, m in zip(result.tiou, result.mAP, strict=True)}
        ks, tiou = tuple(self.config.evaluation.recall_kx), self.config.evaluation.tiou
        recall = top_kx_recall(self.truth, predictions, tiou, ks).mean(axis=-1) if ks else ()  # [thresholds, ks]
        recalls = {
            f"recall@{k}x@{t:.2f}": 100 * float(recall[row, column])
            for column, k in enumerate(ks)
            for row, t in enumerate(tiou)
        }
        return {METRIC: 100 * float(result.mAP.mean()), **by_threshold, **recalls}

    def __call__(
        self, params: dict, stop: Callable[[], bool] = lambda: False
    ) -> tuple[dict[str, float], dict[str, Detections]] | None:
        """What `score` and `detect` give; None where `stop` said so."""
        detections = self.detect(params, stop)
        return None if detections is None else (self.score(detections), detections)


def gather(found: dict[int, Detections]) -> dict[int, Detections]:
    """The detections of all processes by their number (of a window, of a video), ascending.

    What several processes found alike, where their devices hold the same rows, is there once.
    """
    mine = {f"{number}/{name}": array for number, one in found.items() for name, array in vars(one).items()}
    everything: dict[int, dict] = defaultdict(dict)
    for arrays in hosts.gather(mine):  # each with its own dtype: times of a video with a varying rate are float64
        for key, array in arrays.items():
            number, _, name = key.partition("/")
            everything[int(number)][name] = array
    return {number: Detections(**everything[number]) for number in sorted(everything)}


def evaluate_run(config: Any, workdir: pathlib.Path) -> dict[str, float]:
    """--mode=evaluate: the best checkpoint of a run on the evaluation subset; writes results.json, evaluation.json.

    Beside a run that is at work there: evaluation_results.json, since results.json is that run's.
    """
    dataset = Dataset(config, read_classes(workdir))
    run = load_run(config, workdir, feature_width=dataset.feature_width)
    mesh = meshes.make_mesh(config.mesh)
    evaluator = Evaluator(dataset, spread(run.localizer, mesh), mesh, workdir / "index")
    metrics, detections = evaluator(run.params)
    if hosts.is_first():
        print(table(metrics))
        name = "results.json"
        if is_held(workdir):
            name = "evaluation_results.json"
            hosts.say(f"a run is at work in {workdir}: its results.json stays, these detections are in {name}")
        write_results(workdir / name, detections, evaluator.classes)
        write_whole(workdir / "evaluation.json", json.dumps({"step": run.step, **metrics}, indent=2) + "\n")
    return metrics


def table(metrics: dict[str, float]) -> str:
    """The table of mAP, and of recall where there is any, as published results print it."""
    kinds = dict.fromkeys(name.rpartition("@")[0] for name in metrics if "@" in name)
    columns = [name.removeprefix("mAP@") for name in metrics if name.startswith("mAP@")]
    width = max(map(len, ("tIoU", *kinds)))
    lines = [f"{'tIoU':{width}}  " + "  ".join(f"{column:>6}" for column in columns) + "  average"]
    for kind in kinds:
        values = [metrics[f"{kind}@{column}"] for column in columns]
        cells = "  ".join(f"{value:6.2f}" for value in values)
        lines.append(f"{kind:{width}}  {cells}  {sum(values) / len(values):7.2f}")
    return "\n".join(lines)
