"""What the recipes say: schedules, arms that differ in the mixer, variants, claims."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from timm.scheduler import CosineLRScheduler
from torch import nn

from experiments.config import claims, compose
from experiments.evidence import verdicts
from experiments.running import training
from experiments.running.plan import Plan
from modules.common.schedules import Position
from tests.papers.inception_next.helpers import CONVNEXT, COUNTS, parameters


@pytest.mark.parametrize(
    ("line", "name", "timm_options", "epochs"),
    [
        ("scale=full", "inception", {"t_initial": 300, "lr_min": 1e-5, "warmup_t": 20, "warmup_lr_init": 1e-6}, 310),
        ("variant=atto", "convnext", {"t_initial": 450, "lr_min": 5e-7, "warmup_t": 5, "warmup_lr_init": 5e-7}, 460),
        ("variant=base_384", "finetuned", {"t_initial": 30, "lr_min": 1e-5}, 30),
        ("variant=base_384", "finetuned_convnext", {"t_initial": 30, "lr_min": 1e-5}, 30),
    ],
)
def test_schedules_are_timms(
    make_plan: Callable[..., Plan], line: str, name: str, timm_options: dict[str, Any], epochs: int
) -> None:
    stage = make_plan("paper=inception_next", "scale=full", line).stages[name]
    schedule = training.build(stage.module["schedule"])
    base = stage.module["optimizer"]["lr"]
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=base)
    theirs = CosineLRScheduler(optimizer, **timm_options)
    assert stage.trainer["max_epochs"] == epochs
    for epoch in range(epochs):
        theirs.step(epoch)
        ours = base * schedule(Position(epoch, 3, 10, epochs))
        assert ours == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-6), epoch


ARMS = ("inception", "dw7", "dw3", "identity")


@pytest.mark.parametrize(
    "line", ["scale=mini", "variant=cifar10", "scale=full", *(f"variant={v}" for v in ("atto", "small", "base"))]
)
def test_arms_of_a_comparison_differ_in_the_mixer_alone(make_plan: Callable[..., Plan], line: str) -> None:
    scale = "mini" if line in ("scale=mini", "variant=cifar10") else "full"
    stages = make_plan("paper=inception_next", f"scale={scale}", line).stages
    arms = [stages[name] for name in ARMS]
    for part in ("data", "trainer", "reference_batch"):
        assert all(getattr(a, part) == getattr(arms[0], part) for a in [*arms, stages["convnext"]])
    bare = [{**a.module, "network": {**a.module["network"], "mixer": None}} for a in arms]
    assert all(b == bare[0] for b in bare)
    assert len({str(a.module["network"]["mixer"]) for a in arms}) == 4
    theirs, ours = ({**stages[name].module, "network": None} for name in ("convnext", "inception"))
    rates = {part["optimizer"].pop("lr") for part in (theirs, ours)}  # each network has its own best one in mini
    assert theirs == ours
    assert rates == {0.003, 0.012} if scale == "mini" else len(rates) == 1


def test_fine_tuning_is_the_same_for_both_networks(make_plan: Callable[..., Plan]) -> None:
    stages = make_plan("paper=inception_next", "scale=full", "variant=base_384").stages
    ours, theirs = stages["finetuned"], stages["finetuned_convnext"]
    assert (ours.needs, theirs.needs) == ({"start": "inception"}, {"start": "convnext"})
    assert all(getattr(ours, k) == getattr(theirs, k) for k in ("module", "data", "trainer", "reference_batch"))
    assert stages["inception"].data == stages["convnext"].data
    assert stages["inception"].module["network"]["size"] == stages["convnext"].module["network"]["size"] == "base"


@pytest.mark.parametrize(
    ("variant", "trained", "ema"),
    [("no_3x3", "inception", 0.0), ("attention", "inception", 0.0), ("partial_1_8", "convnext", 0.9999)],
)
def test_variants_about_one_network_train_it_alone_and_claim_nothing(
    make_plan: Callable[..., Plan], variant: str, trained: str, ema: float
) -> None:
    plan = make_plan("paper=inception_next", "scale=full", f"variant={variant}")
    assert [name for name, stage in plan.stages.items() if stage.fit] == [trained]
    assert [name for name, stage in plan.stages.items() if stage.test and not stage.fit] == ["speed"]
    assert not claims.read(plan.config).claims
    assert {item.stage for item in claims.published(plan.config)} == {trained, "speed"}
    assert plan.stages[trained].module["ema"] == ema


@pytest.mark.parametrize(
    "line", ["scale=full", "variant=small", "variant=atto", "variant=isotropic", "variant=base_384"]
)
def test_claims_are_about_what_is_run(make_plan: Callable[..., Plan], line: str) -> None:
    plan = make_plan("paper=inception_next", "scale=full", line)
    questions = claims.read(plan.config)
    read = {s for claim in questions.claims for s in claims.stages_of(claim, list(plan.stages))}
    assert read
    assert all(plan.stages[name].test for name in read)
    fitted = {name for name, stage in plan.stages.items() if stage.fit}
    needed = {needed for name in fitted for needed in plan.stages[name].predecessors}
    assert fitted <= read | needed  # nothing is trained that no claim compares


def test_speed_is_of_the_published_size_and_of_what_the_full_recipe_trains(
    make_plan: Callable[..., Plan],
) -> None:
    for lines in (
        ("scale=mini",),
        ("scale=full",),
        ("scale=full", "variant=no_3x3"),
        ("scale=full", "variant=base_384"),
    ):
        stages = make_plan("paper=inception_next", *lines).stages
        speed = stages["speed"].module["candidates"]
        with torch.device("meta"):
            counts = {name: parameters(training.build(item)) for name, item in speed.items()}
            if "scale=full" in lines:
                assert counts["inception"] == parameters(training.build(stages["inception"].module["network"]))
                assert counts["convnext"] == parameters(training.build(stages["convnext"].module["network"]))
            else:
                assert (counts["inception"], counts["convnext"]) == (COUNTS["tiny"], CONVNEXT["tiny"])
        assert not any(item["channels_last"] for item in speed.values())  # the stage tries both layouts


@pytest.mark.parametrize(
    ("faster", "less_accurate", "no_mixer", "verdict"),
    [
        (0.18, 0.0, 7.0, "supported"),
        (0.18, 0.5, 7.0, "supported"),  # half a point less is within the point
        (0.18, 2.0, 7.0, "refuted"),
        (-0.18, 0.0, 7.0, "refuted"),
        (0.01, 0.0, 7.0, "no gain"),  # 0.7% of speed
        (0.18, 0.0, 1.0, "untested"),  # ConvNeXt without a mixer is as good
    ],
)
def test_the_main_claim_asks_for_speed_and_accuracy_together(
    make_plan: Callable[..., Plan], faster: float, less_accurate: float, no_mixer: float, verdict: str
) -> None:
    main = claims.read(make_plan("paper=inception_next", "scale=mini").config).main
    assert main is not None
    noise = dict(enumerate([-0.02, 0.01, 0.02, -0.01, 0.01, -0.01]))  # half of the interval is 0.03
    table = {
        "convnext": {"test/top1": dict.fromkeys(noise, 76.0)},
        "inception": {"test/top1": {seed: 76.0 - less_accurate + value for seed, value in noise.items()}},
        "identity": {"test/top1": {seed: 76.0 - no_mixer + value for seed, value in noise.items()}},
        "speed": {"test/train_log2_convnext": {seed: faster + value for seed, value in noise.items()}},
    }
    assert verdicts.judge(main, table, range(6), 6).verdict == verdict


@pytest.mark.parametrize("variant", ["default", "small", "base_384", "atto", "isotropic"])
def test_every_setting_of_both_networks_has_one_main_claim(make_plan: Callable[..., Plan], variant: str) -> None:
    lines = [] if variant == "default" else [f"variant={variant}"]
    main = claims.read(make_plan("paper=inception_next", "scale=full", *lines).config).main
    assert main is not None
    assert [outcome.name for outcome in main.all] == ["faster", "at most a point less accurate"]
    accuracy = main.all[1]
    arm = "finetuned" if variant == "base_384" else "inception"
    assert (accuracy.better, accuracy.margin) == (f"{arm}/test/top1", -1)


SPEEDS = {  # images a second: InceptionNeXt's and ConvNeXt's, trained and inferred
    None: ((901, 575), (2900, 2413)),
    "atto": ((2661, 835), (9876, 4539)),
    "small": ((521, 361), (1750, 1535)),
    "base": ((375, 267), (1244, 1122)),
    "base_384": ((139, 95), (428, 393)),
}
OTHER_NETWORKS = {  # of ConvNeXt with smaller kernels, trained (Table 1)
    "convnext_5x5": 675,
    "convnext_3x3": 798,
    "partial_1_2": 818,
    "partial_3_8": 847,
    "partial_1_4": 871,
    "partial_1_8": 901,
    "partial_1_16": 916,
}
OTHER_MIXERS = {  # of InceptionNeXt with other mixers, trained (Table 8)
    "no_1xk": 947,
    "no_kx1": 954,
    "no_3x3": 940,
    "bands_in_sequence": 903,
    "band_7": 905,
    "band_9": 904,
    "band_13": 896,
    "ratio_1_4": 834,
    "ratio_1_16": 936,
    "layer_norm": 721,
}


def published() -> dict[tuple[str | None, str], float]:
    """(variant, <stage>/<split>/<metric>) -> value; a row of several variants counts for each."""
    values = {}
    for row in compose.paper_file("inception_next")["published"]:
        variants = row.get("variant")
        for variant in variants if isinstance(variants, list) else [variants]:
            values[variant, f"{row['stage']}/{row['metric']}"] = row["value"]
    return values


def test_published_speeds_are_the_ratios_of_images_a_second() -> None:
    train, infer = "speed/test/train_log2_convnext", "speed/test/infer_log2_convnext"
    expected = {(variant, train): math.log2(ours / theirs) for variant, ((ours, theirs), _) in SPEEDS.items()}
    expected |= {(variant, infer): math.log2(ours / theirs) for variant, (_, (ours, theirs)) in SPEEDS.items()}
    expected |= {(variant, train): math.log2(901 / theirs) for variant, theirs in OTHER_NETWORKS.items()}
    expected |= {(variant, train): math.log2(ours / 575) for variant, ours in OTHER_MIXERS.items()}
    expected |= {("isotropic", train): math.log2(310 / 270), ("attention", train): math.log2(288 / 270)}
    speeds = {key: value for key, value in published().items() if key[1].startswith("speed/")}
    assert speeds == {key: pytest.approx(value, abs=6e-4) for key, value in expected.items()}


def test_published_accuracies_hang_on_the_networks_they_came_from() -> None:
    ours = {None: 82.3, "atto": 75.3, "small": 83.5, "base": 84.0, "isotropic": 79.7, "attention": 3.9}
    ours |= {"no_1xk": 81.9, "no_kx1": 81.9, "no_3x3": 82.0, "bands_in_sequence": 82.1}
    ours |= {"band_7": 82.1, "band_9": 82.1, "band_13": 82.0, "ratio_1_4": 82.2, "ratio_1_16": 81.8, "layer_norm": 82.4}
    theirs = {None: 82.1, "convnext_ema": 82.1, "atto": 75.7, "small": 83.1, "base": 83.8, "isotropic": 79.7}
    theirs |= {"convnext_5x5": 82.0, "convnext_3x3": 81.5, "partial_1_2": 81.4, "partial_3_8": 81.4}
    theirs |= {"partial_1_4": 81.3, "partial_1_8": 80.8, "partial_1_16": 80.1}
    expected = {(variant, "inception/test/top1"): value for variant, value in ours.items()}
    expected |= {(variant, "convnext/test/top1"): value for variant, value in theirs.items()}
    expected |= {("base_384", "finetuned/test/top1"): 85.2, ("base_384", "finetuned_convnext/test/top1"): 85.1}
    accuracies = {key: value for key, value in published().items() if not key[1].startswith("speed/")}
    assert accuracies == expected


@pytest.mark.parametrize(
    ("variant", "batch", "rate", "policy", "mixup"),
    [
        (None, 4096, 4e-3, "rand-m9-mstd0.5-inc1", 0.8),
        ("base", 4096, 4e-3, "rand-m9-mstd0.5-inc1", 0.8),
        ("atto", 1280, 1e-3, "rand-m5-inc1-mstd101", 0.2),
    ],
)
def test_full_recipe_is_the_released_one(
    variant: str | None, batch: int, rate: float, policy: str, mixup: float, make_plan: Callable[..., Plan]
) -> None:
    stages = make_plan("paper=inception_next", "scale=full", *([f"variant={variant}"] if variant else [])).stages
    for name in ("inception", "convnext"):
        stage = stages[name]
        optimizer = stage.module["optimizer"]
        assert (optimizer["_target_"], optimizer["lr"], optimizer["weight_decay"]) == ("torch.optim.AdamW", rate, 0.05)
        assert (optimizer["betas"], optimizer["eps"]) == ([0.9, 0.999], 1e-8)
        assert stage.data["batch_size"] == stage.reference_batch == batch
        augmentation = stage.data["augmentation"]
        assert stage.data["image_size"] == 224
        assert (augmentation["auto_augment"], augmentation["crop_pct"]) == (policy, 0.875)
        assert augmentation["erasing"] == (0.1 if variant == "atto" else 0.25)
        assert (stage.module["mixup"], stage.module["cutmix"], stage.module["switch"]) == (mixup, 1.0, 0.5)
        assert (stage.module["label_smoothing"], stage.module["ema"]) == (0.1, 0.0)
