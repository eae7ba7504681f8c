"""Pictures of detections on a time axis.

draw_timeline   a lane for each class: ground truth above, detections below as tall as their score
draw_proposals  as AdaTAD's Fig. 7 and LoSA's Fig. 3: ground truth above a line and the best proposals of one or several
                methods below, coloured by their tIoU with it
"""

import contextlib
import io
import os
import pathlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MultipleLocator

from tadjax.detections.decode import Detections
from tadjax.files import write_whole
from tadjax.metrics.matching import segment_tiou
from tadjax.report.exports import clock
from tadjax.report.fonts import look_of, plain

# Okabe and Ito's palette, without its black and its yellow (too pale on white): told apart by colour-blind readers.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
TRUTH_COLOR = "#333333"
LANES = 20  # more classes than that do not fit a picture: those with ground truth and the best detections are shown
TICKS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600)  # seconds between two
FORMATS = (".png", ".svg", ".pdf")


class Instances(Protocol):
    """Ground truth of one video: annotations.Video is one, and so are Detections."""

    @property
    def segments(self) -> np.ndarray: ...  # [n, 2], seconds

    @property
    def labels(self) -> np.ndarray: ...  # int [n]


def draw_timeline(
    video: str,
    duration: float,
    truth: Instances | None,
    found: Detections,
    classes: Sequence[str],
    path: str | os.PathLike[str],
) -> None:
    """The picture of one video's detections, all that are given; the suffix of `path` is .png, .svg or .pdf.

    duration: seconds. truth: None where there is none. Labels are indices into `classes`. The best detection is as tall
    as its lane, the others by their scores.
    """
    best = _best_scores(found, len(classes))
    with_truth = np.zeros(len(classes), bool)
    if truth is not None:
        with_truth[np.asarray(truth.labels, int)] = True
    shown = np.flatnonzero((best > 0) | with_truth)
    left_out = max(0, len(shown) - LANES)
    shown = np.sort(shown[np.lexsort((-best[shown], ~with_truth[shown]))][:LANES])

    video, names = plain(video), [plain(classes[label]) for label in shown] or ["no detection"]
    with _style(video, *names):
        figure = Figure(figsize=(11, 1.35 + 0.62 * max(1, len(shown))), layout="constrained")
        axes = figure.add_subplot()
        _time_axis(axes, 0, duration)
        for lane, label in enumerate(shown):
            color = COLORS[label % len(COLORS)]
            if truth is not None:
                segments = np.asarray(truth.segments)[np.asarray(truth.labels) == label]
                _bars(axes, segments, lane - 0.36, 0.2, color=TRUTH_COLOR, label="ground truth")
            of_class = found[np.asarray(found.labels) == label]
            order = np.argsort(of_class.scores, kind="stable")  # the best one is drawn last, on top
            heights = np.maximum(0.52 * of_class.scores[order] / best.max(initial=1e-9), 0.02)
            _bars(axes, of_class.segments[order], lane + 0.4 - heights, heights, color=color, alpha=0.75)
            axes.axhline(lane + 0.4, color="#bbbbbb", linewidth=0.6, zorder=0)
        axes.set_yticks(np.arange(len(names)), names)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.set_title(_title(video, best, found, truth, left_out), loc="left")
        _save(figure, path)


