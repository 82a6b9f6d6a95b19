"""Recovery: what a step optimises and leaves alone, where it begins, what is kept."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from modules.cda.curriculum import Crops
from modules.cda.module import Recover, global_cross_entropy, through_jpeg
from modules.cda.statistics import batch_norms, statistics_loss, watch
from modules.common.classifier import Classifier
from modules.common.schedules import Position


def one_step(squeezed: Classifier, weight: float, crops: Crops | None = None) -> tuple[float, torch.Tensor]:
    """Loss and gradient of the first step on the same noise."""
    torch.manual_seed(0)
    module = Recover(squeezed, 10, 1, (1, 8, 8), 10, crops or Crops("step", jitter=0), statistics_weight=weight)
    module._trainer = SimpleNamespace(num_training_batches=10)  # type: ignore[assignment]
    with torch.no_grad():
        module.x.copy_(torch.randn(10, 1, 8, 8))
    loss = module.training_step(SimpleNamespace(slot=torch.arange(10), y=torch.arange(10)), 0)
    loss.backward()
    assert module.x.grad is not None
    return float(loss.detach()), module.x.grad


def test_weight_0_is_inversion_by_cross_entropy_alone_and_the_weight_scales_the_rest(squeezed: Classifier) -> None:
    none, ce_gradient = one_step(squeezed, 0.0)
    torch.manual_seed(0)
    x = torch.randn(10, 1, 8, 8).requires_grad_()
    network = squeezed.network.eval()
    torch.manual_seed(0)
    torch.randn(10, 1, 8, 8)
    expected = F.cross_entropy(network(Crops("step", jitter=0)(x, 0, 10)), torch.arange(10))
    (gradient,) = torch.autograd.grad(expected, x)
    assert none == pytest.approx(float(expected.detach()), abs=1e-6)
    assert torch.allclose(ce_gradient, gradient, atol=1e-7)

    one, first = one_step(squeezed, 1.0)
    layers = batch_norms(network)
    torch.manual_seed(0)
    torch.randn(10, 1, 8, 8)
    _, inputs = watch(network, layers, Crops("step", jitter=0)(x, 0, 10))
    distance = statistics_loss(inputs, layers, first=10.0)  # the first layer counts tenfold
    assert one - none == pytest.approx(float(distance.detach()), rel=1e-4)
    three, second = one_step(squeezed, 3.0)
    assert three - none == pytest.approx(3 * (one - none), rel=1e-4)
    assert torch.allclose(second - ce_gradient, 3 * (first - ce_gradient), atol=1e-5)


def test_the_squeezed_network_stays_as_it_was(squeezed: Classifier, recover: Callable[..., Any]) -> None:
    before = {name: value.clone() for name, value in squeezed.state_dict().items()}
    module = recover()
    assert all(torch.equal(before[name], value) for name, value in squeezed.state_dict().items())
    assert all(p.grad is None and not p.requires_grad for p in squeezed.network.parameters())
    assert [name for name, _ in module.named_parameters()] == ["x"]
    assert not any("network" in name for name in module.state_dict())


def test_every_recovery_begins_with_new_noise_a_new_optimiser_and_the_whole_rate(recover: Callable[..., Any]) -> None:
    module = recover(steps=8)
    first, second = module.starts
    assert not torch.equal(first, second)
    assert abs(float(torch.cat(module.starts).mean())) < 0.1
    assert float(torch.cat(module.starts).std()) == pytest.approx(1, abs=0.05)
    assert module.states == [0, 0]

    expected = [0.2 * 0.5 * (1 + math.cos(math.pi * t / 8)) for t in range(8)]
    assert module.rates == pytest.approx(expected * 2)
    assert module.rates[4] == pytest.approx(0.1)  # half of it in the middle


def test_the_rate_of_the_last_published_step_is_about_0(recover: Callable[..., Any]) -> None:
    module = recover(steps=2)
    module._trainer = SimpleNamespace(optimizers=[None])
    assert module.factors(Position(7, 3999, 4000, 500)) == pytest.approx([0], abs=1e-6)


def test_pixels_stay_in_their_range_and_the_last_iterate_is_kept(recover: Callable[..., Any]) -> None:
    module = recover(steps=8)
    low, high = (0 - module.mean) / module.std, (1 - module.mean) / module.std
    for x in module.iterates:
        assert bool((x >= low).all())
        assert bool((x <= high).all())
    for epoch, x in enumerate((module.iterates[7], module.iterates[15])):
        pixels = ((x * module.std + module.mean) * 255).round()
        assert torch.equal(module.images[10 * epoch : 10 * epoch + 10].float(), pixels)


def test_imagenets_range_by_hand() -> None:
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    assert (-mean / std).tolist() == pytest.approx([-2.1179, -2.0357, -1.8044], abs=1e-4)
    assert ((1 - mean) / std).tolist() == pytest.approx([2.2489, 2.4286, 2.6400], abs=1e-4)


def test_recovery_lowers_each_term(recover: Callable[..., Any]) -> None:
    whole = Crops("step", jitter=0)
    ce = recover(steps=100, crops=whole, statistics_weight=0.0).trace
    bn = recover(steps=100, crops=whole, statistics_weight=1.0).trace
    assert ce[:, 2].tolist() == [2.0] * 100  # two recoveries of a step a bin
    assert float(ce[-10:, 0].mean()) < float(ce[:5, 0].mean())
    assert float(bn[-10:, 1].mean()) < 0.5 * float(bn[:5, 1].mean())


def test_final_losses_are_means_over_the_last_tenth_of_the_steps(squeezed: Classifier) -> None:
    module: Any = Recover(squeezed, 10, 1, (1, 8, 8), 10, Crops())
    module._trainer = SimpleNamespace(current_epoch=0, optimizers=[])
    logged: dict[str, float] = {}
    module.log_dict = logged.update
    for last, expected in (((3.0, 1.0, 1.0), (3, 1)), ((6.0, 2.0, 4.0), (1.5, 0.5)), ((0.0, 0.0, 0.0), (0, 0))):
        module.trace.zero_()
        module.trace[-11] = 99.0
        module.trace[-10] = torch.tensor(last)
        module.on_train_epoch_end()
        assert (logged["train/final_ce"], logged["train/final_bn"]) == expected


def test_arms_begin_alike_and_end_apart(recover: Callable[..., Any]) -> None:
    cosine = recover(steps=6)
    constant = recover(steps=6, crops=Crops(milestone=0.0, jitter=1))
    again = recover(steps=6)
    assert torch.equal(cosine.starts[0], constant.starts[0])
    assert not torch.equal(cosine.images, constant.images)
    assert torch.equal(cosine.images, again.images)


def test_images_are_in_the_checkpoint_and_no_buffers(recover: Callable[..., Any], squeezed: Classifier) -> None:
    module = recover(steps=4)
    copy = Recover(squeezed, 10, 2, (1, 8, 8), 10, Crops())
    copy.load_state_dict(module.state_dict())
    assert torch.equal(copy.images, module.images)
    assert torch.equal(copy.trace, module.trace)
    assert {name for name, _ in module.named_buffers()} & {"images", "trace"} == set()
    assert set(module.state_dict()) == {"x", "_extra_state"}
    assert module.artifacts()["images"].dtype == "uint8"
    assert int(module.images.max()) > int(module.images.min())


def test_kept_images_are_tested_on_whole(recover: Callable[..., Any], logged: Callable[..., dict[str, float]]) -> None:
    module = recover(steps=4).eval()
    rows, y = torch.arange(20), torch.arange(10).repeat(2)
    scores = logged(module, SimpleNamespace(row=rows[:15], y=y[:15]), SimpleNamespace(row=rows[15:], y=y[15:]))
    x = (module.images.float() / 255 - module.mean) / module.std
    right = (module.network(x).argmax(-1) == y).float().mean()
    assert scores["test/n"] == 20
    assert scores["test/top1"] == pytest.approx(100 * float(right))


def test_jpeg_loses_little() -> None:
    smooth = torch.linspace(0, 255, 32).expand(2, 3, 32, 32).to(torch.uint8)
    actual = through_jpeg(smooth, 75)
    assert actual.shape == smooth.shape
    assert actual.dtype == torch.uint8
    assert float((actual.float() - smooth.float()).abs().mean()) < 3


def test_cross_entropy_of_one_process_is_torchs() -> None:
    z, y = torch.randn(5, 4), torch.randint(4, (5,))
    assert torch.allclose(global_cross_entropy(z, y), F.cross_entropy(z, y))
    assert global_cross_entropy(z.bfloat16(), y).dtype == torch.float32


def test_a_network_without_batch_norms_is_refused() -> None:
    with pytest.raises(ValueError, match="batch norms"):
        Recover(Classifier(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), 10), 10, 1, (1, 8, 8), 10, Crops())
