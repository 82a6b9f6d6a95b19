"""The user's own entry points: exit codes, sweeps, listings, isolation of failures."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from experiments.commands import catalog, check_results, cli, reproduce
from experiments.common import files
from experiments.common.errors import InputError
from experiments.common.paths import ROOT
from experiments.config import compose
from experiments.config.comparisons import Claim
from experiments.evidence import assembly, layout, registration, results
from experiments.evidence.records import Entry
from experiments.running.plan import Plan
from tests import example
from tests.command import command


@pytest.fixture
def _no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stages draw nothing: that takes as long as their training."""
    monkeypatch.setattr("experiments.running.training._draw", lambda *_: None)


@pytest.mark.usefixtures("_no_pictures")
@pytest.mark.parametrize(
    ("arguments", "code", "line"),
    [
        (["paper=meal"], 2, "error: paper 'meal' does not exist; did you mean 'meal_v2'?"),
        (
            ["stages.student.module.discriminator.input=logit", "stages.*.trainer.max_epochs=1"],
            2,
            "stages.student.module: input='logit': expected one of",
        ),
        (["data@stages.student.data=mnist", "data_dir=/no/such"], 2, "data_dir /no/such does not exist"),
        (["stages.init.module.optimizer.lr=1e9"], 1, "its learning rate is 1e+09"),
    ],
)
def test_exit_codes(
    arguments: list[str], code: int, line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the command's process ends with; test_a_failing_run_ends_with_its_code starts one."""
    lines = ["scale=smoke", "jobs=1", "seeds=[0]", f"runs_dir={tmp_path}", *arguments]
    assert cli.main(reproduce.main, reproduce.HELP, lines) == code
    shown = capsys.readouterr()
    assert line in shown.out + shown.err
    assert "Traceback" not in shown.out + shown.err
    if code == 1:
        assert "not run" in shown.out


@pytest.mark.usefixtures("_no_pictures", "_checkpoints_read_once")
def test_a_failing_seed_leaves_the_others_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seed 1 fails in one stage: seed 0 is whole, and no verdict is computed from half the seeds."""
    from experiments.running import training

    real = training.train

    def failing(plan: Plan, stage: Any, report: Any) -> dict[str, Any]:
        if stage.name == "no_prompts" and stage.seed == 1:
            raise RuntimeError("cosmic ray")
        return real(plan, stage, report)

    monkeypatch.setattr(training, "train", failing)
    assert reproduce.main(["paper=transhp", "scale=smoke", "jobs=1", "seeds=[0,1]", f"runs_dir={tmp_path}"]) == 1
    summary = json.loads((tmp_path / "transhp" / "smoke" / "summary.json").read_text())
    main, *others = summary["claims"]
    assert (main["main"], main["verdict"]) == (True, "not run")
    assert [claim["verdict"] == "not run" for claim in others] == [True, False, False]  # the first one compares it too
    assert summary["stages"]["no_prompts"] == {}
    assert len(summary["stages"]["transhp"]["test/top1"]) == 2
    assert len(list((tmp_path / "transhp" / "smoke" / "seed=0").glob("*/manifest.json"))) == 6


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_a_claim_about_a_metric_that_is_not_reported_ends_with_the_first_stage(
    jobs: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once before, while it trains, and once more from what is finished."""
    forks = multiprocessing.get_context("fork")  # workers that need not import anything
    monkeypatch.setattr("experiments.running.pool.multiprocessing", SimpleNamespace(get_context=lambda _: forks))
    ask = "claims=[{name:x,better:untrained/test/tpo1,than:0,worth:1,main:true}]"
    lines = ["scale=smoke", "seeds=[0]", f"jobs={jobs}", ask, "checks=[]", "published=[]", f"runs_dir={tmp_path}"]
    for _ in range(2):
        with pytest.raises(
            InputError, match="claim 'x': untrained: metric 'test/tpo1' does not exist; did you mean 'te"
        ):
            reproduce.main(lines)
    assert len(list(tmp_path.rglob("manifest.json"))) < 12


@pytest.mark.slow
def test_workers_end_with_the_process_that_started_them(tmp_path: Path) -> None:
    lines = ["scale=smoke", "jobs=2", "seeds=[0,1]", "stages.*.trainer.max_epochs=2000", f"runs_dir={tmp_path}"]
    arguments = [sys.executable, "-m", "experiments.reproduce", *lines]
    process = subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and len(list(tmp_path.rglob("config.yaml"))) < 2:
        time.sleep(0.05)
    process.kill()
    process.wait()
    while time.monotonic() < deadline:
        try:
            os.killpg(process.pid, 0)  # raises once no process of the group is left
        except ProcessLookupError:
            return
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGKILL)
    pytest.fail("processes were left behind")


