"""LaTeX tables: as many cells as columns, and no character of a name that acts."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from experiments.pages import index, latex
from tests.experiments.pages.helpers import sample


@pytest.mark.parametrize(
    ("text", "set_as"),
    [
        ("50% & more_or_less", r"50\% \& more\_or\_less"),
        ("a\\b{c}", r"a\textbackslash{}b\{c\}"),
        ("x^2 ~ #1 $", r"x\textasciicircum{}2 \textasciitilde{} \#1 \$"),
        ("a > b", "a $>$ b"),
    ],
)
def test_letters_that_act_are_set_as_text(text: str, set_as: str) -> None:
    assert latex.escape(text) == set_as


def rows(table: str) -> list[list[str]]:
    lines = [line.removesuffix(r" \\") for line in table.splitlines() if line.endswith(r" \\")]
    return [re.split(r"(?<!\\) & ", line) for line in lines]


def test_claims_have_their_numbers_the_main_one_first() -> None:
    entries = sample().entries
    entries["mini"].claims[1].name = "no_harm & done"
    head, main, harm, nothing = rows(latex.claims("results/meal_v2.json", entries))
    assert head[:2] == ["Setting", "Claim"]
    assert main == [
        "mini",
        r"\textbf{the student is better}",
        "supported",
        "$+2.00$ points",
        "[$-0.480$, $+4.48$]",
        "3",
    ]
    assert harm[1] == r"no\_harm \& done"
    assert nothing[2:] == ["not run", "--", "--", "0"]


def test_metrics_have_mean_and_half_of_the_interval() -> None:
    table = latex.metrics("results/meal_v2.json", sample().entries)
    head, *stages = rows(table)
    assert head == ["Stage", "top1"]
    # 91, 93, 95: s = 2, half = t(0.975, 2) * 2 / sqrt(3) = 4.3027 * 1.1547
    assert ["student", r"$93.00 \pm 4.97$"] in stages
    assert "lost" not in [row[0] for row in stages]  # it did not finish
    assert table.count(r"\begin{tabular}{lr}") == table.count(r"\end{tabular}") == 1


def test_every_main_claim_in_one_table() -> None:
    told = {"key": "meal_v2", "setting": "mini+clean", "verdict": "no gain", "stale": True, "difference": -0.25}
    told |= {"unit": "points", "low": -1.0, "high": 0.5, "seeds": 8, "replication": "not yet"}
    told |= {"title": "", "arxiv": None, "scope": "", "claim": "", "worth": 1.0, "kept": None, "finding": ""}
    row = index.Result(**told)
    open_row = replace(row, difference=None, low=None, high=None, stale=False)
    _, first, second = rows(latex.main_claims([row, open_row]))
    assert first == [
        "meal\\_v2",
        "mini+clean",
        "no gain (stale)",
        "$-0.250$ points",
        "[$-1.00$, $+0.500$]",
        "8",
        "not yet",
    ]
    assert second[3:5] == ["--", "--"]
