"""What of a paper is asked and run: the paper's file says what is asked, records alone say what was run."""

from __future__ import annotations

from typing import Any

import pytest

from experiments.common.errors import InputError
from experiments.config import compose
from experiments.config.schema import PaperFile
from experiments.config.summary import printed
from experiments.config.written import read
from experiments.evidence import counts, coverage
from experiments.evidence.records import Entry
from tests import example
from tests.experiments.config.test_schema import PAPER

ITEMS = [
    {"what": "Table 1", "asked": ["mini", "full"], "by": "a beats b"},
    {"what": "Table 2", "asked": "mini", "by": "a beats b", "variant": "wide*"},
    {"what": "Table 3", "asked": "full", "by": ["Table 3"]},
    {"what": "sizes", "asked": "full", "by": "counted"},
    {"what": "Table 4", "asked": False, "why": "the data is not public"},
    {"what": "Figure 1", "asked": "mini"},
]
SIZE = counts.Row("stages.a.module.network", None, "", "parameters", "1M", 1_000_000, "matched", "Table 9")


def entry(verdict: str = "supported", **more: Any) -> Entry:
    judged = example.claim("a beats b, always", verdict, [1.0, 2.0], [0.0, 3.0], main=True)
    return example.entry([0, 1], claims=[judged], **more)


def run(entries: dict[str, Entry], counted: list[counts.Row]) -> list[dict[str, bool]]:
    return [dict(row.run) for row in coverage.rows({"covers": ITEMS}, entries, counted)]


def test_nothing_is_run_before_something_is_recorded() -> None:
    told = run({}, [])
    assert told == [
        {"mini": False, "full": False},
        {"mini": False},
        {"full": False},
        {"counted": False},
        {},
        {"mini": False},
    ]


def test_what_was_run_is_read_from_the_records() -> None:
    assert run({"mini": entry()}, [SIZE]) == [
        {"mini": True, "full": False},
        {"mini": False},  # of a variant that is not recorded
        {"full": False},  # counted sizes quote other tables
        {"counted": True},
        {},
        {"mini": True},
    ]
    assert run({"mini+wide_2": entry(variant="wide_2")}, [])[1] == {"mini": True}
    assert run({"mini": entry("not run")}, [])[0] == {"mini": False, "full": False}


def test_a_published_number_is_run_once_ours_stands_beside_it() -> None:
    row = {"source": "Table 3, ImageNet", "variant": None, "scale": None}
    for ours, is_run in ((None, False), (78.0, True)):
        beside = example.published(**row, ours=ours)
        recorded = entry(scale="full", published=[beside])
        assert run({"full": recorded}, [])[2] == {"full": is_run}


def test_the_count_and_the_words() -> None:
    rows = coverage.rows({"covers": ITEMS}, {"mini": entry()}, [SIZE])
    assert coverage.summary(rows) == "3 of 6 run"
    assert [row.told for row in rows[:5]] == [
        "run at mini; full, not run yet",
        "mini, not run yet",
        "full, not run yet",
        "counted",
        "not asked",
    ]
    assert coverage.summary([]) == ""

    at_full = coverage.rows({"covers": ITEMS[:1]}, {"full": entry(scale="full")}, [])
    assert at_full[0].told == "run at full; mini, not run yet"
    assert coverage.summary(at_full) == "1 of 1 run, 1 at full scale"


@pytest.mark.parametrize(
    ("text", "marks"),
    [
        ("Tables 4 and 5, three of the latter", {"Table 4", "Table 5"}),
        ("Table 5, 10% of the training images", {"Table 5"}),
        ("Table 8; 575 of Table 1", {"Table 8", "Table 1"}),
        ("Fig. 6: more than 1 point", {"Figure 6"}),
        ("abstract, table of results", set()),
    ],
)
def test_tables_and_figures_that_a_text_names(text: str, marks: set[str]) -> None:
    assert printed(text) == marks


@pytest.mark.parametrize(
    ("items", "told"),
    [
        ([{"what": "w", "asked": "no"}], "why is missing, the reason why it is not asked"),
        ([{"what": "w", "asked": False, "why": "y", "by": "a"}], "asked is no; expected no by and no variant"),
        ([{"what": "w", "asked": "full", "by": ["counted", "a"]}], "by counted stands alone, asked full"),
        ([{"what": "w", "asked": "smoke"}], "'smoke' does not exist"),
        ([{"what": "w", "asked": "mini", "by": "b beats"}], "no claim, check or source begins so"),
        ([{"what": "w", "asked": "full", "by": "counted"}], "no claim, check or source begins so"),
        ([{"what": "Table 1", "asked": "mini"}], "source 's' is in none of them; expected it in what or by"),
    ],
)
def test_mistakes_are_told_in_one_line(items: list[dict[str, Any]], told: str) -> None:
    with pytest.raises(InputError, match=told) as error:
        read(PaperFile, {**PAPER, "covers": items}, "conf/paper/k.yaml", later=True)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("paper", compose.papers())
def test_every_paper_says_what_of_it_is_asked(paper: str) -> None:
    """That it lists every table whose numbers it quotes is checked as the file is read."""
    covered = coverage.rows(compose.paper_file(paper), {}, [])
    assert len(covered) >= 5
    assert len({row.what for row in covered}) == len(covered)
    assert any("mini" in row.run for row in covered)
