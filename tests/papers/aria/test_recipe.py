"""What is published stands in the full recipe; arms differ in what they are trained on; generators are LOTA's."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from datamodules.aria.folders import CATEGORIES, MODE_OF, NAMES
from datamodules.common.photo_regions import SUBJECTS
from experiments.running.plan import Plan

MakePlan = Callable[..., Plan]


def test_the_recipe_is_the_released_one(make_plan: MakePlan) -> None:
    stage = make_plan("paper=aria", "scale=full").stages["from_dalle_t2i"]
    assert stage.trainer["max_epochs"] == 300
    assert stage.data["batch_size"] == 64
    assert stage.data["image_size"] == 224
    assert stage.module["patience"] == 5
    assert stage.module["optimizer"] == {"_target_": "torch.optim.SGD", "_partial_": True, "lr": 0.005, "momentum": 0.9}
    network = stage.module["network"]
    assert (network["model_name"], network["pretrained"], network["num_classes"]) == ("resnet50.a1h_in1k", True, 2)


def test_detectors_differ_in_their_pictures_alone(make_plan: MakePlan) -> None:
    stages = make_plan("paper=aria", "scale=full").stages
    first = stages[f"from_{NAMES[0]}"]
    for name in NAMES:
        assert stages[f"from_{name}"].data == {**first.data, "train_on": [name]}
    for category in CATEGORIES:
        stage = stages[f"about_{category}"]
        assert {**stage.data, "categories": None} == {**stages["from_all"].data, "categories": None}
        assert stage.data["categories"] == [category]
    for name in (*(f"from_{n}" for n in (*NAMES, "all")), *(f"about_{c}" for c in CATEGORIES)):
        assert stages[name].module == first.module
        assert stages[name].trainer == first.trainer
        assert stages[name].start_like == "detector"


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
        assert stages[name].needs["detectors"] == [f"{start}_{source}" for source in stages[name].module["names"]]
        assert stages[name].module["names"] == stages[name].data["names"] == stages[name].feeds["generators"]
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
            assert matched[name].data == {**stage.data, "matched": True}
    assert every["from_all"].data == {**plain["from_all"].data, "share": False}
    assert not plain["outsiders"].test
    assert external["outsiders"].test
    jpeg = make_plan("paper=aria", "scale=mini", "variant=jpeg").stages
    assert {stage.data["jpeg"] for stage in jpeg.values() if "names" in stage.data} == {90}


@pytest.mark.parametrize("name", ["deconv", "nearest", "gan", "ddpm"])
def test_generators_are_those_of_lota(name: str, make_plan: MakePlan) -> None:
    """One identity: what the one paper has trained serves the other."""
    ours, theirs = (make_plan(f"paper={paper}", "scale=mini").stages[name] for paper in ("aria", "lota"))
    assert ours.directory.name == theirs.directory.name
