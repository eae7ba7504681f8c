"""Where the bars of the pictures stand, and what they show."""

import json
import warnings

import matplotlib.image
import numpy as np
import pytest

from tadjax.detections.decode import Detections
from tadjax.report import timeline
from tadjax.report.__main__ import main
from tadjax.report.timeline import LANES, best_tiou, draw_proposals, draw_timeline

CLASSES = ("jump", "cost $5 & <tax>", "never")
TRUTH = Detections(np.array([[1.0, 3.0], [6.0, 8.0]]), np.ones(2), np.array([0, 1]))
FOUND = Detections(np.array([[1.0, 2.0], [2.0, 4.0], [6.0, 8.5]]), np.array([0.8, 0.5, 0.2]), np.array([0, 0, 1]))


@pytest.fixture
def figures(monkeypatch):
    """Figures as they are about to be saved."""
    drawn = []
    monkeypatch.setattr(timeline, "_save", lambda figure, path: drawn.append(figure))
    return drawn


def bars(axes) -> list[tuple[float, float, float]]:
    """(start, end, height) of every bar, in the order of drawing."""
    return [(b.get_x(), b.get_x() + b.get_width(), b.get_height()) for b in axes.patches]


def test_a_lane_holds_truth_and_detections_as_tall_as_their_score(figures):
    draw_timeline("v", 10.0, TRUTH, FOUND, CLASSES, "v.png")
    (axes,) = figures[0].axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["jump", "cost $5 & <tax>"]
    assert axes.get_xlim() == (0, 10)
    np.testing.assert_allclose(
        bars(axes),
        [(1, 3, 0.2), (2, 4, 0.52 * 5 / 8), (1, 2, 0.52), (6, 8, 0.2), (6, 8.5, 0.52 / 4)],
    )


def test_without_truth_or_detections_there_is_still_a_picture(figures):
    draw_timeline("v", 10.0, None, Detections.concatenate([]), CLASSES, "v.png")
    assert bars(figures[0].axes[0]) == []


def test_many_classes_show_those_with_truth_and_the_best(figures):
    n = 3 * LANES
    found = Detections(np.tile([1.0, 2.0], (n, 1)), np.linspace(1, 0.1, n), np.arange(n))
    truth = Detections(np.array([[1.0, 2.0]]), np.ones(1), np.array([n - 1]))
    draw_timeline("v", 10.0, truth, found, [f"c{i}" for i in range(n)], "v.png")
    (axes,) = figures[0].axes
    shown = [label.get_text() for label in axes.get_yticklabels()]
    assert shown == [f"c{i}" for i in range(LANES - 1)] + [f"c{n - 1}"]
    assert f"{n - LANES} more classes" in axes.get_title(loc="left")


def test_files_are_what_their_suffix_says(tmp_path):
    for kind in ("png", "svg"):
        draw_timeline("v $x$", 10.0, TRUTH, FOUND, CLASSES, tmp_path / f"a.{kind}")
    assert matplotlib.image.imread(tmp_path / "a.png").shape[1] == 11 * 150
    svg = (tmp_path / "a.svg").read_text()
    assert "cost $5 &amp; &lt;tax&gt;" in svg and "v $x$" in svg  # no mathematics, no markup
    draw_timeline("v $x$", 10.0, TRUTH, FOUND, CLASSES, tmp_path / "b.svg")
    assert (tmp_path / "b.svg").read_bytes() == (tmp_path / "a.svg").read_bytes()
    with pytest.raises(ValueError, match=r"a\.gif.*\.png, \.svg, \.pdf"):
        draw_timeline("v", 10.0, None, FOUND, CLASSES, tmp_path / "a.gif")


def test_labels_that_the_font_cannot_show_are_no_warning(tmp_path):
    with warnings.catch_warnings(action="error"):
        for kind in ("png", "svg"):
            draw_timeline("v", 10.0, TRUTH, FOUND, ("\u8df3", *CLASSES[1:]), tmp_path / f"t.{kind}")
    assert "\u8df3" in (tmp_path / "t.svg").read_text()


