"""What the standard metrics are computed with: what its library is asked for, and the bytes that it sees."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from modules.common import extractors
from modules.common.extractors import InceptionV3


def test_the_standard_extractor_is_asked_for_its_layers_and_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """95 MB of weights are not at hand: what the library is asked for, and that no weights means none."""
    import torch_fidelity.feature_extractor_inceptionv3 as library

    asked: list[Any] = []

    class Library(nn.Module):
        def __init__(self, name: str, layers: list[str], feature_extractor_weights_path: Any = "fetch") -> None:
            super().__init__()
            self.layer = nn.Linear(1, 1)
            asked.append((name, layers, feature_extractor_weights_path))
            if feature_extractor_weights_path != "fetch":
                self.load_state_dict(torch.load(feature_extractor_weights_path))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    monkeypatch.setattr(library, "FeatureExtractorInceptionV3", Library)
    module = InceptionV3()
    assert asked == [("inception", ["2048", "logits_unbiased"], "fetch")]
    assert (module.suffix, module.features, module.classes) == ("", 2048, 1008)
    untrained = InceptionV3(pretrained=False, suffix="_dry")
    assert (asked[1][:2], untrained.suffix) == (("inception", ["2048", "logits_unbiased"]), "_dry")

    pixels = torch.tensor([-0.1, 0.0, 0.5, 1.0, 1.1, 0.4999]).view(1, 1, 2, 3)
    seen = module.describe(pixels)
    assert (seen.dtype, seen.shape) == (torch.uint8, (1, 3, 2, 3))  # type: ignore[attr-defined]
    assert seen[0, 2].flatten().tolist() == [0, 0, 128, 255, 255, 127]  # type: ignore[union-attr]
    assert torch.equal(module(pixels.expand(2, 1, 2, 3)), seen[0].expand(3, 2, 3))  # type: ignore[union-attr]
    assert "InceptionV3" in extractors.NEEDS
