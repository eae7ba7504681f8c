"""One results file against one ground truth: every metric of this folder, as tables, JSON and CSV, all in percent."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from tadjax.detections.results import Results
from tadjax.metrics.average_precision import AveragePrecision, average_precision
from tadjax.metrics.instances import GroundTruth, align
from tadjax.metrics.recall import AverageRecall, average_recall, top_kx_recall

PROPOSAL_TIOU = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)  # of ActivityNet's proposal task
PROPOSAL_COUNTS = (1, 5, 10, 50, 100, 200, 500, 1000)  # AR is shown at those that were asked for


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Fractions in [0, 1]; `to_dict`, `to_rows` and `table` give percent."""

    source: str
    truth: GroundTruth
    videos: int  # predicted
    predictions: int  # of classes that have ground truth
    precision: AveragePrecision
    ks: tuple[int, ...]
    recall: np.ndarray  # top-kx, [thresholds, ks, classes]
    proposals: AverageRecall | None  # None where nothing was predicted
    remarks: tuple[str, ...]

    @property
    def average_recalls(self) -> dict[int, float]:
        """AR@AN for the usual AN."""
        if self.proposals is None:
            return {}
        largest = len(self.proposals.proposals_per_video)
        return {count: self.proposals.at(count) for count in PROPOSAL_COUNTS if count <= largest}

    def to_dict(self) -> dict:
        """For JSON: averages, then by threshold, then by class."""
        tiou = [f"{t:g}" for t in self.precision.tiou]
        recall = {
            f"{k}x": {
                "average": _percent(of_k.mean()),
                **dict(zip(tiou, map(_percent, of_k.mean(axis=1)), strict=True)),
            }
            for k, of_k in zip(self.ks, self.recall.transpose(1, 0, 2), strict=True)
        }
        per_class = {
            name: {"average": _percent(ap.mean()), **dict(zip(tiou, map(_percent, ap), strict=True))}
            for name, ap in zip(self.precision.classes, self.precision.ap.T, strict=True)
        }
        return {
            "results": self.source,
            "subset": self.truth.subset,
            "rules": self.truth.rules.name,
            "unit": "percent",
            "videos": self.videos,
            "predictions": self.predictions,
            "instances": len(self.truth),
            "average_mAP": _percent(self.precision.average_mAP),
            "mAP": dict(zip(tiou, map(_percent, self.precision.mAP), strict=True)),
            "recall": recall,
            "AR": {str(count): _percent(value) for count, value in self.average_recalls.items()},
            "AUC": _percent(self.proposals.auc) if self.proposals else None,
            "AP": per_class,
            "remarks": list(self.remarks),
        }

    def to_rows(self) -> list[tuple[str, str, str, str, float]]:
        """For CSV: (results, metric, class or "", tIoU or "average", percent)."""
        content = self.to_dict()
        tables = [("mAP", "", {"average": content["average_mAP"], **content["mAP"]})]
        tables += [(f"recall@{k}", "", table) for k, table in content["recall"].items()]
        tables += [(f"AR@{count}", "", {"average": value}) for count, value in content["AR"].items()]
        tables += [("AUC", "", {"average": content["AUC"]})] if self.proposals else []
        tables += [("AP", name, table) for name, table in content["AP"].items()]
        return [(self.source, metric, name, tiou, v) for metric, name, table in tables for tiou, v in table.items()]

    def table(self, classes: bool = True) -> str:
        """For the terminal; the summary stands last, where it stays in sight."""
        truth, tiou = self.truth, [f"{t:.2f}" for t in self.precision.tiou]
        width = max(16, *(len(name) for name in truth.classes)) if classes else 16
        lines = [
            f"{self.source}: {self.predictions:,} predictions in {self.videos:,} videos",
            f"subset {truth.subset}: {len(truth):,} instances of {len(truth.classes)} classes in "
            f"{len(truth.videos):,} videos; rules {truth.rules.name}",
            *(f"note: {remark}" for remark in self.remarks),
        ]
        if classes:
            lines += ["", _line("AP, %", ["instances", *tiou, "average"], width)]
            for name, count, ap in zip(truth.classes, truth.per_class(), self.precision.ap.T, strict=True):
                lines.append(_line(name, [str(count), *_cells(ap), *_cells([ap.mean()])], width))
        lines += ["", _line("tIoU", [*tiou, "average"], width)]
        lines.append(_line("mAP, %", _cells([*self.precision.mAP, self.precision.average_mAP]), width))
        for k, of_k in zip(self.ks, self.recall.transpose(1, 0, 2), strict=True):
            lines.append(_line(f"recall@{k}x, %", _cells([*of_k.mean(axis=1), of_k.mean()]), width))
        if self.proposals is not None:
            recalls = self.average_recalls
            lines += ["", _line("proposals a video", [*map(str, recalls), "AUC"], width)]
            lines.append(_line("AR, %", _cells([*recalls.values(), self.proposals.auc]), width))
        return "\n".join(lines)


def evaluate(
    results: Results,
    truth: GroundTruth,
    tiou: Sequence[float] | None = None,
    ks: Sequence[int] = (1, 5),
    max_proposals: int = 100,
    source: str = "results",
    problems: Sequence[str] = (),
) -> Evaluation:
    """All metrics of one results file. tiou None: the thresholds that go with the ground truth's rules.

    `problems` join the remarks. Raises DataError for a results file of another data set.
    """
    tiou = truth.rules.tiou if tiou is None else tiou
    predictions, remarks = align(results, truth)
    of_any_class, _ = align(results, truth, every_class=True)
    known = (of_any_class.video < len(truth.videos)).any()
    return Evaluation(
        source,
        truth,
        len(results.videos),
        len(predictions),
        average_precision(truth, predictions, tiou),
        tuple(ks),
        top_kx_recall(truth, predictions, tiou, ks) if ks else np.zeros((len(tiou), 0, len(truth.classes))),
        average_recall(truth, of_any_class, PROPOSAL_TIOU, max_proposals) if known else None,
        (*problems, *remarks),
    )


def _percent(fraction: float) -> float:
    return float(fraction) * 100


def _cells(fractions: Sequence[float]) -> list[str]:
    return [f"{100 * fraction:.2f}" for fraction in fractions]


def _line(name: str, cells: Sequence[str], width: int) -> str:
    return name.ljust(width) + "".join(cell.rjust(max(8, len(cell) + 2)) for cell in cells)
