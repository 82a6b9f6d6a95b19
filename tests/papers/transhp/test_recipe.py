"""The published recipe, and what the arms have in common."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from experiments.config import claims, compose
from experiments.running import training
from experiments.running.plan import Plan, plan
from tests.papers.transhp.helpers import LEVELS, WEIGHTS


def planned(*lines: str) -> Plan:
    return plan(compose.compose(compose.request(["paper=transhp", *lines]).overrides), 0)


@pytest.fixture(scope="module")
def full() -> Plan:
    return planned("scale=full")


def test_every_arm_trains_as_released(full: Plan) -> None:
    """300 epochs of 1024 images, AdamW, from 1e-6 over five epochs to 1e-3 and on a cosine to 1e-5, no MixUp."""
    assert set(full.stages) == {"transhp", "baseline", "no_coarse", "no_prompts", "baseline_few", "transhp_few"}
    for stage in full.stages.values():
        assert stage.trainer["max_epochs"] == 300
        assert stage.data["batch_size"] == stage.reference_batch == 1024
        assert stage.module["optimizer"] == {
            "_target_": "torch.optim.AdamW",
            "_partial_": True,
            "lr": 1e-3,
            "weight_decay": 0.05,
        }
        assert stage.module["schedule"] == {
            "_target_": "modules.transhp.schedules.deit_cosine",
            "_partial_": True,
            **{"base": 1e-3, "final": 1e-5, "warmup": 1e-6, "warmup_epochs": 5},
        }
        assert stage.module["label_smoothing"] == 0.1
        assert not {"mixup", "cutmix", "ema"} & set(stage.module)


def test_images_are_augmented_as_released(full: Plan) -> None:
    source = full.stages["transhp"].data["source"]
    augmentation = source["augmentation"]
    assert (augmentation["auto_augment"], augmentation["color_jitter"]) == ("rand-m9-mstd0.5-inc1", 0.3)
    assert (augmentation["erasing"], augmentation["erasing_mode"], augmentation["repeats"]) == (0.25, "pixel", 3)
    assert source["image_size"] == 224
    assert (augmentation["crop_scale"], augmentation["interpolation"]) == ([0.08, 1.0], "bicubic")

    photos = training.build({**source, "batch_size": 1024})
    resize, centre = photos.transform(train=False).transform.transforms[:2]
    assert (resize.size, resize.interpolation.value, centre.size) == (256, "bicubic", (224, 224))


def test_prompts_are_in_the_first_eleven_blocks_and_their_losses_rise(full: Plan) -> None:
    network = full.stages["transhp"].module["network"]
    blocks = network["blocks"]
    assert (blocks["dim"], blocks["depth"], blocks["heads"], blocks["mlp_ratio"]) == (384, 12, 6, 4.0)
    assert (network["image_size"], network["patch"], blocks["drop_path"]) == (224, 16, 0.1)
    assert training.build(blocks).initial_std == 0.02
    assert [tuple(level) for level in network["levels"]] == LEVELS
    weights = {"transhp": WEIGHTS, "no_prompts": WEIGHTS, "no_coarse": [0] * 11, "baseline": []}
    weights |= {"transhp_few": WEIGHTS, "baseline_few": []}
    assert {name: stage.module["weights"] for name, stage in full.stages.items()} == weights
    kinds = {name: stage.module["network"]["coarse"] for name, stage in full.stages.items()}
    assert kinds == {
        **dict.fromkeys(("transhp", "transhp_few", "no_coarse"), "prompts"),
        **dict.fromkeys(("baseline", "baseline_few"), "none"),
        "no_prompts": "class_token",
    }
    shares = {name: stage.data["source"]["fraction"] for name, stage in full.stages.items()}
    assert shares == {name: 0.1 if name.endswith("_few") else 1.0 for name in full.stages}


@pytest.mark.parametrize(("variant", "dim", "heads", "depth"), [("vit_base", 768, 12, 12), ("vit_large", 1024, 16, 24)])
def test_larger_networks(variant: str, dim: int, heads: int, depth: int) -> None:
    for stage in planned("scale=full", f"variant={variant}").stages.values():
        blocks = stage.module["network"]["blocks"]
        assert (blocks["dim"], blocks["heads"], blocks["depth"]) == (dim, heads, depth)


def test_cifar_100_has_its_twenty_superclasses_in_block_8() -> None:
    stages = planned("scale=full", "variant=cifar100").stages
    assert set(stages) == {"transhp", "baseline", "no_coarse", "no_prompts"}
    assert {name: stage.module["weights"] for name, stage in stages.items()} == {
        "transhp": [1],
        "no_prompts": [1],
        "no_coarse": [0],
        "baseline": [],
    }
    for stage in stages.values():
        assert stage.module["network"]["levels"] == [[8, 20]]
        assert stage.module["network"]["image_size"] == 224
        assert stage.module["classes"] == stage.module["network"]["classes"] == 100


@pytest.mark.parametrize("block", [10, 9, 8, 6])
def test_prompts_from_a_later_block_on(block: int) -> None:
    stages = planned("scale=full", f"variant=from_block_{block}").stages
    assert list(stages) == ["transhp"]
    assert [tuple(level) for level in stages["transhp"].module["network"]["levels"]] == LEVELS[block:]
    assert stages["transhp"].module["weights"] == WEIGHTS[block:]
    assert stages["transhp"].data["skip"] == block


def test_published_numbers_hang_on_the_arms_they_came_from() -> None:
    rows = compose.paper_file("transhp")["published"]
    published = {(row.get("variant"), f"{row['stage']}/{row['metric']}"): row["value"] for row in rows}
    pairs = {
        ("vit_base", ""): (76.68, 79.51),
        ("vit_large", ""): (76.37, 78.8),
        (None, "_few"): (25.24, 37.93),
        ("half", "_few"): (67.87, 70.74),
        ("fifth", "_few"): (44.6, 53.71),
        ("cifar100", ""): (61.77, 67.09),
        (None, ""): (76.21, 78.65),
    }
    expected = {(variant, f"baseline{few}/test/top1"): value for (variant, few), (value, _) in pairs.items()}
    expected |= {(variant, f"transhp{few}/test/top1"): value for (variant, few), (_, value) in pairs.items()}
    expected |= {(None, "transhp/test/top5"): 93.614}
    expected |= {(None, "no_prompts/test/top1"): 77.58, (None, "no_coarse/test/top1"): 76.21}
    late = {10: 77.71, 9: 78.5, 8: 78.57, 6: 78.85}
    expected |= {(f"from_block_{block}", "transhp/test/top1"): value for block, value in late.items()}
    expected |= {("cifar100", "no_prompts/test/top1"): 63.78}
    expected |= {("cifar100", "transhp/test/absorption"): 0.09, ("cifar100", "transhp/test/ratio"): 4.0}
    assert published == expected


def test_the_main_claim_is_about_prompts_and_not_about_coarse_losses(full: Plan) -> None:
    """Its rivals have one of the two alone; and without its prompts the trained network is worse."""
    main = claims.read(full.config).main
    assert main is not None
    assert main.better == "transhp/test/top1"
    rivals = [str(each.than).split("/")[0] for each in main.against().values()]
    assert rivals == ["baseline", "no_prompts", "no_coarse"]
    assert main.requires == ["transhp/test/ratio > 1"]
    assert main.requires_each == ["transhp/test/masked_top1 < transhp/test/top1 - 1"]


@pytest.mark.parametrize("scale", ["full", "mini"])
def test_all_arms_have_the_same_budget(scale: str, make_plan: Callable[..., Plan]) -> None:
    """Same data, epochs, optimiser and network, up to what makes the arm."""
    stages = make_plan("paper=transhp", f"scale={scale}").stages
    for few in ("", "_few"):
        arms = [
            stages[f"{name}{few}"]
            for name in ("transhp", "baseline", "no_coarse", "no_prompts")
            if f"{name}{few}" in stages
        ]
        for arm in arms[1:]:
            assert (arm.data, arm.trainer) == (arms[0].data, arms[0].trainer)
            apart = {"weights": 0, "network": 0, "optimizer": 0}
            assert {**arm.module, **apart} == {**arms[0].module, **apart}
            assert {**arm.module["optimizer"], "lr": 0} == {**arms[0].module["optimizer"], "lr": 0}  # tuned for each
            assert {**arm.module["network"], "coarse": 0} == {**arms[0].module["network"], "coarse": 0}


def test_arms_of_a_plan_start_alike(make_plan: Callable[..., Plan]) -> None:
    plan = make_plan("paper=transhp")
    starts = {name: training.construct(plan, stage).state_dict() for name, stage in plan.stages.items()}
    plain = {name: value for name, value in starts["baseline"].items() if name.startswith("network.")}
    assert len(starts) == 6
    for start in starts.values():
        assert all(torch.equal(start[name], value) for name, value in plain.items())
    prompts = "network.blocks.0.prompts"
    assert torch.equal(starts["transhp"][prompts], starts["no_coarse"][prompts])

    other = make_plan("paper=transhp", seed=1)
    head = training.construct(other, other.stages["baseline"]).state_dict()["network.head.weight"]
    assert not torch.equal(head, plain["network.head.weight"])
