"""The command line: expansion, variants, and one clear line for every wrong name."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from experiments.commands import reproduce, run
from experiments.common.errors import InputError
from experiments.common.paths import ROOT
from experiments.config import compose, reading
from experiments.running import devices, plan


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["paper=meal"], "paper 'meal' does not exist; did you mean 'meal_v2'?"),
        (["scale=tiny"], "scale 'tiny' does not exist; did you mean 'mini'?"),
        (["variant=clan"], "did you mean 'clean'?"),
        (["trainer=gp"], "did you mean 'gpu'?"),
        (["stages.student.module.labels.temprature=2"], "'temprature' does not exist; did you mean 'temperature'?"),
        (["stages.stdent.module.labels.temperature=2"], "did you mean 'student'?"),
        (["stages.tea*r.trainer.max_epochs=2"], "stage pattern 'tea*r' does not exist"),
        (["stages.*.module.nothing=2"], "no stage has this key"),
        (["data@stages.student.data=cifar1"], "data 'cifar1' does not exist; did you mean 'cifar10'?"),
        (["stages.student.module.labels.temperature=["], "cannot read the command line"),
        (["smoke"], "expected key=value"),
        (["stages.student.data.seed=${nowhere}"], "nowhere"),
        (["+stages.student.needs.student2=init2"], "stage 'init2' does not exist; did you mean 'init'?"),
        (["+stages.student.speed=2"], "key 'speed' does not exist"),
        (["seeds=[1,1]"], "expected different whole numbers"),
        (["jobs=0"], "expected auto or a whole number"),
        (["seeds=3"], "expected a list of different whole numbers"),
        (["seeds=[0 1 2]"], "expected different whole numbers, as in 'seeds=[0,1,2]'"),
        (["seed=3"], "'seeds=[3]' names them by hand"),
        (["minutes=-1"], "minutes=-1: expected a number from 0"),
        (["threads=two"], "threads='two': expected a whole number from 1"),
        (["data=cifar1"], "data 'cifar1' does not exist; did you mean 'cifar10'?"),
        (["stages.*.data.batch_size=abc"], "data.batch_size='abc': expected a whole number"),
        (["stages.*.data.batch_size=-4"], "data.batch_size=-4: expected a whole number from 1"),
        (["stages.student.data.label_noise=much"], "stages.student.data.label_noise='much': expected a number"),
        (["trainer=cpu", "trainer.devices=4096"], ".trainer.devices=4096: this machine has"),
        (["stages.student.trainer=5"], "stages.student.trainer=5: expected a mapping"),
        (["+foo=1"], "+foo: nothing reads such a key"),
        (["stages.student.trainer.max_epochs=five"], "trainer.max_epochs='five': expected a whole number from 1"),
        (["+stages.student.trainer.max_steps=0"], "trainer.max_steps=0: expected a whole number from 1"),
        (["+stages.student.trainer.gradient_clip_val=-1"], "gradient_clip_val=-1: expected a number from 0"),
        (["variant=clean", "scale=full"], "variant=clean is one of scale=mini, not of scale=full"),
        (
            ["data@stages.student.data=mnist", "data_dir=/no/such"],
            "stages.student.data: data_dir /no/such does not exist",
        ),
    ],
)
def test_wrong_input_is_one_line_that_names_it(lines: list[str], message: str, tmp_path: object) -> None:
    with pytest.raises(InputError) as caught:
        reproduce.main(lines if any(line.startswith("scale=") for line in lines) else [*lines, "scale=smoke"])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.skipif(devices.gpus() > 0, reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="this machine has no usable GPU; use trainer=cpu or trainer=auto"):
        reproduce.main(["scale=smoke", "trainer=gpu", f"runs_dir={tmp_path}"])


def test_targets_are_checked_against_signatures_before_training(make_plan: Callable[..., plan.Plan]) -> None:
    from experiments.running import training

    def message(*lines: str) -> str:
        with pytest.raises(InputError) as caught:
            training.check_plan(make_plan(*lines))
        return str(caught.value)

    assert "did you mean 'temperature'?" in message("+stages.student.module.labels.temprature=2")
    assert "did you mean 'momentum'?" in message("+stages.student.module.optimizer.momentun=2")
    assert "did you mean 'max_epochs'?" in message("+stages.student.trainer.max_epoch=2")
    assert "not allowed" in message("stages.student.module.optimizer._target_=os.system")
    assert "not allowed" in message("stages.student.module._target_=torch.hub.load")
    assert "did you mean 'MealV2'?" in message("stages.student.module._target_=modules.meal_v2.MealV3")
    assert "a multiple of the 2 devices" in message("trainer=ddp_cpu", "stages.student.data.batch_size=33")


def test_patterns_reach_every_stage_that_has_the_key() -> None:
    request = compose.request(["scale=smoke", "stages.*.trainer.max_epochs=7", "data@stages.teacher_*.data=mnist"])
    config = compose.compose(request.overrides)
    assert config.stages.student.trainer.max_epochs == config.stages.init.trainer.max_epochs == 7
    assert "trainer" not in config.stages.untrained
    assert config.stages.teacher_b.data._target_.endswith("MNIST")
    assert config.stages.student.data._target_.endswith("FashionMNIST")


def test_patterns_reach_stages_that_the_recipe_alone_names() -> None:
    request = compose.request(["paper=noprop", "scale=full", "variant=mnist"])
    assert "data@stages.ct.data=mnist" in request.overrides  # named by the recipe alone
    assert "stages.fm.trainer.max_epochs=100" in request.overrides


def test_a_variant_adds_no_recipe_that_smoke_holds_already() -> None:
    smoke = compose.compose(compose.request(["paper=noprop", "scale=smoke", "variant=continuous"]).overrides)
    assert set(smoke.stages) == {"untrained_ct", "ct", "fm", "adjoint"}
    assert smoke.stages.ct.data.train_size == 64


def test_patterns_pass_over_stages_that_are_taken_away() -> None:
    lines = [
        "scale=smoke",
        "~stages.student_wd",
        "claims=[]",
        "stages.*.trainer.max_epochs=7",
        "data@stages.*.data=mnist",
    ]
    config = compose.compose(compose.request(lines).overrides)
    assert "student_wd" not in config.stages
    assert config.stages.student.trainer.max_epochs == 7
    assert config.stages.student.data._target_.endswith("MNIST")


def test_what_the_user_gives_wins_over_the_variant() -> None:
    lines = ["variant=clean", "stages.student.data.label_noise=0.1", "data@stages.init.data=fashion_mnist"]
    config = compose.compose(compose.request(lines).overrides)
    assert config.variant == "clean"
    assert config.stages.student.data.label_noise == 0.1
    assert config.stages.soft.data.label_noise == 0.0
    assert config.stages.init.data._target_.endswith("FashionMNIST")


@pytest.mark.parametrize(
    "sentence",
    ["rates, tuned anew: 0.1", "the paper's own", r"a \ and 'quotes', both", "at the end \\", "short", "1,2"],
)
def test_a_sentence_on_the_command_line_needs_no_quotes_of_its_own(sentence: str) -> None:
    """Hydra would read a comma as a choice and a colon as a mapping."""
    request = compose.request(["paper=meal_v2", "scale=smoke", f"why={sentence}"])
    assert compose.compose(request.overrides).why == sentence
    assert compose.request(["why='quoted, as the help says'"]).given == ("why='quoted, as the help says'",)


def test_a_sweep_is_checked_in_every_value_before_it_starts() -> None:
    with pytest.raises(InputError, match="cifar1"):
        run.main(["-m", "scale=smoke", "data@stages.student.data=digits,cifar1"])
    with pytest.raises(InputError, match="'tiny'"):
        run.main(["-m", "scale=smoke,tiny"])


@pytest.mark.parametrize("module", ["run", "reproduce", "catalog", "report"])
def test_help_teaches_without_importing_torch(module: str) -> None:
    code = (
        f"from experiments.commands import {module} as m, cli\n"
        "cli.main(m.main, m.HELP, ['--help'])\n"
        "import sys\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    assert re.search(rf"python -m experiments\.(commands\.)?{module}\b", done.stdout)


def test_configuration_files_read_as_hydra_reads_them() -> None:
    """The loader in C agrees with OmegaConf's own on every file that is not written out."""
    for path in sorted(compose.CONF.rglob("*.yaml")):
        if re.search(r"\$\{[^}]*\{", path.read_text(encoding="utf-8")):
            continue  # an interpolation with an arm's name in it, which is put in before Hydra reads it
        assert compose.load(path) == OmegaConf.to_container(OmegaConf.load(path)), path


