"""The Makefile's own words: what is misspelt is named before anything is set up or trained."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

from experiments.common.paths import ROOT
from tests.reliability.soak import shell

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["reproduce", "PAPERS=rotnet"], "PAPERS is no variable of this Makefile; did you mean PAPER?"),
        (["reproduce", "paper=rotnet"], "paper is no variable of this Makefile; did you mean PAPER?"),
        (["reproduce", "PAPER=rotnet", "SEED=3"], "SEED is no variable of this Makefile; did you mean SEEDS?"),
        (["reproduce", "PAPER=rotnet", "VARIANTS=x"], "did you mean VARIANT?"),
        (["test", "ARG=-x"], "ARG is no variable of this Makefile; did you mean ARGS?"),
        (["reproduce", "rotnet"], "rotnet is no target; did you mean PAPER=rotnet?"),
        (["reprodce", "PAPER=rotnet"], "reprodce is no target; did you mean reproduce?"),
        (["reproduce", "PAPER=rotnet", "STAGE=x"], "STAGE=x would change nothing: make reproduce reads ARGS DATA DRY"),
        (["soak", "SCALE=mini"], "SCALE=mini would change nothing: make soak reads ARGS PAPER"),
        (["mutants", "SEEDS=3"], "SEEDS=3 would change nothing: make mutants reads ARGS PAPER"),
        (["setup", "SCALE=full"], "SCALE=full would change nothing: make setup reads no variable"),
        (["reproduce"], "name a paper, as in make reproduce PAPER=meal_v2"),
    ],
)
def test_misspelt_words_end_in_one_line(words: list[str], told: str) -> None:
    done = shell.make(*words)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert told in line


@pytest.mark.parametrize("word", shell.WORDS)
def test_no_value_and_no_target_is_run_by_a_shell(word: str) -> None:
    """Whatever make itself expands, and what it hands to a shell to find the nearest name."""
    assert shell.made(word) == ""


@pytest.mark.parametrize("word", shell.SURROUNDINGS)
def test_no_variable_of_the_environment_is_run_by_a_shell(word: str) -> None:
    assert shell.made(word, typed=False) == ""


def test_a_variable_of_the_environment_that_no_target_reads_is_let_be() -> None:
    """Others use such names too, and with what they like."""
    done = shell.make("reproduce", "PAPER=zpe", FORMAT="%h (%s)")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("words", "command"),
    [
        (["reproduce", "PAPER=meal_v2"], "experiments.reproduce paper=meal_v2 scale=mini"),
        (
            ["reproduce", "PAPER=meal_v2", "SCALE=full", "DRY=1", "VARIANT=resnet18"],
            "experiments.reproduce dry=true paper=meal_v2 scale=full variant=resnet18",
        ),
        (
            ["reproduce", "PAPER=meal_v2", "SEEDS=0,1", "MINUTES=3", "ARGS=jobs=1 logger=csv"],
            "experiments.reproduce minutes=3 seeds=[0,1] paper=meal_v2 scale=mini jobs=1 logger=csv",
        ),
        (["reproduce", "PAPER=meal_v2", "SEEDS=0 1 2"], "experiments.reproduce seeds=[0,1,2] paper=meal_v2 scale=mini"),
        (
            ["reproduce", "PAPER=meal_v2", "SEEDS=0, 1,2 "],
            "experiments.reproduce seeds=[0,1,2] paper=meal_v2 scale=mini",
        ),
        (["mutants", "PAPER=meal_v2", "ARGS=count=20 --write"], "tests.mutants paper=meal_v2 count=20 --write"),
        (
            ["sweep", "SWEEP=hard_labels", "SEEDS=0 1"],
            "experiments.run -m sweep=hard_labels seed=0,1 scale=mini",
        ),
        (
            ["export", "PAPER=meal_v2", "STAGE=student"],
            "experiments.commands.export stage=student paper=meal_v2 scale=mini",
        ),
        (["compare", "BASE=main", "PAPER=zpe"], "experiments.commands.compare base=main paper=zpe scale=smoke"),
        (["confirm", "PAPER=zpe", "VARIANT=mnist"], "experiments.commands.confirm paper=zpe variant=mnist"),
        (
            ["new", "PAPER=mixup", "ARXIV=1710.09412", "EXTRA=../mine"],
            "experiments.commands.new paper=mixup arxiv=1710.09412 extra=../mine",
        ),
        (["gpu", "PAPER=zpe", "MINUTES=5"], "experiments.benchmarks.gpu paper=zpe minutes=5"),
        (["check-results", "PAPER=zpe"], "experiments.commands.check_results paper=zpe"),
        (["verify", "FOLDER=../theirs"], "experiments.commands.verify folder=../theirs"),
        (
            ["register", "PAPER=zpe", "EXTRA=../mine"],
            "experiments.commands.register paper=zpe scale=mini extra=../mine",
        ),
        (["setup", "report", "PAPER=zpe"], "experiments.commands.report paper=zpe"),
    ],
)
def test_variables_reach_the_command(words: list[str], command: str) -> None:
    done = shell.make(*words)
    assert done.returncode == 0, done.stderr
    assert command in " ".join(done.stdout.replace("\\\n", " ").split())


def test_uv_sets_up_from_the_same_locks() -> None:
    def commands(*words: str) -> list[str]:
        lines = shell.make("--always-make", "setup", *words).stdout.replace("\\\n", " ").splitlines()
        return [re.sub(r"\s+", " ", line) for line in lines if "install" in line and not line.startswith("test")]

    by_pip, by_uv = commands(), commands("UV=1")
    assert len(by_pip) == len(by_uv) == 4
    for one, other in zip(by_pip, by_uv, strict=True):
        start = ".venv/bin/python -m pip install --disable-pip-version-check --no-compile --quiet "
        assert one.strip().startswith(start)
        assert other.strip() == f"uv pip install --python .venv/bin/python --quiet {one.strip().removeprefix(start)}"
    assert sum("--require-hashes" in line for line in by_uv) == 2


@pytest.mark.parametrize("words", ["setup", "setup UV=1", "extras EXTRAS=clip"])
def test_packages_are_compiled_once_all_are_there(words: str) -> None:
    lines = shell.make("--always-make", *words.split()).stdout.replace("\\\n", " ").splitlines()
    assert "compileall" in [line for line in lines if "install" in line or "compileall" in line][-1]


def test_each_target_uses_the_variables_that_it_is_said_to_read() -> None:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    variables = {"PAPER": "zpe", "VARIANT": "mnist", "SCALE": "smoke", "SEEDS": "5,6", "MINUTES": "77", "DRY": "1"}
    variables |= {"SWEEP": "wide", "STAGE": "pool", "BASE": "v0", "ARGS": "--said", "EXTRAS": "clip"}
    variables |= {
        "FILE": "moved.runs",
        "FORMAT": "latex",
        "ARXIV": "1710.09412",
        "EXTRA": "../mine",
        "FOLDER": "../theirs",
    }
    variables |= {"DATA": "../photos"}
    for line in re.findall(r"^reads-.*", text, re.MULTILINE):
        target, names = re.fullmatch(r"reads-(\S+) *:= (.*)", line).groups()  # type: ignore[union-attr]
        whole = {name: variables[name] for name in names.split()}
        said = shell.make(target, *(f"{name}={value}" for name, value in whole.items())).stdout
        for name, value in whole.items():
            assert ("dry=true" if name == "DRY" else value) in said, f"make {target} passes over {name}"


def test_help_names_every_target_and_fits_a_terminal() -> None:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    (phony,) = re.findall(r"^\.PHONY: (.*)$", text, re.MULTILINE)
    told = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert sorted(re.findall(r"^  make ([a-z-]+)  ", told, re.MULTILINE)) == sorted(phony.split())
    assert [line for line in told.splitlines() if len(line) > 100] == []
