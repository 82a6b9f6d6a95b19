"""The published recipe in numbers: places, heads, rates, epochs, photos, and every accuracy that is held to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from experiments.config import claims, compose
from experiments.running import training
from experiments.running.plan import Plan, plan
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


@pytest.fixture(scope="module")
def full() -> Plan:
    return plan(compose.compose(compose.request(["paper=diffusion_features", "scale=full"]).overrides), 0)


def test_rates_of_the_full_recipe(full: Plan) -> None:
    """28 epochs of 128 photos, SGD without momentum, a tenth of the rate every seven epochs."""
    stages = full.stages
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


def test_places_of_the_full_recipe(full: Plan, make_plan: Callable[..., Plan]) -> None:
    stages = full.stages

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


def test_the_frozen_network_is_the_released_one(full: Plan) -> None:
    """Unconditional, 256 pixels, six output channels; 28 epochs see fresh crops and mirrored photos."""
    module = full.stages["diffusion"].module
    assert module["network"]["_target_"] == "modules.diffusion_features.released.imagenet256"
    assert module["network"]["path"].endswith("guided_diffusion/256x256_diffusion_uncond.pt")
    assert (module["learned_variance"], module["decay"], full.stages["diffusion"].fit) == (True, None, False)
    with torch.device("meta"):
        network = training.build(module["network"] | {"pretrained": False})
    assert sum(p.numel() for p in network.parameters()) == 552_814_086


IMAGENET = {  # read at block 24 and t = 90 unless said otherwise; time steps and blocks off plots
    "linear": {"pool1": 61.95, "": 64.96, "pool4": 63.0, "pool8": 60.1},
    "attention": {"": 71.89},
    "supervised": {"": 64.32},
    "steps": {"t10": 49.2, "t30": 53.1, "t50": 54.4, "t90": 55.1, "t150": 54.8, "t300": 50.7, "t500": 34.6},
    "blocks": {"b6": 11, "b9": 17, "b15": 41, "b19": 55.1, "b24": 61.95, "b30": 46, "b33": 30},
    "blocks_150": {
        **{"b6": 10, "b9": 14, "b15": 41, "b19": 54.8, "b24": 62, "b30": 47, "b33": 31},
        **{"b19_pool2": 60.7, "b19_pool4": 60.1, "b19_pool8": 55.7},
    },
    "heads": {"": 87.2, "pool2": 89.4, "pool4": 89.6, "pool8": 88.3},  # ImageNet-50
}
KINDS = {  # linear, MLP, CNN, attention
    "aircraft": (48.5, 48, 54.5, 25),
    "cars": (21, 23.5, 20.5, 11.5),
    "cub": (31.5, 28, 24.5, 19),
    "dogs": (46.5, 49, 48.5, 50.5),
    "flowers": (77, 71.5, 66, 62),
    "nabirds": (22.5, 24, 23.5, 22),
}


def test_published_accuracies_stand_with_their_photos_and_heads(full: Plan) -> None:
    expected = {
        ("default", stage, f"{name}_top1" if name else "top1"): value
        for stage, values in IMAGENET.items()
        for name, value in values.items()
    }
    heads = ("top1", "mlp_top1", "cnn_top1", "attention_top1")
    expected |= {
        (variant, "heads", metric): value
        for variant, values in KINDS.items()
        for metric, value in zip(heads, values, strict=True)
    }
    rows = full.config["published"]
    assert {(r["variant"], r["stage"], r["metric"].removeprefix("test/")): r["value"] for r in rows} == expected
    assert len(rows) == len(expected)
