"""What is published stands in the full recipe; arms differ in what they are trained on; generators are LOTA's."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from datamodules.aria.folders import CATEGORIES, MODE_OF
from datamodules.common.photo_regions import SUBJECTS
from experiments.config import compose
from experiments.config.instantiate import build
from experiments.running.plan import Plan, plan
from modules.common.schedules import Position

MakePlan = Callable[..., Plan]


@pytest.fixture(scope="module")
def full() -> Plan:
    return plan(compose.compose(compose.request(["paper=aria", "scale=full"]).overrides), 0)


GENERATORS = [
    f"{name}_{mode}" for name in ("dalle", "dreamstudio", "midjourney", "starryai") for mode in ("t2i", "it2i")
]
SUBJECTS_OF_FULL = ("art", "disaster", "news", "pixiv", "ins")


def test_every_detector_is_trained_as_released(full: Plan) -> None:
    """A ResNet-50 with timm's weights; SGD 0.005 of momentum 0.9 without decay; batches of 64; a cosine over 300 epochs
    that 5 epochs without a better accuracy end."""
    arms = [f"from_{name}" for name in (*GENERATORS, "all")] + [f"about_{name}" for name in SUBJECTS_OF_FULL]
    assert {name for name in full.stages if name.startswith(("from_", "about_"))} == set(arms)
    for name in arms:
        stage = full.stages[name]
        assert (stage.trainer["max_epochs"], stage.module["patience"]) == (300, 5)
        assert (stage.data["batch_size"], stage.data["shown"]["image_size"]) == (64, 224)
        network = stage.module["network"]
        assert (network["model_name"], network["pretrained"], network["num_classes"]) == ("resnet50.a1h_in1k", True, 2)
        optimizer = build(stage.module["optimizer"])([torch.nn.Parameter(torch.zeros(1))])
        assert type(optimizer) is torch.optim.SGD
        (group,) = optimizer.param_groups
        assert (group["lr"], group["momentum"], group["weight_decay"]) == (0.005, 0.9, 0)
        schedule = build(stage.module["schedule"])
        rates = [group["lr"] * schedule(Position(epoch, 7, 10, 300)) for epoch in (0, 5, 150, 299)]
        assert rates == pytest.approx([0.005, 0.0049966, 0.0025, 1.37e-7], abs=1e-7)


def test_detectors_differ_in_their_pictures_alone(full: Plan) -> None:
    stages = full.stages
    first = stages[f"from_{GENERATORS[0]}"]
    for name in GENERATORS:
        trained_on = {**first.data["trained_on"], "generators": [name]}
        assert stages[f"from_{name}"].data == {**first.data, "trained_on": trained_on}
    for category in SUBJECTS_OF_FULL:
        stage = stages[f"about_{category}"]
        of_all = stages["from_all"].data
        assert stage.data == {**of_all, "trained_on": {**of_all["trained_on"], "categories": [category]}}
    for name, stage in stages.items():
        if name.startswith(("from_", "about_")):
            assert stage.module == first.module
            assert stage.start_like == "detector"


def test_matrices_name_the_sources_of_their_detectors(make_plan: MakePlan) -> None:
    """T2I and IT2I are never in one matrix's training or test sources together."""
    stages = make_plan("paper=aria", "scale=full").stages
    modes = {"matrix": "T2I T2I", "matrix_it2i": "IT2I IT2I", "t2i_to_it2i": "T2I IT2I", "it2i_to_t2i": "IT2I T2I"}
    for name, (trained, tested) in {name: text.split() for name, text in modes.items()}.items():
        module, detectors = stages[name].module, stages[name].needs["detectors"]
        assert [f"from_{source}" for source in module["names"]] == detectors
        assert {MODE_OF[source] for source in module["names"]} == {trained}
        other = module.get("tested") or module["names"]
        assert {MODE_OF[source] for source in other} == {tested}
        assert [s.split("_")[0] for s in module["names"]] == [s.split("_")[0] for s in other]
    for name in ("subjects", "subjects_it2i"):
        assert stages[name].needs["detectors"] == [f"about_{category}" for category in stages[name].module["names"]]
        assert tuple(stages[name].module["names"]) == CATEGORIES
        assert len({MODE_OF[source] for source in stages[name].module["generators"]}) == 1


def test_minis_matrices_name_the_sources_of_their_detectors(make_plan: MakePlan) -> None:
    stages = make_plan("paper=aria", "scale=mini").stages
    for name, start in (("matrix", "from"), ("numbers", "number")):
        whole, smooth = stages[name], stages[f"{name}_smooth"]
        assert whole.module["names"] == whole.data["names"] == whole.feeds["generators"]
        assert smooth.module["names"] == smooth.module["generators"] == [n for n in whole.module["names"] if n != "gan"]
        assert smooth.data == whole.data
        for stage in (whole, smooth):
            assert stage.needs["detectors"] == [f"{start}_{source}" for source in stage.module["names"]]


def test_minis_detectors_learn_from_the_same_pictures(make_plan: MakePlan) -> None:
    """Networks and thresholds: of one generator each, or as many of all; rates are chosen on what none of them saw."""
    stages = make_plan("paper=aria", "scale=mini").stages
    first = stages["from_deconv"].data
    for name, stage in stages.items():
        if name.startswith(("from_", "number_")):
            source = name.partition("_")[2]
            chosen = stage.data["names"] if source == "all" else [source]
            assert {**stage.data, "train_on": [], "augment": []} == {**first, "train_on": [], "augment": []}
            assert stage.data["train_on"] == chosen


def test_minis_subjects_are_those_of_the_photos(make_plan: MakePlan) -> None:
    stages = make_plan("paper=aria", "scale=mini").stages
    assert tuple(stages["subjects"].module["names"]) == SUBJECTS
    assert stages["subjects"].needs["detectors"] == [f"about_{number}" for number in range(len(SUBJECTS))]
    for stage in stages.values():
        if "names" in stage.data:
            assert stage.feeds["generators"] == stage.data["names"]


def test_variants_say_what_they_are_named_for(make_plan: MakePlan) -> None:
    plain = make_plan("paper=aria", "scale=full").stages
    matched = make_plan("paper=aria", "scale=full", "variant=matched").stages
    every = make_plan("paper=aria", "scale=full", "variant=everything").stages
    external = make_plan("paper=aria", "scale=full", "variant=external").stages
    for name, stage in plain.items():
        if name != "formats":
            assert matched[name].data == {**stage.data, "shown": {**stage.data["shown"], "matched": True}}
    of_all = plain["from_all"].data
    assert every["from_all"].data == {**of_all, "trained_on": {**of_all["trained_on"], "share": False}}
    assert not plain["outsiders"].test
    assert external["outsiders"].test
    jpeg = make_plan("paper=aria", "scale=mini", "variant=jpeg").stages
    assert {stage.data["jpeg"] for stage in jpeg.values() if "names" in stage.data} == {90}


@pytest.mark.parametrize("name", ["deconv", "nearest", "ddpm"])
def test_generators_but_the_gan_are_those_of_lota(name: str, make_plan: MakePlan) -> None:
    """One identity: what the one paper has trained serves the other."""
    ours, theirs = (make_plan(f"paper={paper}", "scale=mini").stages[name] for paper in ("aria", "lota"))
    assert ours.directory.name == theirs.directory.name
