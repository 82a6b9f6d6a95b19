"""Published networks without their ends, and with another start."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torchvision import models

from modules.common import extractors
from modules.common.backbones import BACKBONES, NEEDS, imagenet_backbone
from modules.common.extractors import InceptionV3
from modules.common.resnets import small_image_resnet

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
