"""The concept model, the projector, and prototypes that belong to concepts."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modules.common.needs import torchvision_weights


def small_encoder(
    widths: Sequence[int] = (32, 64, 96, 96),
    strides: Sequence[int] = (2, 2, 2, 1),
    kernels: Sequence[int] = (5, 3, 3, 3),
) -> nn.Module:
    """Convolutions with batch norm and ReLU. (B, 3, S, S) -> (B, widths[-1], S', S')."""
    layers: list[nn.Module] = []
    before = 3
    for width, stride, kernel in zip(widths, strides, kernels, strict=True):
        convolution = nn.Conv2d(before, width, kernel, stride, kernel // 2, bias=False)
        layers += [convolution, nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
        before = width
    return nn.Sequential(*layers)


def convnext_tiny(pretrained: bool = True) -> nn.Module:
    """ConvNeXt-T without its classifier, first trained on ImageNet-1k: (B, 3, 224, 224) -> (B, 768, 7, 7).

    Args:
        pretrained: fetch these weights.
    """
    from torchvision import models

    return models.convnext_tiny(weights="IMAGENET1K_V1" if pretrained else None).features


class ConceptNetwork(nn.Module):
    """Stage 1's network: features and a map for each concept. Logits are the maps' means.

    Args:
        encoder: F, images (B, 3, S, S) to features (B, c, H, W).
        features: c.
        concepts: K.
    """

    def __init__(self, encoder: nn.Module, features: int, concepts: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Conv2d(features, concepts, 1, bias=False)

    def maps(self, features: Tensor) -> Tensor:
        """cam (B, K, H, W) of features (B, c, H, W)."""
        return self.head(features)

    def forward(self, x: Tensor) -> Tensor:
        """Images -> logits of the concepts (B, K)."""
        return self.maps(self.encoder(x)).mean((2, 3))


class ResidualBlock(nn.Module):
    """x + ReLU(norm(W x)) on vectors (N, before) -> (N, after); x passes through a layer of its own if sizes differ.

    The published norm is IBN, half instance and half batch norm; one vector has nothing that instance norm could be
    taken over, so all of it is batch norm.
    """

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.layer = nn.Linear(before, after, bias=False)
        self.norm = nn.BatchNorm1d(after)
        self.skip = nn.Identity() if before == after else nn.Linear(before, after, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.skip(x) + F.relu(self.norm(self.layer(x)))


class Projector(nn.Sequential):
    """P: each vector by itself to a direction of length 1. (..., c) -> (..., D).

    Args:
        features: c.
        channels: D.
        blocks: residual blocks.
    """

    def __init__(self, features: int, channels: int = 256, blocks: int = 3) -> None:
        sizes = [features, *[channels] * blocks]
        super().__init__(*(ResidualBlock(a, b) for a, b in pairwise(sizes)))

    def forward(self, input: Tensor) -> Tensor:
        flat = super().forward(input.flatten(0, -2))
        return F.normalize(flat.float(), dim=-1).view(*input.shape[:-1], -1)

    def directions(self, input: Tensor) -> Tensor:
        """The same with the statistics of these vectors, whose running means stay as they are."""
        running = {name: buffer.clone() for name, buffer in self.named_buffers()}
        projected = self(input)
        for name, buffer in self.named_buffers():
            buffer.copy_(running[name])
        return projected


class ConceptPrototypes(nn.Module):
    """Projector and M prototypes of each of K concepts.

    Prototypes start as random directions: of unit variance, since small numbers would start out nearly alike after
    rounding and stay so.

    Args:
        features: c of the features.
        concepts, per_concept: K and M.
        channels: D of the projector's output.
    """

    def __init__(self, features: int, concepts: int, per_concept: int = 100, channels: int = 256) -> None:
        super().__init__()
        self.projector = Projector(features, channels)
        self.vectors = nn.Parameter(torch.randn(concepts, per_concept, channels))

    @property
    def directions(self) -> Tensor:
        """p, of length 1: (K, M, D)."""
        return F.normalize(self.vectors.float(), dim=-1)

    @torch.no_grad()
    def place(self, vectors: Tensor) -> None:
        """Put the prototypes where the projector puts these vectors (K, M, c), as long as random ones would be."""
        projected = self.projector.directions(vectors)  # (K, M, D)
        self.vectors.copy_(projected * projected.shape[-1] ** 0.5)

    def cosines(self, vectors: Tensor) -> Tensor:
        """<p_{k,m}, P(v)> of vectors (V, c): (V, K, M), in fp32 whatever the precision of the rest."""
        projected = self.projector(vectors)  # (V, D)
        with torch.autocast(projected.device.type, enabled=False):
            return torch.einsum("vd,kmd->vkm", projected.float(), self.directions)

    def scores(self, features: Tensor) -> Tensor:
        """Eq. 10: the largest value of each similarity map of features (B, c, H, W): (B, K, M)."""
        patches = features.flatten(2).mT  # (B, HW, c)
        cosines = self.cosines(patches.flatten(0, 1))  # (BHW, K, M)
        return cosines.unflatten(0, patches.shape[:2]).amax(1)

    def forward(self, features: Tensor) -> Tensor:
        """Similarity maps S of features (B, c, H, W): (B, K, M, H, W) in [-1, 1]."""
        b, _, h, w = features.shape
        cosines = self.cosines(features.permute(0, 2, 3, 1).flatten(0, 2))  # (BHW, K, M)
        return cosines.view(b, h, w, *cosines.shape[1:]).permute(0, 3, 4, 1, 2)


NEEDS = {"convnext_tiny": torchvision_weights("convnext_tiny")}
