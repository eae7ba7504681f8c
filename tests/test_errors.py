"""Suggestions: what may be meant by a name that there is not."""

import pytest

from tadjax.errors import did_you_mean, similar


@pytest.mark.parametrize(
    ("given", "known", "meant"),
    [
        ("lr", ("head_lr", "lr_scale", "slr", "rate"), ["head_lr", "lr_scale"]),  # whole words
        ("Jump", ("High Jump", "jumping jack", "jump-rope"), ["High Jump", "jump-rope"]),
        ("gausian", ("gaussian", "linear", "hard"), ["gaussian"]),
        ("rihgt", ("left", "right"), ["right"]),
        ("xl", ("s", "b", "l", "xs"), []),
        ("r51", ("r50", "r101"), ["r50"]),
        ("vitx", ("vits", "vitb", "vitl"), ["vits", "vitb", "vitl"]),  # as close, all of them
        ("vitx", ("vits", "vitb", "vitl", "vith", "vitg"), []),  # a list of everything says it better
        ("lr", (), []),
        ("", ("left", "right"), []),
    ],
)
def test_names_that_may_be_meant(given, known, meant):
    assert similar(given, known) == meant


def test_all_that_may_be_meant_are_named():
    assert did_you_mean("vitx", ("vits", "vitb", "vitl"), str) == "did you mean vits, vitb or vitl?"
    assert did_you_mean("rihgt", ("left", "right")) == "did you mean 'right'?"
    assert did_you_mean("qqq", ("left", "right")) == ""
