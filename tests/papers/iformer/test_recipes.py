"""Recipes: timm's learning rates, the published numbers, arms that differ in their mixers alone."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
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
from modules.iformer import networks
from modules.iformer.networks import IFormer


@pytest.mark.parametrize(
    ("options", "millions", "mult_adds"),
    [
        ({"heads": [3, 6, 10, 12]}, 21, 5.2),
        ({"high": ["pool"]}, 20, 4.9),
        ({"heads": [2, 4, [5] * 5 + [3] * 4, 4]}, 19, 4.7),
        ({"heads": [[2, 1, 2], 3, 5, 6]}, 19, 4.7),
    ],
)
def test_arms_have_the_papers_cost(
    parameters: Callable[..., int],
    on_meta: Callable[..., tuple[IFormer, float]],
    options: dict[str, Any],
    millions: int,
    mult_adds: float,
    make_plan: Callable[..., Plan],
) -> None:
    """Table 5's 'attention only', '+ max-pool', reversed and equal split; norms and pooling add 0.022 G in all."""
    network, counted = on_meta(partial(networks.iformer_s, **options))
    assert round(parameters(network) / 1e6) == millions
    assert round(counted + 0.022, 1) == mult_adds
    stages = make_plan("paper=iformer", "scale=full").stages
    names = ("attention", "pool", "reversed", "constant")
    used = [{k: v for k, v in stages[n].module["network"].items() if k in options} for n in names]
    assert options in used


@pytest.mark.parametrize(
    ("lines", "stage", "epochs", "warmup", "lowest"),
    [
        ([], "ramp", 300, 5, 1e-6),
        (["variant=large"], "ramp", 300, 5, 1e-5),
        (["variant=base"], "ramp", 300, 5, 1e-5),
        (["variant=ablation"], "reversed", 100, 5, 1e-6),
        ([], "finetuned", 20, 0, 1e-6),
        (["variant=base"], "finetuned", 20, 0, 5e-7),
        (["variant=large"], "finetuned", 20, 0, 1e-6),
    ],
)
def test_learning_rates_are_timms(
    lines: list[str], stage: str, epochs: int, warmup: int, lowest: float, make_plan: Callable[..., Plan]
) -> None:
    planned = make_plan("paper=iformer", "scale=full", *lines).stages[stage]
    schedule, rate = training.build(planned.module["schedule"]), planned.module["optimizer"]["lr"]
    ours = [rate * schedule(Position(e, 100, 1251, epochs + 10)) for e in range(epochs + 10)]
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=rate)
    theirs = CosineLRScheduler(optimizer, epochs, lr_min=lowest, warmup_t=warmup, warmup_lr_init=1e-6)
    expected = []
    for epoch in range(epochs + 10):
        expected.append(optimizer.param_groups[0]["lr"])
        theirs.step(epoch + 1)
    assert ours == pytest.approx(expected)
    assert planned.trainer["max_epochs"] == epochs + 10


