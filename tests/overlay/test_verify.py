"""Taking in what others found: a sound overlay is told, what was altered is named, and no code of it runs."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from experiments.commands import run_anew, verify
from experiments.common.errors import InputError
from experiments.common.memory import nothing_remembered
from experiments.common.overlay import make_current
from experiments.common.paths import ROOT
from experiments.config import claims, compose, overlay
from experiments.evidence import assembly, merge, overlays, registration, registrations, results, staleness
from experiments.evidence.order import History
from experiments.evidence.records import Entry
from experiments.identity import content
from experiments.identity.provenance import code_version, commits
from experiments.pages import report
from experiments.running.plan import plan
from tests import example
from tests.overlay.conftest import git, make_overlay

SEEDS = 6
CODE = "import pathlib\npathlib.Path({!r}).write_text('ran')\n"


def measured(index: int) -> dict[str, float]:
    """Of the toy's arms and their maker, per seed."""
    return {"maker": 50.0 + index, "arm_1": 49.0 + 1.5 * index, "arm_2": 52.0 + 0.5 * index}


def register(folder: Path) -> registrations.Filed:
    """A registration's file of the toy's mini, committed alone."""
    with overlay.opened(str(folder)):
        config = compose.compose(compose.request(["paper=toy"]).overrides)
        filed = registrations.describe("mini", compose.resolve(config, 0), plan(config, 0))
        about = {"at": "2026-01-01T00:00:00+00:00", "why": "the first registration", "tried": [], "commits": commits()}
        filed = registrations.Filed(filed.paper, filed.setting, filed.hash, filed.bound, filed.code, about)
        registrations.write(filed)
    git(folder, "add", "results")
    git(folder, "commit", "--quiet", "-m", "Register toy, mini")
    return filed


def record(folder: Path, filed: registrations.Filed) -> None:
    """What six seeds of that registration found, judged and committed."""
    with overlay.opened(str(folder)):
        config = compose.compose(compose.request(["paper=toy"]).overrides)
        resolved = compose.resolve(config, 0)
        registered = registrations.as_recorded(filed, registration.digest(resolved))
        seeds = [registration.seed(registered, index) for index in range(SEEDS)]
        plans = [plan(config, seed) for seed in seeds]
        stages = {}
        for name in plans[0].stages:
            values = [measured(index).get(name, 0.0) for index in range(SEEDS)]
            stages[name] = example.stage(
                SEEDS,
                fingerprints=[each.stages[name].fingerprint for each in plans],
                metrics={"test/top1": values},
                precision=plans[0].stages[name].trainer["precision"],
                under=[filed.hash],
            )
        provenance = example.provenance()
        provenance.code.commit = code_version()["commit"]
        entry = example.entry(seeds, stages=stages, registered=registered, provenance=provenance)
        results.update("toy", "mini", lambda _: assembly.judge(entry, claims.read(resolved), {}))
    git(folder, "add", "results")
    git(folder, "commit", "--quiet", "-m", "Toy: six seeds")


