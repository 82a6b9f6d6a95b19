"""A classifier of single digits, which names the modes of stacked ones."""

from __future__ import annotations

from torch import Tensor

from modules.common.judge import Judge


class DigitJudge(Judge):
    """A judge of digits in [-1, 1] that is asked, like Inception-v3, about pixels in [0, 1].

    Args:
        options: see Judge.
    """

    def describe(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 1, H, W) in [0, 1] -> features (B, d), logits (B, classes), in fp32."""
        return super().describe(2 * pixels - 1)
