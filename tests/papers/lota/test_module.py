"""Classifiers: parameters, attention without a bias, gradients into the bias; and the clock."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F

from datamodules.lota.bits import FrontEnd
from modules.common.diffusion import NoiseSchedule
from modules.common.generators import AutoEncoder, AutoEncoderNet, PictureDDPM
from modules.common.unet import UNet
from modules.lota.module import GuidedAttention, NoiseGuided, PatchDetector
from modules.lota.networks import SmallMaps
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
    with pytest.raises(ValueError, match="width=10: expected a multiple of heads=4"):
        GuidedAttention(8, 4, 12, heads=4, width=10)


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


def test_arms_are_timed_in_turns() -> None:
    autoencoder = AutoEncoder(AutoEncoderNet(4, 2))
    unet = UNet(16, 3, 8, [1, 2], res_blocks=1, head_channels=8, groups=4)
    diffusion = PictureDDPM(unet, NoiseSchedule(100), decay=None)
    stage = Extraction(
        autoencoder, diffusion, FrontEnd(patch=8, crops=4, size=None), steps=3, side=16, rounds=2, calls=2
    )
    times = stage.measure(torch.randint(256, (1, 3, 16, 16), dtype=torch.uint8))
    assert {name: len(values) for name, values in times.items()} == {"extraction": 2, "autoencoder": 2, "ddim": 2}
    assert all(value > 0 for values in times.values() for value in values)
    with pytest.raises(ValueError, match="rounds=0"):
        Extraction(autoencoder, diffusion, FrontEnd(), rounds=0)
