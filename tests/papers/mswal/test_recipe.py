"""The published recipe, and what the arms have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch

from experiments.config import claims, compose
from experiments.running import training
from experiments.running.plan import Plan, plan
from modules.common.schedules import Position
from modules.mswal.module import Segmenter
from tests.papers.mswal.helpers import parameters, small_network


@pytest.fixture(scope="module")
def full() -> Plan:
    return plan(compose.compose(compose.request(["paper=mswal", "scale=full"]).overrides), 0)


ARMS = ("inception", "residual", "wide", "plain", "residual_encoder", "finetuned", "scratch")


@pytest.mark.parametrize("name", ARMS)
def test_every_arm_trains_as_nnunet_does(full: Plan, name: str) -> None:
    """1,000 epochs of 250 batches of two patches, SGD 0.01 with momentum 0.99, gradients clipped at 12."""
    stage = full.stages[name]
    assert (stage.trainer["max_epochs"], stage.trainer["gradient_clip_val"]) == (1000, 12)
    assert stage.data["batch_size"] == stage.reference_batch == 2
    assert (stage.data["patches"]["iterations"], stage.data["patches"]["foreground"]) == (250, 0.33)
    assert stage.module["batch_dice"]  # a plan for scans of this size has a low-resolution stage
    assert (stage.module["inference"]["mirror"], stage.module["inference"]["step"]) == ([0, 1, 2], 0.5)
    (group,) = (
        Segmenter(small_network(), optimizer=training.build(stage.module["optimizer"]))
        .configure_optimizers()
        .param_groups
    )
    wanted = {"lr": 0.01, "momentum": 0.99, "nesterov": True, "weight_decay": 3e-5}
    assert {key: group[key] for key in wanted} == wanted


def test_learning_rate(full: Plan) -> None:
    schedule = training.build(full.stages["inception"].module["schedule"])
    factors = [0.01 * schedule(Position(epoch, 0, 250, 1000)) for epoch in (0, 500, 999)]
    assert factors == pytest.approx([0.01, 0.00535887, 1.99526e-5], rel=1e-5)
    assert schedule(Position(500, 249, 250, 1000)) == schedule(Position(500, 0, 250, 1000))


def test_the_readmes_optional_schedule(make_plan: Callable[..., Plan]) -> None:
    """1,500 epochs from 0.001, for every arm alike."""
    for stage in make_plan("paper=mswal", "scale=full", "variant=long").stages.values():
        assert (stage.trainer["max_epochs"], stage.module["optimizer"]["lr"]) == (1500, 0.001)


def test_augmentation_of_patches(full: Plan) -> None:
    """nnU-Net's, in its order; what it applies to each channel with probability 0.5 is halved for one channel."""
    sampling = training.build(full.stages["inception"].data["patches"])
    assert list(sampling.size) == [128, 128, 128]
    steps = sampling.augment(sampling.size).transforms
    chances = [(type(step).__name__.removesuffix("d"), getattr(step, "prob", 1.0)) for step in steps]
    assert chances == [
        ("RandAffine", 0.2),
        ("RandZoom", 0.2),
        ("CenterSpatialCrop", 1.0),
        ("RandGaussianNoise", 0.1),
        ("RandGaussianSmooth", 0.1),
        ("RandScaleIntensity", 0.15),
        ("RandScaleIntensityFixedMean", 0.15),
        ("RandSimulateLowResolution", 0.125),
        ("RandAdjustContrast", 0.1),
        ("RandAdjustContrast", 0.3),
        ("RandFlip", 0.5),
        ("RandFlip", 0.5),
        ("RandFlip", 0.5),
    ]
    zoom = steps[1].rand_zoom
    assert (tuple(zoom.min_zoom), tuple(zoom.max_zoom)) == ((0.7,), (1.4,))


def test_five_folds_of_the_training_scans(full: Plan) -> None:
    """Folds are seeds; grey values are normalised by the training scans' foreground, as they are measured."""
    assert (full.config["first"], full.config["most"]) == (5, 5)
    data = full.stages["inception"].data
    assert {key: data["split"][key] for key in ("test", "fold", "folds")} == {"test": "fold", "fold": 0, "folds": 5}
    assert [data["preprocessing"][key] for key in ("clip", "mean", "std")] == [None, None, None]
    assert data["dataset"]["cases"] == 694
    assert len(data["dataset"]["classes"]) == full.stages["inception"].module["network"]["classes"] == 8


