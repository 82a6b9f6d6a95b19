"""Features are the networks' own pooled ones; style statistics are of the layers they say."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from modules.copyscope.extractors import LiteFeatures


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
