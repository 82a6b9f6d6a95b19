"""LPIPS with VGG-16 (Zhang et al. 2018)."""

from __future__ import annotations

from torch import nn

from modules.common.needs import torchvision_weights


def lpips_vgg(pretrained: bool = True) -> nn.Module:
    """LPIPS with VGG-16 (Zhang et al. 2018): called with two batches in [-1, 1] it gives (B, 1, 1, 1).

    The weights of its linear layers come with torchmetrics; VGG's are fetched (528 MB).

    Args:
        pretrained: random VGG weights otherwise, for dry runs.
    """
    from torchmetrics.functional.image.lpips import _LPIPS

    return _LPIPS(pretrained=True, net="vgg", pnet_rand=not pretrained)


NEEDS = {"lpips_vgg": torchvision_weights("vgg16")}
