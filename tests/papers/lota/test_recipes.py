"""What is published stands in the full recipe; arms differ in what they are named for."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from experiments.running.plan import Plan

SUBSETS = ("biggan", "midjourney", "wukong", "sd14", "sd15", "adm", "glide", "vqdm")
SMALL = ("deconv", "nearest", "gan", "ddpm")


@pytest.mark.parametrize(("scale", "names"), [("full", SUBSETS), ("mini", SMALL)])
def test_arms_of_the_grid_differ_in_input_and_generator_alone(
    scale: str, names: tuple[str, ...], make_plan: Callable[..., Plan]
) -> None:
    stages = make_plan("paper=lota", f"scale={scale}").stages
    first = stages[f"bits_{names[0]}"]
    for kind, mode in (("bits", "threshold"), ("rgb", "rgb")):
        for name in names:
            stage = stages[f"{kind}_{name}"]
            assert stage.module == first.module
            assert stage.trainer == first.trainer
            assert stage.start_like == "detector"
            front = {**first.data["front_end"], "mode": mode}
            expected = {**first.data, "train_on": [name], "front_end": front}
            assert stage.data == expected


def test_the_recipe_is_the_released_one(make_plan: Callable[..., Plan]) -> None:
    stages = make_plan("paper=lota", "scale=full").stages
    stage = stages["bits_sd15"]
    assert stage.trainer["max_epochs"] == 30
    assert stage.data["batch_size"] == 64
    assert stage.module["optimizer"] == {"_target_": "torch.optim.Adam", "_partial_": True, "lr": 1e-4}
    assert stage.module["network"]["model_name"] == "resnet50.tv_in1k"
    front = stage.data["front_end"]
    assert front.get("patch", 32) == 32
    assert front.get("crops", 64) == 64
    for name in ("scaled", "random_patch", "min_patch", "whole", "whole_rgb", "guided"):
        assert stages[name].data["train_on"] == ["sd15"]
        assert stages[name].module["schedule"] == stage.module["schedule"]


def test_variants_change_the_front_end_alone(make_plan: Callable[..., Plan]) -> None:
    plain = make_plan("paper=lota", "scale=full").stages["bits_sd15"]
    changed = {
        "bits_1": {"bits": 1},
        "bits_6": {"bits": 6},
        "patch_16": {"patch": 16},
        "patch_64": {"patch": 64},
        "resized": {"resize_first": 256},
    }
    for variant, difference in changed.items():
        stage = make_plan("paper=lota", "scale=full", f"variant={variant}").stages["bits_sd15"]
        assert stage.data["front_end"] == {**plain.data["front_end"], **difference}
    released = make_plan("paper=lota", "scale=full", "variant=released").stages["bits_sd15"]
    assert released.data["train_select"] == "random"
    assert "test_select" not in released.data  # the largest gradient
    assert released.data["front_end"]["mode"] == "scale"


@pytest.mark.parametrize("scale", ["full", "mini", "smoke"])
def test_ablations_choose_other_patches(make_plan: Callable[..., Plan], scale: str) -> None:
    stages = make_plan("paper=lota", f"scale={scale}").stages
    for choice in ("random", "min"):
        data = stages[f"{choice}_patch"].data
        assert (data["train_select"], data["test_select"]) == (choice, choice)


def test_all_detectors_of_mini_see_the_same_pictures(make_plan: Callable[..., Plan]) -> None:
    stages = make_plan("paper=lota", "scale=mini").stages
    source = stages["deconv"].data["source"]
    for stage in stages.values():
        assert stage.data["source"] == source
        if "names" in stage.data:
            assert stage.data["names"] == list(SMALL)
            assert stage.feeds == {"generators": list(SMALL)}


def test_another_history_is_that_of_all_detectors(make_plan: Callable[..., Plan]) -> None:
    for variant, history in (("own_formats", (90, True)), ("jpeg", (90, False)), ("cifar10", (75, False))):
        stages = make_plan("paper=lota", "scale=mini", f"variant={variant}").stages
        for stage in stages.values():
            if "names" in stage.data:
                assert (stage.data["jpeg"], stage.data["only_real"]) == history
            name = "CIFAR10" if variant == "cifar10" else "PhotoRegions"
            assert stage.data["source"]["_target_"].endswith(name)
