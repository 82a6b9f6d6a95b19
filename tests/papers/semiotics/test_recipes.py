"""The same images for all arms, sizes that are meant to be equal, and two processes that train what one trains."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from experiments.config.instantiate import build
from experiments.running import engine, training
from experiments.running.plan import Plan

Make = Callable[..., Plan]
SIZES = {"few": 5, "some": 10, "many": 20}


def test_every_arm_trains_on_the_same_balanced_images(make_plan: Make) -> None:
    plan = make_plan("paper=semiotics", "scale=mini", seed=4)
    known: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
    for stage in plan.stages.values():
        count = stage.data["per_class"]
        assert count == SIZES.get(stage.name.rpartition("_")[2], 10)
        data = training.construct_data(plan, stage)
        data.setup()
        images, labels = data.splits["train"]  # type: ignore[attr-defined]
        assert torch.bincount(labels).tolist() == [count] * 10
        first, first_labels = known.setdefault(count, (images, labels))
        assert torch.equal(images, first)
        assert torch.equal(labels, first_labels)
        assert data.spec.sizes["test"] == 1297


def test_other_seeds_draw_other_images(make_plan: Make) -> None:
    marks = set()
    for seed in (1, 2):
        plan = make_plan("paper=semiotics", "scale=mini", seed=seed)
        data = training.construct_data(plan, plan.stages["baseline_few"])
        data.setup()
        marks.add(data.spec.identity)
    assert len(marks) == 2


@pytest.mark.parametrize("scale", ["mini", "full"])
def test_the_large_network_has_the_weights_of_person_and_classifier(make_plan: Make, scale: str) -> None:
    stages = make_plan("paper=semiotics", f"scale={scale}").stages
    counts = {
        name: sum(p.numel() for p in build(stages[name].module["network"]).parameters())
        for name in ("person_some", "baseline_some", "as_large")
    }
    assert counts["as_large"] == pytest.approx(counts["person_some"] + counts["baseline_some"], rel=0.01)


@pytest.mark.parametrize(("scale", "steps"), [("mini", (1200, 400)), ("full", (1500, 600))])
def test_arms_take_the_same_number_of_steps(make_plan: Make, scale: str, steps: tuple[int, int]) -> None:
    for name, stage in make_plan("paper=semiotics", f"scale={scale}").stages.items():
        if stage.fit:
            taken = stage.trainer["max_epochs"] * stage.data["draws"] // stage.data["batch_size"]
            assert taken == steps["person" not in name], name


@pytest.mark.slow
@pytest.mark.parametrize("name", ["person_few", "stochastic_few"])
def test_a_stage_on_two_processes_is_the_stage_on_one(make_plan: Make, name: str) -> None:
    """Noise is drawn for the whole batch, and a test image's versions do not depend on its batch."""
    weights, metrics = [], []
    for trainer in ("cpu", "ddp_cpu"):
        double = "trainer.precision=64-true"
        plan = make_plan("paper=semiotics", f"trainer={trainer}", double, "stages.*.trainer.precision=64-true")
        if name != "person_few":
            engine.ensure(plan, plan.stages["person_few"])
        stage = plan.stages[name]
        metrics.append(engine.ensure(plan, stage).metrics)
        weights.append(torch.load(stage.directory / "last.ckpt", weights_only=True)["state_dict"])
    assert metrics[1] == pytest.approx(metrics[0], rel=1e-3)
    assert all(
        torch.allclose(weights[0][k].double(), weights[1][k].double(), atol=1e-8 if name == "person_few" else 1e-4)
        for k in weights[0]
    )
