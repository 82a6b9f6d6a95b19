"""What was trained or recorded, for use elsewhere: weights that load to the same answers, cards, tables."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import timm
import torch
import yaml
from torch import nn

from experiments.commands import export
from experiments.common.errors import InputError
from experiments.config import compose
from experiments.evidence import results, staleness
from experiments.running import engine, training
from experiments.running.plan import Plan, only, plan


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def trained(runs: Path) -> Plan:
    """A stage and the one it starts from, done."""
    config = compose.compose(compose.request(["scale=smoke", "trainer=cpu", f"runs_dir={runs}"]).overrides)
    this = only(plan(config, 3), ["continued"])
    assert {outcome.status for outcome in engine.run(this).values()} == {"done"}
    return this


def test_exported_weights_give_the_same_answers_without_the_run(trained: Plan, runs: Path, tmp_path: Path) -> None:
    folder = tmp_path / "exported"
    lines = ["scale=smoke", "trainer=cpu", f"runs_dir={runs}", "stage=continued", f"to={folder}"]
    assert export.main(lines) == 0

    loaded, original = export.load(folder).eval(), training.load(trained, "continued").eval()
    theirs = original.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in loaded.state_dict().items())
    text = (folder / "stages.json").read_text()
    assert str(runs) not in text
    assert json.loads(text)["seed"] == 3  # the lowest that has finished it


def test_a_card_says_what_it_is_and_how_good(trained: Plan, runs: Path, tmp_path: Path) -> None:
    folder = tmp_path / "exported"
    export.main(["scale=smoke", "trainer=cpu", f"runs_dir={runs}", "stage=continued", "seed=3", f"to={folder}"])
    _, head, body = (folder / "README.md").read_text().split("---\n", 2)
    (indexed,) = yaml.safe_load(head)["model-index"][0]["results"]
    metrics = {item["name"]: item["value"] for item in indexed["metrics"]}
    recorded = json.loads((trained.stages["continued"].directory / "metrics.json").read_text())
    assert metrics == {name: value for name, value in recorded.items() if name.startswith("test/")}
    assert indexed["task"]["type"] == "image-classification"
    assert trained.stages["continued"].fingerprint in body
    assert f'load("{folder}")' in body


def test_a_network_of_timm_is_there_in_timms_format(tmp_path: Path) -> None:
    module = nn.Module()
    module.network = timm.create_model("test_vit", num_classes=3)
    folder = export._as_timm(module, tmp_path / "timm")  # type: ignore[arg-type]
    again = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    x = torch.randn(1, 3, *module.network.pretrained_cfg["input_size"][1:])
    assert torch.equal(again(x), module.network.eval()(x))
    assert export._as_timm(nn.Module(), tmp_path / "none") is None  # type: ignore[arg-type]


def test_nothing_is_fetched_where_weights_are_given() -> None:
    config = {"network": {"pretrained": True, "file": "x"}, "parts": [{"pretrained": "a.pt"}]}
    expected = {"network": {"pretrained": False, "file": "x"}, "parts": [{"pretrained": "a.pt"}]}
    assert export._without_downloads(config) == expected


def test_a_record_as_tables(tmp_path: Path) -> None:
    assert export.main(["paper=meal_v2", f"to={tmp_path / 'tables'}"]) == 0
    with (tmp_path / "tables" / "claims.csv").open() as file:
        rows = list(csv.DictReader(file))
    record = results.read("meal_v2")
    assert record is not None
    main = record.entries["mini"].main_claim()
    assert main is not None
    seen = [float(r["difference"]) for r in rows if r["entry"] == "mini" and r["claim"] == main.name]
    assert seen == main.per_seed
    with (tmp_path / "tables" / "metrics.csv").open() as file:
        stages = {row["stage"] for row in csv.DictReader(file) if row["entry"] == "mini"}
    assert stages == set(record.entries["mini"].stages)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("stage=studnt", "did you mean 'student'"),
        ("seed=3", "name a stage too"),
        ("stage=continued seed=x", "expected a whole number"),
        ("stage=continued seed=77", "make reproduce PAPER=meal_v2 first"),
        ("stage=continued to=/tmp", "it is there already"),
    ],
)
def test_what_cannot_be_exported_is_told_in_one_line(line: str, told: str, trained: Plan, runs: Path) -> None:
    with pytest.raises(InputError, match=told):
        export.main(["scale=smoke", "trainer=cpu", f"runs_dir={runs}", *line.split()])


def test_a_folder_that_is_none_of_ours_is_named(tmp_path: Path, trained: Plan, runs: Path) -> None:
    with pytest.raises(InputError, match=r"stages\.json: missing or damaged"):
        export.load(tmp_path)
    folder = tmp_path / "exported"
    export.main(["scale=smoke", "trainer=cpu", f"runs_dir={runs}", "stage=continued", f"to={folder}"])
    (folder / "init.safetensors").write_bytes(b"no weights")
    with pytest.raises(InputError, match=r"init\.safetensors"):
        export.load(folder)


def test_a_registered_seed_comes_before_pilots() -> None:
    assert export.registered_first([1001, 2, 281827968, 1000, 1]) == [1000, 1001, 281827968, 1, 2]


def test_a_record_as_latex_and_every_main_claim_in_one_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staleness, "of_main", lambda *_: ["student"])  # of all papers, its look at all code takes long
    assert export.main(["paper=meal_v2", "format=latex", f"to={tmp_path / 'tables'}"]) == 0
    claims = (tmp_path / "tables/claims.tex").read_text(encoding="utf-8")
    record = results.read("meal_v2")
    assert record is not None
    rivals = sum(1 + len(c.against) + len(c.parts) for entry in record.entries.values() for c in entry.claims)
    assert claims.count(r" \\") >= rivals + 1
    assert "\\begin{tabular}" in (tmp_path / "tables/metrics.tex").read_text(encoding="utf-8")

    assert export.main(["paper=all", "format=csv", f"to={tmp_path / 'all'}"]) == 0
    rows = list(csv.DictReader((tmp_path / "all/main_claims.csv").open(encoding="utf-8")))
    assert {row["stale"] for row in rows} == {"True"}
    assert len({row["key"] for row in rows}) == len(list(results.RESULTS.glob("*.json")))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["paper=meal_v2", "format=latx"], "format 'latx' does not exist; did you mean 'latex'"),
        (["paper=meal_v2", "stage=student", "format=latex"], "format=latex: is of tables"),
        (["paper=all", "stage=student"], "stage=student: is of one paper's weights"),
    ],
)
def test_a_format_that_makes_no_sense_is_told(words: list[str], told: str) -> None:
    with pytest.raises(InputError, match=told):
        export.main(words)
