"""The independent checks of MEAL V2: hand-computed values, limit cases, gradient facts."""

from __future__ import annotations

import math
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from datamodules.common.digits import Digits
from modules.common.classifier import Classifier
from modules.common.distillation import similarity_loss, soft_target
from modules.meal_v2 import Discriminator, Ensemble, Labels, MealV2, cutmix, discriminator_loss, reverse_gradient

LN2 = math.log(2)


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def classifier(seed: int, classes: int = 10, width: int = 6) -> Classifier:
    torch.manual_seed(seed)
    body = [nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return Classifier(nn.Sequential(*body, nn.Linear(width, classes)), classes)


def meal(labels: Labels | None = None, cutmix_beta: float = 0.0, discriminator: dict[str, Any] | None = None) -> MealV2:
    """A student with two teachers. The discriminator has no final ReLU, with which some are dead from the start."""
    options = {"reduction": 2, "final_relu": False, **(discriminator or {})}
    student, *teachers = classifier(0), classifier(1), classifier(2)
    return MealV2(student, 10, teachers, labels, Discriminator(10, **options), cutmix_beta)


def step(module: MealV2) -> Tensor:
    torch.manual_seed(9)
    return module.training_step((torch.randn(8, 1, 8, 8), torch.randint(10, (8,))), 0)


@pytest.mark.parametrize(
    ("classes", "reduction", "widths", "count"),
    [(1000, 8, [1000, 125, 15, 2], 127_047), (100, 8, [100, 12, 1, 2], 1_229), (10, 2, [10, 5, 2, 2], 73)],
)
def test_discriminator_sizes(classes: int, reduction: int, widths: list[int], count: int) -> None:
    d = Discriminator(classes, reduction)
    linear = [layer for layer in d if isinstance(layer, nn.Linear)]
    assert [linear[0].in_features, *(layer.out_features for layer in linear)] == widths
    assert parameters(d) == count
    assert isinstance(d[-1], nn.ReLU)


def test_discriminator_refuses_a_layer_without_channels() -> None:
    with pytest.raises(ValueError, match="at most 3"):
        Discriminator(10, 8)


def test_discriminator_loss_limits() -> None:
    """Outputs after the final ReLU are >= 0: zero gives ln 2, perfect separation ln 2 / 2 and never less."""
    rows = torch.zeros(4, 2)
    dead = discriminator_loss(nn.Identity(), rows, rows)
    assert float(dead) == pytest.approx(LN2, abs=1e-6)
    perfect = discriminator_loss(nn.Identity(), torch.tensor([[1e4, 0.0]]), torch.tensor([[0.0, 1e4]]))
    assert float(perfect) == pytest.approx(LN2 / 2, abs=1e-6)
    one = F.binary_cross_entropy_with_logits(torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.0]]))
    assert float(one) == pytest.approx(0.5032, abs=1e-4)
    mixed = discriminator_loss(nn.Identity(), torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]))
    assert float(mixed) == pytest.approx(0.5032, abs=1e-4)


def test_no_discriminator_separates_equal_inputs() -> None:
    logits = torch.randn(16, 10, generator=torch.Generator().manual_seed(0))
    for seed in range(20):
        torch.manual_seed(seed)
        assert float(discriminator_loss(Discriminator(10, 2), logits, logits).detach()) >= LN2 - 1e-6


def test_gradient_without_discriminator_is_that_of_torch_kl() -> None:
    module = MealV2(classifier(0), 10, [classifier(1), classifier(2)])
    module.eval()  # batch statistics aside, so that both paths see the same logits
    torch.manual_seed(9)
    x = torch.randn(8, 1, 8, 8)
    module.training_step((x, torch.zeros(8, dtype=torch.long)), 0).backward()
    ours = [p.grad.clone() for p in module.network.parameters() if p.grad is not None]
    module.zero_grad()
    kl = nn.KLDivLoss(reduction="batchmean")(F.log_softmax(module(x), -1), soft_target(module.teachers.logits(x)))
    kl.backward()
    theirs = [p.grad for p in module.network.parameters() if p.grad is not None]
    assert len(ours) == len(theirs) > 0
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(ours, theirs, strict=True))


