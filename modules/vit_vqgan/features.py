"""A classifier trained on the real images, whose features stand in for Inception-v3's."""

from __future__ import annotations

from torch import Tensor

from modules.common.judge import Judge
from modules.vit_vqgan.pixels import PixelModule


class FeatureClassifier(PixelModule, Judge):
    """A judge of pixels in [0, 1], as they are generated; the data's normalisation is undone first.

    Args:
        options: see Judge.
    """

    def forward(self, x: Tensor) -> Tensor:
        return self.network(self.pixels(x))
