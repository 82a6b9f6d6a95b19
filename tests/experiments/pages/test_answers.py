"""Claims in the words that pages and logbooks share."""

from __future__ import annotations

from dataclasses import replace

from experiments.pages import answers, view
from tests import example


def test_an_outcome_s_numbers_stand_once() -> None:
    """Those of an outcome with rivals are its baseline's, whose row follows; an outcome alone has its own."""
    shown = view.claim(example.claim("both", "supported", [1.0, 2.0], [0.5, 2.5], main=True))
    names = ("realism", "realism, against the baseline", "realism, against a rival", "diversity")
    parts = [replace(shown, name=name, reason="so", is_heading=name == "realism") for name in names]
    (row,) = answers.claim_rows([replace(shown, rows=parts)])
    assert [part.name for part in row.rows] == list(names)
    assert [part.verdict for part in row.rows] == ["supported"] * 4
    assert [bool(part.difference) for part in row.rows] == [False, True, True, True]
    assert [bool(part.figure) for part in row.rows] == [False, True, True, True]
    assert [part.reason for part in row.rows] == ["", "so", "so", "so"]
