"""ResNets for small images."""

from __future__ import annotations

import pytest
import torch

from modules.common.resnets import small_image_resnet


def test_a_small_image_resnet_keeps_the_resolution_at_its_start() -> None:
    with torch.device("meta"):
        network = small_image_resnet("resnet18", 7).eval()
        shapes: dict[str, tuple[int, ...]] = {}
        for part in ("conv1", "maxpool", "layer4"):
            network.get_submodule(part).register_forward_hook(
                lambda _, __, output, part=part: shapes.update({part: tuple(output.shape)})
            )
        assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 7)
    assert shapes == {"conv1": (2, 64, 32, 32), "maxpool": (2, 64, 32, 32), "layer4": (2, 512, 4, 4)}
    assert network.conv1.kernel_size == (3, 3)
    assert network.conv1.bias is None
    with pytest.raises(ValueError, match="vgg11: expected one of torchvision's ResNets, as resnet18"):
        small_image_resnet("vgg11", 10)
