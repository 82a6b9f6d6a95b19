"""Adding a paper by the documentation's steps, tried in a copy of the project; and the engine's own numerical rules."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from experiments.common.paths import ROOT
from experiments.evidence import restarts
from experiments.identity.fingerprint import ENGINE
from tests.preloaded import server
from tests.toy_paper import PLACES, TOY

GOLDEN = {  # ENGINE -> what the module Golden notes in two stages, for seeds 0 and 1
    1: {
        "golden": {
            "test/construction": [557156.0, 319007.0],
            "test/steps": [904446.0, 582322.0],
            "test/order": [475920.0, 372663.0],
            "test/tested": [538819.0, 829799.0],
            "train/row": [99.5, 99.5],
        },
        "golden_too": {
            "test/construction": [432114.0, 452880.0],
            "test/steps": [904446.0, 582322.0],
            "test/order": [475920.0, 372663.0],
            "test/tested": [538819.0, 829799.0],
            "train/row": [99.5, 99.5],
        },
    },
}


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This project with one paper more: only files of its own were added."""
    root = tmp_path_factory.mktemp("copy")
    for folder in ("conf", "experiments", "modules", "datamodules"):
        shutil.copytree(ROOT / folder, root / folder)
    shutil.copy(ROOT / "CITATION.cff", root)
    for name, places in PLACES.items():
        for place in places:
            assert not (root / place).exists()
            (root / place).parent.mkdir(exist_ok=True)
            shutil.copy(TOY / name, root / place)
    return root


def command(root: Path, *arguments: str, code: int = 0) -> str:
    """What a command prints: of a failed one its error too."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
    done = server().run(arguments, root, environment)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + (done.stderr if code == 2 else "")


@pytest.fixture(scope="module")
def ran(copied: Path) -> dict[str, Any]:
    """The summary of the new paper's smoke run."""
    out = command(copied, "experiments.reproduce", "paper=toy", "scale=smoke", "jobs=1")
    assert "learners of the maker's labels are as accurate as the maker" in out
    actual: dict[str, Any] = json.loads((copied / "runs/toy/smoke/summary.json").read_text())
    return actual


def test_a_new_paper_runs_without_a_change_elsewhere(ran: dict[str, Any]) -> None:
    assert set(ran["stages"]) == {"golden", "golden_too", "maker", "arm_1", "arm_2"}
    (claim,) = ran["claims"]
    means = [(a + b) / 2 for a, b in zip(*(ran["stages"][f"arm_{n}"]["test/top1"] for n in (1, 2)), strict=True)]
    expected = [mean - maker for mean, maker in zip(means, ran["stages"]["maker"]["test/top1"], strict=True)]
    assert claim["per_seed"] == pytest.approx(expected)


def test_a_stage_feeds_the_next_with_what_it_made(copied: Path, ran: dict[str, Any]) -> None:
    """The artifact is listed with its checksum; damaged, the stage that made it runs again and the next one is fed."""
    (maker,) = (copied / "runs/toy/smoke/seed=0").glob("maker-*")
    manifest = json.loads((maker / "manifest.json").read_text())
    assert set(manifest["artifacts"]) == {"labels"}
    artifact = maker / "artifacts/labels.npy"
    whole = artifact.read_bytes()
    artifact.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    (arm,) = (copied / "runs/toy/smoke/seed=0").glob("arm_1-*")
    metrics = (arm / "metrics.json").read_text()
    (arm / "manifest.json").unlink()
    (arm / "last.ckpt").unlink()
    out = command(copied, "experiments.reproduce", "paper=toy", "scale=smoke", "jobs=1")
    assert "labels.npy is missing or not what was written; the stage runs again" in " ".join(out.split())
    assert artifact.read_bytes() == whole
    assert (arm / "metrics.json").read_text() == metrics


RIVALS = """claims:
  - name: learners are more accurate than the maker, and not for their width
    main: true
    better: mean(arm_*/test/top1)
    than: {the maker: maker/test/top1, the narrow learner alone: arm_1/test/top1}
    worth: 3.0
    worth_reason: three of the hundred test images
    requires_each: [maker/test/top1 >= 0]
  - name: as accurate, and more than nothing
    all:
      - {name: as accurate, better: arm_2/test/top1, than: arm_1/test/top1, within: 3.0}
      - {name: more than nothing, better: arm_2/test/top1, than: -1, worth: 1.0}
"""


