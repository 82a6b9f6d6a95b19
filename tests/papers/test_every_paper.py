"""What holds for every paper, found by discovery: it composes, its targets check, smoke and the dry run pass."""

from __future__ import annotations

import ast
import contextlib
import importlib
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from experiments.benchmarks.networks import Pair
from experiments.commands import check_results, reproduce
from experiments.common.paths import ROOT
from experiments.config import claims, compose, vary
from experiments.config.instantiate import check
from experiments.config.written import read
from experiments.evidence import naming, operations, results, tuning
from experiments.identity import definitions, dependencies
from experiments.identity.fingerprint import targets
from experiments.running import training
from experiments.running.engine import run
from experiments.running.plan import Plan, Stage, plan
from tests.kinds import kind_of
from tests.watching import Watch

PAPERS = compose.papers()
TRAIN = training.train
WATCH = Watch()
SCALES = ("full", "mini", "smoke")
# Which network a search hands on, and how often an image is perceived until it settles, is drawn where nothing was
# trained, and with it the work of the stages after it.
DRAWN_WORK = {"cifake", "nasnet", "semiotics"}


def variants(paper: str, scale: str) -> list[str | None]:
    """The settings of a paper at a scale: the default, and its variants of that scale."""
    declared = compose.paper_file(paper).get("variants") or {}
    return [None, *(name for name, item in declared.items() if item["scale"] == scale)]


@pytest.mark.parametrize("paper", PAPERS)
def test_every_setting_composes_and_checks(paper: str, tmp_path: Path) -> None:
    """Composed once each: targets and arguments exist, claims and published numbers are of its stages, its grid turns
    numbers that are there, its data files overrule nothing, and its record is judged by what is declared."""
    entries = results.entries(paper)
    for scale in SCALES:
        for variant in variants(paper, scale):
            words = [f"paper={paper}", f"scale={scale}", *([f"variant={variant}"] if variant else [])]
            config = compose.compose(compose.request([*words, f"runs_dir={tmp_path}"]).overrides)
            this = plan(config, 0)
            training.check_plan(this)
            assert this.config["key"] == paper
            questions = claims.read(this.config)
            assert variant is not None or questions.main is not None, "no main claim"
            assert {item.stage for item in questions.published} <= set(this.stages), words
            assert all(item.source for item in questions.published), words
            grid = tuning.read(this.config) if scale == "mini" else None
            if grid is not None and not grid.none:
                vary.put(config, grid.keys, grid.values[0], compose.groups(paper), "tune")
            if variant is None:
                check_that_data_files_overrule_nothing(paper, scale, config)
            entry = entries.get(naming.title(scale, variant))
            if entry is not None:
                assert not check_results.differing_claims(entry, this.config), words


def check_that_data_files_overrule_nothing(paper: str, scale: str, composed: DictConfig) -> None:
    """A recipe's choice of data comes after the paper's file: a key that both hold would quietly be the data file's."""
    said = said_of_data(compose.paper_file(paper).get("stages") or {})
    again = said_of_data(compose.recipe_files(paper).get(scale, {}).get("stages") or {})
    for name in said.keys() & composed.stages.keys():
        for path, value in said[name].items():
            if path not in again.get(name, ()) and "${" not in str(value):
                assert OmegaConf.select(composed, f"stages.{name}.data.{path}") == value, f"{scale}: {name}.data.{path}"


