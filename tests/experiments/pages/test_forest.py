"""The picture of all main claims: where a difference stands, and that it is legible anywhere."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import pytest

from experiments.pages import forest

ROW = forest.Row("zpe", "supported", 4.0, (2.0, 6.0), worth=2.0, unit="points")


def test_the_ends_of_the_axis_and_its_order() -> None:
    low, high = forest.ENDS
    assert forest.place(low, 100) == 0 == forest.place(-math.inf, 100)
    assert forest.place(high, 100) == 100 == forest.place(math.inf, 100)
    places = [forest.place(value) for value in forest.TICKS]
    assert places == sorted(places)
    # asinh(-20) = -3.6895, asinh(40) = 4.3822
    assert forest.place(0, 100) == pytest.approx(100 * 3.6895 / 8.0717, abs=0.1)


def test_a_difference_is_counted_in_what_is_worth_the_name_from_its_margin() -> None:
    assert ROW.at(4.0) == 2.0
    behind = forest.Row("noprop", "refuted", -3.0, (-4.0, -2.0), margin=-1.0, worth=1.0)
    assert behind.at(-3.0) == -2.0
    alike = forest.Row("cifake", "undecided", 6.0, (1.0, 11.0), within=5.0)
    assert alike.at(-5.0) == -1.0
    assert "<rect" in forest.mark(alike, 10)
    assert "<rect" not in forest.mark(ROW, 10)
    assert forest.mark(forest.Row("k", "holds", 0.7, (0.7, 0.7)), 10) == ""  # nothing says what is worth the name


def test_an_interval_that_goes_on_outside_ends_in_an_arrowhead() -> None:
    wide = forest.Row("k", "undecided", 0.0, (-1000.0, 1.0), worth=1.0)
    ends = [path for path in forest.mark(wide, 10).split("<path ") if "8z" in path]
    assert len(ends) == 1
    assert ends[0].startswith('d="M0.0 10l6 -4v8z"')


def test_the_picture_stands_alone_on_light_and_dark_pages() -> None:
    hostile = forest.Row('<script>"&', "no gain", None, None, worth=1.0)
    drawn = forest.picture([ROW, hostile])
    root = ElementTree.fromstring(drawn)
    assert "script" not in {element.tag.rpartition("}")[2] for element in root.iter()}
    assert "prefers-color-scheme:dark" in drawn
    titles = [element.text for element in root.iter() if element.tag.endswith("title")]
    assert titles == ["zpe: supported, +4.00 [+2.00, +6.00] points", '<script>"&: no gain']
    assert "http" not in drawn.replace("http://www.w3.org/2000/svg", "")


def test_cells_share_an_axis() -> None:
    axes = {
        forest.cell(row).split("<g")[0].partition(">")[2]
        for row in (ROW, forest.Row("k", "refuted", -9.0, None, worth=1))
    }
    assert len(axes) == 1


def test_a_stale_row_says_so_and_is_pale() -> None:
    stale = replace(ROW, stale=True)
    assert stale.word == f"{ROW.verdict}, stale"
    assert 'opacity="0.7"' in forest.picture([stale])
    assert 'opacity="0.7"' not in forest.picture([ROW])