def test_a_claim_with_rivals_is_told_comparison_by_comparison(copied: Path, ran: dict[str, Any]) -> None:
    paper = copied / "conf/paper/toy.yaml"
    before = paper.read_text()
    try:
        paper.write_text(before[: before.index("claims:")] + RIVALS)
        out = command(copied, "experiments.reproduce", "paper=toy", "scale=smoke", "jobs=1")
        paper.write_text(paper.read_text().replace("than: {the maker", "than: {the maker: 1, so: arm_3/test/top1, x"))
        wrong = command(copied, "experiments.reproduce", "paper=toy", "scale=smoke", code=2)
    finally:
        paper.write_text(before)
    assert "  against the maker: " in out
    assert "  against the narrow learner alone: " in out
    assert "needs maker/test/top1 >= 0 in 90% of seeds: holds, 2 of 2 seeds" in out
    assert "stage 'arm_3' does not exist; did you mean 'arm_" in wrong

    rivals, outcomes = json.loads((copied / "runs/toy/smoke/summary.json").read_text())["claims"]
    assert [item["name"] for item in rivals["against"]] == ["the maker", "the narrow learner alone"]
    assert rivals["against"][0]["per_seed"] == rivals["per_seed"] == ran["claims"][0]["per_seed"]
    ones, twos = (ran["stages"][f"arm_{n}"]["test/top1"] for n in (1, 2))
    assert rivals["against"][1]["per_seed"] == pytest.approx([(b - a) / 2 for a, b in zip(ones, twos, strict=True)])
    assert outcomes["parts"][0]["per_seed"] == pytest.approx([b - a for a, b in zip(ones, twos, strict=True)])


def test_a_seed_in_which_an_arm_is_dead_starts_again(copied: Path, ran: dict[str, Any]) -> None:
    """The limit lies between what the two seeds report, so that one of them starts again; a lost try runs again.

    At mini: a smoke run, which learns nothing, restarts nothing.
    """
    arms = ("maker", "arm_1", "arm_2")
    worst = [max(losses) for losses in zip(*(ran["stages"][name]["train/loss"] for name in arms), strict=True)]
    dead, alive = (0, 1) if worst[0] > worst[1] else (1, 0)
    limit = f"{(worst[dead] + worst[alive]) / 2:.6f}"
    smoke = ("experiments.reproduce", "paper=toy", "scale=smoke", "jobs=1")
    mini = ("experiments.reproduce", "paper=toy", "scale=mini", "seeds=[0,1]", "jobs=1", "runs_dir=own")
    paper = copied / "conf/paper/toy.yaml"
    summary = copied / "own/toy/mini/summary.json"
    before = paper.read_text()
    try:
        paper.write_text(before.replace("    main: true\n", f"    main: true\n    dead: train/loss > {limit}\n"))
        at_smoke = command(copied, *smoke)
        out = command(copied, *mini)
        first = summary.read_text()

        further = []
        for path in (copied / "own/toy/mini").glob("seed=1?????????"):
            (manifest,) = (json.loads(each.read_text()) for each in path.glob("arm_2-*/manifest.json"))
            losses = [json.loads(each.read_text())["train/loss"] for each in path.glob("*/metrics.json")]
            further.append((manifest["try_of"], manifest["attempt"], max(losses) > float(limit)))
            assert {each.name.rpartition("-")[0] for each in path.glob("[!.]*-*")} == set(arms)  # golden does not
        (lost,) = (copied / "own/toy/mini").glob(f"seed={restarts.seed(dead, 1)}/arm_1-*")
        for name in ("manifest.json", "metrics.json", "last.ckpt"):
            (lost / name).unlink()
        again = command(copied, *mini)
    finally:
        paper.write_text(before)

    assert "an arm is dead" not in at_smoke
    assert f"an arm is dead in seed {dead} (try 1 more): all arms of that seed start again together" in out
    assert "Without restarts: " in " ".join(out.split())
    further.sort()
    assert [item[:2] for item in further] in ([(dead, 1)], [(dead, 1), (dead, 2)])
    assert further[0][2] == (len(further) == 2)  # a second try where the first was dead too
    (claim,) = json.loads(first)["claims"]
    assert claim["restarted"] == [dead]
    assert claim["per_seed"][alive] == ran["claims"][0]["per_seed"][alive]
    assert claim["per_seed"][dead] != ran["claims"][0]["per_seed"][dead]
    assert claim["without_restarts"]["difference"] == ran["claims"][0]["difference"]
    assert "1 stages run" in again
    assert summary.read_text() == first


