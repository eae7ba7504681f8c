"""Names in pictures: no mathematics, no TeX, and fonts that have their letters, or one line that says they lack."""

import xml.dom.minidom

import matplotlib
import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager

from tadjax.detections.decode import Detections
from tadjax.report import fonts
from tadjax.report.timeline import draw_proposals, draw_timeline

FOUND = Detections(np.array([[1.0, 2.0]]), np.array([0.8]), np.array([0]))
ODD = ("a $x_$ b", "$_^$", "50 % \\frac{", "line\nbreak", "null\0\x1b", "half\ud800", "\uffff")
CHINESE = "\u8df3"


@pytest.fixture(autouse=True)
def forget():
    fonts._families.cache_clear()
    fonts._told.clear()
    yield
    fonts._families.cache_clear()


def make_font(path, letter: str) -> str:
    """A font with one letter, a square."""
    pen = TTGlyphPen(None)
    for step, point in enumerate([(0, 0), (0, 500), (500, 500), (500, 0)]):
        (pen.lineTo if step else pen.moveTo)(point)
    pen.closePath()
    square = pen.glyph()
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder([".notdef", "square"])
    builder.setupCharacterMap({ord(letter): "square"})
    builder.setupGlyf({".notdef": TTGlyphPen(None).glyph(), "square": square})
    builder.setupHorizontalMetrics({".notdef": (600, 0), "square": (600, 0)})
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": "One Square", "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(path)
    return str(path)


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("kind", ["png", "svg"])
def test_a_name_is_drawn_as_it_is(tmp_path, name, kind):
    """nine-or-null 14, matplotlib 20266; a user's matplotlibrc may ask for TeX, where _ and % mean something, too."""
    with matplotlib.rc_context({"text.usetex": True}):
        draw_timeline(name, 4.0, FOUND, FOUND, [name], tmp_path / f"a.{kind}")
        draw_proposals(name, (0.0, 4.0), FOUND, {name: FOUND}, [name], tmp_path / f"b.{kind}")
    if kind == "svg":
        for file in ("a.svg", "b.svg"):
            text = xml.dom.minidom.parse(str(tmp_path / file)).documentElement
            words = [element.firstChild.data for element in text.getElementsByTagName("text")]
            assert fonts.plain(name) in words


def test_letters_without_a_font_are_said_once(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(font_manager, "findSystemFonts", list)
    for number in range(2):
        draw_timeline(f"{CHINESE}\U00020000", 4.0, None, FOUND, ["Übung"], tmp_path / f"{number}.png")
    told = capsys.readouterr().err
    assert told.count("pictures show boxes for") == 1 and f"{CHINESE}\U00020000: no font on this machine" in told
    assert "fonts-noto-cjk" in told


def test_a_font_that_has_the_letter_draws_it_though_matplotlib_does_not_know_it_yet(tmp_path, monkeypatch, capsys):
    path = make_font(tmp_path / "square.ttf", CHINESE)
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: [path, str(tmp_path / "none.ttf")])
    monkeypatch.setattr(font_manager.fontManager, "ttflist", list(font_manager.fontManager.ttflist))
    draw_timeline(CHINESE, 4.0, None, FOUND, ["Übung"], tmp_path / "a.svg")
    assert "One Square" in fonts.look_of([CHINESE])["font.family"] and "font.family" not in fonts.look_of(["Übung"])
    assert "One Square" in (tmp_path / "a.svg").read_text()
    draw_timeline(CHINESE, 4.0, None, FOUND, ["Übung"], tmp_path / "a.png")
    assert capsys.readouterr().err == ""
