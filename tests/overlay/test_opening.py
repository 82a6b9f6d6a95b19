"""What an overlay adds to the suite while it is open, and what it may not: nothing of the suite's is shadowed."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from experiments.common.errors import InputError
from experiments.common.overlay import VARIABLE, current, home
from experiments.common.paths import ROOT
from experiments.config import compose, overlay
from experiments.config.instantiate import locate
from experiments.evidence import registrations, results
from experiments.identity import definitions, dependencies
from experiments.running.plan import plan


def test_an_open_overlay_adds_papers_data_and_code_and_a_closed_one_none(mine: Path) -> None:
    before = compose.papers()
    with overlay.opened(str(mine)):
        assert compose.papers() == sorted([*before, "toy"])
        assert "toy/relabelled" in compose.options("data")
        assert locate("mine.modules.toy.Maker", "stages.maker.module").__module__ == "mine.modules.toy"
        assert home() == mine
        assert results.base() == mine / "results"
        assert registrations.folder("toy") == mine / "results" / "registrations" / "toy"
    assert compose.papers() == before
    assert current() is None
    assert VARIABLE not in os.environ
    assert results.base() == ROOT / "results"
    assert not [name for name in sys.modules if name.startswith("mine")]
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("mine.modules.toy")


def test_runs_lie_in_the_overlay_unless_the_user_says_where(mine: Path, tmp_path: Path) -> None:
    with overlay.opened(str(mine)):
        for words, folder in (([], mine / "runs"), ([f"runs_dir={tmp_path}/else"], tmp_path / "else")):
            config = compose.compose(compose.request(["paper=toy", "scale=smoke", *words]).overrides)
            assert plan(config, 0).stages["maker"].directory.is_relative_to(folder)


def test_a_paper_of_the_suite_is_planned_alike_with_and_without_an_overlay(mine: Path) -> None:
    def fingerprints() -> dict[str, str]:
        config = compose.compose(compose.request(["paper=meal_v2", "scale=smoke"]).overrides)
        return {name: stage.fingerprint for name, stage in plan(config, 0).stages.items()}

    alone = fingerprints()
    with overlay.opened(str(mine)):
        assert fingerprints() == alone


def test_an_edit_of_an_overlays_code_changes_the_identity_of_what_reaches_it_alone(
    mine: Path, changed: Callable[[str, str, str], Path]
) -> None:
    def fingerprints() -> dict[str, str]:
        with overlay.opened(str(mine)):
            config = compose.compose(compose.request(["paper=toy", "scale=smoke"]).overrides)
            return {name: stage.fingerprint for name, stage in plan(config, 0).stages.items()}

    before = fingerprints()
    changed("modules/toy.py", "batch.y.repeat(2)", "batch.y.repeat(2) ")
    assert fingerprints() == before
    changed("modules/toy.py", "batch.y.repeat(2)", "batch.y.repeat(1 + 1)")
    after = fingerprints()
    assert {name for name in before if before[name] != after[name]} == {"arm_1", "arm_2"}


def test_code_of_an_overlay_has_the_identity_it_would_have_in_the_suite(mine: Path) -> None:
    """Where a definition lies counts nowhere: an arm that the suite takes in keeps its numbers."""
    with overlay.opened(str(mine)):
        reached = dependencies.reach(("mine.modules.toy.Maker",))
        assert any(item.module == "modules.common.classifier" for item in reached)
        assert any(item.module == "mine.modules.toy" and item.name == "Maker" for item in reached)
        assert definitions.file_of("mine.modules.toy") == mine / "modules" / "toy.py"
    assert definitions.file_of("mine.modules.toy") is None


def test_nothing_of_the_folder_but_modules_and_datamodules_can_be_imported(mine: Path) -> None:
    (mine / "helpers.py").write_text("x = 1\n", encoding="utf-8")
    with overlay.opened(str(mine)), pytest.raises(ModuleNotFoundError):
        importlib.import_module("mine.helpers")


def refuse(folder: Path, words: str) -> None:
    """Opening it ends in one line that says this, and leaves nothing open."""
    with pytest.raises(InputError) as told, overlay.opened(str(folder)):
        pytest.fail("it was opened")
    assert words in str(told.value)
    assert "\n" not in str(told.value)
    assert current() is None
    assert VARIABLE not in os.environ


@pytest.mark.parametrize(
    "name", ["modules", "datamodules", "experiments", "torch", "os", "antigravity", "conf", "Mine", "a-b"]
)
def test_a_name_that_would_shadow_a_package_is_refused(mine: Path, name: str) -> None:
    (mine / "overlay.yaml").write_text(f"name: {name}\n", encoding="utf-8")
    refuse(mine, f"overlay.yaml: name={name}" if name.isalpha() and name.islower() else "expected small letters")


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "torch.load",
        "modules.common.classifier.Classifier",
        "mine.results.toy.run",
        "mine.modules.toy.F",
        "mine.modules.toy.random.seed",
        "mine.modules.toy.absent",
        "mine.modules.toy",
    ],
)
def test_an_overlay_allows_classes_and_functions_of_its_own_alone(mine: Path, target: str) -> None:
    path = mine / "overlay.yaml"
    path.write_text(f"{path.read_text(encoding='utf-8')}  - {target}\n", encoding="utf-8")
    refuse(mine, "overlay.yaml: allow")


def test_what_is_not_allowed_by_its_whole_name_is_not_built(changed: Callable[[str, str, str], Path]) -> None:
    mine = changed("overlay.yaml", "  - mine.modules.toy.Maker\n", "")
    with overlay.opened(str(mine)), pytest.raises(InputError, match=r"mine\.modules\.toy\.Maker' is not allowed"):
        locate("mine.modules.toy.Maker", "stages.maker.module")


@pytest.mark.parametrize(
    "name",
    [
        "conf/paper/meal_v2.yaml",
        "conf/recipe/meal_v2/mini.yaml",
        "conf/recipe/meal_v2/another.yaml",
        "conf/data/digits.yaml",
        "conf/data/transhp/shapes.yaml",
    ],
)
def test_a_name_of_the_suites_configuration_is_refused(mine: Path, name: str) -> None:
    (mine / name).parent.mkdir(parents=True, exist_ok=True)
    (mine / name).write_text("key: meal_v2\n", encoding="utf-8")
    refuse(mine, f"mine/{name}: shadows the suite's")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("conf/hydra/job_logging/stdout.yaml", "mine/conf/hydra: group of an overlay"),
        ("conf/launcher/x.yaml", "mine/conf/launcher: group of an overlay"),
        ("conf/config.yaml", "mine/conf/config.yaml: group of an overlay"),
        ("conf/data/photos.txt", "expected a file conf/<group>/<name>.yaml"),
    ],
)
def test_configuration_of_the_frame_is_refused(mine: Path, name: str, words: str) -> None:
    (mine / name).parent.mkdir(parents=True, exist_ok=True)
    (mine / name).write_text("{}\n", encoding="utf-8")
    refuse(mine, words)


@pytest.mark.parametrize("place", ["conf/data/photos.yaml", "modules/linked", "results", "overlay.yaml"])
def test_a_link_out_of_the_folder_is_refused(mine: Path, tmp_path: Path, place: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "overlay.yaml").write_text((mine / "overlay.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    (mine / place).unlink(missing_ok=True)
    (mine / place).symlink_to(outside / "overlay.yaml" if place.endswith("yaml") else outside)
    refuse(mine, f"{place}: a link to")


def test_yaml_that_runs_code_is_refused(changed: Callable[[str, str, str], Path]) -> None:
    mine = changed("overlay.yaml", "about: a toy", "about: !!python/object/apply:os.system ['true'] # a toy")
    refuse(mine, "overlay.yaml: no YAML")


def test_yaml_of_a_paper_that_runs_code_is_refused(changed: Callable[[str, str, str], Path]) -> None:
    mine = changed("conf/paper/toy.yaml", "title: Toy", "title: !!python/object/apply:os.system ['true']")
    with overlay.opened(str(mine)), pytest.raises(InputError, match=r"mine/conf/paper/toy\.yaml: no YAML"):
        compose.request(["paper=toy", "scale=smoke"])


def test_a_recipe_that_sets_the_frame_is_refused(changed: Callable[[str, str, str], Path]) -> None:
    mine = changed("conf/recipe/toy/mini.yaml", "first: 2", "runs_dir: elsewhere\nfirst: 2")
    with overlay.opened(str(mine)), pytest.raises(InputError, match="runs_dir"):
        compose.compose(compose.request(["paper=toy", "scale=smoke"]).overrides)


def test_code_that_imports_the_engine_is_refused(changed: Callable[[str, str, str], Path]) -> None:
    mine = changed("modules/toy.py", "import random", "import random\nfrom experiments.evidence import results")
    refuse(mine, "imports experiments.evidence; expected modules, datamodules and libraries")


@pytest.mark.parametrize("text", ["def broken(:\n", "x = " + "(" * 5000 + ")" * 5000, "\0"])
def test_code_that_is_no_python_is_refused(mine: Path, text: str) -> None:
    (mine / "modules" / "broken.py").write_text(text, encoding="utf-8")
    refuse(mine, "mine/modules/broken.py: no Python")


def test_a_misspelt_key_of_the_overlays_file_is_told_with_the_nearest(changed: Callable[[str, str, str], Path]) -> None:
    refuse(changed("overlay.yaml", "allow:", "alow:"), "did you mean 'allow'?")


def test_a_folder_inside_the_checkout_or_none_at_all_is_refused(tmp_path: Path) -> None:
    refuse(tmp_path / "nothing", "no such folder")
    refuse(tmp_path, "overlay.yaml: no such file")
    refuse(ROOT / "conf", "expected a folder outside of")
