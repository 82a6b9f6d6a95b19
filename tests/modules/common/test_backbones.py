"""Published classifiers without their ends."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torchvision import models

from modules.common.backbones import BACKBONES, NEEDS, imagenet_backbone

CHANNELS = {"densenet121": 1024, "densenet161": 2208, "resnet34": 512, "resnet50": 2048, "resnet152": 2048}


@pytest.mark.parametrize("name", BACKBONES)
def test_a_backbone_ends_in_maps_of_7x7_that_are_not_negative(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    build = models.get_model

    def spy(name: str, weights: str | None) -> nn.Module:
        asked.append(weights)
        return build(name)

    monkeypatch.setattr(models, "get_model", spy)
    with torch.device("meta"):
        network = imagenet_backbone(name)
        assert imagenet_backbone(name, pretrained=False).eval()(torch.zeros(1, 3, 64, 64)).shape[2:] == (2, 2)
        assert network.eval()(torch.zeros(1, 3, 224, 224)).shape == (1, CHANNELS.get(name, 512), 7, 7)
    assert asked == ["IMAGENET1K_V1", None]
    last = list(network.children())[-1]
    assert isinstance(last, nn.ReLU) == name.startswith("densenet")
    assert isinstance(last, nn.MaxPool2d) == name.startswith("vgg")


def test_unknown_backbones_are_named_and_known_ones_need_their_weights() -> None:
    with pytest.raises(ValueError, match="name='alexnet': expected one of densenet121, densenet161, resnet34"):
        imagenet_backbone("alexnet")
    (need,) = NEEDS["imagenet_backbone"]({"name": "vgg19"})
    assert need.name == "vgg19, IMAGENET1K_V1"
