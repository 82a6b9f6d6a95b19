"""Soft labels of crops: the loss by hand, who is trained, and that labels come again as they were."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.transforms import v2

from datamodules.cda import Distilled
from datamodules.common.augment import HorizontalFlip, RandomResizedCrop
from datamodules.common.base import seed_torch
from datamodules.common.digits import Digits
from modules.cda.post_training import PostTrain, distillation_loss
from modules.common.classifier import Classifier

STUDENT, TEACHER = torch.tensor([[1.0, 2.0, 0.0]]), torch.tensor([[[3.0, 0.0, 0.0]]])  # (B, C), (1, B, C)


def network() -> nn.Module:
    torch.manual_seed(5)
    body = [nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*body, nn.Linear(4, 10))


@pytest.fixture
def batch() -> Any:
    data = Distilled(Digits(10), 10, 2, "real", augment=[RandomResizedCrop((0.3, 1.0)), HorizontalFlip()])
    data.setup()
    return lambda epoch, number: _batch(data, epoch, number)


def _batch(data: Distilled, epoch: int, number: int) -> Any:
    loader = data.train_dataloader()
    loader.batches.set_epoch(epoch)
    return list(loader)[number]


@pytest.mark.parametrize(("temperature", "value"), [(1.0, 1.04101), (20.0, 0.0034116)])
def test_kl_by_hand(temperature: float, value: float) -> None:
    assert float(distillation_loss(STUDENT, TEACHER, temperature)) == pytest.approx(value, rel=1e-4)
    p, q = (TEACHER[0, 0] / temperature).softmax(-1).double(), (STUDENT[0] / temperature).softmax(-1).double()
    assert float((p * (p / q).log()).sum()) == pytest.approx(value, rel=1e-3)


def test_kl_is_a_mean_over_the_batch() -> None:
    pair = distillation_loss(STUDENT.repeat(2, 1), TEACHER.repeat(1, 2, 1), 1.0)
    assert float(pair) == pytest.approx(1.04101, rel=1e-4)


def test_a_student_that_agrees_has_neither_loss_nor_gradient() -> None:
    z = TEACHER[0].clone().requires_grad_()
    loss = distillation_loss(z, TEACHER, 4.0)
    (gradient,) = torch.autograd.grad(loss, z)
    assert float(loss.detach()) == pytest.approx(0, abs=1e-6)
    assert float(gradient.abs().max()) < 1e-6


def test_t_squared_is_a_factor_that_must_be_asked_for(squeezed: Classifier, batch: Callable[..., Any]) -> None:
    def loss(**options: Any) -> float:
        module = PostTrain(squeezed, network(), 10, temperature=20.0, **options)
        torch.manual_seed(3)
        return float(module.training_step(batch(0, 0), 0).detach())

    assert loss(squared=True) == pytest.approx(400 * loss(), rel=1e-5)


def test_labels_of_the_data_are_not_looked_at(squeezed: Classifier, batch: Callable[..., Any]) -> None:
    values = []
    for shift in (0, 1):
        module = PostTrain(squeezed, network(), 10)
        given = batch(0, 0)
        torch.manual_seed(3)
        values.append(float(module.training_step(given._replace(y=(given.y + shift) % 10), 0).detach()))
    assert values[0] == values[1]


def test_epoch_and_batch_give_the_same_views_and_labels_again(squeezed: Classifier, batch: Callable[..., Any]) -> None:
    """What fast knowledge distillation stores follows from (seed, epoch, batch)."""

    def replay(epoch: int, number: int) -> tuple[Tensor, Tensor]:
        module = PostTrain(squeezed, network(), 10)
        given = batch(epoch, number)
        seed_torch(epoch * 10 + number)  # as the engine does before every step
        x, _ = module.mixed(given.x, given.y)
        return x, module.relabel(x)

    views, labels = replay(3, 1)
    again, labels_again = replay(3, 1)
    other, _ = replay(4, 1)
    assert torch.equal(views, again)
    assert torch.equal(labels, labels_again)
    assert not torch.equal(views, other)


def test_labels_are_those_of_the_mixed_view_in_half_precision(squeezed: Classifier) -> None:
    module = PostTrain(squeezed, network(), 10)
    module.train()
    x = torch.randn(6, 1, 8, 8)
    z = module.relabel(x)
    expected = squeezed.network(x)
    assert z.shape == (1, 6, 10)
    assert not squeezed.network.training
    assert torch.equal(z[0], z[0].half().float())
    assert torch.allclose(z[0], expected, atol=2e-3)


def test_a_step_labels_the_mixed_views_that_the_student_learns_from(
    squeezed: Classifier, batch: Callable[..., Any]
) -> None:
    """Teacher and student are given one tensor, which is not the batch but its mixture; the loss follows from it."""
    module = PostTrain(squeezed, network(), 10, temperature=4.0).train()
    batch = batch(0, 0)
    (teacher,) = module.squeezed.on(batch.x.device)
    seen: dict[str, Tensor] = {}
    for name, part in (("teacher", teacher), ("student", module.network)):
        part.register_forward_pre_hook(lambda _, given, name=name: seen.update({name: given[0].clone()}))

    torch.manual_seed(3)
    loss = module.training_step(batch, 0)
    assert torch.equal(seen["teacher"], seen["student"])
    mixed = [bool((image != plain).any()) for image in seen["student"] for plain in batch.x]
    assert sum(mixed) > len(mixed) - len(batch.x)  # some view is none of the batch's images

    target = (squeezed.network(seen["student"]) / 4).softmax(-1)
    expected = (target * (target.log() - (module.network(seen["student"]) / 4).log_softmax(-1))).sum(-1).mean()
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=0.02)  # labels are in half precision


def test_cutmix_that_keeps_everything_leaves_labels_of_the_plain_crop(
    squeezed: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = PostTrain(squeezed, network(), 10)
    monkeypatch.setattr(module.mixes[0]._dist, "sample", lambda *_: torch.tensor([1.0]))
    assert isinstance(module.mixes[0], v2.CutMix)
    x, y = torch.randn(6, 1, 8, 8), torch.arange(6)
    torch.manual_seed(2)
    order = torch.randperm(6)
    torch.manual_seed(2)
    mixed, _ = module.mixed(x, y)
    assert torch.equal(mixed, x[order])
    assert torch.allclose(module.relabel(mixed), module.relabel(x)[:, order], atol=1e-3)


def test_weight_decay_reaches_matrices_alone_and_the_teacher_is_not_trained(squeezed: Classifier) -> None:
    module = PostTrain(squeezed, network(), 10)
    decayed, plain = module.trained()
    assert all(p.ndim > 1 for p in decayed["params"])
    assert all(p.ndim == 1 for p in plain["params"])
    assert plain["weight_decay"] == 0
    ids = {id(p) for p in squeezed.network.parameters()}
    assert not ids & {id(p) for group in module.trained() for p in group["params"]}
    assert not any("squeezed" in name for name in module.state_dict())


def test_the_gradient_is_that_of_cross_entropy_with_soft_labels(squeezed: Classifier) -> None:
    """d KL / d z_S = (softmax(z_S / T) - softmax(z_T / T)) / (T B): tiny at T = 20, which AdamW does not see."""
    z_s, z_t = torch.randn(4, 10, requires_grad=True), torch.randn(1, 4, 10)
    (gradient,) = torch.autograd.grad(distillation_loss(z_s, z_t, 20.0), z_s)
    expected = ((z_s / 20).softmax(-1) - (z_t[0] / 20).softmax(-1)) / (20 * 4)
    assert torch.allclose(gradient, expected.detach(), atol=1e-7)
    assert float(gradient.abs().max()) < 1 / 400
    assert math.isfinite(float(gradient.norm()))
