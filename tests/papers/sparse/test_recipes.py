"""The recipes: the paper's numbers, the released code's, what arms share, and two processes against one."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from experiments.config import claims
from experiments.running import engine, training
from experiments.running.plan import Plan

Make = Callable[..., Plan]
ARMS = ("sparse", "supervised", "generated")


def differences(one: Any, other: Any, path: str = "") -> set[str]:
    """Paths at which two configurations differ."""
    if isinstance(one, dict) and isinstance(other, dict):
        return {
            p for key in one.keys() | other.keys() for p in differences(one.get(key), other.get(key), f"{path}.{key}")
        }
    return set() if one == other else {path[1:]}


@pytest.mark.parametrize("scale", ["full", "mini", "smoke"])
def test_arms_differ_in_one_number_each(make_plan: Make, scale: str) -> None:
    stages = make_plan("paper=sparse", f"scale={scale}").stages
    expected = {"supervised": {"data.mu"}, "generated": {"module.translating.from_noise"}}
    for name, paths in expected.items():
        ours, theirs = (
            {part: getattr(stages[n], part) for part in ("data", "module", "trainer")} for n in (name, "sparse")
        )
        assert differences(ours, theirs) == paths
        assert stages[name].start_like == "sparse"


@pytest.mark.parametrize("scale", ["full", "mini"])
def test_every_arm_has_as_many_labelled_batches(make_plan: Make, scale: str) -> None:
    plan = make_plan("paper=sparse", f"scale={scale}")
    counts = set()
    for name in (*ARMS, "sgan"):
        data = plan.stages[name].data
        counts.add((plan.stages[name].trainer["max_epochs"], data["passes"], data["per_class"], data["batch_size"]))
    assert len(counts) == 1


def test_arms_share_their_starting_weights_and_labelled_images(make_plan: Make) -> None:
    plan = make_plan("paper=sparse", seed=3)
    engine.ensure(plan, plan.stages["judge"])
    states = [training.construct(plan, plan.stages[name]).state_dict() for name in ARMS]
    assert all(torch.equal(value, other[name]) for other in states[1:] for name, value in states[0].items())
    sets = [training.construct_data(plan, plan.stages[name]) for name in (*ARMS, "sgan")]
    for data in sets:
        data.setup()
    assert all(torch.equal(data.splits["train"][0], sets[0].splits["train"][0]) for data in sets[1:])


def test_the_papers_numbers(make_plan: Make) -> None:
    stage = make_plan("paper=sparse", "scale=full").stages["sparse"]
    module = stage.module
    data = stage.data
    supervision = {key: value for key, value in module["supervision"].items() if key != "_target_"}
    assert supervision == {
        "alpha": 0.1,
        "beta": 0.01,
        "gamma": 0.5,
        "kl": 0.5,
        "temperature": 2.0,
        "direction": "mean_to_network",
        "mutual_gradient": True,
        "mixup": 0.2,
        "classification": False,
    }
    voting = module["voting"]
    assert [voting[key] for key in ("temperature", "present", "decay", "quantile")] == [2.0, 0.6, 0.99, 0.75]
    assert [module["translating"][key] for key in ("rec", "cls", "gp")] == [10, 1, 10]
    for optimizer, decay in {"optimizer": 0.01, "classifier_optimizer": 1e-4}.items():
        options = module[optimizer]
        assert (options["lr"], options["betas"], options["weight_decay"]) == (2e-4, [0.5, 0.999], decay)
    assert stage.trainer["max_epochs"] * data["passes"] == 1000
    assert (data["batch_size"], data["mu"], data["per_class"], data["source"]["side"]) == (24, 10, 5, 128)
    assert module["select"]


def test_the_released_codes_numbers(make_plan: Make) -> None:
    stage = make_plan("paper=sparse", "scale=full", "variant=code_compat").stages["sparse"]
    module = stage.module
    ours = [module["supervision"][key] for key in ("alpha", "beta", "gamma", "kl", "temperature")]
    assert ours == [0.1, 0.1, 1.0, 0.1, 0.1]
    assert not module["supervision"]["mutual_gradient"]
    assert module["supervision"]["classification"]
    voting = module["voting"]
    assert (voting["temperature"], voting["present"], voting["training_mode"]) == (0.5, 1.0, True)
    assert not voting["normalised"]
    assert not voting["selected"]
    assert (module["class_loss"], stage.data["mu"]) == ("binary", 5)


def test_the_preset_fits_mini_too(make_plan: Make) -> None:
    plan = make_plan("paper=sparse", "scale=mini", "+recipe/sparse@_global_=released")
    training.check_plan(plan)
    assert plan.stages["sparse"].module["class_loss"] == "binary"


def test_eleven_sets_and_four_numbers_of_shots(make_plan: Make) -> None:
    plan = make_plan("paper=sparse", "scale=full")
    variants = {n: v for n, v in plan.config["variants"].items() if v["scale"] == "full" and n != "code_compat"}
    assert len(variants) == 43  # and the default, BloodMNIST with 5
    stage = make_plan("paper=sparse", "scale=full", "variant=organsmnist_20").stages["sparse"]
    assert (stage.data["source"]["name"], stage.data["per_class"], stage.module["generator"]["classes"]) == (
        "organsmnist",
        20,
        11,
    )


def test_published_means(make_plan: Make) -> None:
    """The sets' published accuracies have the published means, to their rounding."""
    means = {5: (63.21, 66.22), 10: (68.50, 70.95), 20: (73.44, 75.71), 50: (77.15, 78.28)}
    rows = make_plan("paper=sparse", "scale=full").config["published"]
    for shots, expected in means.items():
        for metric, mean in zip(("test/top1", "test/top1_ens"), expected, strict=True):
            values = [
                row["value"]
                for row in rows
                if row["metric"] == metric and int(row["dataset"].split(", ")[1].split()[0]) == shots
            ]
            assert len(values) == 11
            assert math.isclose(sum(values) / 11, mean, abs_tol=0.03)


