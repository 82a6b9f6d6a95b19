"""SGAN: its losses by hand, and which network a step moves."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from modules.common.networks import ConvNet
from modules.sparse.baselines import SGAN, NoiseGenerator, fake_loss, real_loss


def small() -> SGAN:
    classifier = ConvNet(1, 8, [4, 8], [2, 1], 3, grid=1)
    return SGAN(classifier, NoiseGenerator(5, [8, 4], channels=1), 3, optimizer=torch.optim.AdamW)


def test_losses_are_those_of_a_softmax_with_one_class_more() -> None:
    logits = torch.randn(6, 3)
    log_p = torch.cat([logits, torch.zeros(6, 1)], 1).log_softmax(1)
    assert float(fake_loss(logits)) == pytest.approx(-float(log_p[:, 3].mean()))
    assert float(real_loss(logits)) == pytest.approx(-float((1 - log_p[:, 3].exp()).log().mean()), rel=1e-5)
    assert float(real_loss(torch.zeros(2, 3))) == pytest.approx(math.log(4 / 3))


def test_features_are_what_enters_the_last_layer() -> None:
    module = small().eval()
    x = torch.rand(4, 1, 8, 8)
    assert torch.allclose(module.classifier[-1](module.features(x)), module(x))


def test_steps_move_the_networks_they_should(monkeypatch: pytest.MonkeyPatch, labelled: Any, unlabelled: Any) -> None:
    module = small()
    optimizers = module.configure_optimizers()
    monkeypatch.setattr(module, "optimizers", lambda: optimizers)
    monkeypatch.setattr(module, "manual_backward", lambda loss: loss.backward())

    def moved(batch: Any) -> list[bool]:
        networks = (module.classifier, module.generator)
        before = [[p.detach().clone() for p in network.parameters()] for network in networks]
        module.training_step(batch, 0)
        return [
            any(not torch.equal(p, old) for p, old in zip(network.parameters(), past, strict=True))
            for network, past in zip(networks, before, strict=True)
        ]

    assert moved(labelled) == [True, False]
    assert moved(unlabelled) == [True, True]
    assert all(p.requires_grad for p in module.parameters())


def test_the_generator_matches_the_mean_features_of_real_images(
    monkeypatch: pytest.MonkeyPatch, unlabelled: Any
) -> None:
    module = small()
    optimizers = module.configure_optimizers()
    minimised: list[float] = []
    monkeypatch.setattr(module, "optimizers", lambda: optimizers)
    monkeypatch.setattr(module, "minimise", lambda loss, *_: minimised.append(float(loss.detach())))
    module.eval()
    torch.manual_seed(3)
    module.training_step(unlabelled, 0)
    torch.manual_seed(3)
    with torch.no_grad():
        fake = module.generator(torch.randn(16, 5))
        real_mean, fake_mean = (module.features(x).mean(0) for x in (unlabelled.x, fake))
    assert minimised[1] == pytest.approx(float((real_mean - fake_mean).square().sum()), rel=1e-4)


def test_accuracy_is_counted_on_validation_and_test_images(
    labelled: Any, logged: Callable[..., dict[str, float]]
) -> None:
    module = small().eval()
    right = 100 * float((module(labelled.x).argmax(1) == labelled.y).float().mean())
    values = logged(module, labelled)
    module.validation_step(labelled, 0)
    module.on_validation_epoch_end()
    for part in ("val", "test"):
        assert (values[f"{part}/top1"], values[f"{part}/n"]) == (pytest.approx(right), 6)


def test_generated_images_have_the_right_size_and_range() -> None:
    images = NoiseGenerator(5, [8, 4, 2], channels=3)(torch.randn(2, 5))
    assert images.shape == (2, 3, 16, 16)
    assert 0 <= float(images.min().detach()) <= float(images.max().detach()) <= 1


def test_a_classifier_without_a_last_linear_layer() -> None:
    with pytest.raises(ValueError, match="classifier ends in ReLU; expected a Linear"):
        SGAN(nn.Sequential(nn.Linear(2, 2), nn.ReLU()), NoiseGenerator(5, [8]), 2)
