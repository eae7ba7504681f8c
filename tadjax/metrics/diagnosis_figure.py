"""The figures of DETAD on one page, a column for each results file: false positives by rank beside what removing each
type of error would gain, false negatives by the instances' characteristics, and sensitivity to them.
"""

import io
import pathlib
import warnings
from collections.abc import Mapping

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tadjax.files import write_whole
from tadjax.metrics.diagnosis import ERROR_TYPES, Diagnosis
from tadjax.report.fonts import look_of, plain

# Okabe and Ito's palette: told apart by colour-blind readers and in greyscale print.
COLORS = ("#009E73", "#0072B2", "#56B4E9", "#E69F00", "#CC79A7", "#999999")
SHORT_NAMES = ("True positive", "Double detection", "Wrong label", "Localization", "Confusion", "Background")
CHARACTERISTICS = {"coverage": "Coverage", "length": "Length", "num-instances": "# Instances"}


def draw(diagnoses: Mapping[str, Diagnosis], path: str | pathlib.Path) -> None:
    """One page; the suffix of the path says which format: .png, .svg or .pdf. Text stays text in an SVG."""
    columns = len(diagnoses)
    names = [plain(pathlib.Path(name).name) for name in diagnoses]
    with matplotlib.rc_context(look_of(names) | {"font.size": 8, "axes.axisbelow": True}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # said once, by `look_of`
        figure = Figure(figsize=(8.3 * columns, 9.5), layout="constrained")
        pages = np.atleast_1d(figure.subfigures(1, columns))
        # one scale for all columns, so that bars of two runs compare by eye
        tops = {
            "gain": max(5.0, *(100 * d.false_positives.gain.max() for d in diagnoses.values())) * 1.25,
            "mAP": max(5.0, *(np.nanmax(100 * np.concatenate([*d.sensitivity.values()])) for d in diagnoses.values()))
            * 1.2,
        }
        for page, name, diagnosis in zip(pages, names, diagnoses.values(), strict=True):
            _draw_run(page, name, diagnosis, tops)
        content = io.BytesIO()
        figure.savefig(content, format=pathlib.Path(path).suffix[1:], dpi=150)
    write_whole(path, content.getvalue())


def _draw_run(page: Figure, name: str, diagnosis: Diagnosis, tops: dict[str, float]) -> None:
    tiou = diagnosis.tiou
    thresholds = f"tIoU {tiou[0]:g}" if len(tiou) == 1 else f"mean over tIoU {tiou.min():g} ... {tiou.max():g}"
    page.suptitle(
        f"{name}: average mAP_N {100 * diagnosis.ap_normalized.mean():.1f} %, {thresholds}",
        fontsize=11,
    )
    top, middle, bottom = page.subfigures(3, 1, height_ratios=(1.25, 1, 1))
    profile, impact = top.subplots(1, 2, width_ratios=(1.7, 1))
    _draw_false_positives(profile, diagnosis)
    _draw_impact(impact, diagnosis, tops["gain"])
    missed = {n: 100 * rate.mean(axis=0) for n, rate in diagnosis.false_negatives.rate.items()}
    for axes, n in _row_of_axes(middle, diagnosis, "False negatives, %"):
        _draw_bins(axes, diagnosis, n, missed[n], 112, "#D55E00")
    for axes, n in _row_of_axes(bottom, diagnosis, "Average mAP$_N$, %"):
        _draw_bins(axes, diagnosis, n, 100 * diagnosis.sensitivity[n], tops["mAP"], "#0072B2")
        axes.axhline(100 * diagnosis.ap_normalized.mean(), color="black", linestyle="--", linewidth=0.8)


def _row_of_axes(row: Figure, diagnosis: Diagnosis, label: str) -> list[tuple[Axes, str]]:
    """Axes side by side, one for each characteristic, as wide as it has bins."""
    widths = [len(bins.names) for bins in diagnosis.bins.values()]
    axes = np.atleast_1d(row.subplots(1, len(widths), width_ratios=widths))
    axes[0].set_ylabel(label, parse_math=True)
    return list(zip(axes, diagnosis.bins, strict=True))


def _draw_false_positives(axes: Axes, diagnosis: Diagnosis) -> None:
    counts = diagnosis.false_positives.by_rank.mean(axis=0)  # [G, 6]
    shares = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    places = np.arange(1, len(shares) + 1)
    floor = np.zeros(len(shares))
    for kind in range(len(ERROR_TYPES)):
        axes.bar(places, shares[:, kind], bottom=floor, color=COLORS[kind], label=SHORT_NAMES[kind], width=0.8)
        floor += shares[:, kind]
    axes.set(title="False positive profile", xlabel="Predictions by rank, G = instances of the class", ylim=(0, 100))
    axes.set_ylabel("Share of predictions, %")
    axes.set_xticks(places, [f"{g}G" for g in places])
    axes.figure.legend(
        *axes.get_legend_handles_labels(), loc="outside lower center", ncols=6, frameon=False, fontsize=7
    )


def _draw_impact(axes: Axes, diagnosis: Diagnosis, top: float) -> None:
    gains = 100 * diagnosis.false_positives.gain
    bars = axes.bar(np.arange(len(gains)), gains, color=COLORS[1:], width=0.7)
    axes.bar_label(bars, fmt="%.1f", padding=2)
    axes.set(title="Removing each error", ylim=(min(0, 1.25 * gains.min()), top))
    axes.set_ylabel("Gain in average mAP$_N$, points", parse_math=True)
    axes.set_xticks(np.arange(len(gains)), SHORT_NAMES[1:], rotation=20, ha="right", rotation_mode="anchor")


def _draw_bins(axes: Axes, diagnosis: Diagnosis, name: str, values: np.ndarray, top: float, color: str) -> None:
    """A bar for each bin, its value above, the share of the instances that fall into it below its name."""
    bars = axes.bar(np.arange(len(values)), np.nan_to_num(values), color=color, width=0.75)
    axes.bar_label(bars, labels=["-" if np.isnan(value) else f"{value:.1f}" for value in values], padding=2)
    shares = diagnosis.false_negatives.share[name]
    percent = ["<1%" if 0 < share < 0.005 else f"{100 * share:.0f}%" for share in shares]
    labels = [f"{bin_name}\n{share}" for bin_name, share in zip(diagnosis.bins[name].names, percent, strict=True)]
    axes.set_xticks(np.arange(len(values)), labels)
    axes.set(title=CHARACTERISTICS.get(name, name), ylim=(0, top))