@pytest.mark.parametrize(
    ("variant", "size", "drop_path", "clip", "repeats", "tuned_drop_path", "tuned_rate"),
    [
        (None, "s", 0.2, None, 1, 0.3, 1e-5),
        ("base", "b", 0.4, 1.0, 3, 0.5, 5e-6),
        ("large", "l", 0.5, 1.0, 3, 0.6, 1e-5),
    ],
)
def test_full_recipe(
    variant: str | None,
    size: str,
    drop_path: float,
    clip: float | None,
    repeats: int,
    tuned_drop_path: float,
    tuned_rate: float,
    make_plan: Callable[..., Plan],
) -> None:
    stages = make_plan("paper=iformer", "scale=full", *([f"variant={variant}"] if variant else [])).stages
    ramp, tuned = stages["ramp"], stages["finetuned"]
    assert {s.module["network"]["_target_"] for s in stages.values()} == {f"modules.iformer.networks.iformer_{size}"}
    assert ramp.module["network"]["drop_path"] == drop_path
    assert (ramp.trainer["gradient_clip_val"], ramp.data["augmentation"]["repeats"]) == (clip, repeats)
    assert (ramp.reference_batch, ramp.data["batch_size"]) == (1024, 1024)
    assert (ramp.data["augmentation"]["crop_pct"], ramp.data["image_size"]) == (0.9, 224)
    assert ramp.data["augmentation"]["auto_augment"] == "rand-m9-mstd0.5-inc1"
    assert (ramp.data["augmentation"]["erasing"], ramp.module["label_smoothing"]) == (0.25, 0.1)
    assert (ramp.module["mixup"], ramp.module["cutmix"]) == (0.8, 1.0)
    assert (ramp.module["optimizer"]["lr"], ramp.module["optimizer"]["weight_decay"]) == (1e-3, 0.05)
    assert (tuned.module["network"]["drop_path"], tuned.module["optimizer"]["lr"]) == (tuned_drop_path, tuned_rate)
    assert (tuned.trainer["gradient_clip_val"], tuned.data["augmentation"]["repeats"]) == (1.0, repeats)
    assert (tuned.module["mixup"], tuned.module["cutmix"]) == (0.1, 0.1)
    assert (tuned.reference_batch, tuned.data["image_size"]) == (512, 384)
    assert tuned.data["augmentation"]["crop_pct"] == 1.0
    assert tuned.module["optimizer"]["weight_decay"] == 1e-8
    arms = {"attention", "pool", "constant", "reversed"}
    assert set(stages) == {"ramp", "untuned", "finetuned", "finetuned_small"} | (set() if variant else arms)
    untuned = stages["untuned"]
    assert not untuned.fit
    assert untuned.data == tuned.data | {"augmentation": tuned.data["augmentation"] | {"repeats": 1}}
    assert untuned.module["network"]["input_size"] == tuned.module["network"]["input_size"] == 384
    for name in arms & set(stages):
        arm = stages[name]
        assert (arm.data, arm.trainer, arm.reference_batch) == (ramp.data, ramp.trainer, ramp.reference_batch)
        assert {k: v for k, v in arm.module.items() if k != "network"} == {
            k: v for k, v in ramp.module.items() if k != "network"
        }


def test_the_ablation_has_the_papers_arms_and_no_fine_tuning(make_plan: Callable[..., Plan]) -> None:
    planned = make_plan("paper=iformer", "scale=full", "variant=ablation")
    assert set(planned.stages) == {"ramp", "attention", "pool", "constant", "reversed"}
    assert {stage.trainer["max_epochs"] for stage in planned.stages.values()} == {110}
    compared = {str(each.than) for claim in claims.read(planned.config).claims for each in claim.against().values()}
    assert compared >= {f"{name}/test/top1" for name in set(planned.stages) - {"ramp"}}


@pytest.mark.parametrize("lines", [["scale=mini"], ["scale=mini", "variant=cifar10"], ["scale=full"]])
def test_the_ramp_has_to_beat_the_same_mixers_otherwise(lines: list[str], make_plan: Callable[..., Plan]) -> None:
    """Baseline first; all get the same images in the same order and as many updates; rates are each arm's own."""
    planned = make_plan("paper=iformer", *lines)
    (main,) = (claim for claim in claims.read(planned.config).claims if claim.main)
    assert [each.than for each in main.against().values()] == [
        "attention/test/top1",
        "reversed/test/top1",
        "constant/test/top1",
    ]
    ramp = planned.stages["ramp"]
    for name in ("attention", "reversed", "constant"):
        rival = planned.stages[name]
        assert (rival.data, rival.trainer) == (ramp.data, ramp.trainer)
        assert {**rival.module["optimizer"], "lr": 0} == {**ramp.module["optimizer"], "lr": 0}
        assert rival.module["schedule"] == ramp.module["schedule"]


@pytest.mark.parametrize(("attention", "pool", "fits"), [(-2.4, -2.7, True), (-1.9, -2.7, False), (-2.4, -3.5, False)])
def test_the_claim_needs_a_split_of_frequencies(attention: float, pool: float, fits: bool) -> None:
    """With convolution at -1.6: attention must lie under the mean of the two, -2.15 or -2.55."""
    (claim,) = (c for c in compose.paper_file("iformer")["claims"] if c.get("main") and c["scale"] == "mini")
    metrics = {"conv_high": -1.6, "pool_high": pool, "attention_high": attention}
    table = {"ramp": {f"test/{name}": {1: value - 0.1, 2: value + 0.1} for name, value in metrics.items()}}
    (text,) = claim["requires"]
    assert verdicts.holds(text, table, [1, 2]).holds is fits


