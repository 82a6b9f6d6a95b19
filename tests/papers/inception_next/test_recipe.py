"""What the recipes say: schedules, arms that differ in the mixer, variants, claims."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from timm.scheduler import CosineLRScheduler
from torch import nn

from experiments.config import claims
from experiments.running import training
from experiments.running.plan import Plan
from modules.common.schedules import Position
from tests.papers.inception_next.helpers import CONVNEXT, COUNTS, parameters


@pytest.mark.parametrize(
    ("line", "name", "timm_options", "epochs"),
    [
        ("scale=full", "inception", {"t_initial": 300, "lr_min": 1e-5, "warmup_t": 20, "warmup_lr_init": 1e-6}, 310),
        ("variant=atto", "convnext", {"t_initial": 450, "lr_min": 5e-7, "warmup_t": 5, "warmup_lr_init": 5e-7}, 460),
        ("variant=base_384", "finetuned", {"t_initial": 30, "lr_min": 1e-5}, 30),
        ("variant=base_384", "finetuned_convnext", {"t_initial": 30, "lr_min": 1e-5}, 30),
    ],
)
def test_schedules_are_timms(
    make_plan: Callable[..., Plan], line: str, name: str, timm_options: dict[str, Any], epochs: int
) -> None:
    stage = make_plan("paper=inception_next", "scale=full", line).stages[name]
    schedule = training.build(stage.module["schedule"])
    base = stage.module["optimizer"]["lr"]
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=base)
    theirs = CosineLRScheduler(optimizer, **timm_options)
    assert stage.trainer["max_epochs"] == epochs
    for epoch in range(epochs):
        theirs.step(epoch)
        ours = base * schedule(Position(epoch, 3, 10, epochs))
        assert ours == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-6), epoch


ARMS = ("inception", "dw7", "dw3", "identity")


@pytest.mark.parametrize(
    "line", ["scale=mini", "variant=cifar10", "scale=full", *(f"variant={v}" for v in ("atto", "small", "base"))]
)
def test_arms_of_a_comparison_differ_in_the_mixer_alone(make_plan: Callable[..., Plan], line: str) -> None:
    scale = "mini" if line in ("scale=mini", "variant=cifar10") else "full"
    stages = make_plan("paper=inception_next", f"scale={scale}", line).stages
    arms = [stages[name] for name in ARMS]
    for part in ("data", "trainer", "reference_batch"):
        assert all(getattr(a, part) == getattr(arms[0], part) for a in [*arms, stages["convnext"]])
    bare = [{**a.module, "network": {**a.module["network"], "mixer": None}} for a in arms]
    assert all(b == bare[0] for b in bare)
    assert len({str(a.module["network"]["mixer"]) for a in arms}) == 4
    assert {**stages["convnext"].module, "network": None} == {**arms[0].module, "network": None}


def test_fine_tuning_is_the_same_for_both_networks(make_plan: Callable[..., Plan]) -> None:
    stages = make_plan("paper=inception_next", "scale=full", "variant=base_384").stages
    ours, theirs = stages["finetuned"], stages["finetuned_convnext"]
    assert (ours.needs, theirs.needs) == ({"start": "inception"}, {"start": "convnext"})
    assert all(getattr(ours, k) == getattr(theirs, k) for k in ("module", "data", "trainer", "reference_batch"))
    assert stages["inception"].data == stages["convnext"].data
    assert stages["inception"].module["network"]["size"] == stages["convnext"].module["network"]["size"] == "base"


@pytest.mark.parametrize(
    ("variant", "trained", "ema"),
    [("no_3x3", "inception", 0.0), ("attention", "inception", 0.0), ("partial_1_8", "convnext", 0.9999)],
)
def test_variants_about_one_network_train_it_alone_and_claim_nothing(
    make_plan: Callable[..., Plan], variant: str, trained: str, ema: float
) -> None:
    plan = make_plan("paper=inception_next", "scale=full", f"variant={variant}")
    assert [name for name, stage in plan.stages.items() if stage.fit] == [trained]
    assert [name for name, stage in plan.stages.items() if stage.test and not stage.fit] == ["speed"]
    assert not claims.read(plan.config).claims
    assert {item.stage for item in claims.published(plan.config)} == {trained, "speed"}
    assert plan.stages[trained].module["ema"] == ema


@pytest.mark.parametrize(
    "line", ["scale=full", "variant=small", "variant=atto", "variant=isotropic", "variant=base_384"]
)
def test_claims_are_about_what_is_run(make_plan: Callable[..., Plan], line: str) -> None:
    plan = make_plan("paper=inception_next", "scale=full", line)
    questions = claims.read(plan.config)
    read = {s for claim in questions.claims for s in claims.stages_of(claim, list(plan.stages))}
    assert read
    assert all(plan.stages[name].test for name in read)
    fitted = {name for name, stage in plan.stages.items() if stage.fit}
    needed = {needed for name in fitted for needed in plan.stages[name].predecessors}
    assert fitted <= read | needed  # nothing is trained that no claim compares


def test_speed_is_of_the_published_size_and_of_what_the_full_recipe_trains(
    make_plan: Callable[..., Plan],
) -> None:
    for lines in (
        ("scale=mini",),
        ("scale=full",),
        ("scale=full", "variant=no_3x3"),
        ("scale=full", "variant=base_384"),
    ):
        stages = make_plan("paper=inception_next", *lines).stages
        speed = stages["speed"].module["candidates"]
        with torch.device("meta"):
            counts = {name: parameters(training.build(item)) for name, item in speed.items()}
            if "scale=full" in lines:
                assert counts["inception"] == parameters(training.build(stages["inception"].module["network"]))
                assert counts["convnext"] == parameters(training.build(stages["convnext"].module["network"]))
            else:
                assert (counts["inception"], counts["convnext"]) == (COUNTS["tiny"], CONVNEXT["tiny"])
        assert not any(item["channels_last"] for item in speed.values())  # the stage tries both layouts
