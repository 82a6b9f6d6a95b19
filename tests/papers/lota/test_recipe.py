"""What is published stands in the full recipe; arms differ in what they are named for."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from experiments.config import compose
from experiments.config.instantiate import build
from experiments.running.plan import Plan, plan
from modules.common.schedules import Position

SUBSETS = ("biggan", "midjourney", "wukong", "sd14", "sd15", "adm", "glide", "vqdm")
SMALL = ("deconv", "nearest", "gan", "ddpm")


@pytest.mark.parametrize(("scale", "names"), [("full", SUBSETS), ("mini", SMALL)])
def test_arms_of_the_grid_differ_in_input_and_generator_alone(
    scale: str, names: tuple[str, ...], make_plan: Callable[..., Plan]
) -> None:
    stages = make_plan("paper=lota", f"scale={scale}").stages
    first = stages[f"bits_{names[0]}"]
    for kind, mode in (("bits", "threshold"), ("rgb", "rgb"), ("highpass", "highpass")):
        rate = stages[f"{kind}_{names[0]}"].module["optimizer"]["lr"]  # of its own, see tune
        for name in names:
            stage = stages[f"{kind}_{name}"]
            assert stage.module == {**first.module, "optimizer": {**first.module["optimizer"], "lr": rate}}
            assert stage.trainer == first.trainer
            assert stage.start_like == "detector"
            front = {**first.data["front_end"], "mode": mode}
            expected = {**first.data, "subsets": {**first.data["subsets"], "train_on": [name]}, "front_end": front}
            assert stage.data == expected


@pytest.fixture(scope="module")
def full() -> Plan:
    return plan(compose.compose(compose.request(["paper=lota", "scale=full"]).overrides), 0)


@pytest.mark.parametrize("kind", ["bits", "rgb", "highpass"])
def test_the_grid_is_trained_as_released(full: Plan, kind: str) -> None:
    for name in SUBSETS:
        stage = full.stages[f"{kind}_{name}"]
        assert stage.trainer["max_epochs"] == 30
        assert stage.data["batch_size"] == 64
        assert stage.data["subsets"]["train_on"] == [name]
        assert stage.module["network"] == {
            "_target_": "timm.create_model",
            "model_name": "resnet50.tv_in1k",
            "pretrained": True,
            "num_classes": 1,
        }
        optimizer = build(stage.module["optimizer"])([torch.nn.Parameter(torch.zeros(1))])
        assert type(optimizer) is torch.optim.Adam
        (group,) = optimizer.param_groups
        assert (group["lr"], group["betas"], group["weight_decay"]) == (1e-4, (0.9, 0.999), 0)
        schedule = build(stage.module["schedule"])
        rates = [1e-4 * schedule(Position(epoch, 0, 10, 30)) for epoch in (0, 14, 29)]
        assert rates == pytest.approx([9.6995e-5, 5.3589e-5, 0], abs=1e-9)  # (29/30)^0.9, (15/30)^0.9, 0


def test_the_full_front_end_is_the_papers(full: Plan) -> None:
    """The three lowest planes by thresholding, one of 64 crops of 32 pixels at 256, the statistics of ImageNet; the
    largest gradient in training and in the test; from the noise image at its own size."""
    data = full.stages["bits_sd15"].data
    front = build(data["front_end"])
    assert (front.mode, front.bits, front.patch, front.draws, front.size) == ("threshold", 3, 32, 64, 256)
    assert (front.resize_first, front.guided) == (None, False)
    assert (tuple(front.mean), tuple(front.std)) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    select = build(data["select"])
    assert (select.train, select.test) == ("max", "max")


def test_ablations_are_trained_on_one_generator(full: Plan) -> None:
    plain = full.stages["bits_sd15"]
    fronts = {}
    for name in ("scaled", "random_patch", "min_patch", "whole", "whole_rgb", "guided"):
        stage = full.stages[name]
        assert stage.data["subsets"]["train_on"] == ["sd15"]
        assert stage.module["schedule"] == plain.module["schedule"]
        assert stage.module["optimizer"] == plain.module["optimizer"]
        assert (stage.trainer, stage.data["batch_size"]) == (plain.trainer, 64)
        front = build(stage.data["front_end"])
        fronts[name] = (front.mode, front.patch, front.guided)
    assert fronts == {
        "scaled": ("scale", 32, False),
        "random_patch": ("threshold", 32, False),
        "min_patch": ("threshold", 32, False),
        "whole": ("threshold", None, False),
        "whole_rgb": ("rgb", None, False),
        "guided": ("threshold", 32, True),
    }


def test_published_numbers_of_full(full: Plan) -> None:
    rows = {(row["stage"], row["metric"], row["variant"]): row["value"] for row in full.config["published"]}
    grid = dict(zip(SUBSETS, (98.6, 99.0, 99.1, 98.5, 99.1, 98.5, 99.2, 99.0), strict=True))
    weakest = {"adm": 91.2, "biggan": 91.3, "sd14": 91.3}
    assert rows == {
        **{(f"bits_{name}", "test/acc", "default"): value for name, value in grid.items()},
        **{(f"bits_{name}", "test/acc_midjourney", "default"): value for name, value in weakest.items()},
        ("guided", "test/acc", "default"): 98.4,
        **{("guided", "test/acc", f"bits_{n}"): v for n, v in {1: 95.8, 2: 96.3, 4: 97.8, 5: 98.2, 6: 91.5}.items()},
        **{("guided", "test/acc", f"patch_{n}"): v for n, v in {16: 93.2, 48: 95.2, 64: 92.2}.items()},
    }
    (main,) = [claim for claim in full.config["claims"] if claim.get("main") and claim.get("scale") == "full"]
    baseline, rival = main["than"].values()
    assert baseline == "mean(rgb_*/test/acc)"  # patches too, so that 98.9 - 66.9 is not this claim's
    assert rival == "mean(highpass_*/test/acc)"
    assert main["published"]["difference"] == pytest.approx(98.4 - 89.5)


@pytest.mark.parametrize(
    ("variant", "front", "draws"),
    [
        ("bits_1", {"bits": 1}, 64),
        ("bits_6", {"bits": 6}, 64),
        ("patch_16", {"patch": 16}, 256),
        ("patch_48", {"patch": 48}, 25),
        ("patch_64", {"patch": 64}, 16),
        ("resized", {"resize_first": 256}, 64),
    ],
)
def test_variants_change_the_front_end_of_every_arm_of_patches(
    full: Plan, make_plan: Callable[..., Plan], variant: str, front: dict[str, int], draws: int
) -> None:
    stages = make_plan("paper=lota", "scale=full", f"variant={variant}").stages
    for name in ("bits_sd15", "rgb_adm", "highpass_glide", "scaled", "random_patch", "min_patch", "guided"):
        assert stages[name].data["front_end"] == {**full.stages[name].data["front_end"], **front}
        assert build(stages[name].data["front_end"]).draws == draws
    assert stages["guided"].module["network"]["patch"] == front.get("patch", 32)


def test_the_released_command_is_a_variant(make_plan: Callable[..., Plan]) -> None:
    stages = make_plan("paper=lota", "scale=full", "variant=released").stages
    data = stages["bits_sd15"].data
    select = build(data["select"])
    assert (select.train, select.test) == ("random", "max")
    assert {stages[name].data["front_end"]["mode"] for name in ("bits_sd15", "random_patch", "guided")} == {"scale"}


@pytest.mark.parametrize("scale", ["full", "mini", "smoke"])
def test_ablations_choose_other_patches(make_plan: Callable[..., Plan], scale: str) -> None:
    stages = make_plan("paper=lota", f"scale={scale}").stages
    for choice in ("random", "min"):
        data = stages[f"{choice}_patch"].data
        assert (data["select"]["train"], data["select"]["test"]) == (choice, choice)


def test_all_detectors_of_mini_see_the_same_pictures(make_plan: Callable[..., Plan]) -> None:
    stages = make_plan("paper=lota", "scale=mini").stages
    source = stages["deconv"].data["source"]
    for stage in stages.values():
        assert stage.data["source"] == source
        if stage.feeds:
            assert stage.data.get("subsets", stage.data)["names"] == list(SMALL)
            assert stage.feeds == {"generators": list(SMALL)}


def test_another_history_is_that_of_all_detectors(make_plan: Callable[..., Plan]) -> None:
    for variant, history in (("own_formats", (90, True)), ("jpeg", (90, False)), ("cifar10", (75, False))):
        stages = make_plan("paper=lota", "scale=mini", f"variant={variant}").stages
        for stage in stages.values():
            if stage.feeds:
                files = stage.data.get("history", stage.data)
                assert (files["jpeg"], files["only_real"]) == history
            name = "CIFAR10" if variant == "cifar10" else "PhotoRegions"
            assert stage.data["source"]["_target_"].endswith(name)


def test_rates_of_mini_are_chosen_on_pictures_that_lie_aside(make_plan: Callable[..., Plan]) -> None:
    """All that the main claim compares is in the grid, by kind; every detector leaves the same pictures aside."""
    plan = make_plan("paper=lota", "scale=mini")
    kinds = ("bits", "rgb", "highpass")
    grid = plan.config["tune"]
    assert grid["arms"] == [f"{kind}_{name}" for kind in kinds for name in SMALL]
    assert grid["keys"] == ["optimizer.lr", *(f"stages.{kind}_*.module.optimizer.lr" for kind in kinds[1:])]
    detectors = [stage for stage in plan.stages.values() if "front_end" in stage.data]
    assert len(detectors) == 18
    for stage in detectors:
        assert stage.data["subsets"]["aside"] == 0.15
        assert stage.trainer["check_val_every_n_epoch"] == stage.trainer["max_epochs"]
