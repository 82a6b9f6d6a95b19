"""Students at full size."""

from __future__ import annotations

from torch import nn

DEPTHS = (18, 34, 50, 101, 152)


def resnet(depth: int, classes: int) -> nn.Module:
    """torchvision's ResNet from random weights: (B, 3, S, S) -> logits (B, classes).

    Raises:
        ValueError: a depth that torchvision does not have.
    """
    from torchvision import models

    if depth not in DEPTHS:
        raise ValueError(f"depth={depth!r}: expected one of {', '.join(map(str, DEPTHS))}")
    network: nn.Module = getattr(models, f"resnet{depth}")(num_classes=classes)
    return network
