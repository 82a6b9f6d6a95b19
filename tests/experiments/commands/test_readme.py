"""What README and docs/ repeat of the records: each line follows from a paper as the catalog describes it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from experiments.commands import readme
from experiments.common.errors import InputError

ARXIV = "https://arxiv.org/abs/1234.5678"


def setting(verdict: str, **more: Any) -> dict[str, Any]:
    main = {"name": "a beats b", "verdict": verdict, "difference": 2.0, "interval": [1.0, 3.0], "unit": "points"}
    main |= {"margin": 0.0, "worth": 1.0, "within": None, "reason": ""}
    facts = {"scope": "digits", "main": main, "seeds": 6, "seconds": 120.0, "cpu_seconds": None, "replication": None}
    return {**facts, "seen": False, "stale": [], "stale_beside": [], "kept": None, **more}


def paper(key: str, **entries: dict[str, Any]) -> dict[str, Any]:
    told = {"key": key, "title": f"{key.upper()}: a long title", "arxiv": "1234.5678", "main": "a beats b"}
    return {**told, "finding": f"what {key} found" if entries else "", "entries": entries}


PAPERS = [
    paper("one", full=setting("matched"), mini=setting("supported", kept=True, replication="replicated")),
    paper("two", full=setting("no gain", stale=["student"], kept=False)),
    paper("three"),
]


def test_each_paper_has_one_row_about_the_setting_that_stands_for_it() -> None:
    rows = readme.table(PAPERS).splitlines()[2:]
    assert rows == [
        f"| [ONE]({ARXIV}) `one` | what one found | **supported** at mini: digits | replicated |",
        f"| [TWO]({ARXIV}) `two` | what two found | **no gain (stale, alone)** at full: digits | not yet |",
        f"| [THREE]({ARXIV}) `three` | a beats b | not run | |",
    ]


def test_counts_are_of_these_settings() -> None:
    told = readme.counts(PAPERS)
    assert "**3 main claims: 1 supported, 1 no gain, 1 not run.**" in told
    assert "1 replicated, 1 not yet" in told
    assert "looked at together: 1." in told
    assert "after the run: 1." in told
    assert "Recorded settings: 3" in told


def test_patterns_are_counted_over_all_settings() -> None:
    rows = [{"name": "against soft labels", "verdict": "no gain"}]
    plain, differing = setting("supported"), setting("no gain")
    plain["main"] |= {"published": {"difference": -1.0, "source": "Table 1"}}
    effect = setting("effect only")
    effect["main"] |= {"rows": rows, "published": {"difference": 3.0, "source": "Table 2"}}
    other = setting("refuted")
    other["main"]["name"] = "c beats d"  # another question: not compared
    papers = [paper("a", mini=plain, **{"mini+x": differing}), paper("b", mini=effect, **{"mini+y": other})]
    told = readme.patterns(papers)
    assert "1 papers were asked the same in several settings; in 1 of them" in told
    assert "Of 1 recorded setting with rivals, 1 beat the baseline" in told
    assert "2 papers report the difference that is claimed; 1 lie on the same side" in told


def test_rows_of_the_simulation_are_repeated_as_they_stand() -> None:
    text = "# T\n\n## One\n\n| a | b |\n|---|---|\n| x | 1 |\n| y | 2 |\n\n## Two\n\n| a | b |\n|---|---|\n| x | 3 |\n"
    assert readme.rows_of(text, "One", re.compile(r"\| y")) == "| a | b |\n|---|---|\n| y | 2 |"
    assert readme.rows_of(text, "Two", re.compile(r"\| x")).endswith("| x | 3 |")
    with pytest.raises(InputError, match=r"decisions.md: Two: no row that begins with"):
        readme.rows_of(text, "Two", re.compile(r"\| y"))


def test_every_setting_has_a_line_in_the_results() -> None:
    lines = readme.settings_table(PAPERS).splitlines()[2:]
    assert len(lines) == 4
    assert lines[0].split(" | ")[2] == "full: digits"
    assert lines[1].startswith(
        "|  |  | mini: digits | supported | +2.00 [+1.00, +3.00] points | 6 | replicated | 2 min"
    )


def test_a_verdict_of_another_main_claim_says_so() -> None:
    other = paper("one", mini=setting("supported", stale=["claims"]))
    assert readme.verdict({**other, "main": "c beats d"}, "mini") == "supported (stale, of an earlier main claim)"
    assert readme.verdict(other, "mini") == "supported (stale)"


def test_an_example_says_what_the_command_says_first() -> None:
    stands = "$ make reproduce PAPER=one\n  ...\nold\nold\nold\n  ...\nresults\n  ...\n"
    told = "one\n  ...\nsupported: a beats b\n  +2.00 [+1.00, +3.00] points, 6 seeds; stopped: decided\n"
    assert readme.example(PAPERS, "one") == told
    made = f"$ make reproduce PAPER={told}  ...\nresults\n  ...\n"
    for text in (stands, made):  # made once or anew, it is the same
        assert readme.EXAMPLE.sub(lambda match: readme.example(PAPERS, match[1]), text) == made


def test_a_long_example_is_folded() -> None:
    (long,) = [paper("one", mini=setting("supported"))]
    long["entries"]["mini"]["main"]["name"] = "word " * 30
    lines = readme.example([long], "one").splitlines()[2:-1]
    assert len(lines) == 2
    assert all(len(line) <= readme.WIDTH for line in lines)


def test_a_missing_marker_is_named(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("<!-- counts -->\n<!-- /counts -->\n", encoding="utf-8")
    with pytest.raises(InputError, match="<!-- papers --> and <!-- /papers --> are missing"):
        readme.texts(PAPERS, tmp_path)
