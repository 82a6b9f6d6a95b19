"""Classifiers: parameters, attention without a bias, gradients into the bias; and the clock."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F

from datamodules.lota.bits import FrontEnd
from modules.common.diffusion import NoiseSchedule
from modules.common.generators import AutoEncoder, AutoEncoderNet, PictureDDPM
from modules.common.schedules import Position
from modules.common.unet import UNet
from modules.lota.module import GuidedAttention, NoiseGuided, PatchDetector
from modules.lota.networks import SmallMaps
from modules.lota.schedules import poly_from_one
from modules.lota.timing import Extraction


def count(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def test_the_noise_based_classifier_has_the_papers_size() -> None:
    network = timm.create_model("resnet50", pretrained=False, num_classes=1)
    assert count(network) == 23_510_081


def test_the_noise_guided_classifier_is_near_the_papers_size() -> None:
    """28.4 M. How those beside the ResNet-50 are shared out is not published."""
    attention = GuidedAttention(2048, 16, 3 * 32**2, heads=4, width=208)
    assert count(attention) + 23_510_081 == pytest.approx(28.4e6, abs=5e4)


def test_without_a_bias_it_is_plain_attention() -> None:
    attention = GuidedAttention(12, 4, 27, heads=2, width=8)
    tokens = torch.randn(3, 4, 12)
    q, k, v = attention.qkv(tokens).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
    expected = attention.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
    assert torch.allclose(attention.attend(tokens, torch.zeros(3, 2, 4, 4)), expected, atol=1e-6)

    bias = torch.randn(3, 2, 4, 4)
    shifted = bias + torch.randn(3, 2, 4, 1)  # the same for a whole row
    assert torch.allclose(attention.attend(tokens, bias), attention.attend(tokens, shifted), atol=1e-5)
    assert not torch.allclose(attention.attend(tokens, bias), expected, atol=1e-3)


def test_the_patch_reaches_the_answer() -> None:
    network = NoiseGuided(SmallMaps([4, 8]), 8, grid=2, patch=4, heads=2, width=8)
    x, patch = torch.randn(2, 3, 16, 16), torch.rand(2, 3, 4, 4)
    answer = network(x, patch)
    assert answer.shape == (2, 1)
    answer.sum().backward()
    assert float(network.attention.bias.weight.grad.abs().sum()) > 0
    assert not torch.allclose(answer, network(x, torch.rand(2, 3, 4, 4)))
    module = PatchDetector(network, guided=True)
    assert module(x).shape == (2, 1)
    assert network.attention.qkv.out_features == 3 * 8
    with pytest.raises(ValueError, match="width=10: expected a multiple of heads=4"):
        GuidedAttention(8, 4, 12, heads=4, width=10)


def test_a_detector_is_trained_as_its_stage_says() -> None:
    module = PatchDetector(nn.Linear(2, 1), optimizer=partial(torch.optim.SGD, lr=0.25))
    assert isinstance(module.optimizer_factory, partial)
    assert module.shown == {}


def test_validation_counts_right_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over batches of different sizes, and from nothing in each epoch; a score of 0 is "real"."""
    module = PatchDetector(nn.Identity())
    logged: list[float] = []
    monkeypatch.setattr(module, "log", lambda name, value: logged.append(float(value)))
    for batches in ([([2.0, -1.0, 0.0], [1, 1, 0]), ([3.0], [0])], [([-1.0], [0])]):
        for scores, labels in batches:
            batch = SimpleNamespace(x=torch.tensor(scores)[:, None], y=torch.tensor(labels))
            module.validation_step(batch, 0)
        module.on_validation_epoch_end()
    assert logged == [50.0, 100.0]


def test_the_patch_beside_a_guided_detectors_picture_counts() -> None:
    network = NoiseGuided(SmallMaps([4, 8]), 8, grid=2, patch=4, heads=2, width=8).eval()
    x, patch = torch.randn(2, 3, 16, 16), torch.rand(2, 3, 4, 4)
    plain = PatchDetector(nn.Identity())
    assert plain(x) is x
    assert plain.logits(SimpleNamespace(x=x, patch=patch)) is x
    guided = PatchDetector(network, guided=True)
    with torch.no_grad():
        assert torch.equal(guided.logits(SimpleNamespace(x=x, patch=patch)), network(x, patch))
        assert torch.equal(guided(x), network(x, torch.zeros(2, 3, 4, 4)))


