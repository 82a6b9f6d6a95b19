"""A backbone with one or several branches of prototypes (arXiv 2301.04011)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from modules.common.backbones import imagenet_backbone
from modules.common.needs import torchvision_weights
from modules.common.prototypes import PrototypeLayer, class_weights, strongest

PARTS = ("backbone", "add_on", "prototypes", "last")  # what a phase may train
SCORES = ("projection", "cosine")


def conv_backbone(
    channels: int = 3,
    widths: Sequence[int] = (24, 48, 64, 64),
    strides: Sequence[int] = (2, 2, 1, 2),
    kernels: Sequence[int] = (5, 3, 3, 3),
) -> nn.Module:
    """Convolutions with batch norm and ReLU, for the mini recipe. (B, channels, S, S) -> (B, widths[-1], S', S')."""
    layers: list[nn.Module] = []
    for width, stride, kernel in zip(widths, strides, kernels, strict=True):
        layers += [
            nn.Conv2d(channels, width, kernel, stride, kernel // 2, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        ]
        channels = width
    return nn.Sequential(*layers)


def large_map_backbone(name: str, pretrained: bool = True) -> nn.Module:
    """See imagenet_backbone; with maps of 14 x 14 for 224 pixels: VGG without its last pooling, others enlarged."""
    network = imagenet_backbone(name, pretrained)
    if name.startswith("vgg"):
        assert isinstance(network, nn.Sequential)
        return network[:-1]
    return nn.Sequential(network, nn.Upsample(scale_factor=2, mode="bilinear"))


class Branch(nn.Module):
    """Add-on layers, prototypes and a last layer without bias.

    W starts with 1 for a class's own prototypes and -0.5 elsewhere.

    Args:
        features: channels of the backbone's maps.
        classes, per_class: of prototypes.
        channels: D.
        scores: "projection" (published for cropped images) has add-on layers with tanh and scores z . p / |p|;
            "cosine" (whole images) linear ones and scores relu(z . p / (|z| |p|)).
    """

    def __init__(self, features: int, classes: int, per_class: int, channels: int, scores: str) -> None:
        super().__init__()
        if scores not in SCORES:
            raise ValueError(f"scores={scores!r}: expected one of {', '.join(SCORES)}")
        first, second = nn.Conv2d(features, channels, 1), nn.Conv2d(channels, channels, 1)
        for layer in (first, second):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
        bounded = scores == "projection"
        self.add_on = nn.Sequential(first, nn.Tanh(), second, nn.Tanh()) if bounded else nn.Sequential(first, second)
        self.prototypes = PrototypeLayer(classes, per_class, channels, scores)
        self.last = nn.Linear(len(self.prototypes), classes, bias=False)
        with torch.no_grad():
            self.last.weight.copy_(class_weights(self.prototypes.owner, classes))

    def vectors(self) -> Tensor:
        """Prototypes by class, (classes, per_class, D)."""
        return self.prototypes.vectors.view(self.last.out_features, -1, self.prototypes.vectors.shape[1])

    def similarities(self, z: Tensor) -> Tensor:
        """Maps (B, P, H, W) whose largest values are the scores."""
        maps = self.prototypes(z)
        return maps.relu() if self.prototypes.similarity == "cosine" else maps

    def cosines(self, maps: Tensor, z: Tensor) -> Tensor:
        """What the losses are about, of similarities of z: (B, P). Of "cosine" the scores themselves, 0 at least."""
        if self.prototypes.similarity == "projection":
            maps = maps / z.float().norm(dim=1, keepdim=True).clamp(min=1e-12)
        return maps.flatten(2).amax(2)

    def classify(self, maps: Tensor) -> Tensor:
        """(B, P, H, W) -> logits (B, classes)."""
        return self.last(strongest(maps)[0])

    def forward(self, shared: Tensor) -> Tensor:
        """The backbone's maps (B, features, H, W) -> logits (B, classes)."""
        return self.classify(self.similarities(self.add_on(shared)))


class BranchedNetwork(nn.Module):
    """Images to the sum of its branches' logits. (B, 3, S, S) -> (B, classes).

    Args:
        backbone: with `features` channels; all branches share it.
        features: channels of its maps.
        classes: number of classes.
        branches: name -> prototypes per class. ST-ProtoPNet has trivial: 5 and support: 5.
        channels: D.
        scores: see Branch.
    """

    def __init__(
        self,
        backbone: nn.Module,
        features: int,
        classes: int,
        branches: Mapping[str, int],
        channels: int = 64,
        scores: str = "projection",
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.branches = nn.ModuleDict(
            {name: Branch(features, classes, count, channels, scores) for name, count in branches.items()}
        )

    def branch(self, name: str) -> Branch:
        chosen = self.branches[name]
        assert isinstance(chosen, Branch)
        return chosen

    def part(self, name: str) -> list[nn.Module]:
        """One of PARTS: the backbone, or that part of every branch."""
        return [self.backbone] if name == "backbone" else [b.get_submodule(name) for b in self.branches.values()]

    def logits(self, x: Tensor) -> dict[str, Tensor]:
        """Each branch's, (B, classes)."""
        shared = self.backbone(x)
        return {name: branch(shared) for name, branch in self.branches.items()}

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([*self.logits(x).values()]).sum(0)


class Plain(nn.Module):
    """A backbone with a linear layer on the largest value of each channel: (B, 3, S, S) -> (B, classes).

    Args:
        backbone: (B, 3, S, S) -> (B, features, S', S').
        features, classes: see above.
        factors: classes are all combinations of so many values each, numbered as digits are, the last the fastest. A
            class's logit is then the sum of its values' logits, so that every picture teaches all classes that share a
            value with its own. None: every class has weights of its own.
    Raises:
        ValueError: factors whose product is not the number of classes.
    """

    def __init__(self, backbone: nn.Module, features: int, classes: int, factors: Sequence[int] | None = None) -> None:
        super().__init__()
        if factors is not None and math.prod(factors) != classes:
            raise ValueError(
                f"factors={list(factors)}: their product is {math.prod(factors)}; expected {classes} classes"
            )
        self.backbone = backbone
        self.factors = [classes] if factors is None else list(factors)
        self.head = nn.Linear(features, sum(self.factors))

    def forward(self, x: Tensor) -> Tensor:
        logits, *others = self.head(self.backbone(x).amax((2, 3))).split(self.factors, 1)
        for values in others:
            logits = (logits[:, :, None] + values[:, None]).flatten(1)
        return logits


NEEDS = {"large_map_backbone": torchvision_weights()}
