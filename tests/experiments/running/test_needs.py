"""What is looked at before anything is registered or trained."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from datamodules.common.needs import Need
from experiments.common.errors import InputError
from experiments.pages.needed import how_much, table
from experiments.running import preconditions
from experiments.running.needs import missing, of_stages
from experiments.running.plan import Plan
from modules.common.needs import own_file


def test_what_comes_with_the_install_is_no_need(make_plan: Callable[..., Plan]) -> None:
    plan = make_plan("paper=meal_v2", "scale=mini", "variant=fashion_mnist")
    assert of_stages(plan.stages.values()) == {}


def test_data_weights_and_packages_are_listed_once(make_plan: Callable[..., Plan], tmp_path: Path) -> None:
    plan = make_plan("paper=vit_vqgan", "scale=full", f"data_dir={tmp_path}")
    needs = {need.name: (need, where) for need, where in of_stages(plan.stages.values()).items()}
    assert set(needs) == {"ImageNet-1k", "Inception-v3 of 2015", "vgg16, IMAGENET1K_V1"}
    data, where = needs["ImageNet-1k"]
    assert (data.files, where) == (str(tmp_path / "imagenet"), "stages.features.data")
    assert how_much(data) == "1,281,167 train + 50,000 val"
    assert table("needed", [need for need, _ in needs.values()]).row_count == 3


def test_a_torchvision_set_that_cannot_be_fetched_is_refused(make_plan: Callable[..., Plan], tmp_path: Path) -> None:
    """data_dir exists or not: the first image is too late to find out."""
    nowhere = tmp_path / "none"
    plan = make_plan("paper=meal_v2", "scale=mini", "data@stages.student.data=cifar10", f"data_dir={nowhere}")
    with pytest.raises(InputError, match=r"stages\.student\.data: data_dir .* does not exist"):
        preconditions.check([plan])


def test_what_can_be_fetched_is_fetched_first(
    make_plan: Callable[..., Plan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plan with one need: there after fetching, still missing, or not to be had."""
    plan = make_plan("paper=meal_v2", "scale=smoke")
    file = tmp_path / "weights.pt"

    def refuse() -> None:
        raise OSError("no route to host\nand more")

    for fetch, told in (
        (file.touch, []),
        (lambda: None, ["weights.pt is missing; ask"]),
        (refuse, ["weights.pt is missing; ask (not fetched: no route to host)"]),
        (None, ["weights.pt is missing; ask"]),
    ):
        file.unlink(missing_ok=True)
        look = own_file(str(file), "ask").look
        need = Need("weights", str(file), look, fetch=fetch)
        monkeypatch.setattr("experiments.running.needs.of_stages", lambda _, need=need: {need: "stages.a.module"})
        lines = [line.replace(f"{tmp_path}/", "") for line in missing(plan.stages.values())]
        assert lines == [f"stages.a.module: {line}" for line in told]


def test_other_machines_fetch_for_themselves(make_plan: Callable[..., Plan], tmp_path: Path) -> None:
    plan = make_plan("paper=ppgn", "scale=full", f"data_dir={tmp_path}")
    lines = list(missing(plan.stages.values(), here=False))
    assert len(lines) == 1, "ImageNet has to be there, torchvision's weights come by themselves"
    assert "imagenet does not exist" in lines[0]