def test_a_key_that_stands_twice_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "CONF", tmp_path / "conf")
    path = tmp_path / "conf" / "a.yaml"
    path.parent.mkdir()
    path.write_text("sizes: {width: 1, width: 2}\n")
    with pytest.raises(InputError, match=r"conf/a\.yaml: no YAML: key 'width' stands there twice"):
        compose.load(path)
    path.write_text("rate: 1e-4\n")
    assert compose.load(path) == {"rate": 1e-4}


@pytest.mark.parametrize("paper", ["meal_v2", "napa_vq", "ntk_optimality"])
def test_a_seed_is_put_in_where_composing_would_put_it(paper: str) -> None:
    config = compose.compose(compose.request([f"paper={paper}", "runs_dir=runs/${seed}"]).overrides)
    assert compose.resolve_each(config, [3, 1001]) == [compose.resolve(config, seed) for seed in (3, 1001)]
    each = plan.plan_each(config, [3, 1001])
    assert [p.stages for p in each] == [plan.plan(config, seed).stages for seed in (3, 1001)]


def test_what_a_paper_tells_is_kept_from_hydra_and_joins_the_resolved_values() -> None:
    config = compose.compose(compose.request(["paper=meal_v2", "scale=smoke"]).overrides)
    resolved = compose.resolve(config, 5)
    told = [key for key in compose.TEXTS if key in compose.paper_file("meal_v2")]
    assert {"variants", "published", "deviations"} <= set(told)
    assert all(config[key] == compose.STANDS_ASIDE for key in told)
    without = compose.request(["paper=meal_v2", "scale=smoke", "~published", "deviations=[]"])
    less = compose.resolve(compose.compose(without.overrides))
    assert "published" not in less
    assert less["deviations"] == []
    assert all(resolved[key] == compose.paper_file("meal_v2")[key] for key in told)
    assert (resolved["seed"], config.seed) == (5, 0)


