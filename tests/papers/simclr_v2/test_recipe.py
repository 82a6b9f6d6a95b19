"""The recipes: published rates and lengths, what arms share, and who sees which label."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from experiments.config import claims, compose
from experiments.running import training
from experiments.running.plan import Plan, plan
from modules.common.schedules import Position
from modules.simclr_v2.lars import LARS

Make = Callable[..., Plan]
SMALL = (
    "supervised",
    "distilled",
    "distilled_small",
    "distilled_supervised",
    "self_distilled",
    "self_distilled_labels",
)


@pytest.fixture(scope="module")
def full() -> Plan:
    return plan(compose.compose(compose.request(["paper=simclr_v2", "scale=full"]).overrides), 0)


def test_rates_of_the_full_recipe(full: Plan) -> None:
    stages = full.stages
    rates = {"pretrained": (0.1, 4096), "distilled": (0.1, 4096), "tuned": (0.005, 1024), "tuned_big": (0.002, 1024)}
    for name, (factor, batch) in rates.items():
        stage = stages[name]
        assert stage.module["optimizer"]["lr"] == pytest.approx(factor * math.sqrt(batch))
        assert stage.data["batch_size"] == stage.reference_batch == batch
    assert 0.3 * 4096 / 256 == pytest.approx(0.075 * math.sqrt(4096)) == pytest.approx(4.8)  # where two rules meet
    linear = stages["linear"]
    assert (linear.module["optimizer"]["lr"], linear.reference_batch, linear.data["batch_size"]) == (0.1, 256, 4096)
    assert stages["tuned"].module["optimizer"]["weight_decay"] == 0
    assert stages["pretrained"].module["optimizer"]["weight_decay"] == 1e-4


def test_lengths_and_warm_up_of_the_full_recipe(full: Plan) -> None:
    """The code's 250,228 steps with 12,511 of warm-up, but for an epoch's smaller last batch."""
    stages = full.stages
    epochs = {name: stages[name].trainer["max_epochs"] for name in ("pretrained", "distilled", "tuned", "tuned_more")}
    assert epochs == {"pretrained": 800, "distilled": 400, "tuned": 60, "tuned_more": 30}
    steps = math.ceil(1_281_167 / 4096)
    assert 1_281_167 * 800 // 4096 + 1 == 250_228
    assert 1_281_167 * 100 // 4096 + 1 == 31_279
    assert 10 * 1_281_167 // 4096 == 3_127
    assert 800 * steps == pytest.approx(250_228, rel=1e-3)
    for name, warm in (("pretrained", 40), ("distilled", 20), ("tuned", 0)):
        schedule = training.build(stages[name].module["schedule"])
        assert schedule.keywords["warmup_epochs"] == warm
        assert schedule(Position(warm, 0, steps, epochs[name])) == pytest.approx(1)
        assert schedule(Position(epochs[name], 0, steps, epochs[name])) == pytest.approx(0)
    assert 40 * steps == pytest.approx(12_511, rel=1e-3)


def test_views_of_the_full_recipe(full: Plan) -> None:
    """Crop from 8%, mirror, jitter of strength 1 in 8 of 10, grey in 2, and blur in 5; all else is crop and mirror."""
    for name in ("pretrained", "pretrained_big", "pretrained_plain"):
        views = training.build(full.stages[name].data).transform(train=True)
        crop, flip, *_ = views.crop.transforms
        assert (crop.size, tuple(crop.scale), crop.interpolation.value) == ((224, 224), (0.08, 1.0), "bicubic")
        assert crop.ratio == pytest.approx((3 / 4, 4 / 3))
        assert flip.p == 0.5
        _, jitter, grey, blur = views.distort.operations  # the mirror there is off
        assert [type(operation).__name__ for operation in (jitter, grey, blur)] == [
            "ColorJitter",
            "RandomGrey",
            "GaussianBlur",
        ]
        assert (jitter.strength, jitter.p, grey.p, blur.p, tuple(blur.sigma)) == (1.0, 0.8, 0.2, 0.5, (0.1, 2.0))
    for name in ("linear", "tuned", "supervised", "distilled"):
        plain = training.build(full.stages[name].data).transform(train=True)
        names = [type(operation).__name__ for operation in plain.transforms]
        assert names == ["RandomResizedCrop", "RandomHorizontalFlip", "PILToTensor", "ToDtype"]


def test_losses_of_the_full_recipe(full: Plan) -> None:
    stages = full.stages
    for name in ("pretrained", "pretrained_plain"):
        module = stages[name].module
        assert (module["temperature"], module["head"]) == (0.1, {"layers": 3, "outputs": 128})
    assert stages["pretrained"].module["memory"] == {"size": 65536, "decay": 0.999}
    assert stages["pretrained_plain"].module["memory"] is None
    assert (stages["tuned"].module["layer"], stages["tuned_0"].module["layer"]) == (1, 0)
    distilled = {
        n: (stages[n].module["temperature"], stages[n].module["alpha"]) for n in ("distilled", "self_distilled")
    }
    assert distilled == {"distilled": (1.0, 1.0), "self_distilled": (0.1, 1.0)}
    for name in ("pretrained", "tuned", "distilled", "supervised"):
        assert stages[name].module["optimizer"]["momentum"] == 0.9
    linear = stages["linear"]
    sgd = training.build(linear.module["optimizer"])([nn.Parameter(torch.zeros(1))]).defaults
    assert (sgd["momentum"], sgd["nesterov"], sgd["weight_decay"], linear.trainer["max_epochs"]) == (
        0.9,
        True,
        1e-6,
        90,
    )


@pytest.mark.parametrize(
    ("variant", "big", "more"),
    [
        (None, 70.6, 77.0),
        ("resnet152_3x", 74.9, 80.1),
        ("resnet50_2x", 66.3, 73.9),
        ("resnet152_sk", 70.0, 76.5),
    ],
)
def test_published_rows(variant: str | None, big: float, more: float, make_plan: Make) -> None:
    lines = ["paper=simclr_v2", "scale=full", *([f"variant={variant}"] if variant else [])]
    rows = {f"{r.stage}/{r.metric}": r.value for r in claims.published(make_plan(*lines).config)}
    assert (rows["tuned_big/test/top1"], rows["tuned_big_more/test/top1"]) == (big, more)
    if variant is None:
        assert (rows["tuned/test/top1"], rows["tuned_more/test/top1"]) == (57.9, 68.4)
        assert (rows["linear/test/top1"], rows["linear_plain/test/top1"]) == (71.7, 71.1)
    distilled = (rows.get("distilled/test/top1"), rows.get("distilled_more/test/top1"))
    assert distilled == ((73.9, 77.5) if variant == "resnet152_3x" else (None, None))


def test_networks_of_the_full_recipe(make_plan: Make) -> None:
    def networks(*lines: str) -> dict[str, tuple[Any, ...]]:
        stages = make_plan("paper=simclr_v2", "scale=full", *lines).stages
        used = {name: stage.module["network"] for name, stage in stages.items() if "network" in stage.module}
        return {name: (item["depth"], item["width"], item["selective"]) for name, item in used.items()}

    plain = networks()
    assert plain.pop("pretrained_big") == plain.pop("supervised_big") == (50, 2, True)
    assert set(plain.values()) == {(50, 1, False)}
    assert networks("variant=resnet50_2x")["pretrained_big"] == (50, 2, False)
    biggest = networks("variant=resnet152_3x")
    big = {name for name, network in biggest.items() if network == (152, 3, True)}
    assert big == {"pretrained_big", "supervised_big", "self_distilled_big", "self_distilled_big_more"}
    assert biggest["distilled"] == (50, 1, False)


def test_the_biggest_network_is_self_distilled_before_it_teaches(make_plan: Make) -> None:
    stages = make_plan("paper=simclr_v2", "scale=full", "variant=resnet152_3x").stages
    for end in ("", "_more"):
        assert stages[f"distilled{end}"].needs == {"teacher": f"self_distilled_big{end}"}
        assert stages[f"self_distilled_big{end}"].needs == {"teacher": f"tuned_big{end}"}
        assert stages[f"self_distilled_big{end}"].data == stages[f"distilled{end}"].data


def test_labels_of_the_full_recipe(make_plan: Make) -> None:
    stages = make_plan("paper=simclr_v2", "scale=full").stages
    for name, stage in stages.items():
        if name.startswith(("pretrained", "linear")):
            assert stage.data["labels"]["part"] is None
            assert stage.data["views"]["count"] == (2 if name.startswith("pretrained") else 1)
            continue
        assert stage.data["labels"]["part"] == ("10percent" if name.endswith("more") else "1percent")
        assert stage.data["labels"]["others"] == ("unlabelled" if "distilled" in name else "drop")
        assert stage.data["views"]["count"] == 1


def but_rate(module: dict[str, Any]) -> dict[str, Any]:
    """A stage's module without the rate, of which each arm of the main claim has its own best in mini."""
    optimizer = {key: value for key, value in module["optimizer"].items() if key != "lr"}
    return {**module, "optimizer": optimizer}