def test_each_setting_has_its_main_claim(make_plan: Make) -> None:
    settings = {
        ("mini", None): "top1",
        ("mini", "pneumonia"): "balanced",
        ("full", None): "top1",
        ("full", "octmnist"): "top1",
    }
    for (scale, variant), metric in settings.items():
        lines = [f"variant={variant}"] if variant else []
        main = claims.read(make_plan("paper=sparse", f"scale={scale}", *lines).config).main
        assert main is not None, (scale, variant)
        assert str(main.better) == f"sparse/test/{metric}"
        assert str(main.than) == f"supervised/test/{metric}"


@pytest.mark.slow
def test_an_arm_on_two_processes_is_the_arm_on_one(make_plan: Make) -> None:
    """Prototypes, quantiles and kept images are those of the global batch; fakes are shared out anew."""
    short = [
        "stages.*.data.source.val_size=64",
        "stages.*.data.source.test_size=101",
        "stages.sparse.trainer.max_epochs=2",
        "stages.sparse.data.unlabelled=100",
        "stages.sparse.data.unlabelled_batch=50",
        "stages.sparse.data.passes=2",
        "stages.sparse.data.mu=2",
    ]
    weights, metrics = [], []
    for trainer in ("cpu", "ddp_cpu"):
        plan = make_plan("paper=sparse", *short, f"trainer={trainer}", "trainer.precision=64-true")
        engine.ensure(plan, plan.stages["judge"])
        stage = plan.stages["sparse"]
        metrics.append(engine.ensure(plan, stage).metrics)
        weights.append(torch.load(stage.directory / "last.ckpt", weights_only=True)["state_dict"])
    assert metrics[1] == pytest.approx(metrics[0], rel=1e-3, abs=1e-6)
    assert all(torch.allclose(weights[0][k].double(), weights[1][k].double(), atol=1e-5) for k in weights[0])
