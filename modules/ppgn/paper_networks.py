"""The paper's own networks for 227x227 pixels: E, G and D, and the classifiers that condition and judge.

Images are RGB, 255 times the distance from ImageNet's mean colour (-124 to 151), as the paper's losses are weighted:
the datamodule's std is 1 / 255. Networks of torchvision divide by 255 times ImageNet's std themselves.
"""

from __future__ import annotations

from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from modules.common.needs import torchvision_weights

IMAGENET_STD = (0.229, 0.224, 0.225)


class Standardised(nn.Module):
    """Divides images in units of 1/255 by ImageNet's std of each channel."""

    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("std", 255 * torch.tensor(IMAGENET_STD).view(1, 3, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> the same."""
        return x / self.std


def load_weights(network: nn.Module, path: str) -> None:
    """Fill a network from a file of plain tensors by name, every name and shape of which must fit.

    Raises:
        ValueError: no such file, or one that does not fit.
    """
    if not Path(path).is_file():
        raise ValueError(f"pretrained={path!r}: no such file; expected weights, true (torchvision's) or false")
    stored = torch.load(path, map_location="cpu", weights_only=True)
    try:
        network.load_state_dict(stored, strict=True)
    except (RuntimeError, TypeError) as error:
        reason = str(error).splitlines()[-1].strip()
        raise ValueError(f"pretrained={path!r} does not fit {type(network).__name__}: {reason}") from error


def torchvision_network(name: str, classes: int, pretrained: bool | str) -> nn.Module:
    """A torchvision classifier; its ImageNet weights (true), the user's from a file (a path), or random ones (false).

    Raises:
        ValueError: ImageNet's weights for another number of classes than 1000, or a file that does not fit.
    """
    from torchvision import models

    if pretrained is True and classes != 1000:
        raise ValueError(f"classes={classes}: torchvision's weights have 1000; expected a file as `pretrained`")
    weights = "IMAGENET1K_V1" if pretrained is True else None
    network = models.get_model(name, weights=weights, num_classes=classes)
    if isinstance(pretrained, str):
        load_weights(network, pretrained)
    return network


class AlexNet(nn.Module):
    """E and C: torchvision's AlexNet. h1 is pool5 (B, 256, 6, 6), h is fc6 after its ReLU (B, 4096).

    The paper has CaffeNet, which torchvision lacks. Dropout is inactive wherever the network is used frozen.

    Args:
        classes: 1000 of ImageNet; 205 or 365 of Places.
        pretrained: see torchvision_network.
    """

    code = 4096

    def __init__(self, classes: int = 1000, pretrained: bool | str = True) -> None:
        super().__init__()
        network = torchvision_network("alexnet", classes, pretrained)
        features = cast(nn.Sequential, network.get_submodule("features"))
        classifier = cast(nn.Sequential, network.get_submodule("classifier"))
        self.standardised = Standardised()
        self.convolutions = features[:11]  # up to conv5
        self.relu5 = nn.ReLU()
        self.pool5 = features[12]
        self.fc6 = classifier[:2]  # dropout, linear
        self.relu6 = nn.ReLU()
        self.rest = classifier[3:]

    def maps(self, x: Tensor) -> Tensor:
        """(B, 3, 227, 227) -> conv5 (B, 256, 13, 13)."""
        return self.convolutions(self.standardised(x))

    def pooled(self, x: Tensor) -> Tensor:
        """(B, 3, 227, 227) -> pool5 (B, 256, 6, 6)."""
        return self.pool5(self.relu5(self.maps(x)))

    def upper(self, h1: Tensor) -> Tensor:
        """pool5 -> fc6 (B, 4096)."""
        return self.relu6(self.fc6(h1.flatten(1)))

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, 227, 227) -> logits (B, classes)."""
        return self.rest(self.upper(self.pooled(x)))


class ResNet50(nn.Sequential):
    """The judge: torchvision's ResNet-50 as a sequence that ends in its linear layer.

    Args:
        classes, pretrained: see torchvision_network.
    """

    def __init__(self, classes: int = 1000, pretrained: bool | str = True) -> None:
        network = torchvision_network("resnet50", classes, pretrained)
        *body, last = network.children()
        super().__init__(Standardised(), *body, nn.Flatten(), last)


class Generator(nn.Module):
    """G: fc6 codes to images of 256x256, 56,097,891 parameters.

    The biases of the transposed convolutions stay 0, as released (their learning rate is 0). Weights are He et al.'s.
    """

    code = 4096

    def __init__(self) -> None:
        super().__init__()
        # (out, kernel, stride): the side doubles at each stride of 2, from 4 to 256
        maps = [(256, 4, 2), (512, 3, 1), (256, 4, 2), (256, 3, 1), (128, 4, 2), (128, 3, 1)]
        maps += [(64, 4, 2), (32, 4, 2), (3, 4, 2)]
        layers: list[nn.Module] = []
        for _ in range(3):
            layers += [nn.Linear(self.code, self.code), nn.LeakyReLU(0.3)]
        layers.append(nn.Unflatten(1, (256, 4, 4)))
        channels = 256
        for out, kernel, stride in maps:
            layers += [nn.ConvTranspose2d(channels, out, kernel, stride, padding=1), nn.LeakyReLU(0.3)]
            channels = out
        self.layers = nn.Sequential(*layers[:-1])
        start_as_he(self, 0.3)
        for layer in self.layers:
            if isinstance(layer, nn.ConvTranspose2d) and layer.bias is not None:
                layer.bias.requires_grad_(False)

    def forward(self, h: Tensor) -> Tensor:
        """h (B, 4096) -> images (B, 3, 256, 256)."""
        return self.layers(h)


class Discriminator(nn.Module):
    """D: an image of 227x227 and its fc6 code to two logits (generated, real), 6,129,986 parameters."""

    def __init__(self) -> None:
        super().__init__()
        sizes = [(32, 7, 4), (64, 5, 1), (128, 3, 2), (256, 3, 1), (256, 3, 2)]  # sides 56, 52, 25, 23, 11
        layers: list[nn.Module] = []
        channels = 3
        for out, kernel, stride in sizes:
            layers += [nn.Conv2d(channels, out, kernel, stride), nn.LeakyReLU(0.3)]
            channels = out
        self.image = nn.Sequential(*layers, nn.AvgPool2d(11), nn.Flatten())  # (B, 256)
        self.code = nn.Sequential(nn.Linear(4096, 1024), nn.LeakyReLU(0.3), nn.Linear(1024, 512), nn.LeakyReLU(0.3))
        self.head = nn.Sequential(
            nn.Dropout(0.5), nn.Linear(768, 512), nn.LeakyReLU(0.3), nn.Dropout(0.5), nn.Linear(512, 2)
        )
        start_as_he(self, 0.3)

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        """Images (B, 3, 227, 227) and the codes they belong to (B, 4096) -> logits (B, 2)."""
        return self.head(torch.cat([self.image(x), self.code(h)], 1))


def start_as_he(network: nn.Module, slope: float) -> None:
    """Weights of He et al.'s normal distribution for leaky ReLUs of this slope, biases of 0."""
    for layer in network.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            nn.init.kaiming_normal_(layer.weight, slope)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


NEEDS = {"AlexNet": torchvision_weights("alexnet"), "ResNet50": torchvision_weights("resnet50")}