@pytest.fixture(scope="module")
def by_the_rules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An overlay that was registered and recorded by the rules, which nobody changes."""
    folder = make_overlay(tmp_path_factory.mktemp("recorded") / "mine")
    record(folder, register(folder))
    return folder


@pytest.fixture
def theirs(by_the_rules: Path, tmp_path: Path) -> Iterator[Path]:
    """A copy of it, history and all; whatever a test opened is closed after it."""
    yield shutil.copytree(by_the_rules, tmp_path / "mine")
    make_current(None)


def run(folder: Path, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    code = verify.main([f"folder={folder}", *words])
    return code, " ".join(capsys.readouterr().out.split())


def test_a_sound_overlay_is_told_and_none_of_its_code_runs(theirs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.read_bytes() for path in theirs.rglob("*") if path.is_file() and ".git/" not in str(path)}
    code, out = run(theirs, capsys)
    assert code == 0, out
    assert "toy/mini: undecided" in out
    assert "6 seeds" in out
    assert "0 differences" in out
    assert "none of its code ran" in out
    assert not [name for name in sys.modules if name.startswith("mine")]
    after = {path: path.read_bytes() for path in theirs.rglob("*") if path.is_file() and ".git/" not in str(path)}
    assert after == before


def test_code_that_would_run_on_import_does_not(
    theirs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mark = tmp_path / "mark"
    path = theirs / "modules" / "toy.py"
    path.write_text(path.read_text(encoding="utf-8") + CODE.format(str(mark)), encoding="utf-8")
    git(theirs, "commit", "--quiet", "-am", "More")
    _, out = run(theirs, capsys)
    assert not mark.exists()
    assert "changed since: " in out  # the code is no longer what was recorded


def edit(folder: Path, change: Callable[[dict[str, object]], None], message: str | None = "Toy: a look") -> None:
    """Alter the recorded setting, sealed anew as a forger would, and commit it."""
    path = folder / "results" / "toy.json"
    with overlay.opened(str(folder)):
        entry = results.entries("toy")["mini"]
        plain = entry.model_dump()
        change(plain)
        forged = Entry.model_validate(plain)
        forged.seal = results.seal(forged)
        whole = results.read("toy")
        assert whole is not None
        whole.entries["mini"] = forged
        from experiments.evidence import layout

        path.write_text(layout.text(whole), encoding="utf-8")
    if message is not None:
        git(folder, "commit", "--quiet", "-am", message)


def test_an_altered_number_is_named_by_the_history(theirs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def change(entry: dict[str, object]) -> None:
        entry["stages"]["arm_1"]["metrics"]["test/top1"][0] += 5.0  # type: ignore[index]

    edit(theirs, change)
    code, out = run(theirs, capsys)
    assert code == 1
    assert "arm_1/test/top1 of seed" in out
    assert "was 49.0, and is 54.0" in out


def test_an_altered_verdict_is_derived_anew(theirs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def change(entry: dict[str, object]) -> None:
        entry["claims"][0]["verdict"] = "supported"  # type: ignore[index]

    edit(theirs, change)
    code, out = run(theirs, capsys)
    assert code == 1
    assert "recorded 'supported', derived 'undecided'" in out


def test_an_edit_without_a_new_seal_is_named(theirs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = theirs / "results" / "toy.json"
    path.write_text(path.read_text(encoding="utf-8").replace('"undecided"', '"supported"'), encoding="utf-8")
    git(theirs, "commit", "--quiet", "-am", "Toy")
    code, out = run(theirs, capsys)
    assert code == 1
    assert "the entry was edited after it was written" in out


def test_an_altered_registration_is_named(theirs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (path,) = (theirs / "results" / "registrations" / "toy").glob("*.yaml")
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    content["claims"][0]["within"] = 30.0
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    git(theirs, "commit", "--quiet", "-am", "Toy")
    code, out = run(theirs, capsys)
    assert code == 1
    assert "is not what its hash says" in out


def test_a_registration_that_came_after_its_numbers_is_named(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    filed = register(mine)
    record(mine, filed)
    git(mine, "reset", "--quiet", "--soft", "HEAD~2")
    git(mine, "commit", "--quiet", "-m", "Everything at once")
    git(mine, "commit", "--quiet", "--allow-empty", "-m", "Nothing")
    code, out = run(mine, capsys)
    assert code == 1
    assert "holds registration and results alike, as after a squash" in out


def test_a_registration_on_a_commit_that_the_suite_has_not_is_named(
    mine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    filed = register(mine)
    path = mine / "results" / "registrations" / "toy" / f"mini-{filed.hash}.yaml"
    path.write_text(path.read_text(encoding="utf-8").replace(str(filed.about["commits"]["suite"]), "f" * 40))
    git(mine, "commit", "--quiet", "-am", "Another suite")
    code, out = run(mine, capsys)
    assert code == 1
    assert "the suite has no commit ffffffffffff" in out


def test_numbers_of_the_suite_under_another_name_are_named(theirs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A record that repeats a paper's differences seed for seed, for stages that are not the same."""
    paper, entry = next(
        (path.stem, entry)
        for path in sorted(results.RESULTS.glob("*.json"))
        for entry in results.entries(path.stem).values()
        if (main := entry.main_claim()) is not None and len(set(main.per_seed[:6])) > 3 and len(main.per_seed) > 5
    )
    main = entry.main_claim()
    assert main is not None

    def change(plain: dict[str, object]) -> None:
        plain["claims"][0]["per_seed"] = main.per_seed[:6]  # type: ignore[index]

    edit(theirs, change)
    code, out = run(theirs, capsys)
    assert code == 1
    assert f"its differences are those of the suite's {paper}" in out


