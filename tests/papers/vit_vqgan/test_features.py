"""Networks whose features are compared: a classifier's, and LPIPS against its authors' package."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from modules.common.networks import ConvNet
from modules.vit_vqgan.features import FeatureClassifier
from modules.vit_vqgan.perceptual import lpips_vgg


def classifier(**options: object) -> FeatureClassifier:
    net = ConvNet(1, 8, [4, 6], [1, 2], 3, grid=1)
    return FeatureClassifier(net, 3, **{"suffix": "_convnet", **options})  # type: ignore[arg-type]


def test_a_classifiers_features_are_what_enters_its_last_layer() -> None:
    made = classifier().eval()
    made.trainer = SimpleNamespace(datamodule=SimpleNamespace(spec=SimpleNamespace(mean=(0.3,), std=(0.5,))))  # type: ignore[assignment]
    made.setup("fit")
    pixels = torch.rand(2, 1, 8, 8)
    actual, logits = made.describe(pixels)
    assert actual.shape == (2, made.features) == (2, 6)
    assert torch.allclose(logits, made.network(pixels))
    assert torch.allclose(made((pixels - 0.3) / 0.5), logits, atol=1e-5)
    assert "pixel_mean" not in made.state_dict()
    with pytest.raises(ValueError, match="plain `fid` means Inception-v3"):
        classifier(suffix="")


def test_lpips_agrees_with_its_authors_package() -> None:
    theirs_package = pytest.importorskip("lpips")
    torch.manual_seed(0)
    ours = lpips_vgg(pretrained=False)
    theirs = theirs_package.LPIPS(net="vgg", pnet_rand=True, verbose=False)
    theirs.net.load_state_dict(ours.net.state_dict())
    x, y = torch.rand(2, 2, 3, 32, 32) * 2 - 1
    assert torch.allclose(ours(x, y), theirs(x, y), atol=1e-6)
    assert float(ours(x, x).abs().max()) == 0
    assert not any(p.requires_grad for p in ours.parameters())