def test_arms_share_data_and_lengths(make_plan: Make) -> None:
    stages = make_plan("paper=simclr_v2", "scale=mini", seed=3).stages
    updates = {
        name: stages[name].trainer["max_epochs"] * stages[name].data["draws"] // stages[name].data["batch_size"]
        for name in ("supervised", "supervised_big", "tuned", "tuned_0", "tuned_big", "supervised_more", "tuned_more")
    }
    assert len(set(updates.values())) == 1, updates
    for name in ("supervised_big", "tuned", "tuned_0", "tuned_big"):
        assert stages[name].data == stages["supervised"].data
    alike = (("pretrained", "pretrained_big"), ("distilled", "distilled_small"), ("distilled", "distilled_supervised"))
    for first, second in alike:
        assert stages[first].data == stages[second].data
        assert stages[first].trainer == stages[second].trainer
        assert but_rate(stages[first].module)["optimizer"] == but_rate(stages[second].module)["optimizer"]
    assert stages["self_distilled"].data == stages["self_distilled_labels"].data == stages["distilled"].data


def test_labelled_images_are_the_same_in_all_arms(make_plan: Make) -> None:
    stages = make_plan("paper=simclr_v2", "scale=mini", seed=3).stages
    seen: dict[str, dict[str, set[bytes]]] = {}
    for name in ("pretrained", "supervised", "supervised_more", "distilled"):
        data = training.build(stages[name].data)
        data.setup()
        images, labels = data.splits["train"]
        chosen = images[labels >= 0]
        seen[name] = {"labelled": {bytes(image.numpy()) for image in chosen}}
        seen[name]["all"] = {bytes(image.numpy()) for image in images}
        seen[name]["test"] = {bytes(image.numpy()) for image in data.splits["test"][0]}
    assert seen["supervised"]["labelled"] == seen["distilled"]["labelled"] < seen["supervised_more"]["labelled"]
    assert seen["distilled"]["all"] == seen["pretrained"]["all"] > seen["supervised_more"]["all"]
    assert all(sets["test"] == seen["pretrained"]["test"] for sets in seen.values())
    assert not seen["pretrained"]["all"] & seen["pretrained"]["test"]


