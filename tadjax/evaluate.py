"""A data set -> detections -> mAP."""

import json
import pathlib
from collections import defaultdict
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from tadjax.checkpoint import METRIC
from tadjax.data.annotations import load_annotations
from tadjax.data.loader import Batch, evaluation_batches, share_of, to_device
from tadjax.data.records import evaluation_set
from tadjax.detections.decode import Detections, postprocess, postprocess_video
from tadjax.detections.fusion import merge_windows
from tadjax.detections.results import Results, write_results
from tadjax.detections.settings import PostSettings
from tadjax.localizer import Localizer, build
from tadjax.metrics.average_precision import average_precision
from tadjax.metrics.instances import align, read_ground_truth
from tadjax.parallel import mesh as meshes
from tadjax.runs import load_run
from tadjax.training.log import progress


class Evaluator:
    """Evaluates parameters on the evaluation subset of a config, as often as called."""

    def __init__(self, config: Any, localizer: Localizer, mesh: Mesh, classes: tuple[str, ...], cache: pathlib.Path):
        self.config = config
        self.classes = classes
        self.mesh = mesh
        annotations = load_annotations(config.data.annotations, config.data.eval_subset, classes)
        self.records = evaluation_set(config, annotations, cache)
        self.truth = read_ground_truth(config.data.annotations, config.data.eval_subset, config.evaluation.rules)
        self._candidates = jax.jit(localizer.candidates)

    def detect(self, params: dict) -> dict[str, Detections]:
        """Detections of every video of the subset, best first."""
        config = self.config
        settings = PostSettings(**config.post)
        sharding = meshes.batch_sharding(self.mesh)
        size = config.evaluation.batch_size
        loaded = evaluation_batches(
            self.records,
            size,
            share=share_of(sharding, size),
            workers=min(config.data.workers, len(self.records)),
            prefetch=config.data.prefetch,
        )
        found: dict[str, list[Detections]] = defaultdict(list)
        with to_device(loaded, sharding) as batches, progress("evaluating", loaded.length) as advance:
            previous = None
            for batch in batches:
                running = batch, self._candidates(params, {"frames": batch["frames"], "valid": batch["valid"]})
                if previous is not None:  # the device works on this batch while the host suppresses the last one's
                    self._collect(*previous, settings, found)
                previous = running
                advance()
            if previous is not None:
                self._collect(*previous, settings, found)
        return {name: self._finish(parts, settings, name) for name, parts in found.items()}

    def _collect(self, batch: Batch, candidates: dict, settings: PostSettings, found: dict) -> None:
        rows = jax.device_get({**candidates, "window": batch["window"], "real": batch["real"]})
        to_detections = postprocess if self._sliding else postprocess_video
        for row in np.flatnonzero(rows["real"]):
            window = self.records.windows[int(rows["window"][row])]
            one = (rows[name][row] for name in ("segments", "scores", "valid"))
            found[window.name].append(to_detections(*one, window.grid, settings))

    @property
    def _sliding(self) -> bool:
        return self.config.window.eval_sampling == "sliding"

    def _finish(self, parts: list[Detections], settings: PostSettings, name: str) -> Detections:
        return merge_windows(parts, settings) if self._sliding else Detections.concatenate(parts)

    def score(self, detections: dict[str, Detections]) -> dict[str, float]:
        """{"average_mAP": percent, "mAP@0.30": ..., ...}."""
        predictions, _ = align(Results(detections, self.classes), self.truth)
        result = average_precision(self.truth, predictions, self.config.evaluation.tiou)
        by_threshold = {f"mAP@{t:.2f}": 100 * float(m) for t, m in zip(result.tiou, result.mAP, strict=True)}
        return {METRIC: 100 * float(result.mAP.mean()), **by_threshold}

    def __call__(self, params: dict) -> tuple[dict[str, float], dict[str, Detections]]:
        detections = self.detect(params)
        return self.score(detections), detections


def evaluate_run(config: Any, workdir: pathlib.Path) -> dict[str, float]:
    """--mode=evaluate: the best checkpoint of a run on the evaluation subset; writes results.json, evaluation.json."""
    run = load_run(config, workdir)
    mesh = meshes.make_mesh(config.mesh)
    evaluator = Evaluator(config, build(config, len(run.classes)), mesh, run.classes, workdir / "index")
    metrics, detections = evaluator(run.params)
    print(table(metrics))
    write_results(workdir / "results.json", detections, run.classes)
    (workdir / "evaluation.json").write_text(json.dumps({"step": run.step, **metrics}, indent=2) + "\n")
    return metrics


def table(metrics: dict[str, float]) -> str:
    """The mAP table as published results print it."""
    names = [name for name in metrics if name.startswith("mAP@")]
    head = "  ".join(f"{name.removeprefix('mAP@'):>6}" for name in names)
    row = "  ".join(f"{metrics[name]:6.2f}" for name in names)
    return f"tIoU  {head}  average\nmAP   {row}  {metrics[METRIC]:7.2f}"