def test_a_hostile_git_configuration_runs_nothing(
    theirs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mark = tmp_path / "mark"
    script = tmp_path / "monitor"
    script.write_text(f"#!/bin/sh\ntouch {mark}\n", encoding="utf-8")
    script.chmod(0o755)
    for key in ("core.fsmonitor", "core.pager", "diff.external", "uploadpack.packObjectsHook", "core.sshCommand"):
        git(theirs, "config", key, str(script))
    hook = theirs / ".git" / "hooks" / "post-checkout"
    hook.parent.mkdir(exist_ok=True)
    shutil.copy(script, hook)
    run(theirs, capsys)
    assert not mark.exists()
    subprocess.run(["git", "status"], cwd=theirs, capture_output=True, check=False)
    assert mark.exists()  # git itself would have run it there


def test_what_they_could_have_written_as_remembered_does_not_count(
    theirs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (theirs / ".gitignore").write_text("", encoding="utf-8")
    (theirs / "runs").mkdir()
    (theirs / "runs" / "remembered.json").write_text(json.dumps({"stale of toy": {"state": "x", "answers": {}}}))
    git(theirs, "add", ".")
    git(theirs, "commit", "--quiet", "-m", "Remembered")
    path = theirs / "modules" / "toy.py"
    path.write_text(path.read_text(encoding="utf-8").replace("repeat(2)", "repeat(1 + 1)"), encoding="utf-8")
    git(theirs, "commit", "--quiet", "-am", "Other code")
    _, out = run(theirs, capsys)
    assert "changed since: arm_1, arm_2" in out


def test_no_file_of_this_machine_is_read_because_their_configuration_names_it(
    theirs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def change(entry: dict[str, object]) -> None:
        for stage in entry["stages"].values():  # type: ignore[attr-defined]
            stage["content"] = "0" * 12

    edit(theirs, change)
    recipe = theirs / "conf" / "recipe" / "toy" / "mini.yaml"
    recipe.write_text(recipe.read_text(encoding="utf-8").replace("batch_size: 50", f"batch_size: 50, root: {tmp_path}"))
    git(theirs, "commit", "--quiet", "-am", "A root of yours")
    looked: list[str] = []

    def look(data: str) -> str:
        looked.append(data)
        return ""

    monkeypatch.setattr(content, "_digest", look)
    run(theirs, capsys)
    assert not looked
    with overlay.opened(str(theirs)), nothing_remembered():
        staleness.stale("toy", results.entries("toy")["mini"])
    assert looked  # as check-results looks at one's own


def test_without_a_repository_the_order_is_said_not_to_be_checked(
    theirs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(theirs / ".git")
    code, out = run(theirs, capsys)
    assert code == 0
    assert "is not checked: not a git checkout" in out
    code, _ = run(theirs, capsys, "--require-history")
    assert code == 1


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "folder=FOLDER is missing"),
        (["folder={mine}", "trust=yes"], "trust=yes: expected true or false"),
        (["folder={mine}", "jobs=1"], "jobs=1: expected folder="),
        (["folder={mine}/conf"], "overlay.yaml: no such file"),
    ],
)
def test_wrong_words_are_told(mine: Path, words: list[str], told: str) -> None:
    with pytest.raises(InputError, match=told):
        verify.main([word.format(mine=mine) for word in words])


def test_what_was_verified_is_listed_on_the_index_and_nowhere_else(
    theirs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(results, "RESULTS", tmp_path / "suite" / "results")
    run(theirs, capsys, "list=true")
    (listed,) = overlays.read_all()
    assert (listed.name, listed.differences, listed.order) == ("mine", 0, "")
    assert [(item.paper, item.setting, item.verdict, item.seeds) for item in listed.settings] == [
        ("toy", "mini", "undecided", 6)
    ]
    overlays.write(listed.model_copy(update={"about": "<script>of others</script>"}))
    report._write_index([], tmp_path / "site")
    page = (tmp_path / "site" / "index.html").read_text(encoding="utf-8")
    assert "toy mini: undecided, 6 seeds: learners of the maker" in page
    assert "&lt;script&gt;of others" in page
    assert "<script>of others" not in page
    (tmp_path / "suite" / "results" / "overlays" / "mine.json").write_text('{"name": 1}')
    with pytest.raises(InputError, match=r"mine\.json"):
        overlays.read_all()


@pytest.mark.parametrize(
    ("now", "words"),
    [
        ({"maker": {"test/top1": 50.0}}, "all 1 numbers of seed"),
        ({"maker": {"test/top1": 50.5}}, run_anew.DIFFER),
        ({"maker": {}}, run_anew.DIFFER),
    ],
)
def test_a_seed_that_ran_anew_is_compared_to_the_last_bit(
    now: dict[str, dict[str, float]], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = example.entry([7], stages={"maker": example.stage(1, metrics={"test/top1": [50.0]})})
    monkeypatch.setattr(merge, "differing", lambda *_: {})
    assert run_anew.compared(entry, now).startswith(words)
    monkeypatch.setattr(merge, "differing", lambda *_: {"cpu": ("A", "B")})
    if now["maker"].get("test/top1") == 50.5:
        assert "differ as machines may (cpu B, not A)" in run_anew.compared(entry, now)


def test_the_suites_records_are_what_they_were(theirs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Registering, recording and verifying an overlay touches no file of the suite's results."""
    done = subprocess.run(
        ["git", "status", "--porcelain", "--", "results"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    before = {path: path.read_bytes() for path in (ROOT / "results").rglob("*") if path.is_file()}
    run(theirs, capsys)
    assert {path: path.read_bytes() for path in (ROOT / "results").rglob("*") if path.is_file()} == before
    again = subprocess.run(
        ["git", "status", "--porcelain", "--", "results"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert again.stdout == done.stdout


def test_a_folder_inside_another_repository_says_that_order_is_not_checked(
    theirs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Paths of a commit begin at its repository's top: what came first would be looked for elsewhere."""
    shutil.rmtree(theirs / ".git")
    git(theirs.parent, "init", "--quiet")
    git(theirs.parent, "add", "mine")
    git(theirs.parent, "commit", "--quiet", "-m", "A folder of mine")
    code, out = run(theirs, capsys)
    assert code == 0
    assert "is not checked: not a git checkout" in out  # what was copied has no repository
    with overlay.opened(str(theirs)):
        assert History(results.base().parent).unknown == "a folder inside of another repository"