@pytest.mark.parametrize("lines", [["scale=mini"], ["scale=mini", "variant=cifar10"]])
def test_arms_of_the_mini_differ_in_their_mixers_alone(
    parameters: Callable[..., int], lines: list[str], make_plan: Callable[..., Plan]
) -> None:
    stages = make_plan("paper=iformer", *lines).stages
    ramp = stages["ramp"]
    networks = {name: training.build(stages[name].module["network"]) for name in stages if not stages[name].needs}
    count = parameters(networks["ramp"])
    assert all(abs(parameters(n) / count - 1) < 0.07 for n in networks.values())
    for name in networks:
        arm = stages[name]
        assert (arm.data, arm.trainer) == (ramp.data, ramp.trainer)
        method, own = ({**s.module, "network": dict(s.module["network"])} for s in (ramp, arm))
        for module in (method, own):
            module["optimizer"] = module["optimizer"] | {"lr": "each arm's own, by validation"}
            module["network"]["layout"] = {k: v for k, v in module["network"]["layout"].items() if k != "heads"}
        assert own == method
    shares = {
        name: [m.widths[-1] / sum(m.widths) if "attention" in m.branches else 0.0 for _, _, m in network.mixers()]
        for name, network in networks.items()
    }
    assert shares["ramp"] == sorted(shares["ramp"])
    assert shares["reversed"] == sorted(shares["reversed"], reverse=True)
    assert set(shares["constant"]) == {0.5}
    assert set(shares["attention"]) == {1.0}
    assert all(len(mixer.branches) == 3 for _, _, mixer in networks["ramp"].mixers())
    tuned = stages["finetuned"]
    assert tuned.data == stages["untuned"].data
    assert tuned.module["network"] == stages["untuned"].module["network"]
    assert tuned.data["source"] == ramp.data["source"]
    assert tuned.data["side"] == tuned.module["network"]["input_size"] > ramp.module["network"]["input_size"]
    control = stages["finetuned_small"]
    assert (control.data, control.module["network"]) == (ramp.data, ramp.module["network"])
    assert (control.trainer, control.module["optimizer"]) == (tuned.trainer, tuned.module["optimizer"])


def test_published_numbers_hang_on_the_arms_they_came_from() -> None:
    """Of S, B and L at 224 and fine-tuned at 384, and Table 5's arms after 100 epochs."""
    rows = compose.paper_file("iformer")["published"]
    published = {(str(row.get("variant")), f"{row['stage']}/{row['metric']}"): row["value"] for row in rows}
    table_5 = {"attention": 80.8, "pool": 81.0, "ramp": 81.2, "reversed": 80.5, "constant": 80.7}
    expected = {("ablation", f"{arm}/test/top1"): value for arm, value in table_5.items()}
    sizes = {"None": (83.4, 84.6), "base": (84.6, 85.7), "large": (84.8, 85.8)}
    expected |= {(variant, "ramp/test/top1"): value for variant, (value, _) in sizes.items()}
    expected |= {(variant, "finetuned/test/top1"): value for variant, (_, value) in sizes.items()}
    expected |= {("None", "ramp/test/top5"): 96.6, ("['base', 'large']", "ramp/test/top5"): 97.0}
    assert published == expected


@pytest.mark.parametrize(
    ("name", "size", "resize", "cut"),
    [("ramp", 224, 248, 224), ("attention", 224, 248, 224), ("finetuned", 384, 384, 384)],
)
def test_photos_are_augmented_and_tested_as_released(
    name: str, size: int, resize: int, cut: int, make_plan: Callable[..., Plan]
) -> None:
    """DeiT's augmentation; bicubic centre crops of 0.9 of the shorter side at 224 and of all of it at 384."""
    data = make_plan("paper=iformer", "scale=full").stages[name].data
    assert data["image_size"] == size
    augmentation = data["augmentation"]
    assert (augmentation["crop_scale"], augmentation["interpolation"]) == ([0.08, 1.0], "random")
    assert augmentation["auto_augment"] == "rand-m9-mstd0.5-inc1"
    assert (augmentation["erasing"], augmentation["erasing_mode"]) == (0.25, "pixel")
    normalisation = augmentation["normalisation"]
    assert (normalisation["mean"], normalisation["std"]) == ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])

    resized, cropped = training.build(data).transform(train=False).transform.transforms[:2]
    side = resized.size if isinstance(resized.size, int) else resized.size[0]
    assert (side, resized.interpolation.value, tuple(cropped.size)) == (resize, "bicubic", (cut, cut))
