"""Probes and fine-tuning: what they train, what they leave alone, when they stop."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from datamodules.g_simclr.images import UnitImages
from modules.common.stopping import Best
from modules.g_simclr.module import GSimCLR
from modules.g_simclr.probe import FineTuned, Probe
from tests.schedules import half

Small = Callable[..., GSimCLR]
ADAM = partial(torch.optim.Adam, lr=0.01)


def state(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def train(module: Any, data: UnitImages, steps: int = 3) -> None:
    """Some steps without a trainer, in training mode."""
    optimizer = module.train().configure_optimizers()
    for number, batch in zip(range(steps), data.train_dataloader(), strict=False):
        optimizer.zero_grad()
        module.training_step(batch, number).backward()
        optimizer.step()


def test_a_probe_leaves_encoder_and_batch_statistics_as_they_were(
    small: Small, images: UnitImages, attach: Callable[..., Any]
) -> None:
    source = small()
    before = state(source)
    probe = Probe(source, 10, optimizer=ADAM)
    attach(probe, images)
    probe.on_fit_start()
    train(probe, images)
    after = source.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(p.grad is None for p in source.parameters())
    assert not any("encoder" in name for name in probe.state_dict())
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in probe.parameters())


def test_stored_features_are_those_of_the_images(small: Small, images: UnitImages, attach: Callable[..., Any]) -> None:
    source = small()
    probe = Probe(source, 10)
    attach(probe, images)
    probe.on_fit_start()
    batch = next(iter(images.train_dataloader()))
    with torch.no_grad():
        expected = source.eval().probed(batch.x)
    for name, features in probe.stored.items():
        assert torch.allclose(features[batch.row], expected[name], atol=1e-5)


def test_standardised_features_have_mean_0_and_deviation_1(
    small: Small, images: UnitImages, attach: Callable[..., Any]
) -> None:
    probe = Probe(small(), 10, standardise=True)
    attach(probe, images)
    probe.on_fit_start()
    seen = {}
    for name, head in probe.heads.items():
        head.register_forward_pre_hook(lambda _, x, name=name: seen.update({name: x[0]}))
    probe.classify(probe.stored)
    for features in seen.values():
        alive = features.std(0) > 0
        assert alive.any()
        assert torch.allclose(features.mean(0), torch.zeros(features.shape[1]), atol=1e-3)
        assert torch.allclose(features.std(0)[alive], torch.ones(int(alive.sum())), atol=1e-3)


def test_probes_side_by_side_are_probes_alone(small: Small, images: UnitImages, attach: Callable[..., Any]) -> None:
    """Adam treats each number apart: a head's weights do not depend on the heads beside it."""
    source = small()
    ends = []
    for exclusive in (False, True):
        torch.manual_seed(3)
        probe = Probe(source, 10, optimizer=ADAM)
        if exclusive:
            for name in ("p1", "p2"):
                del probe.heads[name]
        attach(probe, images)
        probe.on_fit_start()
        train(probe, images)
        ends.append(probe.heads["p3"].weight)
    assert torch.equal(*ends)


def test_each_probe_keeps_its_best_weights_and_stops_by_itself(small: Small, attach: Callable[..., Any]) -> None:
    probe = Probe(small(), 10, patience=2)
    trainer = attach(probe, max_epochs=9, optimizers=[], current_epoch=8)
    losses = {"p1": [3.0, 2.0, 2.5, 2.5, 1.0], "p2": [5.0, 4.0, 3.0, 2.0, 1.0], "p3": [1.0, 2.0, 2.0, 2.0, 2.0]}
    for epoch in range(5):
        for head in probe.heads.values():
            nn.init.constant_(head.weight, float(epoch))  # type: ignore[arg-type]
        probe.observe(**{name: torch.tensor(values[epoch]) for name, values in losses.items()})
        assert not trainer.should_stop
    for waits in range(2):
        probe.observe(p1=torch.tensor(0.0), p2=torch.tensor(9.0), p3=torch.tensor(0.0))
        assert trainer.should_stop == (waits == 1)
    probe._sums = {}
    probe.on_train_epoch_end()
    kept = {name: float(head.weight[0, 0].detach()) for name, head in probe.heads.items()}  # type: ignore[index]
    assert kept == {"p1": 1, "p2": 4, "p3": 0}

    again = Probe(small(), 10, patience=2)  # resumed from the checkpoint of that epoch
    again.load_state_dict(probe.state_dict())
    trainer.should_stop = False
    again.on_train_start()
    assert trainer.should_stop


