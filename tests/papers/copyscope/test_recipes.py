"""The recipes: equal budgets of the LoRAs, what the claims' controls share, and two processes against one."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from datamodules.copyscope.hands import ARTIST, OTHER_ARTIST
from experiments.config import claims
from experiments.running import engine
from experiments.running.plan import Plan, only

LORAS = ("lora_0", "lora_25", "lora_50", "lora_100", "lora_other")


def test_loras_differ_in_their_images_alone(make_plan: Callable[..., Plan]) -> None:
    stages = make_plan("paper=copyscope", "scale=mini").stages
    first = stages["lora_0"]
    for name, dose in zip(LORAS, (0, 25, 50, 100, 100), strict=True):
        stage = stages[name]
        assert (stage.module, stage.trainer, stage.start_like) == (first.module, first.trainer, "lora")
        assert stage.data["dose"] == dose
        assert {k: v for k, v in stage.data.items() if k not in ("dose", "artist")} == {
            k: v for k, v in first.data.items() if k not in ("dose", "artist")
        }
    assert stages["lora_other"].data["artist"] == "other_artist"


def test_all_coalitions_have_the_same_noise(make_plan: Callable[..., Plan]) -> None:
    stages = make_plan("paper=copyscope", "scale=mini", seed=7).stages
    made = {name: stage.module for name, stage in stages.items() if name.startswith("generated")}
    sampling = {name: module["sampling"] for name, module in made.items()}
    assert {how["seed"] for how in sampling.values()} == {7}
    assert not any(how.get("shift") for how in sampling.values())
    assert {how["steps"] for how in sampling.values()} == {10}
    assert {module.get("artist", ARTIST) for name, module in made.items() if name != "generated_other"} == {ARTIST}
    assert made["generated_other"]["artist"] == OTHER_ARTIST
    assert stages["generated_other"].needs == {**stages["generated_100"].needs, "lora": "lora_other"}
    assert {stage.data["batch_size"] for name, stage in stages.items() if name.startswith("generated")} == {128}


def test_claims_of_both_scales(make_plan: Callable[..., Plan]) -> None:
    for scale in ("mini", "full"):
        questions = claims.read(make_plan("paper=copyscope", f"scale={scale}").config)
        assert questions.main is not None


def test_the_main_claim_needs_no_other_dose(make_plan: Callable[..., Plan]) -> None:
    """Its arms are two LoRAs of a whole dose, and what divides the credit is one table of their coalitions."""
    plan = make_plan("paper=copyscope", "scale=mini")
    main = claims.read(plan.config).main
    assert main is not None
    needed = only(plan, main.arms(plan.stages)).stages
    assert not {"lora_0", "lora_25", "lora_50", "table_doses"} & set(needed)
    assert {"lora_100", "lora_other", "table"} <= set(needed)


ONE_DEVICE = ("features", "generated", "table", "ablation", "attribution")


@pytest.mark.parametrize("scale", ["mini", "full"])
def test_what_is_gathered_in_one_process_runs_on_one_device(make_plan: Callable[..., Plan], scale: str) -> None:
    """Whatever trainer was asked for: tables of images and of worths are complete in each of these stages."""
    stages = make_plan("paper=copyscope", f"scale={scale}", "trainer=ddp_cpu").stages
    single = {name: stage for name, stage in stages.items() if name.startswith(ONE_DEVICE)}
    assert all((stage.trainer["devices"], stage.trainer["strategy"]) == (1, "auto") for stage in single.values())
    assert not any(stage.fit for stage in single.values())
    assert all(stage.trainer["devices"] == 2 for name, stage in stages.items() if name not in single)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["base", "control", "lora_50"])
def test_training_on_two_processes_is_training_on_one(make_plan: Callable[..., Plan], name: str) -> None:
    """Steps, noise and left-out words are drawn for the whole batch."""
    weights, metrics = [], []
    for trainer in ("cpu", "ddp_cpu"):
        plan = make_plan("paper=copyscope", f"trainer={trainer}")
        for needed in plan.stages[name].needs.values():
            engine.ensure(plan, plan.stages[needed])
        stage = plan.stages[name]
        metrics.append(engine.ensure(plan, stage).metrics)
        weights.append(torch.load(stage.directory / "last.ckpt", weights_only=True)["state_dict"])
    # embeddings of time steps are in fp32, in which sums of two halves round differently
    assert metrics[1] == pytest.approx(metrics[0], rel=5e-3, abs=1e-3)
    assert all(float((weights[0][k] - weights[1][k]).double().abs().mean()) < 2e-5 for k in weights[0])