def test_best_tiou_is_with_the_own_class():
    wrong_class = Detections(np.array([[6.0, 8.0]]), np.ones(1), np.array([0]))
    every = Detections.concatenate([FOUND, wrong_class])
    np.testing.assert_allclose(best_tiou(every, TRUTH.segments, TRUTH.labels), [1 / 2, 1 / 3, 2 / 2.5, 0], atol=1e-12)
    assert best_tiou(FOUND, np.zeros((0, 2)), np.zeros(0, int)).tolist() == [0, 0, 0]


def test_proposals_of_two_methods_stand_below_the_truth(figures):
    draw_proposals("v", (0.0, 10.0), TRUTH, {"one": FOUND, "two": FOUND[1:]}, CLASSES, "v.png", top_k=2)
    one, two, _ = figures[0].axes
    np.testing.assert_allclose([bar[:2] for bar in bars(one)], [(1, 3), (6, 8), (1, 2), (2, 4)])
    np.testing.assert_allclose([bar[:2] for bar in bars(two)], [(1, 3), (6, 8), (2, 4), (6, 8.5)])
    assert all(patch.get_y() < 0 for patch in one.patches[:2]) and all(p.get_y() > 0 for p in one.patches[2:])
    np.testing.assert_allclose(one.patches[2].get_facecolor(), timeline.matplotlib.colormaps["viridis"](0.5))


def test_proposals_of_a_span_leave_the_rest_out(figures):
    draw_proposals("v", (5.0, 10.0), TRUTH, {"one": FOUND}, CLASSES, "v.png", top_k=1)
    np.testing.assert_allclose([bar[:2] for bar in bars(figures[0].axes[0])], [(6, 8), (6, 8.5)])


def test_the_command_reads_any_results_file(tmp_path, figures, capsys):
    truth, results, picture = (tmp_path / name for name in ("truth.json", "mine.json", "p.svg"))
    annotations = [{"segment": [1, 3], "label": "b"}]
    truth.write_text(json.dumps({"database": {"v": {"subset": "x", "duration": 9, "annotations": annotations}}}))
    found = [{"segment": [1, 2], "label": "z", "score": 0.9}, {"segment": [1, 3], "label": "b", "score": 0.5}]
    results.write_text(json.dumps({"results": {"v": found}}))
    command = [str(results), f"--ground_truth={truth}", f"--output={picture}"]
    assert main([*command, "--video=v"]) == 0
    (axes, _) = figures[0].axes
    assert axes.get_ylabel() == "mine" and axes.get_xlim() == (0, 9)
    viridis = timeline.matplotlib.colormaps["viridis"]
    np.testing.assert_allclose([p.get_facecolor() for p in axes.patches[1:]], [viridis(0.0), viridis(1.0)])
    assert main([*command, "--video=w"]) == 2
    assert f"{truth}: no video 'w'" in capsys.readouterr().err
    assert main([*command, "--video=v", "--top_k=0"]) == 2
    assert "--top_k=0" in capsys.readouterr().err
    assert main([*command, "--video=v", "--end=inf"]) == 2
    assert "--end=inf" in capsys.readouterr().err


def test_the_command_says_where_it_cannot_write(tmp_path, capsys):
    truth, results, picture = (tmp_path / name for name in ("truth.json", "mine.json", "no/p.png"))
    truth.write_text(
        json.dumps(
            {"database": {"v": {"subset": "x", "duration": 9, "annotations": [{"segment": [1, 3], "label": "b"}]}}}
        )
    )
    results.write_text(json.dumps({"results": {"v": []}}))
    assert main([str(results), f"--ground_truth={truth}", "--video=v", f"--output={picture}"]) == 2
    assert f"{picture}: cannot be written (No such file or directory)" in capsys.readouterr().err