def test_the_full_recipe_of_a_fed_stage_can_be_dry_run(copied: Path) -> None:
    out = command(copied, "experiments.reproduce", "paper=toy", "scale=full", "dry=true", "dry_seconds=0.05")
    assert out.count("passed") == 5
    assert "One seed: " in out
    measured = json.loads((copied / "runs/measured.json").read_text())
    ((device, told),) = measured["toy full"].items()
    assert device in out
    assert all(stage["hours"] > 0 for stage in told["stages"].values())


def test_the_rules_of_the_engine_are_those_of_its_version(ran: dict[str, Any]) -> None:
    """Who changes how the engine seeds, orders or averages raises ENGINE, which every fingerprint holds.

    Two seeds and two stages: what hangs on the seed differs between the first, what hangs on the stage between the
    second, and a rule that forgets either is another rule.
    """
    golden = {name: ran["stages"][name] for name in ("golden", "golden_too")}
    assert golden == GOLDEN[ENGINE], "the engine's rules moved: raise ENGINE and note the new numbers beside it"


def test_the_golden_numbers_tell_seeds_and_stages_apart() -> None:
    one, too = (GOLDEN[ENGINE][name] for name in ("golden", "golden_too"))
    assert all(len(set(values)) == 2 for name, values in one.items() if name != "train/row")
    assert set(one["test/construction"]).isdisjoint(too["test/construction"])
    assert {name: one[name] for name in one if name != "test/construction"} == {
        name: too[name] for name in too if name != "test/construction"
    }


def test_the_main_claim_is_told_before_other_stages_run(copied: Path) -> None:
    """A recorded scale: `golden` is no stage of the main claim, which the others are."""
    out = command(copied, "experiments.reproduce", "paper=toy", "first=2", "most=2", "jobs=1")
    lines = out.splitlines()
    (told,) = [number for number, line in enumerate(lines) if line.startswith("main claim after 2 seeds")]
    assert lines[told].endswith("4 other stages follow")
    (plan,) = [line for line in lines if " for each of 2 seeds: " in line]
    stages = int(plan.partition(" stages for each")[0].split()[-1])
    assert f"{2 * stages} stages run, {2 * stages} in all" in out  # the main claim's and the others
    assert "what came out" in out.partition("stages run")[2]
    ends = {
        name: [n for n, line in enumerate(lines) if f" {name} " in line and "/" in line]
        for name in ("golden", "golden_too", "arm_2")
    }
    assert max(ends["arm_2"][:2]) < told < min(ends["golden"] + ends["golden_too"])
    record = json.loads((copied / "results/here/toy.json").read_text())
    (entry,) = record["entries"].values()
    (claim,) = entry["claims"]
    assert f"{claim['verdict']}, {claim['difference']:+.2f}" in lines[told]

    again = command(copied, "experiments.reproduce", "paper=toy", "first=2", "most=2", "jobs=1")
    assert "other stages follow" not in again  # nothing ran


def test_a_failed_stage_is_not_tried_again_with_the_other_stages(copied: Path) -> None:
    """The maker, of the main claim, diverges: `golden` runs behind it, the maker and its learners do not again."""
    diverging = ["stages.maker.module.optimizer.lr=1e30", "seeds=[7]", "jobs=1"]
    out = command(copied, "experiments.reproduce", "paper=toy", *diverging, code=1)
    assert out.count("failed  seed 7 maker") == 1
    assert "not run, no difference; 2 other stages follow" in out
    assert out.index("2 other stages follow") < out.index("2 stages run, 2 in all")


REPRODUCE = ("experiments.reproduce", "paper=toy", "jobs=1")
REGISTER = ("experiments.commands.register", "paper=toy")


def git(root: Path, *words: str) -> str:
    author = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", *author, *words], cwd=root, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_what_is_not_registered_explores_and_leaves_nothing(copied: Path) -> None:
    out = command(copied, *REPRODUCE)
    assert "exploring toy/mini on pilot seeds, nothing is recorded: it was never registered." in out
    assert "make register PAPER=toy" in out
    assert not (copied / "results/toy.json").exists()
    assert {"seed=1", "seed=2"} <= {folder.name for folder in (copied / "runs/toy/mini").glob("seed=?")}
    told = command(copied, *REPRODUCE, "record=true", code=2)
    assert "nothing is registered for this setting; make register comes first" in told
    told = command(copied, *REPRODUCE, "record=true", "first=1", code=2)
    assert "record=true: with first=1 it is not the registered setting" in told


