"""The one table of fields, and the page made of it."""

import pytest

from tadjax.config.rules import each, in_order, one_of, pair_within, ranges, subset_of, within
from tadjax.config.schema import FIELDS, MAY_CHANGE, defaults, page
from tests.conftest import ROOT


def test_the_reference_page_is_fresh():
    assert (ROOT / "docs" / "config.md").read_text() == page(), "python -m tadjax.config.schema > docs/config.md"


def test_every_field_is_on_the_page_once():
    lines = page().splitlines()
    assert [line.split("`")[1] for line in lines if line.startswith("| `")] == list(FIELDS)


def test_every_default_keeps_its_own_rule():
    assert [name for name, field in FIELDS.items() if field.rule and field.rule.problem(field.default)] == []


def test_lofi_has_an_optimizer_of_its_own():
    config = defaults()
    config.optim.head_lr = 7.0
    assert config.lofi.head_optim.head_lr == FIELDS["optim.head_lr"].default
    assert FIELDS["lofi.head_optim.head_lr"] is FIELDS["optim.head_lr"]


def test_a_section_that_may_change_passes_that_on():
    assert {"memory.remat", "mesh.clip", "data.workers"} <= MAY_CHANGE
    assert not {"data.fps", "window.frames", "head.gtad.durations"} & MAY_CHANGE


@pytest.mark.parametrize(
    ("rule", "right", "wrong"),
    [
        (within(0, 1, above=True), [1, 0.1], [0, 1.1]),
        (one_of("a", "b"), ["a"], ["c", ""]),
        (each(1, whole=True), [(), (1, 2)], [(0,), (1.5,), ("1",)]),
        (pair_within(0, 1), [(), (0, 0.5)], [(0.5, 0), (0.5,), (0, 2)]),
        (subset_of("s", "l"), [("s",), ("l", "s")], [(), ("s", "s"), ("x",)]),
        (in_order("a", "b"), [(), ("a", "b")], [("b", "a")]),
        (ranges, [((0, 1), (1, 2))], [((1, 0),), ((0, 1, 2),), (3,)]),
    ],
)
def test_rules(rule, right, wrong):
    assert [value for value in right if rule.problem(value)] == []
    assert [value for value in wrong if not rule.problem(value)] == []
    assert rule.problem(wrong[0]).startswith(f"must be {rule.text}")
