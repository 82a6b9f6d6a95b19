"""Pages of what published recipes need: a page says what the datamodules and networks of the recipe say."""

from __future__ import annotations

import pytest

from experiments.commands import full_scale
from experiments.common.paths import ROOT
from experiments.config import compose
from experiments.running.plan import plan

PAPERS = list(compose.papers())


def test_a_page_says_what_the_recipe_says() -> None:
    """The same words on every machine: the data, the stages, the published numbers, and the commands."""
    paper = PAPERS[0]
    text = (full_scale.FOLDER / f"{paper}.md").read_text(encoding="utf-8")
    assert text == full_scale.page(paper), f"make full-scale PAPER={paper} writes it"
    assert str(ROOT) not in text
    assert text.count(f"$ make reproduce PAPER={paper} SCALE=full") >= 2
    for title in ("## What it needs", "## What it trains"):
        assert title in text
    stages = plan(compose.compose([f"paper={paper}", "scale=full"]), 0).stages
    assert [name for name in stages if f"| {name} | " not in text] == []


@pytest.mark.slow
@pytest.mark.parametrize("paper", PAPERS[1:])
def test_pages_are_what_the_recipes_say(paper: str) -> None:
    written = (full_scale.FOLDER / f"{paper}.md").read_text(encoding="utf-8")
    assert written == full_scale.page(paper), f"make full-scale PAPER={paper} writes it"


def test_every_paper_stands_in_the_list() -> None:
    listing = full_scale.listing()
    assert (full_scale.FOLDER / "index.md").read_text(encoding="utf-8") == listing
    assert {path.stem for path in full_scale.FOLDER.glob("*.md")} == {"index", *PAPERS}
    assert [paper for paper in PAPERS if f"({paper}.md) `{paper}`" not in listing] == []


def test_a_cell_of_a_table_stays_one() -> None:
    assert full_scale._inline("a | b\n<i>c") == "a \\| b &lt;i>c"
    assert full_scale._place(f"{ROOT}/data/x") == "data/x"