def said_of_data(stages: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {name: leaves(item.get("data")) for name, item in stages.items() if isinstance(item, dict)}


def leaves(node: Any, above: str = "") -> dict[str, Any]:
    """Dotted path -> value; nothing of what is no mapping, such as a reference."""
    found: dict[str, Any] = {}
    if not isinstance(node, dict):
        return found
    for key, value in node.items():
        found |= leaves(value, f"{above}{key}.") if isinstance(value, dict) else {f"{above}{key}": value}
    return found


@pytest.mark.parametrize("paper", PAPERS)
def test_every_deviation_says_the_same_five_things(paper: str) -> None:
    """A comma in an unquoted text of a YAML mapping begins a new key."""
    for item in compose.paper_file(paper).get("deviations") or []:
        assert set(item) == {"what", "paper", "code", "ours", "why"}, item
        assert all(str(text or "").strip() for text in item.values()), item


@pytest.mark.parametrize("paper", PAPERS)
def test_networks_to_compare_can_be_built(paper: str) -> None:
    for number, item in enumerate(compose.paper_file(paper).get("bench") or []):
        pair: Pair = read(Pair, item, f"bench.{number}")
        check(pair.ours, f"bench.{number}.ours")
        check(pair.theirs, f"bench.{number}.theirs")


class Watched:
    """Which definitions of the suite's own code execute while a stage trains and is tested; of stages that are of one
    kind, the first is watched."""

    def __init__(self) -> None:
        self.kinds: set[tuple[Any, ...]] = set()
        self.executed: dict[str, set[definitions.Definition]] = {}

    def train(self, plan: Plan, stage: Stage, report: Any) -> dict[str, Any]:
        kind = kind_of(stage)
        if kind in self.kinds:
            return TRAIN(plan, stage, report)
        self.kinds.add(kind)
        with WATCH.watch() as self.executed[stage.name]:
            return TRAIN(plan, stage, report)


def identity(plan: Plan, name: str) -> set[definitions.Definition]:
    """What the fingerprint of a stage covers, that of its predecessors included."""
    stage = plan.stages[name]
    reached = set(dependencies.reach(tuple(sorted(set(targets([stage.module, stage.data]))))))
    return reached.union(*(identity(plan, needed) for needed in stage.predecessors))


@cache
def engine() -> set[definitions.Definition]:
    """What the engine itself calls: its rules have a version that the golden run holds, and count in every stage."""
    called: set[str] = set()
    for name in ("training", "callbacks"):
        tree = ast.parse((ROOT / "experiments" / "running" / f"{name}.py").read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] in definitions.FIRST_PARTY:
                called |= {f"{node.module}.{alias.name}" for alias in node.names if alias.name[0].islower()}
    return {definition for name in called if isinstance(definition := definitions.locate(name), definitions.Definition)}


@pytest.mark.usefixtures("_one_of_a_kind_draws", "_checkpoints_read_once", "_garments_read_once")
@pytest.mark.parametrize("paper", PAPERS)
def test_smoke_runs_to_a_verdict_with_all_that_executes_in_its_identity(
    paper: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    make_plan: Callable[..., Plan],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two seeds for one paper; for the others a second would run the same code again."""
    seeds = "[0,1]" if paper == compose.default("paper") else "[0]"
    lines = [f"paper={paper}", "scale=smoke", f"seeds={seeds}", f"runs_dir={tmp_path}", "jobs=1"]
    watched = Watched()
    changed: list[str] = []
    construct = training.construct

    def constructed(plan: Plan, stage: Stage, **overrides: Any) -> Any:
        module = construct(plan, stage, **overrides)
        if stage.fit:
            modes = {name: part.training for name, part in module.named_modules()}
            module.train()
            changed.extend(f"{stage.name}: {n}" for n, part in module.named_modules() if part.training != modes[n])
        return module

    monkeypatch.setattr(training, "construct", constructed)
    this = make_plan(*lines)
    training.check_plan(this)  # imports what the stages need: module-level code is not what is watched
    covered = {name: identity(this, name) | engine() for name in this.stages}
    for module in sorted({definition.module for each in covered.values() for definition in each}):
        with contextlib.suppress(ModuleNotFoundError):  # of a package that is not installed: nothing of it executes
            importlib.import_module(module)  # a function may import what it calls
    monkeypatch.setattr(training, "train", watched.train)
    assert reproduce.main(lines) == 0
    assert not changed, "Lightning keeps the mode it finds and never calls train(), which would change these"
    for stage, executed in watched.executed.items():
        assert executed <= covered[stage], f"{stage} runs code that its fingerprint leaves out"
    summary = json.loads((tmp_path / paper / "smoke" / "summary.json").read_text())
    assert set(summary) == {"paper", "scale", "variant", "seeds", "stages", "claims", "checks", "published"}
    assert all(summary["stages"][name] for name, stage in this.stages.items() if stage.fit or stage.test)
    assert not {c["verdict"] for c in summary["claims"]} & {"not run", "matched"}, summary["claims"]
    assert all(len(c["per_seed"]) == len(summary["seeds"]) for c in summary["claims"])
    stages = len(summary["stages"]) * len(summary["seeds"])
    assert f"{stages} stages run" in capsys.readouterr().out
    assert reproduce.main(lines) == 0
    assert "0 stages run" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.usefixtures("_few_draws")
@pytest.mark.parametrize("paper", PAPERS)
def test_full_recipe_passes_its_dry_run(
    paper: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [f"paper={paper}", "scale=full", "dry=true", "dry_seconds=0", "record=true", f"runs_dir={tmp_path}"]
    recorded = operations.read(paper, "full")
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    assert reproduce.main(lines) == 0
    assert "failed" not in capsys.readouterr().out
    counted = operations.read(paper, "full")
    again = f"make reproduce PAPER={paper} SCALE=full DRY=1 ARGS=record=true"
    assert counted.keys() == recorded.keys(), again
    if paper in DRAWN_WORK:
        assert sum(counted.values()) == pytest.approx(sum(recorded.values()), rel=0.5), again
    else:
        assert counted == pytest.approx(recorded, rel=1e-9), again


@pytest.mark.slow
@pytest.mark.usefixtures("_one_of_a_kind_draws", "_checkpoints_read_once", "_garments_read_once")
@pytest.mark.parametrize("paper", PAPERS)
def test_every_stage_runs_in_half_precision(paper: str, tmp_path: Path, make_plan: Callable[..., Plan]) -> None:
    """What trainer=auto chooses on a GPU. A dry run would not tell: it writes nothing that NumPy has to take."""
    lines = [f"paper={paper}", "scale=smoke", "seeds=[0]", "trainer.precision=bf16-mixed", f"runs_dir={tmp_path}"]
    outcomes = run(make_plan(*lines))
    assert not {o.stage: o.reason for o in outcomes.values() if o.status != "done"}
