"""Hydra's own flags at both commands: shown is what would run, and nothing runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.commands import reproduce
from experiments.common.errors import InputError
from experiments.config import compose, flags
from tests.command import command


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    mine = tmp_path / "mine" / "data" / "mine.yaml"
    mine.parent.mkdir(parents=True)
    digits = "_target_: datamodules.common.digits.Digits\nbatch_size: 32\n"
    mine.write_text(f"{digits}train_size: 100\nval_size: 100\ntest_size: 200\nseed: ${{seed}}\n", encoding="utf-8")
    return tmp_path / "mine"


def test_flags_stand_apart_from_overrides() -> None:
    argv = ["seed=1", "-m", "--cfg", "job", "scale=smoke", "--config-dir=mine", "--info", "x=1", "--resolve"]
    found, lines = flags.read(argv)
    assert found == {"multirun": True, "cfg": "job", "config_dir": "mine", "info": "all", "resolve": True}
    assert lines == ["seed=1", "scale=smoke", "x=1"]
    assert flags.read(flags.written(found))[0] == found


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--cfgg", "job"], "did you mean '--cfg'"),
        (["--cfg", "jobs"], "--cfg jobs: expected one of job, hydra, all"),
        (["--cfg"], "--cfg : expected one of job"),
        (["--package"], "--package: expected a value"),
        (["--config-name", "other"], "--config-name: the configuration is conf/config.yaml"),
    ],
)
def test_wrong_flags_are_named(argv: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        flags.read(argv)


def test_reproduce_shows_and_refuses_what_is_not_its_own() -> None:
    shown = command("reproduce", "--cfg", "job", "-p", "seeds", "paper=rotnet", "scale=smoke", "seeds=[4,7]")
    assert (shown.stdout, shown.stderr, shown.returncode) == ("# @package seeds\n- 4\n- 7\n", "", 0)
    with pytest.raises(InputError, match="-multirun: reproduce runs over seeds by itself"):
        reproduce.main(["-m", "seed=1"])
    with pytest.raises(InputError, match="a record must be composed again from conf/ alone"):
        reproduce.main(["--config-dir", "mine"])


def test_a_sweeps_first_job_is_shown() -> None:
    shown = command("run", "-m", "--cfg", "job", "-p", "stages.soft.data", "scale=smoke", "seed=4,5", "--resolve")
    assert shown.returncode == 0
    assert "seed: 4\n" in shown.stdout
    assert shown.stderr == "# the first job of the sweep\n"


def test_groups_of_ones_own(folder: Path, tmp_path: Path) -> None:
    lines = ["scale=smoke", "data@stages.soft.data=mine", "--config-dir", str(folder)]
    shown = command("run", "--cfg", "job", "-p", "stages.soft.data", *lines)
    assert shown.returncode == 0
    assert "_target_: datamodules.common.digits.Digits\n" in shown.stdout
    refused = command("run", *lines[:2])
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert "data 'mine' does not exist" in refused.stderr
    with pytest.raises(InputError, match="no such folder; expected one with groups"):
        compose.search(str(tmp_path / "none"))


def test_a_folder_of_groups_may_not_set_up_hydra(folder: Path) -> None:
    (folder / "data" / "mine.yaml").write_text("hydra: {callbacks: {x: {_target_: os.system}}}\n")
    compose.search(str(folder))
    try:
        with pytest.raises(InputError, match=r"conf/data/mine\.yaml: 'hydra\.callbacks.*' is not allowed"):
            compose.compose(["+data@_global_=mine"])
    finally:
        compose.search(None)


@pytest.mark.parametrize("module", ["run", "reproduce"])
def test_what_hydra_answers_by_itself(module: str) -> None:
    assert command(module, "--version").stdout.startswith("Hydra ")
    assert "--shell-completion" in command(module, "--hydra-help").stdout
    assert "hydra_bash_completion" in command(module, "--shell-completion", "install=bash").stdout
    line = f"python experiments/{module}.py trainer=gp"  # Hydra completes files that are run, not modules
    completed = command(module, "--shell-completion", "query=bash", COMP_LINE=line)
    assert completed.stdout.split() == ["trainer=gpu"]
