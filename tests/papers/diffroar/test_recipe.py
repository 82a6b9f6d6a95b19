"""The published numbers stand in the full recipe; retrainings differ in what they are named for."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from experiments.config import claims, compose, expressions
from experiments.config.instantiate import build
from experiments.running.plan import Plan, Stage, plan
from modules.common.schedules import Position


@pytest.fixture(scope="module")
def full() -> Plan:
    return plan(compose.compose(compose.request(["paper=diffroar", "scale=full"]).overrides), 0)


def rates(stage: Stage, epochs: list[int]) -> list[float]:
    schedule = build(stage.module["schedule"])
    start = stage.module["optimizer"]["lr"]
    return [start * schedule(Position(epoch, 3, 40, stage.trainer["max_epochs"])) for epoch in epochs]


@pytest.mark.parametrize("name", ["standard", "robust", "retrain_standard_5", "retrain_robust_loss_20"])
def test_networks_are_trained_as_the_robustness_library_does(full: Plan, name: str) -> None:
    stage = full.stages[name]
    assert (stage.trainer["max_epochs"], stage.data["batch_size"], stage.reference_batch) == (200, 128, 128)
    assert rates(stage, [0, 99, 100, 149, 150, 199]) == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001, 0.001])
    optimizer = build(stage.module["optimizer"])([torch.nn.Parameter(torch.zeros(1))])
    assert type(optimizer) is torch.optim.SGD
    (group,) = optimizer.param_groups
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (0.1, 0.9, 5e-4)
    assert stage.module["network"]["name"] == "resnet50"
    assert stage.module["network"]["shape"] == [3, 32, 32]


def test_augmentation_is_the_robustness_librarys(full: Plan) -> None:
    """RandomCrop(32, 4), flip, jitter of 0.25, rotation of 2 degrees; crop and flip after masking."""
    for name in ("standard", "robust"):
        crop, flip, jitter, rotation = full.stages[name].data["augment"]
        names = [operation["_target_"].rpartition(".")[2] for operation in (crop, flip, jitter, rotation)]
        assert names == ["RandomCrop", "HorizontalFlip", "Jitter", "Rotation"]
        assert (crop["padding"], jitter["strength"], rotation["degrees"]) == (4, 0.25, 2.0)
        assert full.stages[name].data["val_size"] == 0
    after = full.stages["retrain_robust_5"].data["augment"]
    assert [operation["_target_"].rpartition(".")[2] for operation in after] == ["RandomCrop", "HorizontalFlip"]


def test_attacks_are_the_published_ones(full: Plan) -> None:
    assert full.stages["standard"].module.get("attack") is None
    attack = full.stages["robust"].module["attack"]
    assert (attack["norm"], attack["radius"]) == ("l2", 0.5)
    for name in ("standard", "robust"):
        evaluations = full.stages[name].module["evaluations"]
        strong = evaluations["robust_acc_strong@0.5"]
        assert (strong["radius"], strong["steps"], strong["restarts"]) == (0.5, 50, 5)
        for radius in (0.25, 0.5, 1.0):
            attack = evaluations[f"robust_acc@{radius}"]
            assert (attack["norm"], attack["radius"], attack["steps"], attack["rate"]) == ("l2", radius, 5, 2.5)


def test_published_numbers_of_full(full: Plan) -> None:
    rows = {
        (row["stage"], row["metric"].removeprefix("test/"), str(row.get("variant"))): row["value"]
        for row in full.config["published"]
    }
    accuracies = {
        ("standard", "None"): {"top1": 95.2, "robust_acc@0.25": 12.8, "robust_acc@0.5": 1.1, "robust_acc@1.0": 0.0},
        ("robust", "None"): {"top1": 91.0, "robust_acc@0.5": 69.3},
        ("robust", "l2_025"): {"top1": 92.8, "robust_acc@0.5": 61.4},
        ("robust", "l2_1"): {"top1": 81.7, "robust_acc@0.5": 68.4},
        ("robust", "linf_8"): {"top1": 87.3, "robust_acc@0.5": 62.3},
        ("standard", "imagenet10"): {"top1": 91.1, "robust_acc@linf_4": 0.0},
        ("robust", "imagenet10"): {"top1": 84.6, "robust_acc@linf_4": 50.8},
        ("robust", "imagenet10_linf_2"): {"top1": 89.9, "robust_acc@linf_4": 59.6},
        ("robust", "imagenet10_linf_4"): {"top1": 83.4, "robust_acc@linf_4": 62.2},
        ("leak_synthetic_standard", "['default', 'vectors']"): {
            "signal_first": 4.1,
            "signal_last": 56.2,
            "cosine": 0.29,
        },
        ("leak_synthetic_robust", "['default', 'vectors']"): {"signal_first": 100, "signal_last": 0, "cosine": 1},
    }
    assert rows == {
        (stage, metric, variant): value
        for (stage, variant), values in accuracies.items()
        for metric, value in values.items()
    }
    assert {row["scale"] for row in full.config["published"]} == {"full"}


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


def test_the_grid_of_k_is_the_released_one(full: Plan) -> None:
    """Shares that are masked: .1, .3, .5, .7, .8, .9, .95."""
    for arm in ("standard", "robust"):
        stages = [s for name, s in full.stages.items() if name.startswith(f"retrain_{arm}_") and "loss" not in name]
        assert {stage.data["percent"] for stage in stages} == {90, 70, 50, 30, 20, 10, 5}


def test_the_notebooks_vectors(full: Plan) -> None:
    """Rates as the notebook's log prints them: its floor is a hundredth of the rate, which 500 epochs do not reach."""
    stage, robust = full.stages["synthetic_standard"], full.stages["synthetic_robust"]
    assert (stage.data["train_size"], stage.data["test_size"], stage.data["batch_size"]) == (10_000, 1_000, 250)
    assert stage.module["network"]["widths"] == [25_000]
    assert stage.module["optimizer"] == {"_target_": "torch.optim.SGD", "_partial_": True, "lr": 0.1}
    assert stage.trainer["max_epochs"] == 500
    printed = [0.1, 0.1, 0.075, 0.05625, 0.0133, 0.0100, 0.0075, 0.0075]
    assert rates(stage, [0, 49, 50, 100, 350, 400, 450, 499]) == pytest.approx(printed, abs=1e-4)
    assert rates(stage, [500, 5000]) == pytest.approx([0.0056, 0.001], abs=1e-4)
    attack = robust.module["attack"]
    assert (attack["norm"], attack["radius"], attack["steps"], attack["rate"]) == ("linf", 0.45, 8, 2.0)
    assert (attack["low"], attack.get("high", 1)) == (-1, 1)


