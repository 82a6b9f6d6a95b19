"""Features are the networks' own pooled ones; style statistics are of the layers they say."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from modules.common.extractors import InceptionV3
from modules.common.module import StageModule
from modules.copyscope.extractors import InceptionFeatures, LiteFeatures


def test_lite_features_are_the_pooled_ones() -> None:
    extractor = LiteFeatures(0, side=32, pretrained=False).eval()
    x = torch.rand(2, 3, 8, 8)
    features, style = extractor.describe(x)
    network = extractor.network.network
    seen = (F.interpolate(x, (32, 32), mode="nearest") - 0.5) / 0.5
    assert torch.allclose(features, network.forward_features(seen).mean((2, 3)), atol=1e-5)  # type: ignore[operator]
    assert style.shape == (2, 2 * (16 + 24 + 40))
    assert torch.equal(extractor(x), features)
    assert extractor.suffix == "_lite0"


def test_length_is_of_the_mean_features_of_all_images(logged: Any) -> None:
    extractor = LiteFeatures(0, side=32, pretrained=False).eval()
    x = 2 * torch.rand(3, 3, 8, 8) - 1
    with torch.no_grad():
        for _ in range(2):
            extractor.on_test_epoch_start()
            metrics = logged(extractor, SimpleNamespace(x=x[:2]), SimpleNamespace(x=x[2:]))
            expected = float(extractor((x + 1) / 2).mean(0).norm())
            assert metrics == {"test/length": pytest.approx(expected, rel=1e-4)}


def test_styles_are_of_the_four_layers_of_vgg(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of grey images too; the weights are drawn here, since all of VGG-19 would take long."""
    monkeypatch.setattr(InceptionV3, "__init__", lambda self, pretrained: StageModule.__init__(self))
    with torch.device("meta"):
        extractor = InceptionFeatures(pretrained=False)
    (layers,) = extractor.style_network.networks
    layers.to_empty(device="cpu")
    for parameter in layers.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    x = torch.rand(2, 1, 16, 16)
    with torch.no_grad():
        style = extractor.style(x)
        mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
        maps = (x - mean.view(1, 3, 1, 1)) / std.view(1, 3, 1, 1)
        expected = []
        for begin, end in ((0, 2), (2, 7), (7, 12), (12, 21)):
            maps = layers[begin:end](maps)
            expected += [maps.mean((2, 3)), maps.std((2, 3), correction=0)]
    assert style.shape == (2, 2 * (64 + 128 + 256 + 512))
    torch.testing.assert_close(style, torch.cat(expected, dim=1), rtol=1e-3, atol=1e-5)
