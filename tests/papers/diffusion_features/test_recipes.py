"""The recipes: published places, rates and epochs, and what the arms of a comparison share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from experiments.config import claims
from experiments.running import training
from experiments.running.plan import Plan
from modules.common.schedules import Position

PROBES = (
    "linear",
    "linear_untrained",
    "linear_random",
    "attention",
    "blocks",
    "blocks_150",
    "steps",
    "heads",
    "finetuned",
)


def test_rates_of_the_full_recipe(make_plan: Callable[..., Plan]) -> None:
    stages = make_plan("paper=diffusion_features", "scale=full").stages
    rates = {"attention": 0.05, "finetuned": 0.001}
    for name in PROBES:
        stage = stages[name]
        optimizer, schedule = stage.module["optimizer"], training.build(stage.module["schedule"])
        assert optimizer == {"_target_": "torch.optim.SGD", "_partial_": True, "lr": rates.get(name, 0.01)}
        assert (stage.data["batch_size"], stage.reference_batch, stage.trainer["max_epochs"]) == (128, 128, 28)
        factors = [schedule(Position(epoch, 0, 10, 28)) for epoch in range(28)]
        assert factors == pytest.approx([1] * 7 + [0.1] * 7 + [0.01] * 7 + [0.001] * 7)
    attending = {n: c["rate"] for n, c in stages["heads"].module["cells"].items() if "rate" in c}
    assert attending == dict.fromkeys(("attention", "attention1", "attention3", "attention5"), 0.05)


def test_places_of_the_full_recipe(make_plan: Callable[..., Plan]) -> None:
    stages = make_plan("paper=diffusion_features", "scale=full").stages

    def places(name: str) -> dict[str, tuple[Any, ...]]:
        cells = stages[name].module["cells"]
        return {key: (cell["block"], cell["step"], cell.get("pool")) for key, cell in cells.items()}

    assert places("linear") == {f"pool{d}": (24, 90, d) for d in (1, 2, 4, 8)}
    assert places("linear_untrained") == places("linear_random") == {"pool2": (24, 90, 2)}
    assert places("attention") == {"attention": (24, 90, 16)}
    assert places("steps") == {f"t{t}": (19, t, 1) for t in (10, 30, 50, 90, 150, 300, 500)}
    blocks = (6, 9, 15, 19, 24, 30, 33)
    assert places("blocks") == {f"b{b}": (b, 90, 1) for b in blocks}
    assert places("blocks_150") == {f"b{b}": (b, 150, 1) for b in blocks} | {
        f"b19_pool{d}": (19, 150, d) for d in (2, 4, 8)
    }
    assert places("supervised") == {"linear": (19, 0, None)}
    released = make_plan("paper=diffusion_features", "scale=full", "variant=released").stages
    assert released["linear"].module["cells"]["pool2"]["step"] == 150


@pytest.mark.parametrize(
    ("variant", "classes", "images"),
    [
        ("aircraft", 100, (6667, 3333)),
        ("cars", 196, (8144, 8041)),
        ("cub", 200, (5994, 5794)),
        ("dogs", 120, (12000, 8580)),
        ("flowers", 102, (2040, 6149)),
        ("nabirds", 555, (23929, 24633)),
    ],
)
def test_fine_grained_kinds(
    variant: str, classes: int, images: tuple[int, int], make_plan: Callable[..., Plan]
) -> None:
    plan = make_plan("paper=diffusion_features", "scale=full", f"variant={variant}")
    stage = plan.stages["heads"]
    assert stage.module["classes"] == classes
    spec = training.build(stage.data | {"generated": True}).spec
    assert (len(spec.classes), spec.sizes["train"], spec.sizes["test"]) == (classes, *images)
    assert [name for name, other in plan.stages.items() if other.fit] == ["heads"]
    assert claims.read(plan.config).main is not None


def test_sources_that_are_compared_share_all_but_their_weights(make_plan: Callable[..., Plan]) -> None:
    stages = make_plan("paper=diffusion_features", "scale=mini", seed=3).stages
    sweep = stages["sweep"]
    for name in ("sweep_untrained", "sweep_random", "sweep_bigan", "sweep_pixels"):
        assert stages[name].data == sweep.data
        assert stages[name].trainer == sweep.trainer
        assert stages[name].module | {"pools": 0} == sweep.module | {"pools": 0}
    assert stages["sweep_untrained"].module == stages["sweep_random"].module == sweep.module
    assert sweep.data["source"]["train_size"] == stages["heads"].data["source"]["train_size"]
    assert stages["bigan"].data == stages["diffusion"].data


def test_labelled_images_are_none_of_the_test_images(make_plan: Callable[..., Plan]) -> None:
    stages = make_plan("paper=diffusion_features", "scale=mini", seed=3).stages
    splits = {}
    for name in ("diffusion", "sweep"):
        data = training.build(stages[name].data)
        data.setup()
        splits[name] = {split: {bytes(image.numpy()) for image in data.splits[split][0]} for split in ("train", "test")}
    assert splits["sweep"]["train"] <= splits["diffusion"]["train"]
    assert splits["sweep"]["test"] == splits["diffusion"]["test"]
    assert not splits["sweep"]["test"] & splits["diffusion"]["train"]


def test_the_untrained_network_is_where_training_starts(make_plan: Callable[..., Plan]) -> None:
    plan = make_plan("paper=diffusion_features", "scale=mini", seed=3)
    first, second, third = (training.construct(plan, plan.stages[n]) for n in ("diffusion", "untrained", "random"))
    ours, theirs, random = (module.network.state_dict() for module in (first, second, third))
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    assert not ours["middle_block.1.proj_out.weight"].any()
    assert bool(random["middle_block.1.proj_out.weight"].any())


def test_encoders_are_of_about_one_size(make_plan: Callable[..., Plan]) -> None:
    plan = make_plan("paper=diffusion_features", "scale=mini", seed=3)
    network = training.construct(plan, plan.stages["diffusion"]).network
    encoder = training.construct(plan, plan.stages["bigan"]).encoder
    sizes = [sum(p.numel() for p in part.parameters()) for part in (network.up_to(7), encoder)]
    assert 0.5 < sizes[1] / sizes[0] < 2, sizes
