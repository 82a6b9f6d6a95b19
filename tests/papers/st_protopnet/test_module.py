"""Phases train what they should, in turns; a push makes prototypes patches; margins and heat."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from modules.common.classifier import Classifier
from modules.st_protopnet.evaluation import Heat, Placed
from modules.st_protopnet.losses import BranchLoss
from modules.st_protopnet.measures import heat_in_mask
from modules.st_protopnet.module import Phase, Push, Trained
from modules.st_protopnet.networks import PARTS, BranchedNetwork

Build = Callable[..., BranchedNetwork]
PHASES = {
    "warm": {"add_on": 3e-3, "prototypes": 3e-3},
    "joint": {"backbone": 1e-4, "add_on": 3e-3, "prototypes": 3e-3},
    "last": {"last": 1e-4},
}
Losses = dict[str, BranchLoss]


def values(net: BranchedNetwork) -> dict[str, list[torch.Tensor]]:
    """Of each part: of the backbone, and of both branches."""
    return {name: [p.detach().clone() for part in net.part(name) for p in part.parameters()] for name in PARTS}


def step(phase: Phase, batch: Any, number: int = 0) -> None:
    """One step of Adam on one batch."""
    optimizer = torch.optim.Adam(phase.trained())
    phase.training_step(batch, number).backward()
    optimizer.step()
    phase.on_train_batch_end()


@pytest.mark.parametrize("name", PHASES)
def test_a_phase_changes_its_parts_alone(name: str, network: Build, losses: Losses, batch: Any) -> None:
    net = network()
    before = values(net)
    running = net.backbone[1].running_mean.clone()
    phase = Phase(3, Trained(PHASES[name]), losses, net)
    for number in (0, 1):
        step(phase, batch, number)
    for part, parameters in values(net).items():
        unchanged = all(torch.equal(*pair) for pair in zip(parameters, before[part], strict=True))
        assert unchanged != (part in PHASES[name]), part
    assert not torch.equal(net.backbone[1].running_mean, running)  # batch statistics move in every phase


@pytest.mark.parametrize("turn", [0, 1, 2])
@pytest.mark.parametrize("name", ["joint", "last"])
def test_a_batch_reaches_one_branch(turn: int, name: str, network: Build, losses: Losses, batch: Any) -> None:
    net = network()
    Phase(3, Trained(PHASES[name]), losses, net).training_step(batch, turn).backward()
    chosen, other = ("trivial", "support") if turn % 2 == 0 else ("support", "trivial")
    assert all(p.grad is None for p in net.branch(other).parameters())
    reached = {n.split(".")[0] for n, p in net.branch(chosen).named_parameters() if p.grad is not None}
    assert reached == ({"last"} if name == "last" else {"add_on", "prototypes"})
    assert all((p.grad is not None) == (name == "joint") for p in net.backbone.parameters())


def test_prototypes_of_both_branches_have_length_1_after_a_step(network: Build, losses: Losses, batch: Any) -> None:
    net = network()
    phase = Phase(3, Trained(PHASES["warm"]), losses, net)
    before = net.branch("support").vectors().detach().clone()
    assert float(before.norm(dim=2).sub(1).abs().max()) > 0.1  # as released, the first step sees other lengths
    step(phase, batch, 0)
    for name in net.branches:
        assert torch.allclose(net.branch(name).vectors().norm(dim=2), torch.ones(3, 2), atol=1e-6)
    after = net.branch("support").vectors()
    assert torch.allclose(after, nn.functional.normalize(before, dim=2), atol=1e-6)  # it was not its turn


def test_rates_and_decay_of_each_part(network: Build, losses: Losses) -> None:
    phase = Phase(3, Trained(PHASES["joint"], 5e-4), losses, network())
    assert [(g["lr"], g["weight_decay"]) for g in phase.trained()] == [(1e-4, 5e-4), (3e-3, 5e-4), (3e-3, 0.0)]
    assert sum(len(g["params"]) for g in phase.trained()) == sum(p.requires_grad for p in phase.parameters())


def test_equal_losses_make_the_branches_exchangeable(network: Build, batch: Any) -> None:
    net = network(branches={"first": 2, "second": 2})
    net.branch("second").load_state_dict(net.branch("first").state_dict())
    phase = Phase(3, Trained(PHASES["joint"]), {"first": BranchLoss(), "second": BranchLoss()}, net)
    assert torch.equal(phase.training_step(batch, 0), phase.training_step(batch, 1))


def test_the_next_phase_goes_on_with_network_and_losses(network: Build, losses: Losses) -> None:
    first = Phase(3, Trained(PHASES["warm"]), losses, network())
    second = Phase(3, Trained(PHASES["last"]), start=first)
    assert second.network is first.network
    assert second.losses == losses
    assert not any(p.requires_grad for p in second.network.backbone.parameters())


def test_wrong_arguments(network: Build, losses: Losses) -> None:
    with pytest.raises(ValueError, match="either network, or start"):
        Phase(3, Trained({}), losses)
    with pytest.raises(ValueError, match="'head': expected one of backbone"):
        Phase(3, Trained({"head": 1.0}), losses, network())
    with pytest.raises(ValueError, match=r"\['trivial'\]: expected those of \['support', 'trivial'\]"):
        Phase(3, Trained({}), {"trivial": BranchLoss()}, network())


def pushed(net: BranchedNetwork, losses: Losses, batch: Any, size: int = 10) -> Push:
    stage = Push(3, Phase(3, Trained({}), losses, net))
    stage.train()
    for rows in torch.arange(len(batch.y)).split(size):
        part = {name: getattr(batch, name)[rows] for name in ("x", "y", "row")}
        stage.training_step(batch._replace(**part), 0)
    for name, search in stage.searches.items():
        search.push(net.branch(name).prototypes)  # type: ignore[operator]
    return stage


@pytest.mark.parametrize("scores", ["projection", "cosine"])
def test_after_a_push_prototypes_are_directions_of_patches(
    scores: str, network: Build, losses: Losses, batch: Any
) -> None:
    net = pushed(network(scores=scores), losses, batch).network
    assert all(layer.training for layer in net.modules())  # as it was found
    net.eval()
    for name in net.branches:
        branch = net.branch(name)
        layer = branch.prototypes
        with torch.no_grad():
            z = branch.add_on(net.backbone(batch.x))
        for j in range(len(layer)):
            row, (i, k) = int(layer.row[j]), layer.place[j].tolist()
            patch = z[row, :, i, k]
            assert int(batch.y[row]) == int(layer.owner[j])
            assert float(layer.vectors[j].norm()) == pytest.approx(1, abs=1e-6)
            assert float(nn.functional.cosine_similarity(patch, layer.vectors[j, :, 0, 0], dim=0)) > 1 - 1e-5


def test_each_branch_is_tested_alone_too(network: Build, losses: Losses, batch: Any, logged: Any) -> None:
    phase = Phase(3, Trained({}), losses, network()).eval()
    values = logged(phase, batch)
    x, y = batch.x, batch.y
    for name, logits in phase.network.logits(x).items():
        assert values[f"test/{name}_top1"] == pytest.approx(100 * float((logits.argmax(1) == y).float().mean()))
    assert values["test/top1"] == pytest.approx(100 * float((phase(x).argmax(1) == y).float().mean()))
    assert values["test/support_farthest"] < values["test/support_closest"]


def test_margins_of_the_images_that_prototypes_are_patches_of(
    network: Build, losses: Losses, batch: Any, logged: Any
) -> None:
    judge = nn.Sequential(nn.Flatten(), nn.Linear(432, 3))
    stage = Placed([pushed(network(), losses, batch)], ["st"], Classifier(judge, 3))
    halves = [batch._replace(**{n: getattr(batch, n)[r] for n in batch._fields}) for r in torch.arange(24).split(12)]
    with torch.no_grad():
        values = logged(stage, *halves)
        top = judge(batch.x).topk(2, 1).values
    margins = top[:, 0] - top[:, 1]
    for branch in ("trivial", "support"):
        row = stage.networks()["st"].branch(branch).prototypes.row
        expected = (margins[row].mean() - margins.mean()) / margins.std()
        assert values[f"test/st_{branch}_margin"] == pytest.approx(float(expected), abs=1e-5)
        assert 0 <= values[f"test/st_{branch}_part"] <= values[f"test/st_{branch}_object"] <= 100
    assert values["test/object"] == pytest.approx(25)
    with pytest.raises(ValueError, match="expected 1, one for each network"):
        Placed([pushed(network(), losses, batch)], ["st", "plain"], Classifier(judge, 3))


def test_heat_is_that_of_the_own_class(network: Build, losses: Losses, batch: Any, logged: Any) -> None:
    stage = Heat(Phase(3, Trained({}), losses, network()), steps=2)
    with torch.no_grad():
        heat = stage.heat(batch.x, batch.y)
        assert not torch.allclose(heat, stage.heat(batch.x, (batch.y + 1) % 3))
        probabilities = stage(batch.x)
    assert heat.shape == (24, 12, 12)
    assert torch.allclose(probabilities.sum(1), torch.ones(24), atol=1e-5)
    parts = [batch._replace(**{n: getattr(batch, n)[r] for n in batch._fields}) for r in torch.arange(24).split(20)]
    with torch.no_grad():
        values = logged(stage, *parts)
    expected = heat_in_mask(heat, batch.mask > 0)
    assert {name: values[f"test/{name}"] for name in expected} == pytest.approx(
        {name: float(value.mean()) for name, value in expected.items()}, rel=1e-5
    )
    assert 0 <= values["test/dauc"] <= 1
    assert values["test/n"] == 24


def test_deletion_follows_the_mean_of_the_branches_probabilities(
    network: Build, losses: Losses, logged: Callable[..., dict[str, float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One branch is 98% sure of class 0, the other 88% of class 1: 55%, where the sum of their logits says 88%."""
    net = network()
    stage = Heat(Phase(3, Trained(PHASES["last"]), losses, net), steps=2)
    fixed = {"trivial": torch.tensor([[4.0, 0.0]]), "support": torch.tensor([[0.0, 2.0]])}
    monkeypatch.setattr(net, "logits", lambda x: {name: value.expand(len(x), 2) for name, value in fixed.items()})
    side = 16
    mask = torch.zeros(1, side, side, dtype=torch.long)
    mask[:, :8] = 1
    batch = SimpleNamespace(x=torch.randn(1, 3, side, side), y=torch.tensor([0]), mask=mask)
    with torch.no_grad():
        actual = logged(stage, batch)
    assert actual["test/dauc"] == pytest.approx((0.98201 + 0.11920) / 2, abs=1e-4)
