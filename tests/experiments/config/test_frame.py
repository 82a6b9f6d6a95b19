"""No file of a paper takes part in what Hydra and a launcher do, by whatever way it tries.

Each door is planted in a copy of conf/.
"""

from __future__ import annotations

import dataclasses
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from experiments.commands import run, setting
from experiments.common.errors import InputError
from experiments.common.paths import ROOT
from experiments.config import compose, frame, reading, schema
from tests.command import command

HEADER = "# @package _global_\n"
EVIL = {"evil": {"_target_": "logging.FileHandler", "filename": "ran"}}  # Hydra builds callbacks: it leaves a file


@pytest.fixture
def conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of all configuration, which composing reads instead."""
    folder = Path(shutil.copytree(compose.CONF, tmp_path / "conf"))
    monkeypatch.setattr(reading, "CONF", folder)
    caches = (compose.paper_file, compose.known_stages)
    for cached in caches:
        cached.cache_clear()
    yield folder
    for cached in caches:
        cached.cache_clear()


Plant = Callable[[Path], None]


def write(conf: Path, name: str, content: dict[str, Any], header: str = "") -> None:
    path = conf / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(header + yaml.safe_dump(content, sort_keys=False))


def add(conf: Path, name: str, header: str = HEADER, **more: Any) -> None:
    write(conf, name, compose.load(conf / name) | more, header)


def recipe_defaults(conf: Path, *lines: Any) -> None:
    content = compose.load(conf / "recipe/meal_v2/smoke.yaml")
    write(conf, "recipe/meal_v2/smoke.yaml", content | {"defaults": [*lines, *content["defaults"]]}, HEADER)


def variant(conf: Path, name: str = "evil", **item: Any) -> None:
    variants = compose.load(conf / "paper/meal_v2.yaml")["variants"]
    add(conf, "paper/meal_v2.yaml", variants=variants | {name: {"about": "x", "scale": "mini", **item}})


def callback_data(conf: Path) -> None:
    write(conf, "data/meal_v2/callback.yaml", EVIL["evil"])


DATA = "meal_v2/callback"


def _each(conf: Path) -> None:
    variant(conf, "evil_{h}", each={"h": ["hydra"]}, overrides=["+{h}.callbacks.x._target_=os.system"])


def _variant_package(conf: Path) -> None:
    callback_data(conf)
    variant(conf, overrides=[f"+data@_global_.hydra.callbacks.x={DATA}"])


def _variant_recipe(conf: Path) -> None:
    write(conf, "recipe/meal_v2/more.yaml", {"hydra": {"callbacks": EVIL}}, HEADER)
    variant(conf, overrides=["+recipe/meal_v2@_global_=more"])


def _defaults_package(conf: Path) -> None:
    callback_data(conf)
    recipe_defaults(conf, {"/data@_global_.hydra.callbacks.x": DATA})


def _stage_name(conf: Path) -> None:
    callback_data(conf)
    recipe_defaults(conf, {"/data@stages._global_.hydra.callbacks.x": DATA})


def _header(conf: Path) -> None:
    add(conf, "trainer/cpu.yaml", hydra={"callbacks": EVIL})


def _text_defaults(conf: Path) -> None:
    callback_data(conf)
    recipe_defaults(conf, f"/data/{DATA}@_global_.hydra.callbacks.x")


def _text_launcher(conf: Path) -> None:
    recipe_defaults(conf, "/launcher/submitit_local@_global_.launcher")


def _override_launcher(conf: Path) -> None:
    add(conf, "data/fashion_mnist.yaml", "", defaults=[{"override /hydra/launcher": "joblib"}])


def _nested_defaults(conf: Path) -> None:
    """A data file with a defaults list of its own."""
    write(conf, "mine/a.yaml", {"callbacks": EVIL})
    write(conf, "data/meal_v2/outer.yaml", {"defaults": [{"/mine@_global_.hydra": "a"}]})
    recipe_defaults(conf, {"/data@spare": "meal_v2/outer"})


def _interpolated_defaults(conf: Path) -> None:
    """The option is named by other choices."""
    write(conf, "mine/meal_v2/smoke.yaml", EVIL["evil"])
    recipe_defaults(conf, {"/mine@_global_.hydra.callbacks.x": "${paper}/${scale}"})


def _own_group(conf: Path) -> None:
    """A group that the paper brings along."""
    write(conf, "mine/a.yaml", {"callbacks": EVIL})
    recipe_defaults(conf, {"/mine@_global_.hydra": "a"})


def _lines_of_jobs(conf: Path) -> None:
    """The lines with which a sweep composes its jobs."""
    add(conf, "recipe/meal_v2/smoke.yaml", hydra={"overrides": {"hydra": ["hydra.callbacks.x._target_=os.system"]}})


def _environment(conf: Path) -> None:
    add(conf, "recipe/meal_v2/smoke.yaml", hydra={"job": {"env_set": {"PYTHONSTARTUP": "x.py"}}})


def _logging(conf: Path) -> None:
    """Python's logging builds what `()` names."""
    add(conf, "scale/smoke.yaml", hydra={"job_logging": {"handlers": {"x": {"()": "os.system"}}}})


def _search_path(conf: Path) -> None:
    add(conf, "trainer/cpu.yaml", "", hydra={"searchpath": ["pkg://tests"]})
    add(conf, "recipe/meal_v2/smoke.yaml", hydra={"searchpath": ["pkg://tests"]})


def _launcher_option(conf: Path) -> None:
    """What a submitit launcher hands to the cluster."""
    add(conf, "recipe/meal_v2/smoke.yaml", launcher={"extra": {"wrap": "touch x"}})


