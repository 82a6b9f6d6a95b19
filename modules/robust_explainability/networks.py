"""Classifiers in two parts: `features` ends with the maps that GradCAM and ScoreCAM use, `head` does the rest."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from modules.common.needs import user_file
from modules.common.weights import read_state_dict

ARCHITECTURES = ("alexnet", "googlenet", "resnet50", "densenet161", "mobilenet_v2")
PREFIXES = ("module.", "model.", "network.")  # of networks that were saved within others
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's
BESIDE = ("attacker.", "normalizer.", "aux1.", "aux2.")  # what such files hold besides the network


class SplitNetwork(nn.Module):
    """Images -> features (B, K, h, w), not negative -> logits.

    No ReLU works in place: an explanation reads the features after the head has seen them.

    Args:
        features, head: the two parts.
    """

    def __init__(self, features: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.features = features
        self.head = head
        for layer in self.modules():
            if isinstance(layer, nn.ReLU | nn.ReLU6):
                layer.inplace = False

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, classes)."""
        return self.head(self.features(x))


def small_network(
    classes: int, widths: Sequence[int] = (16, 32, 48, 64), strides: Sequence[int] = (2, 2, 1, 1), in_channels: int = 1
) -> Any:
    """3x3 convolutions with batch norm and ReLU, global average pooling, a linear layer.

    Args:
        classes: number of outputs.
        widths, strides: of the convolutions.
        in_channels: of the images.
    """
    layers: list[nn.Module] = []
    before = in_channels
    for width, stride in zip(widths, strides, strict=True):
        layers += [nn.Conv2d(before, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        before = width
    return SplitNetwork(nn.Sequential(*layers), _pooled(nn.Linear(before, classes)))


def imagenet_network(name: str, pretrained: str | bool = False, half_range: bool = False) -> Any:
    """One of the paper's five architectures for 1,000 classes, torchvision's layers and starting weights.

    GoogLeNet has no auxiliary heads. Inputs have ImageNet's mean and std.

    Args:
        name: one of ARCHITECTURES.
        pretrained: a file with a state_dict to load, see `read_state`; False starts from scratch.
        half_range: the weights are for inputs between -1 and 1, as AdvProp's are; the network converts.
    Raises:
        ValueError: another name, or a file that is missing or of another network.
    """
    from torchvision import models

    if name not in ARCHITECTURES:
        raise ValueError(f"name={name!r}: expected one of {', '.join(ARCHITECTURES)}")
    options: dict[str, Any] = {"aux_logits": False, "init_weights": True} if name == "googlenet" else {}
    network: Any = models.get_model(name, weights=None, **options)
    if pretrained:
        load(network, Path(str(pretrained)))
    features, head = _parts(name, network)
    return SplitNetwork(nn.Sequential(HalfRange(), features) if half_range else features, head)


def _parts(name: str, network: Any) -> tuple[nn.Module, nn.Module]:
    """A torchvision network up to its last maps, not negative, and what comes after them."""
    if name == "alexnet":
        return network.features[:-1], nn.Sequential(
            network.features[-1], network.avgpool, nn.Flatten(), network.classifier
        )
    if name == "mobilenet_v2":
        return network.features, _pooled(*network.classifier)
    if name == "densenet161":
        return nn.Sequential(network.features, nn.ReLU()), _pooled(network.classifier)
    after = {"googlenet": 3, "resnet50": 2}[name]  # children after the last convolution, a pooling first
    children = list(network.children())
    return nn.Sequential(*children[:-after]), _pooled(*children[1 - after :])


class HalfRange(nn.Module):
    """From inputs with ImageNet's mean and std to inputs between -1 and 1, (pixel - 0.5) / 0.5."""

    factor: Tensor
    offset: Tensor

    def __init__(self) -> None:
        super().__init__()
        mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (MEAN, STD))
        self.register_buffer("factor", std / 0.5, persistent=False)
        self.register_buffer("offset", (mean - 0.5) / 0.5, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor + self.offset


def _pooled(*layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), *layers)


def load(network: nn.Module, path: Path) -> None:
    """Fill a network; AdvProp's auxiliary batch norms, `aux_bn` as released, are left out.

    Raises:
        ValueError: see imagenet_network.
    """
    state = {name: value for name, value in read_state(path).items() if ".aux_bn." not in name}
    own = network.state_dict()
    if missing := [name for name in own if name not in state]:
        raise ValueError(
            f"pretrained={str(path)!r} lacks {missing[0]}: expected a state_dict of {type(network).__name__}"
        )
    for name, value in state.items():
        if name not in own or value.shape != own[name].shape:
            what = f"{name} of {tuple(value.shape)}"
            raise ValueError(
                f"pretrained={str(path)!r} holds {what}: expected a state_dict of {type(network).__name__}"
            )
    network.load_state_dict(state)


def read_state(path: Path) -> dict[str, Tensor]:
    """A network's state_dict from a file of tensors.

    It may lie under `model` or `state_dict`, its names may have prefixes of networks around it, and an attacker and a
    normaliser beside it (as the robustness library saves them) are left out: they say how inputs are normalised, which
    here the datamodule does.

    Raises:
        ValueError: no such file, or one that holds more than tensors and plain values.
    """
    return _bare(read_state_dict(path))


def _bare(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Without prefixes that all names share, and without what lies beside the network."""
    while True:
        state = {name: value for name, value in state.items() if not name.startswith(BESIDE)}
        for prefix in PREFIXES:
            within = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
            if within and (len(within) == len(state) or prefix == "model."):
                state = within
                break
        else:
            return state


NEEDS = {"imagenet_network": user_file("pretrained", "a state_dict of that network, trained as its paper says")}