@pytest.mark.parametrize("scale", ["full", "mini"])
def test_retrainings_are_alike_but_for_what_they_are_named_for(scale: str, make_plan: Callable[..., Plan]) -> None:
    stages = make_plan("paper=diffroar", f"scale={scale}").stages
    retrained = {name: stage for name, stage in stages.items() if name.startswith("retrain_")}
    first = retrained["retrain_standard_5"]
    for name, stage in retrained.items():
        assert stage.module == first.module
        assert stage.trainer == first.trainer
        assert stage.start_like == "retrain"
        named = ("percent", "kind", "permuted", "same_class")
        rest = {key: value for key, value in stage.data.items() if key not in named}
        assert rest == {key: value for key, value in first.data.items() if key in rest}
        exchanged = "permuted" in name or "same_class" in name
        arm = "robust" if "robust" in name or exchanged else "standard"
        assert stage.feeds == ({} if "random" in name else {"ranking": f"ranks_{arm}"})
        assert stage.data.get("kind", "logit") == (
            "random" if "random" in name else "loss" if "loss" in name else "logit"
        )
        assert stage.data.get("permuted", False) == exchanged
        assert stage.data.get("same_class", False) == ("same_class" in name)
    assert "attack" not in first.module


@pytest.mark.parametrize("variant", ["default", "centred", "mnist", "cifar10"])
def test_the_main_claim_is_against_a_standard_network_and_another_image(
    variant: str, make_plan: Callable[..., Plan]
) -> None:
    """By hand: own order 7, the standard network's 2, another image's 8; so the second comparison is lost by 1."""
    wanted = [] if variant == "default" else [f"variant={variant}"]
    this = make_plan("paper=diffroar", "scale=mini", *wanted)
    main = claims.read(this.config).main
    assert main is not None
    values = {"retrain_robust_5": 7.0, "retrain_standard_5": 2.0, "retrain_same_class_5": 8.0}
    table = {stage: {"test/diffroar_logit": {1: value}} for stage, value in values.items()}
    sides = [each.expression() for each in main.against().values()]
    assert [expressions.evaluate(a, table, 1) - expressions.evaluate(b, table, 1) for a, b in sides] == [5, -1]

    # Equal budgets: what is compared is trained again alike.
    own, other = this.stages["retrain_robust_5"], this.stages["retrain_same_class_5"]
    assert (own.module, own.trainer, own.feeds) == (other.module, other.trainer, other.feeds)
    side = {"default": 40, "cifar10": 32}.get(variant, 28)
    for stage in (this.stages["standard"].data, own.data["source"], this.stages["ranks_robust"].data["source"]):
        assert stage["side"] == side
    assert own.module["network"]["shape"][1:] == [side, side]


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
