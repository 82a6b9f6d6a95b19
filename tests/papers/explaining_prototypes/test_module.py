"""Phases train what they should, and a push copies patches."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from modules.common.protopnet import PARTS, Phase, ProtoPNet, Push
from modules.explaining_prototypes.module import Statistics

Build = Callable[..., ProtoPNet]
PHASES = {
    "warm": {"add_on": 3e-3, "prototypes": 3e-3},
    "joint": {"backbone": 1e-4, "add_on": 3e-3, "prototypes": 3e-3},
    "last": {"last": 1e-4},
}


def state(net: ProtoPNet, part: str) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in net.get_submodule(part).named_parameters()}


def step(phase: Phase, batch: Any) -> None:
    """One step of Adam on one batch."""
    optimizer = torch.optim.Adam(phase.trained())
    loss = phase.training_step(batch, 0)
    loss.backward()
    optimizer.step()


@pytest.mark.parametrize("name", PHASES)
def test_a_phase_changes_its_parts_alone(name: str, network: Build, batch: Any) -> None:
    net = network()
    before = {part: state(net, part) for part in PARTS}
    running = net.backbone[1].running_mean.clone()
    step(Phase(3, PHASES[name], net), batch)
    for part in PARTS:
        changed = any(not torch.equal(value, before[part][key]) for key, value in state(net, part).items())
        assert changed == (part in PHASES[name]), part
    assert not torch.equal(net.backbone[1].running_mean, running)  # batch statistics move in every phase


def test_rates_and_decay_of_each_part(network: Build) -> None:
    phase = Phase(3, PHASES["joint"], network(), weight_decay=1e-3)
    assert [(g["lr"], g["weight_decay"]) for g in phase.trained()] == [(1e-4, 1e-3), (3e-3, 1e-3), (3e-3, 0.0)]
    assert sum(len(g["params"]) for g in phase.trained()) == sum(p.requires_grad for p in phase.parameters())


def test_the_next_phase_goes_on_with_the_network(network: Build) -> None:
    first = Phase(3, PHASES["warm"], network())
    second = Phase(3, PHASES["last"], start=first)
    assert second.network is first.network
    assert [p.requires_grad for p in second.network.last.parameters()] == [True]
    assert not any(p.requires_grad for p in second.network.backbone.parameters())


def test_wrong_arguments(network: Build) -> None:
    with pytest.raises(ValueError, match="either network, or start"):
        Phase(3, {})
    with pytest.raises(ValueError, match="'head': expected one of backbone"):
        Phase(3, {"head": 1.0}, network())


def push(stage: Push, batch: Any, size: int = 10) -> None:
    stage.train()
    for rows in torch.arange(len(batch.y)).split(size):
        stage.training_step(batch._replace(x=batch.x[rows], y=batch.y[rows], row=batch.row[rows]), 0)
    if not stage.chosen:
        stage.search.push(stage.network.prototypes)


def test_after_a_push_prototypes_are_patches(network: Build, batch: Any) -> None:
    stage = Push(3, Phase(3, {}, network()))
    running = stage.network.backbone[1].running_mean.clone()
    push(stage, batch)
    net = stage.network
    assert all(layer.training for layer in net.modules())  # as it was found
    assert torch.equal(net.backbone[1].running_mean, running)

    net.eval()
    layer = net.prototypes
    with torch.no_grad():
        z = net.features(batch.x)
        d = layer.distances(z)
    for j in range(len(layer)):
        row, (i, k) = int(layer.row[j]), layer.place[j].tolist()
        assert int(batch.y[row]) == int(layer.owner[j])
        assert torch.allclose(layer.vectors[j, :, 0, 0], z[row, :, i, k], atol=1e-6)
        assert float(d[row, j, i, k]) < 1e-5
    vectors = layer.vectors.detach().clone()
    push(Push(3, stage), batch)  # nothing was trained in between
    assert torch.allclose(layer.vectors, vectors, atol=1e-6)


def test_the_untrained_network_gets_the_same_patches(network: Build, batch: Any) -> None:
    trained = Push(3, Phase(3, {}, network(seed=1)))
    push(trained, batch)
    other = Push(3, Statistics(3, network(seed=2)), trained)
    push(other, batch)
    ours, theirs = other.network.prototypes, trained.network.prototypes
    assert torch.equal(ours.row, theirs.row)
    assert torch.equal(ours.place, theirs.place)
    other.network.eval()
    with torch.no_grad():
        z = other.network.features(batch.x)
    for j in range(len(ours)):
        i, k = ours.place[j].tolist()
        assert torch.allclose(ours.vectors[j, :, 0, 0], z[int(ours.row[j]), :, i, k], atol=1e-6)


def test_batch_statistics_are_averaged_and_nothing_is_trained(network: Build, batch: Any) -> None:
    stage = Statistics(3, network())
    before = copy.deepcopy(dict(stage.named_parameters()))
    assert stage.configure_optimizers() == []
    outputs = []
    first = stage.network.backbone[0]
    for rows in torch.arange(24).split(8):
        stage.training_step(batch._replace(x=batch.x[rows]), 0)
        outputs.append(first(batch.x[rows]).mean((0, 2, 3)))
    assert torch.allclose(stage.network.backbone[1].running_mean, torch.stack(outputs).mean(0), atol=1e-6)
    assert all(torch.equal(value, before[name]) for name, value in stage.named_parameters())


def test_statistics_are_a_fit_of_one_epoch_that_optimises_nothing(network: Build, batch: Any) -> None:
    """Through the trainer, as the stage runs: running means of all batches, weights as they were."""
    stage = Statistics(3, network())
    before = copy.deepcopy(dict(stage.named_parameters()))
    parts = [
        batch._replace(x=batch.x[rows], y=batch.y[rows], row=batch.row[rows]) for rows in torch.arange(24).split(8)
    ]
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = pl.Trainer(accelerator="cpu", devices=1, max_epochs=1, enable_checkpointing=False, **quiet)
    trainer.fit(stage, DataLoader(parts, batch_size=None))
    outputs = [stage.network.backbone[0](part.x).mean((0, 2, 3)) for part in parts]
    assert torch.allclose(stage.network.backbone[1].running_mean, torch.stack(outputs).mean(0), atol=1e-6)
    assert all(torch.equal(value, before[name]) for name, value in stage.named_parameters())