def test_best_weights_include_batch_statistics() -> None:
    network = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    best = Best(network)
    best.observe(1.0, network)
    first = state(network)
    network(torch.randn(8, 2))
    nn.init.ones_(network[0].weight)  # type: ignore[arg-type]
    best.observe(1.0, network)  # no lower
    assert int(best.waited) == 1
    best.restore(network)
    assert all(torch.equal(first[name], value) for name, value in network.state_dict().items())
    assert sum(p.numel() for p in best.parameters()) == 0


def test_the_classifier_alone_then_everything(small: Small, images: UnitImages) -> None:
    """Batch norm stays in inference mode in both."""
    images.rows = False
    source = small()
    before = state(source.encoder)
    head = FineTuned(source, 10, tuned=False, optimizer=ADAM)
    train(head, images)
    assert all(torch.equal(before[name], value) for name, value in source.encoder.state_dict().items())
    classifier = head.network[1].weight.detach().clone()  # type: ignore[index, union-attr, operator]

    whole = FineTuned(head, 10, tuned=True, optimizer=ADAM)
    assert torch.equal(whole.network[1].weight, classifier)  # type: ignore[index, union-attr, arg-type]
    train(whole, images)
    moved = {name for name, value in whole.network[0].state_dict().items() if not torch.equal(before[name], value)}  # type: ignore[index, union-attr]
    assert not [name for name in moved if "running" in name or "tracked" in name]
    assert [name for name in moved if name.startswith("stem.0")]


def test_the_supervised_network_has_batch_statistics(small: Small, images: UnitImages) -> None:
    images.rows = False
    module = FineTuned(small(), 10, batch_statistics=True, optimizer=ADAM)
    before = state(module.network)
    train(module, images)
    assert [
        n
        for n, value in module.network.state_dict().items()
        if "running_mean" in n and not torch.equal(before[n], value)
    ]


def test_early_stopping_looks_at_the_validation_loss(
    small: Small, images: UnitImages, attach: Callable[..., Any]
) -> None:
    module = FineTuned(small(), 10, tuned=False, patience=1).eval()
    attach(module, images)
    module.log_dict = lambda values, **_: None  # type: ignore[method-assign, assignment]
    batch = next(iter(images.test_dataloader()))
    with torch.no_grad():
        module.validation_step(batch, 0)
        module.on_validation_epoch_end()
        expected = nn.functional.cross_entropy(module(batch.x), batch.y)
    assert float(module.best["network"].lowest) == pytest.approx(float(expected), rel=1e-5)  # type: ignore[arg-type]


def test_probes_see_features_as_they_are_unless_told_otherwise(
    small: Small, images: UnitImages, attach: Callable[..., Any]
) -> None:
    source = small()
    probe = Probe(source, 10).eval()
    attach(probe, images)
    probe.on_fit_start()
    x = next(iter(images.test_dataloader())).x
    with torch.no_grad():
        features = source.eval().probed(x)
        for name, logits in probe(x).items():
            assert torch.allclose(logits, probe.heads[name](features[name]), atol=1e-5)


def test_a_classifiers_loss_is_plain_cross_entropy(small: Small, images: UnitImages) -> None:
    images.rows = False
    module = FineTuned(small(), 10)
    batch = next(iter(images.train_dataloader()))
    loss = module.training_step(batch, 0)
    assert float(loss.detach()) == pytest.approx(
        float(nn.functional.cross_entropy(module(batch.x), batch.y).detach()), rel=1e-6
    )


def test_every_stage_trains_with_its_own_optimizer_and_schedule(small: Small) -> None:
    given: dict[str, Any] = {"optimizer": ADAM, "schedule": half}
    source = small(**given)
    for stage in (source, Probe(source, 10, **given), FineTuned(source, 10, **given)):
        assert (stage.optimizer_factory, stage.schedule) == (ADAM, half), type(stage).__name__
