"""What `fid` and `is` are computed with: the standard Inception-v3, torch-fidelity's port of the 2015 weights."""

from __future__ import annotations

import io
from typing import Any, Protocol

import torch
from torch import Tensor

from modules.common.module import StageModule
from modules.common.needs import inception_of_2015


class Extractor(Protocol):
    """What metrics are computed with. `suffix` ends their names; `describe` takes pixels in [0, 1]."""

    suffix: str
    features: int
    classes: int

    def describe(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, H, W) -> features (B, d), logits (B, classes)."""


class InceptionV3(StageModule):
    """The extractor that `fid` and `is` mean. Not trained.

    Args:
        pretrained: fetch the weights (95 MB, from torch-fidelity's release page); random otherwise, for dry runs.
        suffix: of the metrics' names; empty, since this is the standard.
    """

    def __init__(self, pretrained: bool = True, suffix: str = "") -> None:
        super().__init__()
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        class Untrained(FeatureExtractorInceptionV3):  # torch-fidelity always loads something; here, nothing
            def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
                return super().load_state_dict(state_dict, strict=bool(state_dict))

        self.suffix, self.features, self.classes = suffix, 2048, 1008
        layers = ["2048", "logits_unbiased"]
        if pretrained:
            self.network = FeatureExtractorInceptionV3("inception", layers)
        else:
            nothing = io.BytesIO()
            torch.save({}, nothing)
            nothing.seek(0)
            self.network = Untrained("inception", layers, feature_extractor_weights_path=nothing)

    def describe(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        bytes_ = (pixels.float() * 255).round().clamp(0, 255).to(torch.uint8)
        with torch.autocast(pixels.device.type, enabled=False):
            return self.network(bytes_.expand(-1, 3, -1, -1))

    def forward(self, x: Tensor) -> Tensor:
        return self.describe(x)[0]


NEEDS = {"InceptionV3": inception_of_2015}
