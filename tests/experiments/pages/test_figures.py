"""Figures: where things lie in them, and that names in them are text."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ElementTree

from experiments.evidence.sweeps import Swept
from experiments.pages import curves, diagram, differences, drawing
from tests import example
from tests.experiments.pages.helpers import HOSTILE, claim


def test_figures_escape_and_are_well_formed() -> None:
    boxes = [diagram.Box("a", [], True, HOSTILE), diagram.Box(HOSTILE, ["a"], False, "only tested")]
    drawn = [
        differences.draw_claim(claim(HOSTILE, "supported", [1.0], [-1.0, math.inf]), (-2.0, 3.0)),
        curves.draw(HOSTILE, {HOSTILE: example.curve()}, {HOSTILE: 0}),
        diagram.draw(boxes, {"a": 0, HOSTILE: 1}),
    ]
    for text in drawn:
        tags = {element.tag.rpartition("}")[2] for element in ElementTree.fromstring(text).iter()}
        assert "script" not in tags


def test_seeds_and_settings_in_figures_are_escaped() -> None:
    row = Swept.model_construct(setting=HOSTILE, seeds=[HOSTILE], values=[1.0], mean=1.0, interval=None)
    drawn = differences.draw_setting(row, (0.0, 2.0))
    tags = [element.tag.rpartition("}")[2] for element in ElementTree.fromstring(drawn).iter()]
    assert "script" not in tags


def dots(text: str) -> list[float]:
    return [float(e.attrib["cx"]) for e in ElementTree.fromstring(text).iter() if e.tag.endswith("circle")]


def test_dots_lie_where_the_axis_says() -> None:
    drawn = differences.draw_claim(claim("c", "supported", [-1.0, 1.0, 3.0], None), (-1.0, 3.0))
    assert dots(drawn) == [10.0, 130.0, 250.0]  # left edge, middle, right edge of a 260 px figure with 10 px margins


def test_a_huge_interval_does_not_hide_the_seeds() -> None:
    low, high = differences.limits([claim("c", "undecided", [0.1, 0.3], [-900.0, 900.0])])
    assert low < 0.0 < 0.3 < high
    assert high - low < 1.2  # three times the range of zero and the seeds, and the margin around it


def test_claims_of_a_metric_share_an_axis_unless_one_would_vanish() -> None:
    near, twice = claim("a", "supported", [1.0, 2.0], None), claim("b", "supported", [1.0, 4.0], None)
    far = claim("c", "supported", [1.0, 90.0], None)
    assert differences.span(near, [near, twice]) == differences.span(twice, [near, twice])
    assert differences.span(near, [near, far]) == differences.limits([near])


def test_a_curve_may_have_holes() -> None:
    holes = example.curve().model_copy(update={"mean": [2.0, math.nan, 1.0]})
    drawn = curves.draw("val/auroc", {"a": holes}, {"a": 0})
    assert "nan" not in drawn


def test_no_two_stages_look_the_same() -> None:
    strokes = {drawing.stroke(index) for index in range(24)}
    assert len(strokes) == 24


def test_diagram_arrows_point_right_and_all_are_drawn() -> None:
    boxes = [
        diagram.Box("a", [], True, "trained"),
        diagram.Box("b", ["a"], True, "trained"),
        diagram.Box("c", ["a", "b"], False, "only tested"),
    ]
    root = ElementTree.fromstring(diagram.draw(boxes, {"a": 0, "b": 1, "c": 2}))
    rects = [e for e in root.iter() if e.tag.endswith("rect")]
    assert [float(r.attrib["x"]) for r in rects] == sorted(float(r.attrib["x"]) for r in rects)
    assert ["stroke-dasharray" in r.attrib for r in rects] == [False, False, True]
    assert sum(1 for e in root.iter() if e.tag.endswith("path") and e.attrib.get("fill") == "none") == 3
