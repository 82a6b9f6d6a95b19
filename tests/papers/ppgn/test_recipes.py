"""The recipes: what arms share, and that nothing is judged on what it was chosen with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from experiments.config import claims
from experiments.running import engine, training
from experiments.running.plan import Plan

Make = Callable[..., Plan]
SAMPLES = ["noiseless", "dgn_am", "untrained", "zero", "no_gan", "joint", "ppgn_h", "ppgn_x"]


@pytest.mark.parametrize("scale", ["mini", "full"])
def test_arms_differ_in_their_prior_and_generator_alone(make_plan: Make, scale: str) -> None:
    stages = make_plan("paper=ppgn", f"scale={scale}", seed=3).stages
    baseline = stages["sample_noiseless"]
    for name in SAMPLES:
        stage = stages[f"sample_{name}"]
        assert stage.data == baseline.data
        assert not stage.fit
        assert {k: v for k, v in stage.module.items() if k != "sampler"} == {
            k: v for k, v in baseline.module.items() if k != "sampler"
        }
        assert {k: stage.needs[k] for k in ("encoder", "condition", "judge", "codes")} == {
            k: k for k in ("encoder", "condition", "judge", "codes")
        }
    assert stages["sample_dgn_am"].needs["generator"] == baseline.needs["generator"] == "noiseless"
    assert len({stages[n].start_like for n in ("noiseless", "no_gan", "joint")}) == 1


def test_nothing_is_judged_on_what_it_was_chosen_with(make_plan: Make) -> None:
    stages = make_plan("paper=ppgn", "scale=mini", seed=3).stages
    chosen = {n: s for n, s in stages.items() if n.startswith("choose_")}
    assert len(chosen) == 6
    first = stages["choose_noiseless"]
    for stage in chosen.values():
        assert stage.module["chains"]["classes"] == stage.data["classes"] == [0, 1, 2, 3, 4]
        assert stage.module["candidates"] == first.module["candidates"]  # all methods are tuned alike
        assert stage.data == first.data
    assert stages["choose_dgn_am"].module["sampler"]["e1"] == 0
    assert all(s.module["sampler"]["e1"] > 0 for n, s in chosen.items() if n != "choose_dgn_am")
    for name in ("noiseless", "dgn_am", "untrained", "zero"):
        assert stages[f"sample_{name}"].needs["choice"] == f"choose_{name}"
        assert stages[f"choose_{name}"].needs["generator"] == stages[f"sample_{name}"].needs["generator"] == "noiseless"
        assert stages[f"choose_{name}"].needs.get("denoiser") == stages[f"sample_{name}"].needs.get("denoiser")
    assert stages["untrained"].start_like == stages["noiseless"].start_like
    for name in SAMPLES:
        stage = stages[f"sample_{name}"]
        assert stage.module["chains"]["classes"] == stage.data["classes"] == [5, 6, 7, 8, 9]


def test_the_images_of_the_choice_were_met_by_no_network(make_plan: Make) -> None:
    """Validation images of the choice are validation images of all that is trained."""
    stages = make_plan("paper=ppgn", "scale=mini", seed=3).stages
    images = {}
    for name in ("encoder", "noiseless", "choose_noiseless"):
        data = training.build(stages[name].data)
        data = getattr(data, "source", data)
        data.setup()
        images[name] = {part: {bytes(x) for x in data.splits[part][0].numpy()} for part in ("train", "val")}
    assert images["choose_noiseless"]["val"] <= images["encoder"]["val"]
    assert images["choose_noiseless"]["val"] <= images["noiseless"]["val"]
    # Fashion-MNIST holds a few images twice
    assert len(images["choose_noiseless"]["val"] & images["encoder"]["train"]) <= 3


@pytest.mark.parametrize(("scale", "stage"), [("mini", "sample_noiseless"), ("full", "sample_noiseless")])
def test_each_scale_has_its_main_claim(make_plan: Make, scale: str, stage: str) -> None:
    main = claims.read(make_plan("paper=ppgn", f"scale={scale}").config).main
    assert main is not None
    for part in main.parts():
        assert str(part.better).split("/")[0] == stage
        assert [str(side).split("/")[0] for side in part.than.values()] == [
            "sample_dgn_am",
            "sample_untrained",
            "sample_zero",
        ]
    assert [str(part.better).split("/")[-1].split("_")[0] for part in main.parts()] == ["fid", "diversity"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["joint", "sample_joint"])
def test_a_stage_on_two_processes_is_the_stage_on_one(make_plan: Make, name: str) -> None:
    """Noise is drawn for the whole batch, the pause is decided by all, and chains are their numbers'."""
    short = ["stages.joint.data.train_size=256", "stages.sample_joint.data.source.test_size=61"]
    weights: list[Any] = []
    metrics = []
    for trainer in ("cpu", "ddp_cpu"):
        plan = make_plan("paper=ppgn", *short, f"trainer={trainer}")
        stage = plan.stages[name]
        for needed in plan.stages.values():
            if needed.name == name:
                break
            if needed.name in ("encoder", "condition", "judge", "codes", "joint", "choose_joint"):
                engine.ensure(plan, needed)
        metrics.append(engine.ensure(plan, stage).metrics)
        if stage.fit:
            weights.append(torch.load(stage.directory / "last.ckpt", weights_only=True)["state_dict"])
    # E, C and J are frozen in fp32, in which sums of two halves round differently
    assert metrics[1] == pytest.approx(metrics[0], rel=5e-3, abs=1e-3)
    if weights:
        assert all(float((weights[0][k] - weights[1][k]).double().abs().mean()) < 2e-5 for k in weights[0])
