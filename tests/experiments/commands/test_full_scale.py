"""docs/full/: each paper has a page, and a page says what the datamodules and networks of the recipe say."""

from __future__ import annotations

import re

import pytest

from experiments.commands import full_scale
from experiments.common.paths import ROOT
from experiments.config import compose

PAPERS = list(compose.papers())


def test_each_paper_has_a_page_and_stands_in_the_list() -> None:
    there = {path.stem for path in full_scale.FOLDER.glob("*.md")}
    assert there == {"index", *PAPERS}
    assert (full_scale.FOLDER / "index.md").read_text(encoding="utf-8") == full_scale.listing()


@pytest.mark.parametrize("paper", [PAPERS[0], *(pytest.param(paper, marks=pytest.mark.slow) for paper in PAPERS[1:])])
def test_a_page_is_what_the_recipe_says(paper: str) -> None:
    text = (full_scale.FOLDER / f"{paper}.md").read_text(encoding="utf-8")
    assert text == full_scale.page(paper), f"make full-scale PAPER={paper} writes it"
    assert str(ROOT) not in text
    assert "/root" not in text
    for line in re.findall(r"^\$ make reproduce PAPER=(\S+) SCALE=full", text, re.MULTILINE):
        assert line == paper


def test_a_cell_of_a_table_stays_one() -> None:
    assert full_scale._inline("a | b\n<i>c") == "a \\| b &lt;i>c"
    assert full_scale._place(f"{ROOT}/data/x") == "data/x"