def _data_elsewhere(conf: Path) -> None:
    """A value of one's own, since another line reads it."""
    add(conf, "recipe/meal_v2/smoke.yaml", data_dir="/tmp/mine", objective="${data_dir}")


def _anchors(conf: Path) -> None:
    text = (conf / "recipe/meal_v2/smoke.yaml").read_text()
    (conf / "recipe/meal_v2/smoke.yaml").write_text(text + '\n"\\x68ydra": {callbacks: {x: {_target_: os.system}}}\n')


PAPER, RECIPE = "conf/paper/meal_v2.yaml", "conf/recipe/meal_v2/smoke.yaml"
DOORS = {
    "a variant's each": (_each, PAPER, "variant=evil_hydra"),
    "a variant's package": (_variant_package, PAPER, "variant=evil"),
    "a variant's recipe": (_variant_recipe, "conf/recipe/meal_v2/more.yaml", "variant=evil"),
    "a package in a recipe's defaults": (_defaults_package, RECIPE, ""),
    "a stage called _global_": (_stage_name, "conf/", ""),
    "a header and a node": (_header, "conf/trainer/cpu.yaml", ""),
    "defaults as text": (_text_defaults, RECIPE, ""),
    "a launcher's file in defaults as text": (_text_launcher, RECIPE, ""),
    "another launcher of Hydra": (_override_launcher, "", ""),
    "a data file's own defaults": (_nested_defaults, "conf/data/meal_v2/outer.yaml", ""),
    "a default named by another": (_interpolated_defaults, RECIPE, ""),
    "a group of its own": (_own_group, RECIPE, ""),
    "lines of a sweep's jobs": (_lines_of_jobs, RECIPE, ""),
    "variables of the environment": (_environment, RECIPE, ""),
    "what logging builds": (_logging, "conf/scale/smoke.yaml", ""),
    "where Hydra looks": (_search_path, "conf", ""),
    "options of a launcher": (_launcher_option, RECIPE, ""),
    "where data are": (_data_elsewhere, RECIPE, ""),
    "an escaped key": (_anchors, RECIPE, ""),
}


@pytest.mark.parametrize("door", DOORS)
def test_every_door_is_shut_for_both_commands_and_sweeps(conf: Path, tmp_path: Path, door: str) -> None:
    plant, file, chosen = DOORS[door]
    plant(conf)
    lines = ["paper=meal_v2", "scale=smoke", f"runs_dir={tmp_path}/runs", "trainer=cpu", *filter(None, [chosen])]
    for act in (setting.read, lambda words: run._check(compose.request(words))):
        with pytest.raises(InputError) as caught:
            act(lines)
        assert file in str(caught.value)
        assert "\n" not in str(caught.value)
        assert re.search(r"hydra|launcher|data_dir", str(caught.value))


def test_keys_of_the_frame_are_all_that_no_file_may_set() -> None:
    """A new key of conf/config.yaml is either the user's, or one that papers and scales may set."""
    said = set(compose.load(compose.CONF / "config.yaml")) - {"defaults"}
    settings = {field.name for field in dataclasses.fields(schema.Settings)}
    assert said | {"launcher", "logger"} == {*frame.KEYS, *settings, "seed", "seeds", "variant"}


@pytest.mark.parametrize("line", ["hydra/launcher=joblib", "+hydra.callbacks.x._target_=os.system", "launcher=ray"])
def test_a_sweep_of_a_paper_chooses_no_launcher(conf: Path, line: str) -> None:
    write(conf, "sweep/meal_v2/evil.yaml", {"arguments": ["seed=0,1", line]})
    with pytest.raises(InputError, match=r"conf/sweep/meal_v2/evil\.yaml: arguments: '.*' is not allowed"):
        run._named(["sweep=evil"])


@pytest.mark.parametrize("line", ["--config-dir=/tmp", "-cd=/tmp", "--multirun", "~--x"])
def test_no_line_of_a_file_is_a_flag(line: str) -> None:
    with pytest.raises(InputError, match="cannot read"):
        frame.check_lines([line], "here")


def test_what_the_user_says_of_the_frame_stands() -> None:
    lines = ["launcher=submitit_local", "launcher.timeout_min=5", "logger=wandb", "+launcher.extra.constraint=a"]
    lines += ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "+hydra.job.env_set.X=1", "runs_dir=elsewhere"]
    config = compose.compose(compose.request(["scale=smoke", *lines]).overrides)
    assert (config.launcher.timeout_min, config.launcher.extra.constraint) == (5, "a")
    assert (config.logger.name, config.runs_dir) == ("wandb", "elsewhere")


def test_a_launcher_is_part_of_the_frame_again_once_its_file_changed(conf: Path) -> None:
    lines = ["paper=meal_v2", "scale=smoke", "launcher=submitit_local"]
    assert compose.compose(lines).launcher.timeout_min == 240
    add(conf, "launcher/submitit_local.yaml", "", timeout_min=7)
    assert compose.compose(lines).launcher.timeout_min == 7


@pytest.mark.slow
@pytest.mark.parametrize("multirun", [False, True])
def test_a_door_runs_nothing_in_a_process_of_its_own(tmp_path: Path, multirun: bool) -> None:
    """In a second job of a sweep too, which is another paper."""
    for folder in ("experiments", "conf", "modules", "datamodules"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    _text_defaults(tmp_path / "conf")
    papers = ["-m", "paper=rotnet,meal_v2"] if multirun else ["paper=meal_v2"]
    done = command("run", *papers, "scale=smoke", root=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert f"error: {RECIPE}: 'hydra.callbacks" in done.stderr
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "runs").exists()
