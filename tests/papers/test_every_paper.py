"""What holds for every paper, found by discovery: it composes, its targets check, smoke and the dry run pass."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from experiments import compose, reproduce, training
from experiments.benchmark import Pair
from experiments.instantiate import check
from experiments.plan import Plan, published, typed

PAPERS = compose.papers()
SETTINGS = [
    (paper, scale, variant)
    for paper in PAPERS
    for scale in ("full", "mini", "smoke")
    for variant in (
        None,
        *(n for n, v in (compose.paper_file(paper).get("variants") or {}).items() if v["scale"] == scale),
    )
]


@pytest.mark.parametrize(("paper", "scale", "variant"), SETTINGS)
def test_every_setting_composes_and_checks(
    paper: str, scale: str, variant: str | None, make_plan: Callable[..., Plan]
) -> None:
    lines = [f"paper={paper}", f"scale={scale}", *([f"variant={variant}"] if variant else [])]
    this = make_plan(*lines)
    training.check_plan(this)
    assert this.config["key"] == paper
    for claim in this.config["claims"]:
        assert claim["refuted_by"], f"{claim['name']} does not say what would refute it"
    for item in published(this.config):
        assert item.stage in this.stages
        assert item.source


@pytest.mark.parametrize("paper", PAPERS)
def test_every_deviation_says_the_same_five_things(paper: str) -> None:
    """A comma in an unquoted text of a YAML mapping begins a new key."""
    for item in compose.paper_file(paper).get("deviations") or []:
        assert list(item) == ["what", "paper", "code", "ours", "why"], item
        assert all(str(text or "").strip() for text in item.values()), item


@pytest.mark.parametrize("paper", PAPERS)
def test_networks_to_compare_can_be_built(paper: str) -> None:
    for number, item in enumerate(compose.paper_file(paper).get("bench") or []):
        pair: Pair = typed(Pair, item, f"bench.{number}")
        check(pair.ours, f"bench.{number}.ours")
        check(pair.theirs, f"bench.{number}.theirs")


@pytest.mark.parametrize("paper", PAPERS)
def test_smoke_runs_to_a_verdict(paper: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [f"paper={paper}", "scale=smoke", f"runs_dir={tmp_path}", "jobs=1"]
    assert reproduce.main(lines) == 0
    summary = json.loads((tmp_path / paper / "smoke" / "summary.json").read_text())
    assert set(summary) == {"paper", "scale", "variant", "seeds", "stages", "claims", "published"}
    assert all(summary["stages"].values())
    assert {c["verdict"] for c in summary["claims"]} <= {"supported", "refuted", "inconclusive"}
    assert all(len(c["per_seed"]) == len(summary["seeds"]) for c in summary["claims"])
    stages = len(summary["stages"]) * len(summary["seeds"])
    assert f"{stages} stages run" in capsys.readouterr().out
    assert reproduce.main(lines) == 0
    assert "0 stages run" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("paper", PAPERS)
def test_full_recipe_passes_its_dry_run(paper: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert reproduce.main([f"paper={paper}", "scale=full", "dry=true", f"runs_dir={tmp_path}"]) == 0
    assert "failed" not in capsys.readouterr().out