def draw_proposals(
    video: str,
    span: tuple[float, float],
    truth: Instances,
    methods: Mapping[str, Detections],
    classes: Sequence[str],
    path: str | os.PathLike[str],
    top_k: int = 20,
) -> None:
    """The best proposals of each method between the seconds of `span`, below the ground truth.

    A proposal's colour is the largest tIoU it has with an instance of its own class.
    """
    segments, labels = np.asarray(truth.segments, np.float64), np.asarray(truth.labels, int)
    seen = (segments[:, 1] > span[0]) & (segments[:, 0] < span[1])
    video, names = plain(video), {label: plain(classes[label]) for label in labels[seen].tolist()}
    methods = {plain(name): found for name, found in methods.items()}
    with _style(video, *names.values(), *methods):
        figure = Figure(figsize=(11, 0.9 + (0.85 + 0.075 * top_k) * len(methods)), layout="constrained")
        panels = figure.subplots(len(methods), 1, sharex=True, squeeze=False)[:, 0]
        colors = matplotlib.colormaps["viridis"]
        for axes, (method, found) in zip(panels, methods.items(), strict=True):
            overlaps = (found.segments[:, 1] > span[0]) & (found.segments[:, 0] < span[1])
            found = found[overlaps]
            found = found[np.argsort(-found.scores, kind="stable")[:top_k]]
            tiou = best_tiou(found, segments, labels)
            _time_axis(axes, *span)
            _bars(axes, segments[seen], -3.2, 2.6, color="#B2182B")
            for (start, end), label in zip(segments[seen], labels[seen], strict=True):
                middle = (max(start, span[0]) + min(end, span[1])) / 2
                axes.text(middle, -3.7, names[int(label)], ha="center", va="bottom", fontsize=7)
            _bars(axes, found.segments, np.arange(len(found)) + 0.6, 0.8, color=colors(tiou))
            axes.axhline(0, color="black", linewidth=1.2)
            axes.set(ylim=(top_k + 1, -7), yticks=[])
            axes.set_ylabel(method, rotation=0, ha="right", va="center")
        panels[0].set_title(f"{video}: ground truth above the line, the best {top_k} proposals below", loc="left")
        scale = matplotlib.cm.ScalarMappable(matplotlib.colors.Normalize(0, 1), colors)
        figure.colorbar(scale, ax=list(panels), label="tIoU with the ground truth", fraction=0.025, pad=0.01)
        _save(figure, path)


def best_tiou(found: Detections, segments: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The largest tIoU of each detection with an instance of its class, float64 [n]; 0 where there is none."""
    tiou = segment_tiou(np.asarray(found.segments, np.float64)[:, None], segments[None])  # [n, instances]
    same = np.asarray(found.labels)[:, None] == labels[None]
    return np.max(np.where(same, tiou, 0.0), axis=1, initial=0.0)


def _best_scores(found: Detections, classes: int) -> np.ndarray:
    best = np.zeros(classes)
    np.maximum.at(best, np.asarray(found.labels, int), found.scores)
    return best


def _bars(axes: Axes, segments: np.ndarray, bottom: np.ndarray | float, height: np.ndarray | float, **look) -> None:
    """Segments as bars between `bottom` and `bottom + height` (downwards, as the lanes run).

    What is too short to be seen gets the colour as its edge; the others a white one, which parts neighbours.
    """
    if not len(segments):
        return
    starts, ends = np.asarray(segments, np.float64).T
    bars = axes.bar(starts, height, ends - starts, np.broadcast_to(bottom, len(starts)), align="edge", **look)
    thin = (ends - starts) < 0.004 * np.diff(axes.get_xlim())
    for bar, is_thin in zip(bars, thin, strict=True):
        bar.set_linewidth(0.8 if is_thin else 0.5)
        bar.set_edgecolor(bar.get_facecolor() if is_thin else "white")


def _title(video: str, best: np.ndarray, found: Detections, truth: Instances | None, left_out: int) -> str:
    title = f"{video}: {len(found)} detections"
    if len(found):
        title += f", as tall as their score (best {best.max():.2g})"
    if truth is not None:
        title += f"; {len(truth.labels)} instances of ground truth above (dark)"
    return title + (f"; {left_out} more classes not shown" if left_out else "")


def _time_axis(axes: Axes, start: float, end: float) -> None:
    end = max(end, start + 1e-3)
    axes.set_xlim(start, end)
    step = next((step for step in TICKS if step >= (end - start) / 13), 3600 * np.ceil((end - start) / 13 / 3600))
    axes.xaxis.set_major_locator(MultipleLocator(step))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda second, _: clock(second) if step < 1 else clock(second)[:-2]))
    axes.grid(axis="x", color="#e4e4e4", linewidth=0.6)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(axis="y", length=0)


@contextlib.contextmanager
def _style(*names: str) -> Iterator[None]:
    """Text stays text in an SVG, and the same picture gives the same bytes. names: that stand in the picture."""
    look = look_of(names) | {
        "svg.hashsalt": "tadjax",
        "font.size": 9,
        "axes.titlesize": 10,
        "axes.axisbelow": True,
    }
    with matplotlib.rc_context(look), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # said once, by `look_of`
        yield


def _save(figure: Figure, path: str | os.PathLike[str]) -> None:
    kind = pathlib.Path(path).suffix
    if kind not in FORMATS:
        raise ValueError(f"{path}: a picture's name ends in one of {', '.join(FORMATS)}")
    content = io.BytesIO()
    figure.savefig(content, format=kind[1:], dpi=150, metadata={"Date": None} if kind == ".svg" else None)
    write_whole(path, content.getvalue())