def test_networks_have_the_sizes_of_the_released_code(full: Plan) -> None:
    expected = {
        "inception": 110_692_552,
        "residual": 107_852_360,
        "residual_encoder": 102_354_600,
        "plain": 31_200_424,
    }
    with torch.device("meta"):
        sizes = {name: parameters(training.build(full.stages[name].module["network"])) for name in expected}
    assert sizes == expected


def test_published_differences_stand_with_the_claims_that_they_belong_to(make_plan: Callable[..., Plan]) -> None:
    """+3.00 points of Dice on LiTS and +0.89 on KiTS; no number for MSWAL is known, whose test set is not public."""
    for variant, difference in {"": 0.03, "kits": 0.0089}.items():
        config = make_plan("paper=mswal", "scale=full", *([f"variant={variant}"] if variant else [])).config
        held = [claim for claim in claims.read(config).claims if claim.published]
        assert [(str(c.better), str(c.than)) for c in held] == [
            ("finetuned/test/dice_tumour", "scratch/test/dice_tumour")
        ]
        assert held[0].published["difference"] == difference
        assert not config.get("published")


def apart_from_network(module: Mapping[str, Any]) -> dict[str, Any]:
    """Without the network, its rate, which is each one's best, and other ways of inference."""
    rest = {name: value for name, value in module.items() if name != "network"}
    rest["inference"] = {name: value for name, value in module["inference"].items() if name != "compare"}
    return rest | {"optimizer": {name: value for name, value in module["optimizer"].items() if name != "lr"}}


@pytest.mark.parametrize(("scale", "variant"), [("full", None), ("full", "long"), ("mini", None)])
def test_arms_differ_in_their_network_alone(scale: str, variant: str | None, make_plan: Callable[..., Plan]) -> None:
    lines = ["paper=mswal", f"scale={scale}", *([f"variant={variant}"] if variant else [])]
    stages = make_plan(*lines).stages
    first = stages["inception"]
    for name in ("residual", "wide", "plain", *(["residual_encoder"] if scale == "full" else [])):
        stage = stages[name]
        assert stage.data == first.data
        assert stage.trainer == first.trainer
        assert apart_from_network(stage.module) == apart_from_network(first.module)
        assert stage.start_like == first.start_like == "inception"
    assert stages["finetuned"].data == stages["scratch"].data
    assert stages["finetuned"].module == stages["scratch"].module
    assert stages["finetuned"].trainer == stages["scratch"].trainer
    with torch.device("meta"):
        networks = {n: s.module["network"] for n, s in stages.items() if "network" in s.module}
        sizes = {n: parameters(training.build(network, "network")) for n, network in networks.items()}
    assert sizes["wide"] == pytest.approx(sizes["inception"], rel=0.001)


def test_arms_start_alike_where_they_share_weights(make_plan: Callable[..., Plan]) -> None:
    plan = make_plan("paper=mswal")
    inception, residual = (
        training.construct(plan, plan.stages[name]).state_dict() for name in ("inception", "residual")
    )
    assert len(residual) < len(inception)
    assert all(torch.equal(value, inception[name]) for name, value in residual.items())

    other = make_plan("paper=mswal", seed=1)
    stem = "network.encoder.stem.convs.0.conv.weight"
    assert not torch.equal(training.construct(other, other.stages["inception"]).state_dict()[stem], inception[stem])


def test_finetuned_and_scratch_have_the_same_initial_heads(
    make_plan: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_plan("paper=mswal")
    monkeypatch.setattr(training, "load", lambda plan, name: training.construct(plan, plan.stages[name]))  # untrained
    finetuned, scratch = (training.construct(plan, plan.stages[name]).state_dict() for name in ("finetuned", "scratch"))
    heads = [name for name in scratch if "seg_layers" in name]
    assert len(heads) == 4
    assert all(torch.equal(finetuned[name], scratch[name]) for name in heads)
