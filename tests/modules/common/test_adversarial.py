"""Attacks on classifiers: what holds of every attack, a closed form, and units."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from datamodules.common.loader import batch_type
from modules.common.adversarial import AdversarialClassifier, Attack
from tests.schedules import half

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


def network(classes: int = 4) -> nn.Sequential:
    layers = [nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(96, classes)]
    return nn.Sequential(*layers)


def batch(count: int = 16) -> tuple[Tensor, Tensor, Tensor]:
    """Pixels, inputs as the network sees them, labels."""
    pixels = torch.rand(count, 3, 4, 4)
    return pixels, normalised(pixels), torch.randint(4, (count,))


def normalised(pixels: Tensor) -> Tensor:
    return (pixels - torch.tensor(MEAN).view(-1, 1, 1)) / torch.tensor(STD).view(-1, 1, 1)


def restored(x: Tensor) -> Tensor:
    return x * torch.tensor(STD).view(-1, 1, 1) + torch.tensor(MEAN).view(-1, 1, 1)


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_radius_in_pixels_range_and_loss(norm: str) -> None:
    net = network().eval()
    pixels, x, y = batch()
    moved = Attack(0.3, norm, steps=4, restarts=2)(net, x, y, MEAN, STD)
    difference = (restored(moved) - pixels).flatten(1)
    length = difference.norm(dim=1) if norm == "l2" else difference.abs().amax(1)
    assert float(length.max()) <= 0.3 + 1e-5
    assert float(length.max()) > 0.2
    assert float(restored(moved).min()) >= -1e-6
    assert float(restored(moved).max()) <= 1 + 1e-6
    with torch.no_grad():
        before, after = (F.cross_entropy(net(inputs), y, reduction="none") for inputs in (x, moved))
    assert bool((after >= before - 1e-5).all())
    assert float((after - before).mean()) > 0.05


def test_radius_zero_gives_the_input_back() -> None:
    _, x, y = batch()
    assert torch.allclose(Attack(0.0)(network(), x, y, MEAN, STD), x, atol=1e-6)


def test_one_step_on_a_linear_model_of_two_classes_is_the_closed_form() -> None:
    """delta = eps (w_other - w_y) / |w_other - w_y|."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(8, 2))
    x, y = torch.full((6, 1, 2, 4), 0.5), torch.arange(6) % 2
    moved = Attack(0.2, steps=1)(net, x, y)
    w = net[1].weight.detach()
    direction = w[1 - y] - w[y]
    assert torch.allclose((moved - x).flatten(1), 0.2 * direction / direction.norm(dim=1, keepdim=True), atol=1e-5)


def test_layers_keep_their_mode_and_weights_and_statistics_their_values() -> None:
    net = network()
    net[1].eval()
    modes = [layer.training for layer in net.modules()]
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with torch.inference_mode():
        _, x, y = batch()
        Attack(0.3)(net, x, y, MEAN, STD)
    assert [layer.training for layer in net.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(parameter.grad is None for parameter in net.parameters())


@pytest.mark.parametrize(
    ("options", "message"), [({"norm": "l1"}, "norm='l1': expected one of l2, linf"), ({"radius": -1}, "radius=-1")]
)
def test_wrong_arguments_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Attack(**{"radius": 0.1, **options})


class Trainer:
    def __init__(self) -> None:
        self.datamodule = type("D", (), {"spec": type("S", (), {"mean": MEAN, "std": STD})()})()


class Batch:
    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x, y


def test_training_is_on_moved_inputs_and_standard_training_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    _, x, y = batch()
    torch.manual_seed(5)
    net = network().eval()
    monkeypatch.setattr(AdversarialClassifier, "trainer", Trainer())
    plain = AdversarialClassifier(net, 4).training_step(Batch(x, y), 0)
    robust = AdversarialClassifier(net, 4, attack=Attack(0.5)).training_step(Batch(x, y), 0)
    assert float(plain) == pytest.approx(float(F.cross_entropy(net(x), y)))
    assert float(robust) == pytest.approx(float(F.cross_entropy(net(Attack(0.5)(net, x, y, MEAN, STD)), y)))
    assert float(robust) > float(plain)


def test_accuracy_under_attack_is_reported_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    _, x, y = batch(64)
    net = network().eval()
    y = net(x).argmax(1)
    monkeypatch.setattr(AdversarialClassifier, "trainer", Trainer())
    attacks = {"robust_acc@0": Attack(0.0), "robust_acc@2": Attack(2.0, steps=10)}
    module = AdversarialClassifier(net, 4, evaluations=attacks)
    seen: dict[str, float] = {}
    monkeypatch.setattr(module, "log_dict", lambda values: seen.update({k: float(v) for k, v in values.items()}))
    monkeypatch.setattr(module, "log", lambda name, value: seen.update({name: float(value)}))
    module.test_step(Batch(x, y), 0)
    module.on_test_epoch_end()
    assert seen["test/top1"] == seen["test/robust_acc@0"] == 100
    assert seen["test/robust_acc@2"] < 60


def test_without_an_attack_a_step_is_plain_and_options_are_kept() -> None:
    logits = torch.tensor([[3.0, 1.0, 0.0], [0.0, 1.0, 2.0], [0.0, 0.5, 0.0], [1.0, 0.0, 0.0]])
    labels = torch.tensor([0, 2, 1, 2])  # three of four are right
    module = AdversarialClassifier(nn.Identity(), 3, optimizer=torch.optim.SGD, schedule=half)
    loss = module.training_step(batch_type(("x", "y"))(logits, labels), 0)
    assert float(loss) == pytest.approx(float(F.cross_entropy(logits, labels)))
    means = {name: float(value) / module._count for name, value in module._sums.items()}
    assert means == pytest.approx({"loss": float(loss), "top1": 75.0})
    assert (module.optimizer_factory, module.schedule) == (torch.optim.SGD, half)
