"""The method's full size; the same images for all arms, sizes that are meant to be equal; two processes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from experiments.config import claims, compose
from experiments.config.instantiate import build
from experiments.running import engine, training
from experiments.running.plan import Plan, plan

Make = Callable[..., Plan]
SIZES = {"few": 3, "some": 5, "many": 10}


@pytest.fixture(scope="module")
def full() -> Plan:
    return plan(compose.compose(compose.request(["paper=semiotics", "scale=full"]).overrides), 0)


def test_the_full_recipe_has_the_method_as_described(full: Plan) -> None:
    """No number of the paper is known: those of the description that this suite works from."""
    person, arm = full.stages["person_some"], full.stages["stochastic_some"]
    assert (person.module["network"]["pixels"], person.module["network"]["width"]) == (784, 512)
    assert person.module["network"]["hidden"] == 5
    assert person.module["noise"] == 0.3
    assert (person.module["optimizer"]["_target_"], person.module["optimizer"]["lr"]) == ("torch.optim.Adam", 1e-3)
    assert person.module["schedule"]["_target_"].endswith("cosine")
    assert (person.data["batch_size"], arm.data["batch_size"]) == (100, 32)
    perception = {"iterations": 50, "tolerance": 1e-3, "memory": 8}
    assert {key: arm.module["perception"][key] for key in perception} == perception
    assert full.stages["conn_some"].module["optimizer"]["lr"] == 1e-3  # what the main claim compares is tuned
    assert [full.stages[f"person_{size}"].data["per_class"] for size in SIZES] == [3, 10, 20]
    assert all(stage.data["source"]["_target_"].endswith("MNIST") for stage in full.stages.values())
    assert not compose.paper_file("semiotics")["published"]


@pytest.mark.parametrize("variant", [None, "mnist"])
def test_the_mechanism_is_asked_for_at_each_size(make_plan: Make, variant: str | None) -> None:
    """One size at which images do not attract is not made up for by another."""
    chosen = [f"variant={variant}"] if variant else []
    main = claims.read(make_plan("paper=semiotics", "scale=mini", *chosen).config).main
    assert main is not None
    asked = {text.partition("(")[2].partition(")")[0]: text.partition("(")[0] for text in main.requires_each}
    assert not main.requires
    assert asked.pop("person_*/test/drift") == "max"
    of_person = {f"person_*/test/{name}" for name in ("attracting", "converged", "captured")}
    of_arms = {f"{arm}_*/train/top1" for arm in ("baseline", "randomized", "stochastic")}
    assert asked == dict.fromkeys(of_person | of_arms, "min")


def test_every_arm_trains_on_the_same_balanced_images(make_plan: Make) -> None:
    this = make_plan("paper=semiotics", "scale=mini", seed=4)
    known: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
    for stage in this.stages.values():
        count = stage.data["per_class"]
        assert count == SIZES.get(stage.name.rpartition("_")[2], 5)
        data = training.construct_data(this, stage)
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
        this = make_plan("paper=semiotics", "scale=mini", seed=seed)
        data = training.construct_data(this, this.stages["baseline_few"])
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
        this = make_plan("paper=semiotics", f"trainer={trainer}", double, "stages.*.trainer.precision=64-true")
        if name != "person_few":
            engine.ensure(this, this.stages["person_few"])
        stage = this.stages[name]
        metrics.append(engine.ensure(this, stage).metrics)
        weights.append(torch.load(stage.directory / "last.ckpt", weights_only=True)["state_dict"])
    assert metrics[1] == pytest.approx(metrics[0], rel=1e-3)
    assert all(
        torch.allclose(weights[0][k].double(), weights[1][k].double(), atol=1e-8 if name == "person_few" else 1e-4)
        for k in weights[0]
    )