def by_hydra_alone(overrides: Sequence[str]) -> DictConfig:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(reading.CONF), version_base="1.3"):
        return hydra_compose("config", list(overrides))


@pytest.mark.parametrize(
    "given",
    [
        ["stages.student.module.labels.temperature=3"],
        ["variant=clean", "stages.*.trainer.max_epochs=2", "why=two words, and a comma"],
        ["~stages.soft", "~claims", "+stages.student.trainer.max_steps=7", "seeds=[1,2]"],
        ["data@stages.student.data=mnist", "logger=wandb", "logger.project=mine", "trainer=gpu"],
        ["stages.student.module.labels={temperature: 2}"],
    ],
)
def test_values_on_options_of_before_are_what_hydra_composes(given: list[str]) -> None:
    """Twice: the second time the options are those of before, and what was made of them then has been changed."""
    overrides = compose.request(["paper=meal_v2", *given]).overrides
    expected = by_hydra_alone(overrides)
    for _ in range(2):
        config = compose.compose(overrides)
        assert OmegaConf.to_yaml(config) == OmegaConf.to_yaml(expected)
        assert OmegaConf.is_struct(config)
        config.seed = 12345
        del config.stages.init


def test_a_file_that_changes_is_read_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "CONF", shutil.copytree(compose.CONF, tmp_path / "conf"))
    lines = ["paper=meal_v2", "scale=mini"]
    before = compose.compose(lines)
    path = tmp_path / "conf" / "trainer" / "cpu.yaml"
    path.write_text(path.read_text() + "\nbenchmark: true\n")
    assert compose.compose([*lines, "trainer=cpu"]).trainer.benchmark is True
    (tmp_path / "conf" / "config.yaml").write_text((compose.CONF / "config.yaml").read_text() + "\nmine: 7\n")
    assert "mine" not in before
    assert compose.compose(lines).mine == 7
