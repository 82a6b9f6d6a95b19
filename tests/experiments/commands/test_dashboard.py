"""The dashboard's description, W&B's objects made of it without a network, the offline command, and what runs log."""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from experiments.commands import dashboard
from experiments.common.errors import RunError
from experiments.common.paths import ROOT
from experiments.evidence import assembly
from experiments.evidence.ran import Curve
from experiments.evidence.records import Entry, Registration
from experiments.pages import view, wandb_verdict, wandb_workspace
from experiments.running import engine, loggers
from experiments.running.plan import Plan
from tests import example
from tests.preloaded import server

REGISTERED = Registration(hash="0123456789ab", at="2026-01-01T00:00:00", commit="c0ffee00" * 5, stream=3)
HOSTILE = "<script>alert('x')</script> \"quoted\" | a_b\nnew line"


def entry(scale: str = "smoke", name: str = HOSTILE) -> Entry:
    """A results entry of two seeds, as `reproduce` records it."""
    curve = Curve(epoch=[0, 1], mean=[1.0, 0.5], low=[1.0, 0.5], high=[1.0, 0.5])
    said = {"better": "student/test/top1", "rule": "interval above 0", "refuted_by": "below 0"}
    claims = [
        example.claim(name, "supported", [1.5, 2.5], [1.0, 3.0], main=True, than="continued/test/top1", **said),
        example.claim(name, "not run", [], None, than=50.0, **said),
    ]
    published = example.published(
        value=80.0, ours=81.0, verdict="matched", dataset="ImageNet", protocol="224, one crop"
    )
    stages = {
        "student": ({"test/top1": [80.5, 81.5]}, ("val/nll", "train/loss")),
        "continued": ({"test/top1": [79.0, 79.0]}, ("train/loss", "train/hard")),
    }
    return example.entry(
        [0, 1],
        scale=scale,
        claims=claims,
        published=[published, published.model_copy(update={"stage": "absent", "ours": None})],
        stages={
            key: example.stage(2, metrics=metrics, curves=dict.fromkeys(logged, curve))
            for key, (metrics, logged) in stages.items()
        },
        registered=REGISTERED,
    )


