"""The published numbers stand in the full recipe; retrainings differ in what they are named for."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from experiments.running.plan import Plan


def test_the_originals_are_trained_and_attacked_as_published(make_plan: Callable[..., Plan]) -> None:
    stages = make_plan("paper=diffroar", "scale=full").stages
    standard, robust = stages["standard"], stages["robust"]
    assert "attack" not in standard.module or standard.module["attack"] is None
    assert (robust.module["attack"]["radius"], robust.module["attack"]["norm"]) == (0.5, "l2")
    assert standard.module["network"]["name"] == "resnet50"
    for stage in (standard, robust):
        assert stage.trainer["max_epochs"] == 200
        assert stage.module["schedule"]["milestones"] == [100, 150]
        optimizer = stage.module["optimizer"]
        assert [optimizer[key] for key in ("lr", "momentum", "weight_decay")] == [0.1, 0.9, 5e-4]
        kinds = [operation["_target_"].split(".")[-1] for operation in stage.data["augment"]]
        assert kinds == ["RandomCrop", "HorizontalFlip", "Jitter", "Rotation"]
        for name, attack in stage.module["evaluations"].items():
            assert float(name.split("@")[1]) == attack["radius"]
            if "strong" in name:
                assert (attack["steps"], attack["restarts"]) == (50, 5)
            else:
                assert attack["rate"] / attack["steps"] == 0.5  # steps of half a radius


@pytest.mark.parametrize(
    ("variant", "norm", "radius"),
    [
        ("l2_025", "l2", 0.25),
        ("l2_1", "l2", 1.0),
        ("linf_8", "linf", 8 / 255),
        ("imagenet10", "l2", 1.0),
        ("imagenet10_linf_2", "linf", 2 / 255),
        ("imagenet10_linf_4", "linf", 4 / 255),
    ],
)
def test_variants_train_with_their_attack(
    variant: str, norm: str, radius: float, make_plan: Callable[..., Plan]
) -> None:
    stages = make_plan("paper=diffroar", "scale=full", f"variant={variant}").stages
    attack = stages["robust"].module["attack"]
    assert attack["norm"] == norm
    assert attack["radius"] == pytest.approx(radius, abs=1e-8)
    if variant.startswith("imagenet10"):
        assert stages["retrain_robust_50"].module["network"] == {
            "_target_": "modules.diffroar.networks.classifier",
            "_partial_": True,
            "name": "resnet18",
            "shape": [3, 112, 112],
            "classes": 10,
            "small": False,
        }
        assert stages["robust"].data["resize"] == 128
        assert stages["robust"].module["evaluations"]["robust_acc@linf_4"]["radius"] == pytest.approx(4 / 255)


@pytest.mark.parametrize("variant", ["svhn", "fashion_mnist"])
def test_perceptrons_see_other_data(variant: str, make_plan: Callable[..., Plan]) -> None:
    stages = make_plan("paper=diffroar", "scale=full", f"variant={variant}").stages
    for name in ("standard", "robust", "retrain_robust_50"):
        assert stages[name].module["network"]["name"] == "mlp"
    shape = [3, 32, 32] if variant == "svhn" else [1, 28, 28]
    assert stages["retrain_standard_5"].module["network"]["shape"] == shape
    target = stages["standard"].data["_target_"]
    assert stages["ranks_robust"].data["source"]["_target_"] == target
    assert stages["retrain_random_5"].data["source"]["_target_"] == target


def test_the_grid_of_k_is_the_released_one(make_plan: Callable[..., Plan]) -> None:
    """Shares that are masked: .1, .3, .5, .7, .8, .9, .95."""
    stages = make_plan("paper=diffroar", "scale=full").stages
    for arm in ("standard", "robust"):
        kept = {
            s.data["percent"] for name, s in stages.items() if name.startswith(f"retrain_{arm}_") and "loss" not in name
        }
        assert kept == {round(100 * (1 - masked)) for masked in (0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95)}


def test_the_notebooks_vectors(make_plan: Callable[..., Plan]) -> None:
    stages = make_plan("paper=diffroar", "scale=full").stages
    stage, robust = stages["synthetic_standard"], stages["synthetic_robust"]
    assert (stage.data["train_size"], stage.data["test_size"], stage.data["batch_size"]) == (10_000, 1_000, 250)
    assert stage.module["network"]["widths"] == [25_000]
    assert stage.module["optimizer"] == {"_target_": "torch.optim.SGD", "_partial_": True, "lr": 0.1}
    assert stage.trainer["max_epochs"] == 500
    attack = robust.module["attack"]
    assert (attack["norm"], attack["radius"], attack["steps"], attack["rate"], attack["low"]) == (
        "linf",
        0.45,
        8,
        2.0,
        -1,
    )


@pytest.mark.parametrize("scale", ["full", "mini"])
def test_retrainings_are_alike_but_for_what_they_are_named_for(scale: str, make_plan: Callable[..., Plan]) -> None:
    stages = make_plan("paper=diffroar", f"scale={scale}").stages
    retrained = {name: stage for name, stage in stages.items() if name.startswith("retrain_")}
    first = retrained["retrain_standard_5"]
    for name, stage in retrained.items():
        assert stage.module == first.module
        assert stage.trainer == first.trainer
        assert stage.start_like == "retrain"
        rest = {key: value for key, value in stage.data.items() if key not in ("percent", "kind", "permuted")}
        assert rest == {key: value for key, value in first.data.items() if key in rest}
        arm = "robust" if "robust" in name or "permuted" in name else "standard"
        assert stage.feeds == ({} if "random" in name else {"ranking": f"ranks_{arm}"})
        assert stage.data.get("kind", "logit") == (
            "random" if "random" in name else "loss" if "loss" in name else "logit"
        )
        assert stage.data.get("permuted", False) == ("permuted" in name)
    assert "attack" not in first.module


@pytest.mark.parametrize("scale", ["full", "mini"])
def test_arms_of_a_comparison_share_all_but_the_attack(scale: str, make_plan: Callable[..., Plan]) -> None:
    stages = make_plan("paper=diffroar", f"scale={scale}").stages
    for kind in ("", "block_", "synthetic_", "theory_"):
        standard, robust = stages[f"{kind}standard"], stages[f"{kind}robust"]
        assert {**robust.module, "attack": None} == {**standard.module, "attack": None}
        assert (robust.data, robust.trainer, robust.start_like) == (
            standard.data,
            standard.trainer,
            standard.start_like,
        )
    top, random = stages["block_top"], stages["block_standard"]
    assert top.module == random.module
    assert (top.data["position"], random.data["position"]) == ("top", "random")


def test_the_notebooks_rate_falls_to_a_tenth() -> None:
    from modules.common.schedules import Position
    from modules.diffroar.schedules import floored

    assert [floored(Position(epoch, 3, 40, 500)) for epoch in (0, 49, 50, 100, 499)] == pytest.approx(
        [1, 1, 0.75, 0.5625, 0.1]
    )
    assert 0.75**8 > 0.1 > 0.75**9
