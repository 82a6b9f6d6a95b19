"""timm's training: the schedule, mixed images with their labels, averaged weights, which parameters decay."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modules.common.mixing import MixedClassifier, warm_cosine
from modules.common.schedules import Position
from tests.schedules import half


def tensor(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def small() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))


def test_the_schedule_alone_is_a_cosine() -> None:
    assert warm_cosine(Position(0, 0, 10, 30)) == 1.0
    assert warm_cosine(Position(15, 0, 10, 30)) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("epoch", "expected"),
    [
        (0, 0.1),
        (2, 0.1 + 0.9 * 2 / 4),
        (4, 0.2 + 0.8 * (1 + math.cos(math.pi * 4 / 20)) / 2),  # its clock began at epoch 0
        (10, 0.6),
        (19, 0.2 + 0.8 * (1 + math.cos(math.pi * 19 / 20)) / 2),
        (20, 0.2),
        (24, 0.2),
    ],
)
def test_warm_up_and_cool_down(epoch: int, expected: float) -> None:
    options: dict[str, Any] = {"warmup_epochs": 4, "start": 0.1, "final": 0.2, "cooldown_epochs": 5}
    assert warm_cosine(Position(epoch, 3, 10, 25), **options) == pytest.approx(expected)


def test_mixed_labels_carry_the_share_of_each_image_and_smoothing_commutes() -> None:
    module = MixedClassifier(small(), 10, 0.1, mixup=0.8, cutmix=1.0)
    kinds = set()
    for seed in range(40):
        torch.manual_seed(seed)
        x = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 1, 16, 16).clone()
        mixed, soft = module.mixed(x, torch.arange(4))
        assert torch.allclose(soft.sum(1), torch.ones(4))
        value = (soft * torch.arange(10.0)).sum(1)  # image i has value i: its mean is that of its label
        assert torch.allclose(mixed.mean((1, 2, 3)), value, atol=1e-4)
        kinds.add(len(mixed[1].unique()) > 1)
    assert kinds == {True, False}  # boxes and blends
    z = tensor(4, 10)
    smoothed = 0.9 * soft + 0.1 / 10  # timm mixes smoothed labels
    by_hand = -(smoothed * z.log_softmax(1)).sum(1).mean()
    assert torch.allclose(F.cross_entropy(z, soft, label_smoothing=0.1), by_hand)


def test_only_one_kind_of_mixing() -> None:
    torch.manual_seed(0)
    x, y = tensor(4, 1, 8, 8), torch.arange(4)
    blended, _ = MixedClassifier(small(), 10, mixup=0.8).mixed(x, y)
    assert not (blended == x).any()
    plain = MixedClassifier(small(), 10)
    assert plain.mixed(x, y)[0] is x
    loss = plain.train().training_step((x, y), 0)
    assert torch.allclose(loss, F.cross_entropy(plain.network(x), y))


@pytest.mark.parametrize(("switch", "boxes"), [(0.0, False), (1.0, True)])
def test_the_switch_is_the_probability_of_boxes(switch: float, boxes: bool) -> None:
    module = MixedClassifier(small(), 10, mixup=0.8, cutmix=1.0, switch=switch)
    x = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 1, 16, 16).clone()
    torch.manual_seed(0)
    assert any(len(image.unique()) > 1 for _ in range(5) for image in module.mixed(x, torch.arange(4))[0]) == boxes


def test_neighbours_are_shuffled_before_they_are_mixed() -> None:
    """Copies of an image side by side would be mixed with themselves."""
    torch.manual_seed(0)
    labels = torch.arange(4).repeat_interleave(2)
    mixed = [MixedClassifier(small(), 10, mixup=0.8).mixed(tensor(8, 1, 4, 4), labels)[1] for _ in range(3)]
    assert max(int((soft > 0).sum()) for soft in mixed) > 8


def test_accuracy_of_a_step_is_by_what_most_of_an_image_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    module = MixedClassifier(small(), 10, 0.1, mixup=0.8).train()
    x, y = tensor(4, 1, 8, 8), torch.arange(4)
    soft = 0.7 * F.one_hot(y, 10) + 0.3 * F.one_hot(y.flip(0), 10)
    monkeypatch.setattr(module, "mixed", lambda *_: (x, soft))
    monkeypatch.setattr(module, "forward", lambda _: 5.0 * F.one_hot(torch.tensor([0, 1, 2, 0]), 10))
    loss = module.training_step((x, y), 0)
    logits = 5.0 * F.one_hot(torch.tensor([0, 1, 2, 0]), 10)
    assert float(loss) == pytest.approx(float(F.cross_entropy(logits, soft, label_smoothing=0.1)))
    assert float(module._sums["top1"]) / module._count == 75.0


def test_the_average_is_tested_and_the_network_trained() -> None:
    module = MixedClassifier(small(), 10, ema=0.75)
    x = tensor(4, 1, 8, 8)
    before = {name: value.clone() for name, value in module.network.state_dict().items()}
    with torch.no_grad():
        for parameter in module.network.parameters():
            parameter.add_(1.0)
    assert module.average is not None
    module.average.update(module.network)
    final = module.final().eval()
    assert torch.allclose(final[4].weight, before["4.weight"] + 0.25, atol=1e-6)
    assert torch.allclose(module.eval()(x), final(x))
    module.train()
    assert torch.equal(module(x), module.network(x))
    assert MixedClassifier(small(), 10).average is None


def test_matrices_decay_and_biases_and_norms_do_not() -> None:
    module = MixedClassifier(small(), 10)
    decayed, others = module.trained()
    assert [tuple(p.shape) for p in decayed["params"]] == [(4, 1, 3, 3), (10, 4)]
    assert "weight_decay" not in decayed
    assert others["weight_decay"] == 0.0
    assert len(others["params"]) == 4
    module.network[0].weight.requires_grad_(False)
    assert [tuple(p.shape) for p in module.trained()[0]["params"]] == [(10, 4)]


@pytest.mark.parametrize(
    "options", [{"mixup": -1.0}, {"cutmix": -1.0}, {"switch": 1.5}, {"switch": -0.5}, {"ema": 1.0}]
)
def test_numbers_outside_their_range(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="expected 0 or more"):
        MixedClassifier(small(), 10, **options)


def test_optimiser_schedule_and_smoothing_are_kept() -> None:
    module = MixedClassifier(nn.Identity(), 3, label_smoothing=0.2, optimizer=torch.optim.SGD, schedule=half)
    assert (module.label_smoothing, module.optimizer_factory, module.schedule) == (0.2, torch.optim.SGD, half)
