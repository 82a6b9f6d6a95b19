"""A probe of what files' headers tell, reported beside the networks, which may have seen sizes and formats too."""

from __future__ import annotations

from torch import nn


class HeaderNet(nn.Sequential):
    """Header fields (B, F) -> (B, 2): real, generated.

    Args:
        fields: F.
        width: of the two hidden layers.
    """

    def __init__(self, fields: int = 6, width: int = 64) -> None:
        super().__init__(
            nn.BatchNorm1d(fields),
            nn.Linear(fields, width),
            nn.ReLU(),
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Linear(width, 2),
        )