def test_maps_of_the_small_network() -> None:
    """Convolutions without bias before batch norm; all but the first halve the sides."""
    network = SmallMaps([4, 8, 6])
    assert count(network) == 9 * (3 * 4 + 4 * 8 + 8 * 6) + 2 * (4 + 8 + 6)
    assert network(torch.randn(2, 3, 12, 20)).shape == (2, 6, 3, 5)


def test_a_test_keeps_eight_patches_of_real_pictures_and_of_each_generator() -> None:
    module = PatchDetector(nn.Identity())
    data = SimpleNamespace(names=("adm", "glide"))
    module._trainer = SimpleNamespace(datamodule=data)  # type: ignore[assignment]
    y = torch.tensor([0, 1] * 10)
    subset = torch.where(y > 0, 1, torch.arange(20) % 2)  # a real picture's subset tells nothing
    patch = torch.arange(20.0).view(20, 1, 1, 1)
    module.on_test_epoch_start()
    for rows in torch.arange(20).split(7):
        batch = SimpleNamespace(x=torch.zeros(len(rows), 1), y=y[rows], subset=subset[rows], patch=patch[rows])
        module.test_step(batch, 0)
    shown = {number: [float(p) for p in rows] for number, rows in module.shown.items()}
    assert shown == {-1: [0, 2, 4, 6, 8, 10, 12, 14], 1: [1, 3, 5, 7, 9, 11, 13, 15]}
    module.on_test_epoch_start()
    assert module.shown == {}


def test_the_rate_falls_from_the_second_of_thirty_steps_to_none() -> None:
    rates = [poly_from_one(Position(epoch, 3, 10, 30)) for epoch in range(30)]
    assert rates[0] == pytest.approx((29 / 30) ** 0.9) == pytest.approx(0.970, abs=5e-4)
    assert rates[14] == pytest.approx(0.5**0.9)
    assert rates[29] == 0


def small_extraction() -> Extraction:
    autoencoder = AutoEncoder(AutoEncoderNet(4, 2))
    unet = UNet(16, 3, 8, [1, 2], res_blocks=1, head_channels=8, groups=4)
    diffusion = PictureDDPM(unet, NoiseSchedule(100), decay=None)
    front_end = FrontEnd(patch=8, crops=4, size=None)
    return Extraction(autoencoder, diffusion, front_end, steps=3, side=16, rounds=2, calls=2)


def test_times_are_medians_and_ratios_within_rounds(logged: Callable[..., dict[str, float]]) -> None:
    """The second round is ten times as slow for all arms: a ratio within a round does not see it."""
    stage = small_extraction()
    pictures: list[torch.Tensor] = []

    def measure(x: torch.Tensor) -> dict[str, list[float]]:
        pictures.append(x)
        return {
            "extraction": [0.001, 0.01, 0.001],
            "autoencoder": [0.002, 0.04, 0.002],
            "ddim": [0.008, 0.08, 0.016],
        }

    stage.measure = measure  # type: ignore[method-assign]
    assert logged(stage, None, None) == pytest.approx(
        {
            "test/ms_extraction": 1.0,
            "test/ms_autoencoder": 2.0,
            "test/ms_ddim": 16.0,
            "test/log2_autoencoder": 1.0,  # of 1, 2 and 1
            "test/noise_autoencoder": 0.5,
            "test/log2_ddim": 3.0,  # of 3, 3 and 4
            "test/noise_ddim": 0.5,
        }
    )
    stage.test_step(None, 0)
    assert len(pictures) == 2, "a test times once, at its first batch"
    assert torch.equal(*pictures), "and always the same picture"
    assert (pictures[0].shape, pictures[0].dtype) == ((1, 3, 16, 16), torch.uint8)
    assert pictures[0].unique().numel() > 200


def test_arms_are_timed_in_turns() -> None:
    stage = small_extraction()
    times = stage.measure(torch.randint(256, (1, 3, 16, 16), dtype=torch.uint8))
    assert {name: len(values) for name, values in times.items()} == {"extraction": 2, "autoencoder": 2, "ddim": 2}
    assert all(value > 0 for values in times.values() for value in values)
    with pytest.raises(ValueError, match="rounds=0"):
        Extraction(AutoEncoder(AutoEncoderNet(4, 2)), None, FrontEnd(), rounds=0)  # type: ignore[arg-type]
