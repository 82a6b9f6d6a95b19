"""The published recipe, and what the arms have in common."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from experiments.running import training
from experiments.running.plan import Plan
from modules.common.schedules import Position, poly
from modules.mswal.module import Segmenter
from tests.papers.mswal.helpers import parameters, small_network


def test_learning_rate(make_plan: Callable[..., Plan]) -> None:
    factors = [0.01 * poly(Position(epoch, 0, 250, 1000)) for epoch in (0, 500, 999)]
    assert factors == pytest.approx([0.01, 0.00535887, 1.99526e-5], rel=1e-5)
    assert poly(Position(500, 249, 250, 1000)) == poly(Position(500, 0, 250, 1000))
    stage = make_plan("paper=mswal", "scale=full").stages["inception"]
    assert stage.trainer["max_epochs"] == 1000
    assert stage.trainer["gradient_clip_val"] == 12
    assert stage.data["batch_size"] == stage.reference_batch == 2
    assert stage.module["batch_dice"]  # a plan for scans of this size has a low-resolution stage
    group = (
        Segmenter(small_network(), optimizer=training.build(stage.module["optimizer"]))
        .configure_optimizers()
        .param_groups
    )
    wanted = {"lr": 0.01, "momentum": 0.99, "nesterov": True, "weight_decay": 3e-5}
    assert {key: group[0][key] for key in wanted} == wanted


@pytest.mark.parametrize(("scale", "variant"), [("full", None), ("full", "long"), ("mini", None)])
def test_arms_differ_in_their_network_alone(scale: str, variant: str | None, make_plan: Callable[..., Plan]) -> None:
    lines = ["paper=mswal", f"scale={scale}", *([f"variant={variant}"] if variant else [])]
    stages = make_plan(*lines).stages
    first = stages["inception"]
    for name in ("residual", "wide", "plain", *(["residual_encoder"] if scale == "full" else [])):
        stage = stages[name]
        assert stage.data == first.data
        assert stage.trainer == first.trainer
        ours = {k: v for k, v in stage.module.items() if k not in ("network", "compare_inference")}
        assert ours == {k: v for k, v in first.module.items() if k not in ("network", "compare_inference")}
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