def test_a_registration_is_a_commit_of_its_own_and_binds(copied: Path) -> None:
    """Refusals, the commit, its seeds, the record, the order in history, and a loss that is changed afterwards."""
    assert "not a git checkout" in command(copied, *REGISTER, code=2)
    git(copied, "init", "-q", "-b", "main")
    (copied / ".gitignore").write_text("runs/\nsite/\nresults/here/\nresults/.*\n__pycache__/\n")
    git(copied, "add", "-A")
    git(copied, "commit", "-qm", "start")
    git(copied, "config", "user.name", "a")
    git(copied, "config", "user.email", "a@b.c")

    loss = copied / "modules/toy.py"
    before = loss.read_text()
    loss.write_text(before + "\n\ndef _nobody_calls_this():\n    return None\n")
    assert "modules/toy.py is not committed" in command(copied, *REGISTER, code=2)
    loss.write_text(before)
    (copied / "beside").write_text("staged by somebody else")
    git(copied, "add", "beside")

    assert "registered: results/registrations/toy/mini-" in command(copied, *REGISTER)
    (added,) = git(copied, "show", "--name-only", "--format=", "HEAD").splitlines()
    mark = Path(added).stem.removeprefix("mini-")
    assert git(copied, "diff", "--cached", "--name-only") == "beside"
    assert "this is registered" in command(copied, *REGISTER, "why=again", code=2)

    out = command(copied, *REPRODUCE)
    assert "results: results/toy.json" in out
    entry = json.loads((copied / "results/toy.json").read_text())["entries"]["mini"]
    assert (entry["registered"]["hash"], entry["registered"]["filed"]) == (mark, True)
    first = 1_000_000 + int(mark[:6], 16) * 64
    assert len(list((copied / "runs/toy/mini").glob(f"seed={first}"))) == 1

    said = command(copied, "experiments.commands.replicate", "paper=toy", "jobs=1")
    assert " over recipes: " in said
    found = json.loads((copied / "results/toy.json").read_text())["entries"]["mini"]["replication"]
    assert found["registered"] == mark
    assert len(found["seeds"]) == len(found["drawn"]) == 2
    assert all(0.5 <= drawn["rate"] <= 2 for drawn in found["drawn"])
    rates = set()
    for path in (copied / "runs/toy/mini").glob(f"seed={found['seeds'][0]}/maker-*/config.yaml"):
        rates.add(yaml.safe_load(path.read_text())["module"]["optimizer"]["lr"])
    assert rates == {0.05 * found["drawn"][0]["rate"]}

    for number in found["seeds"]:
        shutil.rmtree(copied / f"runs/toy/mini/seed={number}")
    said = command(copied, "experiments.commands.replicate", "paper=toy", "jobs=1", "from_record=true", "most=3")
    assert "2 draws stand in the record" in said
    longer = json.loads((copied / "results/toy.json").read_text())["entries"]["mini"]["replication"]
    assert (longer["seeds"][:2], longer["drawn"][:2]) == (found["seeds"], found["drawn"])
    assert len(longer["seeds"]) == len(longer["claim"]["per_seed"]) == 3
    assert longer["claim"]["per_seed"][:2] == found["claim"]["per_seed"]
    assert not (copied / f"runs/toy/mini/seed={found['seeds'][0]}").exists()

    check = ("experiments.commands.check_results", "toy")
    assert "0 differences" in command(copied, *check)  # not committed yet, so that nothing can be said of its order
    git(copied, "add", "results/toy.json")
    git(copied, "commit", "-qm", "recorded")
    assert "0 differences" in command(copied, *check, "--require-history")
    git(copied, "reset", "-q", "--soft", "HEAD~2")
    git(copied, "commit", "-qm", "squashed")
    assert "registration and results alike" in command(copied, *check, code=1)

    loss.write_text(before.replace("F.cross_entropy(", "2 * F.cross_entropy("))
    assert loss.read_text() != before
    told = command(copied, *REPRODUCE)
    assert "exploring toy/mini on pilot seeds, nothing is recorded: code of " in told
    loss.write_text(before)
