"""The detector's published facts: parameters, start weights, schedule, stopping on the source's validation split."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F
from torchvision import models

from datamodules.common.loader import batch_type
from modules.aria.detector import FineTunedDetector, cosine_by_epoch
from modules.common.detection import score_of
from modules.common.schedules import Position


def test_resnet50_with_two_outputs_has_the_published_parameters() -> None:
    network = timm.create_model("resnet50", num_classes=2)
    assert sum(p.numel() for p in network.parameters()) == 23_512_130
    with torch.inference_mode():
        assert network.eval()(torch.zeros(1, 3, 64, 64)).shape == (1, 2)


def test_timms_weights_are_torchvisions() -> None:
    """The released script loads timm's file into torchvision's network: same names, same answers."""
    ours, theirs = timm.create_model("resnet50").eval(), models.resnet50().eval()
    theirs.load_state_dict(ours.state_dict(), strict=True)
    x = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        assert torch.allclose(ours(x), theirs(x), atol=1e-4)
    assert timm.get_pretrained_cfg("resnet50.a1h_in1k").url.endswith("resnet50_a1h2_176-001a1197.pth")


def test_a_head_of_another_size_is_an_error_even_if_not_strict() -> None:
    """Weights go in before the head is replaced."""
    network = models.resnet18()
    state = network.state_dict()
    network.fc = nn.Linear(512, 2)
    with pytest.raises(RuntimeError, match=r"size mismatch for fc\.weight"):
        network.load_state_dict(state, strict=False)


def test_the_loss_is_cross_entropy_of_two_outputs() -> None:
    assert float(F.binary_cross_entropy_with_logits(score_of(torch.zeros(1, 2)), torch.ones(1))) == pytest.approx(
        0.693147, abs=1e-6
    )
    logits, y = torch.randn(16, 2), torch.arange(16) % 2
    ours = F.binary_cross_entropy_with_logits(score_of(logits), y.float())
    assert float(ours) == pytest.approx(float(F.cross_entropy(logits, y)), abs=1e-6)


def test_the_rate_is_that_of_cosine_annealing_by_epoch() -> None:
    def rate(epoch: int, step: int = 0) -> float:
        return 0.005 * cosine_by_epoch(Position(epoch, step, 10, 300))

    assert rate(5) == pytest.approx(0.0049966, abs=1e-7)
    assert rate(150) == pytest.approx(0.0025)
    assert rate(5, 9) == rate(5)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.005, momentum=0.9)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 300)
    for epoch in range(20):
        assert rate(epoch) == pytest.approx(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()


def test_training_ends_without_a_better_validation_accuracy_and_keeps_the_best() -> None:
    """Right about 1, 3, 3, 2 and 3 of 4 pictures: the second epoch's weights are kept, a tie is not better.

    The third epoch's loss is lower, since it is less sure of its one error: it is accuracy that chooses.
    """
    network = nn.Sequential(nn.Flatten(), nn.Linear(1, 1))
    stage = FineTunedDetector(network, patience=3)
    logged: list[float] = []
    stage.log_dict = lambda values, **_: logged.append(float(values["val/acc"]))  # type: ignore[method-assign]
    stage._trainer = SimpleNamespace(should_stop=False, max_epochs=99)  # type: ignore[assignment]
    make = batch_type(("x", "y"))
    y = torch.tensor([0, 0, 1, 1])
    rights, weights = [1, 3, 3, 2, 3], [1.0, 2.0, 1.0, 1.0, 1.0]
    for right, weight in zip(rights, weights, strict=True):
        assert not stage.trainer.should_stop
        x: Any = torch.where(torch.arange(4) < right, 2.0 * y - 1, 1 - 2.0 * y)
        with torch.no_grad():
            network[1].weight.fill_(weight)
            network[1].bias.zero_()
        stage.validation_step(make(x.view(4, 1, 1, 1), y), 0)
        stage.on_validation_epoch_end()
    assert logged == [25, 75, 75, 50, 75]
    assert stage.trainer.should_stop
    stage.best["network"].restore(stage.network)  # type: ignore[operator, union-attr]
    assert network[1].weight.item() == 2.0
    assert math.isfinite(float(stage.best["network"].lowest))  # type: ignore[arg-type]