def test_teachers_are_frozen_and_outside_the_module() -> None:
    module = meal()
    before = [buffer.clone() for network in module.teachers.networks for buffer in network.buffers()]
    module.train()
    step(module).backward()
    after = [buffer for network in module.teachers.networks for buffer in network.buffers()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert not any(network.training for network in module.teachers.networks)
    assert all(p.grad is None for network in module.teachers.networks for p in network.parameters())
    ids = {id(p) for network in module.teachers.networks for p in network.parameters()}
    assert not ids & {id(p) for group in module.trained() for p in group["params"]}
    assert not any("teacher" in name for name in module.state_dict())
    assert sum(len(group["params"]) for group in module.trained()) == len(list(module.parameters()))


def test_reversal_turns_the_students_gradient_and_not_the_discriminators() -> None:
    torch.manual_seed(1)
    d = Discriminator(10, 2, final_relu=False)
    student, teacher = torch.randn(6, 10), torch.randn(6, 10)
    actual = {}
    for reverse in (False, True):
        z = student.clone().requires_grad_()
        d.zero_grad()
        discriminator_loss(d, reverse_gradient(z) if reverse else z, teacher).backward()
        assert z.grad is not None
        actual[reverse] = (z.grad, [p.grad.clone() for p in d.parameters() if p.grad is not None])
    assert float(actual[False][0].abs().max()) > 0
    assert torch.equal(actual[False][0], -actual[True][0])
    assert all(torch.equal(a, b) for a, b in zip(actual[False][1], actual[True][1], strict=True))


def test_the_discriminator_sees_the_mean_of_the_teachers_logits_or_the_soft_label() -> None:
    torch.manual_seed(2)
    z_s, z_t = torch.randn(6, 10), torch.randn(2, 6, 10)
    p_t = soft_target(z_t)
    for what, student, teacher in (("logits", z_s, z_t.mean(0)), ("probs", z_s.softmax(-1), p_t)):
        d = Discriminator(10, 2, final_relu=False, input=what)
        assert torch.equal(d.loss(z_s, z_t, p_t), discriminator_loss(d, student, teacher))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_hard_labels_alone_are_cross_entropy_with_the_smoothed_label(smoothing: float) -> None:
    module = MealV2(classifier(0), 10, labels=Labels(soft=0.0, hard=1.0, smoothing=smoothing))
    torch.manual_seed(9)
    x, y = torch.randn(8, 1, 8, 8), torch.randint(10, (8,))
    label = (1 - smoothing) * F.one_hot(y, 10) + smoothing / 10
    assert torch.allclose(module.training_step((x, y), 0), similarity_loss(module(x), label), atol=1e-6)


@pytest.mark.parametrize(
    "options",
    [
        {"discriminator": {"reverse": True}},
        {"discriminator": {"input": "probs"}},
        {"discriminator": {"final_relu": True}},
        {"discriminator": {"weight": 0.5}},
        {"labels": Labels(teachers="random_one")},
        {"labels": Labels(temperature=4.0)},
        {"cutmix_beta": 1.0},
    ],
    ids=str,
)
def test_every_switch_changes_the_loss_or_its_gradient(options: dict[str, Any]) -> None:
    def flat(module: MealV2) -> Tensor:
        torch.manual_seed(3)
        loss = step(module)
        loss.backward()
        return torch.cat(
            [loss.detach()[None], *(p.grad.flatten() for p in module.network.parameters() if p.grad is not None)]
        )

    assert not torch.allclose(flat(meal()), flat(meal(**options)))


def test_a_switch_names_its_values() -> None:
    with pytest.raises(ValueError, match="input='wrong': expected one of logits, probs"):
        Discriminator(10, 2, input="wrong")
    with pytest.raises(ValueError, match="teachers='wrong': expected one of mean_prob, random_one"):
        Labels(teachers="wrong")


@pytest.mark.parametrize("options", [{}, {"labels": Labels(soft=0.0, hard=1.0), "discriminator": Discriminator(10, 2)}])
def test_soft_labels_and_the_discriminator_need_teachers(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="need teachers"):
        MealV2(classifier(0), 10, **options)


class Recited(nn.Module):
    """Logits that are large at the label learnt by heart for each image."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        super().__init__()
        self.images, self.labels = images, labels

    def forward(self, x: Tensor) -> Tensor:
        nearest = torch.cdist(x.flatten(1), self.images.flatten(1)).argmin(1)
        return 10.0 * F.one_hot(self.labels[nearest], 10)


def test_the_picture_shows_first_where_the_teachers_contradict_the_label_most() -> None:
    """A teacher that is sure of the labels of all images but two, which come first."""
    data = Digits(batch_size=16, train_size=16, val_size=0, test_size=16)
    data.setup()
    x, y = next(iter(data.train_dataloader()))
    teacher = Classifier(Recited(x, torch.cat([(y[:2] + 1) % 10, y[2:]])), 10)
    figure = MealV2(classifier(0), 10, [teacher]).pictures(data)["soft labels of training crops"]
    titles = [axes.get_title() for axes in figure.axes[:8]]
    assert sorted(titles[:2]) == sorted(f"labelled {int(label)}" for label in y[:2])
    assert MealV2(classifier(0), 10, labels=Labels(soft=0.0, hard=1.0)).pictures(data) == {}


def test_cutmix_pastes_one_box_from_the_same_batch() -> None:
    x = torch.arange(6.0).view(6, 1, 1, 1).expand(6, 1, 16, 16)
    torch.manual_seed(0)
    mixed = cutmix(x, 1.0)
    changed = mixed != x
    assert set(mixed.unique().tolist()) <= set(range(6))
    rows, columns = changed.any(0)[0].any(1).nonzero(), changed.any(0)[0].any(0).nonzero()
    assert len(rows) == int(rows.max() - rows.min()) + 1
    assert len(columns) == int(columns.max() - columns.min()) + 1


def test_ensemble_is_the_log_of_the_mean_probability() -> None:
    members = [classifier(1).eval(), classifier(2).eval()]
    x = torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    expected = torch.stack([m(x).softmax(-1) for m in members]).mean(0)
    assert torch.allclose(Ensemble(members, 10).eval()(x).exp(), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("resnet50.ram_in1k", 25_557_032),
        ("resnet18.tv_in1k", 11_689_512),
        ("senet154.gluon_in1k", 115_088_984),
        ("resnet152s.gluon_in1k", 60_316_584),
        ("tf_efficientnet_b4.ns_jft_in1k", 19_341_616),
        ("tf_efficientnet_b4.aa_in1k", 19_341_616),
        ("tf_efficientnet_b0.aa_in1k", 5_288_548),
        ("tf_mobilenetv3_small_075.in1k", 2_041_872),
        ("tf_mobilenetv3_small_100.in1k", 2_542_856),
        ("tf_mobilenetv3_large_100.in1k", 5_483_032),
    ],
)
def test_published_sizes(name: str, count: int) -> None:
    with torch.device("meta"):
        assert parameters(timm.create_model(name, pretrained=False)) == count