@pytest.mark.parametrize(
    ("number", "code", "line"),
    [(errno.ENOSPC, 1, "the disk is full"), (errno.EROFS, 2, "cannot write to")],
)
def test_a_disk_that_takes_nothing_ends_in_one_line(
    number: int,
    code: int,
    line: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(number, os.strerror(number), "somewhere")

    monkeypatch.setattr(os, "replace", refuse)
    arguments = ["scale=smoke", "jobs=1", "seeds=[0]", f"runs_dir={tmp_path}"]
    assert cli.main(reproduce.main, reproduce.HELP, arguments) == code
    shown = capsys.readouterr()
    assert shown.err.splitlines()[-1].startswith(f"error: {line}")
    assert "not run" in shown.out
    assert not [f for f in tmp_path.rglob("*") if f.is_file() and not f.name.endswith(".lock")]


def test_a_bug_ends_in_one_line_that_leads_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(arguments: list[str]) -> int:
        return len(arguments) // len(arguments)

    monkeypatch.setattr(cli, "home", lambda: tmp_path)
    assert cli.main(broken, "", []) == 1
    told = capsys.readouterr().err
    assert len(told.splitlines()) == 1
    assert "ZeroDivisionError" in told
    assert "at tests/experiments/commands/test_commands.py:" in told
    assert "in broken; whole trace: " in told
    assert "in broken" in (tmp_path / "runs" / "failure.txt").read_text()


@pytest.mark.slow
def test_a_sweep_over_the_student_trains_each_teacher_once_per_seed(tmp_path: Path) -> None:
    lines = ["seed=0,1", "stages.student.module.labels.hard=0,1", f"runs_dir={tmp_path}"]
    done = command("run", "-m", "paper=meal_v2", "scale=smoke", *lines)
    assert done.returncode == 0, done.stderr
    runs = tmp_path / "meal_v2" / "smoke"
    for seed in (0, 1):
        folders = [folder.name.rsplit("-", 1)[0] for folder in (runs / f"seed={seed}").glob("*-*/")]
        assert folders.count("student") == 2
        assert folders.count("teacher_a") == folders.count("teacher_b") == folders.count("init") == 1
        weights = {
            yaml.safe_load((folder / "config.yaml").read_text())["module"]["labels"]["hard"]
            for folder in (runs / f"seed={seed}").glob("student-*/")
        }
        assert weights == {0, 1}


def test_a_failing_run_ends_with_its_code(tmp_path: Path) -> None:
    done = command("run", "scale=smoke", f"runs_dir={tmp_path}", "stages.teacher_a.module.network.widths=[4]")
    assert done.returncode == 2, done.stdout + done.stderr
    assert "widths has 1 entries and strides 3; expected as many" in done.stdout
    assert "Traceback" not in done.stderr


@pytest.mark.usefixtures("_no_pictures")
def test_catalog_marks_what_is_stale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(results, "RESULTS", tmp_path / "results")
    lines = ["paper=case_based_prototypes", "scale=smoke", "jobs=1", "seeds=[0,1]", f"runs_dir={tmp_path}"]
    assert reproduce.main(lines) == 0
    request = compose.request(lines)
    from experiments.running.plan import plan

    plans = [plan(compose.compose(request.overrides), seed) for seed in (0, 1)]
    entry = assembly.build(plans, 2, request.given, {})
    again = assembly.build(plans, 2, request.given, {})
    again.registered.at = entry.registered.at  # the two moments may lie in two seconds
    again.provenance.written = entry.provenance.written
    assert again == entry  # reading the records again changes nothing
    assert entry.overrides == ["seeds=[0,1]"]  # neither how many processes nor where files are
    declared = compose.resolve(compose.compose(request.overrides), 0)
    entry.registered = example.registered(registration.digest(declared))

    def stale() -> list[str]:
        results.update("case_based_prototypes", "smoke", lambda _: entry)
        actual: list[str] = catalog.describe("case_based_prototypes")["entries"]["smoke"]["stale"]
        return actual

    assert stale() == []
    entry.registered.hash = "another"
    assert stale() == ["claims"]
    entry.stages["prototypes"].fingerprints[1] = "000000000000"  # of the second seed
    assert stale() == ["prototypes"]
    capsys.readouterr()
    assert catalog.main(["case_based_prototypes"]) == 0
    assert "smoke" in (told := capsys.readouterr().out)
    assert "stale" in told
    with pytest.raises(InputError, match="--jsn"):
        catalog.main(["--jsn"])


def test_a_named_paper_is_listed_with_its_claims_stages_and_variants(capsys: pytest.CaptureFixture[str]) -> None:
    assert catalog.main(["paper=meal_v2", "zpe"]) == 0
    listed = " ".join(capsys.readouterr().out.split())
    described = catalog.describe("meal_v2")
    for told in (described["title"], *described["stages"], "clean (mini): the same digits", "2 papers"):
        assert told in listed
    assert f"covered {described['covered']}: tables, figures and claims of the paper" in listed
    assert all(row["what"] in listed for row in described["covers"])
    with pytest.raises(InputError, match="did you mean 'rotnet'"):
        catalog.main(["rotnets"])
    with pytest.raises(InputError, match="expected no key"):
        catalog.main(["--readme", "zpe"])


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


def test_every_record_is_re_derived_and_listed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every committed interval, verdict and table follows from the committed per-seed values, those of README.md and
    docs/ too.

    What records say of their papers is what the papers' files say; of their claims, where each setting is composed
    anyway (tests/papers/test_every_paper.py); of sizes of networks, in test_counts.py.
    """
    monkeypatch.setattr(check_results, "_declared", lambda *_: iter(()))
    monkeypatch.setattr(check_results, "counted", lambda *_: iter(()))
    assert check_results.main([]) == 0, capsys.readouterr().out
    capsys.readouterr()
    assert catalog.main(["--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [paper["key"] for paper in listed] == compose.papers()
    assert catalog.main([]) == 0
    assert "case_based_prototypes" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("stands", "count"),
    [
        (["head", "b", "c", "d"], 1),  # one is missing, whatever follows it
        (["head", "a", "x", "b", "c", "d"], 1),
        (["head", "a", "b", "C", "d"], 1),
        (["head", "a", "b", "C", "D", "d"], 2),
        (["head", "a", "b", "c", "d"], 0),
    ],
)
def test_a_line_of_the_readme_is_one_difference(stands: list[str], count: int) -> None:
    assert len(list(check_results.line_differences(stands, ["head", "a", "b", "c", "d"]))) == count


EDITS: dict[str, Callable[[Entry], object]] = {
    "a value": lambda e: e.stages["student"].metrics["test/top1"].__setitem__(3, 99.0),
    "a verdict": lambda e: setattr(e.claims[0], "verdict", "refuted"),
    "an interval": lambda e: setattr(e.claims[0], "interval", [1.5, 4.0]),
    "a difference": lambda e: setattr(e.claims[0], "difference", 3.5),
    "the seeds": lambda e: e.seeds.__setitem__(1, 7777),
    "the commit": lambda e: setattr(e.provenance.code, "commit", "0" * 40),
    "a fingerprint of the second seed": lambda e: e.stages["student"].fingerprints.__setitem__(1, "0" * 12),
    "a published number": lambda e: setattr(e.published[0], "value", 70.0),
    "a margin": lambda e: setattr(e.claims[0], "margin", -5.0),
    "the history": lambda e: e.history.clear(),
    "a seed left out": lambda e: e.seeds.pop(),
    "a registration": lambda e: setattr(e.registered, "stream", e.registered.stream + 1),
}


Claims = list[Claim]
FORGERIES: dict[str, Callable[[Claims], Claims]] = {
    "a margin lowered": lambda claims: [replace(claims[0], margin=-5.0), *claims[1:]],
    "a worth lowered": lambda claims: [replace(claims[0], worth=0.1), *claims[1:]],
    "sides turned": lambda claims: [replace(claims[0], lower_is_better=True), *claims[1:]],
    "another baseline": lambda claims: [replace(claims[0], than="untrained/test/top1"), *claims[1:]],
    "another kind": lambda claims: [replace(claims[0], kind="exact"), *claims[1:]],
    "another text": lambda claims: [replace(claims[0], name="MEAL V2 is better"), *claims[1:]],
    "another main claim": lambda claims: [replace(claims[0], main=False), replace(claims[1], main=True), claims[2]],
    "a precondition dropped": lambda claims: [*claims[:2], replace(claims[2], requires=())],
    "a claim dropped": lambda claims: claims[:2],
    "a published difference moved": lambda claims: [replace(claims[0], published=None), *claims[1:]],
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_forgery_that_is_judged_and_sealed_anew_is_named(forgery: str) -> None:
    """Every number follows from the others; the paper's file says something else."""
    record = results.read("meal_v2")
    assert record is not None
    entry = record.entries["mini"]
    asked = assembly.asked(entry)
    forged = assembly.judge(entry, replace(asked, claims=FORGERIES[forgery](list(asked.claims))))
    record.entries["mini"] = forged.model_copy(update={"seal": results.seal(forged)})
    wrong = list(check_results.check(record))
    assert any(line.startswith("meal_v2: mini: claims: ") for line in wrong), wrong
    assert any("its claims are not those of mini-" in line for line in wrong), wrong


@pytest.mark.parametrize("edit", EDITS)
def test_an_edited_digit_is_named(edit: str) -> None:
    record = results.read("meal_v2")
    assert record is not None
    assert not list(check_results.check(record))
    EDITS[edit](record.entries["mini"])
    wrong = list(check_results.check(record))
    assert wrong
    assert all(line.startswith("meal_v2: mini") for line in wrong)


def test_what_a_record_says_of_its_paper_is_checked_and_brought_up_to_date(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = results.read("meal_v2")
    assert record is not None
    shutil.copytree(results.RESULTS / "registrations", tmp_path / "registrations")
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    results.tell_again("meal_v2")
    assert results.read("meal_v2") is None  # where there is no record, none is made
    old = record.model_copy(update={"deviations": record.deviations[1:]})
    files.write_text(tmp_path / "meal_v2.json", layout.text(old))
    assert list(check_results.check(old)) == [
        "meal_v2: deviations: not what conf/paper/meal_v2.yaml says; make readme writes it"
    ]
    results.tell_again("meal_v2")
    assert results.read("meal_v2") == record