@pytest.fixture
def wandb_plan(make_plan: Callable[..., Plan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plan:
    for name in ("WANDB_DIR", "WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    return make_plan("logger=wandb")


def panels(spec: dict[str, Any], section: str) -> list[dict[str, Any]]:
    (actual,) = [part["panels"] for part in spec["sections"] if part["name"] == section]
    return actual


def test_description_has_the_sections_and_what_is_in_them(wandb_plan: Plan) -> None:
    spec = wandb_workspace.describe(wandb_plan, view.of(entry()), ["what it saw"])
    names = ["Claims", "Published against ours", "Learning curves by stage", "Pictures", "Sweeps"]
    assert [part["name"] for part in spec["sections"]] == names
    assert (spec["project"], spec["entity"], spec["runs"]) == ("reprise", None, {"title": "meal_v2/smoke"})
    assert spec["most_runs"] == 10
    many = wandb_workspace.describe(wandb_plan, view.of(entry().model_copy(update={"seeds": list(range(32))})), [])
    assert many["most_runs"] == 2 * 32 + 1
    told, table, logged = panels(spec, "Claims")
    assert told["columns"] == ["finding", "scope"]
    ((finding, scope),) = told["rows"]
    assert finding == wandb_plan.config["finding"]["text"]
    assert scope.startswith("at ")
    assert [row[0] for row in table["rows"]] == ["supported", "not run"]
    assert logged == {"kind": "logged table", "key": "claims"}
    lines = [(panel["stage"], panel["metric"]) for panel in panels(spec, "Learning curves by stage")]
    student, continued = [("student", name) for name in ("train/loss", "val/nll")], ("continued", "train/loss")
    assert lines == [*student, continued, ("continued", "train/hard")]
    assert panels(spec, "Pictures") == [{"kind": "pictures", "names": ["pictures/what it saw"]}]
    parallel, *scatters = panels(spec, "Sweeps")
    assert {"stage.module.labels.hard", "stage.module.optimizer.lr"} <= set(parallel["keys"])
    assert parallel["metric"] == "test/top1"
    assert [panel["kind"] for panel in scatters] == ["scatter"] * 3


def test_a_paper_that_never_ran_has_all_panels_and_no_numbers(wandb_plan: Plan) -> None:
    spec = wandb_workspace.describe(wandb_plan, view.of(assembly.build([wandb_plan], 1, [], {})), [])
    _, table, _ = panels(spec, "Claims")
    assert {row[0] for row in table["rows"]} == {"not run"}
    trained = [name for name, stage in wandb_plan.stages.items() if stage.fit]
    lines = [(panel["stage"], panel["metric"]) for panel in panels(spec, "Learning curves by stage")]
    assert lines == [(name, metric) for name in trained for metric in ("train/loss", "val/top1")]
    assert panels(spec, "Pictures")[0]["kind"] == "text"


def test_without_a_trained_stage_there_are_no_curves(wandb_plan: Plan) -> None:
    untrained = {name: replace(stage, fit=False) for name, stage in wandb_plan.stages.items()}
    plan = replace(wandb_plan, stages=untrained)
    record = entry().model_copy(update={"stages": {"init": example.stage(2)}})
    said = [{"kind": "text", "text": "No stage is trained."}]
    assert panels(wandb_workspace.describe(plan, view.of(record), []), "Learning curves by stage") == said


def test_hostile_names_stay_whole_in_json_and_are_text_in_markdown(wandb_plan: Plan) -> None:
    spec = json.loads(json.dumps(wandb_workspace.describe(wandb_plan, view.of(entry()), [HOSTILE])))
    _, table, _ = panels(spec, "Claims")
    assert table["rows"][0][1] == HOSTILE
    assert panels(spec, "Pictures")[0]["names"] == [f"pictures/{HOSTILE}"]
    text = wandb_workspace.markdown(table["columns"], table["rows"])
    assert len(text.splitlines()) == 4
    assert "<script>" not in text
    assert "&lt;script&gt;alert('x')&lt;/script&gt; \"quoted\" \\| a\\_b new line" in text


def test_workspace_and_report_are_made_without_a_network(wandb_plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb_workspaces")

    def refuse(*arguments: object) -> None:
        raise AssertionError("something wanted the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    variant = Plan(**{**vars(wandb_plan), "variant": 'it\'s "hostile" <= 1'})
    spec = wandb_workspace.describe(variant, view.of(entry()), ["a picture"])
    board = json.loads(wandb_workspace.workspace(spec, "team")._to_model().model_dump_json(by_alias=True))
    sections = board["spec"]["section"]["panelBankConfig"]["sections"]
    kinds = {section["name"]: [panel["viewType"] for panel in section["panels"]] for section in sections}
    assert kinds["Claims"] == ["Markdown Panel", "Markdown Panel", "Weave"]
    assert kinds["Published against ours"] == ["Markdown Panel", "Markdown Panel", "Weave", "Bar Chart"]
    assert kinds["Pictures"] == ["Media Browser"]
    assert kinds["Sweeps"] == ["Parallel Coordinates Plot", *["Scatter Plot"] * 3]
    curves = [panel["config"] for panel in sections[2]["panels"]]
    assert [curve["metrics"] for curve in curves] == [["train/loss"], ["val/nll"], ["train/hard"]]
    # One chart for a metric, coloured by stage; `samples` draws every run of a group: a line for each seed.
    assert {(c["xAxis"], c["groupBy"], c["groupArea"], c["limit"]) for c in curves} == {
        ("epoch", "jobType", "samples", 10)
    }
    (condition,) = board["spec"]["section"]["runSets"][0]["filters"]["filters"]
    assert (condition["key"]["name"], condition["value"]) == ("title", loggers.label(variant))
    blocks = wandb_workspace.report(spec, "team")._to_model().spec.blocks
    shown = [block.type for block in blocks if block.type in ("heading", "markdown-block", "panel-grid")]
    assert shown.count("heading") == 5 + 2
    assert shown.count("panel-grid") == 4 + 2
    assert shown.count("markdown-block") == 4


def test_the_report_has_a_chart_for_each_stage_and_metric_with_a_line_for_each_seed(wandb_plan: Plan) -> None:
    pytest.importorskip("wandb_workspaces")
    spec = wandb_workspace.describe(wandb_plan, view.of(entry().model_copy(update={"seeds": list(range(16))})), [])
    blocks = wandb_workspace.report(spec, "team")._to_model().spec.blocks
    grids = [json.loads(block.model_dump_json(by_alias=True)) for block in blocks if block.type == "panel-grid"]
    charts = {}
    for grid in grids:
        (runs,) = grid["metadata"]["runSets"]
        conditions = {(f["key"]["section"], f["key"]["name"]): f["value"] for f in runs["filters"]["filters"]}
        assert conditions["config", "title"] == "meal_v2/smoke"
        stage = conditions.get(("run", "jobType"))
        panels_ = [p["config"] for p in grid["metadata"]["panelBankSectionConfig"]["panels"] if "Line" in p["viewType"]]
        if panels_:
            charts[stage] = [chart["metrics"] for chart in panels_]
            for chart in panels_:
                assert (chart["groupBy"], chart["aggregate"], chart["limit"]) == (None, None, 33)
                assert chart["legendTemplate"] == "seed ${config:seed}"
    assert charts == {"student": [["train/loss"], ["val/nll"]], "continued": [["train/loss"], ["train/hard"]]}


def test_publishing_updates_what_it_created_and_explains_refusals(
    wandb_plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    import wandb

    wr = pytest.importorskip("wandb_workspaces.reports.v2")
    ws = pytest.importorskip("wandb_workspaces.workspaces")
    saved: dict[str, Any] = {}

    def save_page(page: Any) -> None:
        page.id = page.id or f"report{len(saved)}=="
        saved[page.id] = page

    def save_view(view: Any) -> None:
        saved.setdefault("view", view)

    def load_page(address: str) -> Any:
        return saved[address.rpartition("--")[2] + "=="]

    spec = {**wandb_workspace.describe(wandb_plan, view.of(entry()), []), "entity": "team"}
    monkeypatch.setattr(wr.Report, "save", save_page)
    monkeypatch.setattr(wr.Report, "from_url", load_page)
    monkeypatch.setattr(ws.Workspace, "save", save_view)
    monkeypatch.setattr(ws.Workspace, "from_url", lambda address: saved["view"])
    monkeypatch.setattr(ws.Workspace, "url", "https://host/team/reprise?nw=1")
    first = wandb_workspace.publish(spec, {})
    assert first["report"] == "https://host/team/reprise/reports/meal_v2-smoke--report0"
    assert wandb_workspace.publish({**spec, "title": "A/B? #1"}, first) == first
    assert saved["report0=="].title == "meal_v2/smoke: A/B? #1"
    monkeypatch.setattr(wr.Report, "save", lambda page: (_ for _ in ()).throw(wandb.errors.CommError("no permission")))
    with pytest.raises(RunError, match="W&B: CommError: no permission"):
        wandb_workspace.publish(spec, first)


def test_a_login_sends_the_runs_then_publishes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from experiments.commands import cli

    run = tmp_path / "meal_v2/smoke/seed=0/init-0/wandb/offline-run-1-x"
    run.mkdir(parents=True)
    sent: list[list[str]] = []
    run_really, find_really = subprocess.run, importlib.util.find_spec
    installed: list[object] = [object()]

    def record(line: list[str], **options: Any) -> Any:
        if "wandb" not in line:
            return run_really(line, **options)
        sent.append(line)
        return subprocess.CompletedProcess(line, len(sent) - 1)

    def find(name: str, package: str | None = None) -> Any:
        return installed[0] if name == "wandb_workspaces" else find_really(name, package)

    monkeypatch.setattr(loggers, "logged_in", lambda: True)
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setattr(subprocess, "run", record)
    monkeypatch.setattr(importlib.util, "find_spec", find)
    monkeypatch.setattr(wandb_workspace, "publish", lambda spec, addresses: {"workspace": "https://there"})
    lines = ["paper=meal_v2", "scale=smoke", "logger.project=mine", "logger.entity=team", f"runs_dir={tmp_path}"]
    assert cli.main(dashboard.main, dashboard.HELP, lines) == 0
    assert sent[0][1:] == ["-m", "wandb", "sync", "--project", "mine", "--entity", "team", str(run)]
    written = json.loads((tmp_path / "meal_v2/smoke/dashboard.json").read_text(encoding="utf-8"))
    assert written["addresses"] == {"workspace": "https://there"}
    assert cli.main(dashboard.main, dashboard.HELP, lines) == 1
    assert "`wandb sync` ended with code 1" in capsys.readouterr().err
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert cli.main(dashboard.main, dashboard.HELP, lines) == 0
    assert "W&B is switched off here" in capsys.readouterr().out
    monkeypatch.setenv("WANDB_MODE", "online")
    installed[0] = None
    assert cli.main(dashboard.main, dashboard.HELP, lines) == 2
    assert "wandb-workspaces is not installed" in capsys.readouterr().err
    assert len(sent) == 2


def test_verdict_tables_have_a_column_per_seed() -> None:
    claims, published = (wandb_verdict.verdict_tables(view.of(entry("full")))[name] for name in ("claims", "published"))
    first = dict(zip(claims[0], claims[1][0], strict=True))
    assert (first["low"], first["seed 0"], first["seed 1"]) == (1.0, 1.5, 2.5)
    assert dict(zip(claims[0], claims[1][1], strict=True))["seed 1"] is None
    rows = [dict(zip(published[0], row, strict=True)) for row in published[1]]
    assert [(row["seed 0"], row["seed 1"]) for row in rows] == [(0.5, 1.5), (None, None)]
    assert rows[0]["verdict"] == "matched"
    columns, (row, _) = wandb_verdict.verdict_tables(view.of(entry("mini")))["published"]
    below = dict(zip(columns, row, strict=True))
    assert (below["verdict"], below["seed 0"]) == ("not judged", None)


def test_verdict_scalars_hold_what_is_known_for_every_claim() -> None:
    scalars = wandb_verdict.verdict_scalars(view.of(entry()))
    assert scalars == {
        "main/verdict": "supported",
        "main/difference": 2.0,
        "main/low": 1.0,
        "main/high": 3.0,
        "main/seeds": 2,
        "claim/1/verdict": "supported",
        "claim/1/difference": 2.0,
        "claim/1/low": 1.0,
        "claim/1/high": 3.0,
        "claim/2/verdict": "not run",
    }
    record = entry()
    main = record.claims[0]
    main.verdict, main.needed, main.interval, main.difference = "undecided", 12, None, float("inf")
    scalars = wandb_verdict.verdict_scalars(view.of(record))
    assert scalars["main/needed"] == 12
    assert not {"main/difference", "main/low", "main/high"} & scalars.keys()
    main.main = False
    assert not [key for key in wandb_verdict.verdict_scalars(view.of(record)) if key.startswith("main/")]


def command(*lines: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """The dashboard command as a user without credentials gives it."""
    surroundings = {key: value for key, value in os.environ.items() if key != "WANDB_API_KEY"}
    hidden = {name: str(folder / name.lower()) for name in ("NETRC", "WANDB_CONFIG_DIR", "WANDB_CACHE_DIR")}
    return server().run(["experiments.commands.dashboard", *lines], ROOT, {**surroundings, **hidden, **environment})


def test_without_a_login_the_command_writes_what_it_would_create(tmp_path: Path) -> None:
    (tmp_path / "meal_v2/smoke/seed=0/init-0/wandb/offline-run-1-x").mkdir(parents=True)
    (tmp_path / "meal_v2/smoke/verdict/wandb/offline-run-2-y").mkdir(parents=True)
    written = tmp_path / "meal_v2/smoke/dashboard.json"
    written.write_text(json.dumps({"addresses": {"report": "https://kept"}}), encoding="utf-8")
    done = command("paper=meal_v2", "scale=smoke", f"runs_dir={tmp_path}", folder=tmp_path, WANDB_MODE="offline")
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert said[0].startswith("not logged in to W&B")
    assert said[1] == f"nothing was sent; what it would create: {written}"
    assert said[2] == f"offline runs: 2 in {written.parent}"
    assert said[4].startswith("local report: site/meal_v2.html")
    spec = json.loads(written.read_text(encoding="utf-8"))
    assert len(spec["sections"]) == 5
    assert spec["addresses"] == {"report": "https://kept"}


def test_wrong_input_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from experiments.commands import cli

    for line in ("paper=meal_v3", "logger=csv", "seeds=[]"):
        assert cli.main(dashboard.main, dashboard.HELP, [line, f"runs_dir={tmp_path}"]) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1


def test_help_imports_neither_torch_nor_wandb() -> None:
    code = (
        "import sys; from experiments.commands import cli, dashboard;"
        "cli.main(dashboard.main, dashboard.HELP, ['--help']);"
        "sys.exit(any(name in sys.modules for name in ('torch', 'wandb', 'wandb_workspaces')))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "logger.entity" in done.stdout


def records(folder: Path) -> list[dict[str, Any]]:
    """An offline run read back with W&B's own reader."""
    reader = Path(sys.executable).with_name("wandb")
    line = [reader, "leet", "inspect", "--json", folder]
    return [json.loads(x) for x in subprocess.run(line, capture_output=True, text=True, check=True).stdout.splitlines()]


def summary(folder: Path) -> dict[str, Any]:
    """The summary of an offline run, read back with W&B's own reader."""
    reader = Path(sys.executable).with_name("wandb")
    line = [reader, "leet", "inspect", "--summary", "--json", folder]
    return dict(json.loads(subprocess.run(line, capture_output=True, text=True, check=True).stdout)["summary"])


def logged(shown: list[dict[str, Any]]) -> dict[str, Any]:
    return {key: value for r in shown if r["type"] == "history" for key, value in r["history"]["item"].items()}


@pytest.mark.slow
def test_pictures_and_verdict_reach_offline_runs(wandb_plan: Plan, tmp_path: Path) -> None:
    names = ("init", "teacher_a", "teacher_b", "student")
    plan = Plan(**{**vars(wandb_plan), "stages": {name: wandb_plan.stages[name] for name in names}})
    outcomes = engine.run(plan)
    assert all(outcome.status == "done" for outcome in outcomes.values()), outcomes
    stage = plan.stages["student"]
    (trained,) = stage.directory.glob("wandb/offline-run-*")
    shown = records(trained)
    (run,) = [r["run"] for r in shown if r["type"] == "run"]
    assert (run["config"]["update"]["title"], run["job_type"]) == ("meal_v2/smoke", "student")
    assert {"train/loss", "epoch"} <= logged(shown).keys()

    logger = loggers.open_logger(plan, stage)
    loggers.log_pictures(logger, stage, outcomes["student"].metrics)
    loggers.close_logger(logger)
    (added,) = set(stage.directory.glob("wandb/offline-run-*")) - {trained}
    assert list((added / "files/media/images/pictures").glob("*.png"))
    (table,) = (added / "files/media/table").glob("metrics_*.json")
    rows = json.loads(table.read_text(encoding="utf-8"))["data"]
    assert [row[:3] for row in rows if row[2] == "test/top1"] == [["student", 0, "test/top1"]]

    actual = assembly.build([plan], 1, ["logger=wandb"], {}, REGISTERED)
    wandb_verdict.log_verdict(plan, view.of(actual))
    wandb_verdict.log_verdict(plan, view.of(actual))  # the second takes the first one's place
    (verdict,) = (tmp_path / "meal_v2/smoke/verdict/wandb").glob("offline-run-*")
    shown = records(verdict)
    (run,) = [r["run"] for r in shown if r["type"] == "run"]
    trained_by = actual.provenance.code.model_dump()
    assert (run["job_type"], run["run_group"]) == ("verdict", loggers.group_name(plan, trained_by))
    config = run["config"]["update"]
    assert (config["registration"], config["stream"]) == ("0123456789ab", 3)
    assert (config["scale"], config["variant"], config["code"]) == ("smoke", None, trained_by)
    whole = {str(number): claim.name for number, claim in enumerate(actual.claims, 1)}
    assert {number: name for number, name in config["claims"].items() if "." not in number} == whole
    assert config["claims"]["1.2"].endswith("against soft labels of one teacher")
    scalars = wandb_verdict.verdict_scalars(view.of(actual))
    assert "main/verdict" in scalars
    assert scalars.items() <= summary(verdict).items()
    assert {"claims", "published"} <= {
        key.partition(".")[0] for key in logged(shown)
    }  # a table is an item of several keys
    (table,) = (verdict / "files/media/table").glob("claims_*.json")
    claims = json.loads(table.read_text(encoding="utf-8"))
    assert [row[0] for row in claims["data"]] == list(config["claims"].values())  # rivals have rows of their own
    assert "seed 0" in claims["columns"]
    assert dashboard.offline_runs(tmp_path / "meal_v2/smoke")[-1] == verdict


def test_a_verdict_that_wandb_refuses_is_a_warning(
    wandb_plan: Plan, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import wandb

    def refuse(**arguments: object) -> None:
        raise wandb.errors.CommError("no route")

    monkeypatch.setattr(wandb, "init", refuse)
    wandb_verdict.log_verdict(wandb_plan, view.of(entry()))
    assert "W&B did not take it: no route" in capsys.readouterr().out


def test_other_loggers_get_neither_pictures_nor_verdict(make_plan: Callable[..., Plan], tmp_path: Path) -> None:
    plan = make_plan()
    loggers.log_pictures(None, plan.stages["init"], {"test/top1": 1.0})
    wandb_verdict.log_verdict(plan, view.of(entry()))
    assert not list(tmp_path.rglob("*wandb*"))