def test_students_share_initial_weights(make_plan: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "load", lambda plan, name: training.construct(plan, plan.stages[name]))
    plans = {seed: make_plan("paper=simclr_v2", "scale=smoke", seed=seed) for seed in (3, 4)}

    def weights(name: str, seed: int = 3) -> Tensor:
        module: nn.Module = training.construct(plans[seed], plans[seed].stages[name])
        values = {key.removeprefix("network.0."): p.detach().flatten() for key, p in module.named_parameters()}
        values = {key.removeprefix("network."): p for key, p in values.items()}
        return torch.cat([p for key, p in values.items() if key.startswith(("stem.", "groups."))])

    first = weights("supervised")
    assert not torch.equal(first, weights("supervised", 4))
    for name in (*SMALL, "pretrained", "tuned", "tuned_0"):
        assert torch.equal(weights(name), first), name
    assert torch.equal(weights("supervised_big"), weights("pretrained_big"))


def test_the_recipes_train_with_lars(make_plan: Make) -> None:
    for scale in ("mini", "full"):
        for name, stage in make_plan("paper=simclr_v2", f"scale={scale}").stages.items():
            factory = training.build(stage.module["optimizer"])
            assert (factory.func is LARS) == (not name.startswith("linear")), name


def test_rivals_differ_from_the_method_in_their_teacher_alone(make_plan: Make) -> None:
    """One teacher is smaller, the other was not pretrained."""
    for scale in ("mini", "full"):
        plan = make_plan("paper=simclr_v2", f"scale={scale}")
        stages = plan.stages
        taught = [stages[name] for name in ("distilled", "distilled_small", "distilled_supervised")]
        assert [stage.needs["teacher"] for stage in taught] == ["tuned_big", "tuned", "supervised_big"]
        assert but_rate(taught[0].module) == but_rate(taught[1].module) == but_rate(taught[2].module)
        assert stages["tuned"].needs["pretrained"] == "pretrained"
        assert stages["tuned_big"].needs["pretrained"] == "pretrained_big"
        assert stages["supervised_big"].module["network"] == stages["pretrained_big"].module["network"]

        main = claims.read(plan.config).main
        assert main is not None
        assert isinstance(main.than, dict)
        assert list(main.than.values()) == [
            "supervised/test/top1",
            "distilled_small/test/top1",
            "distilled_supervised/test/top1",
        ]
