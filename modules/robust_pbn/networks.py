"""Shallow prototype networks: components in pixel space, what they detect, and a head that reasons about it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from modules.robust_pbn.certificates import (
    SOUND,
    TINY,
    largest_factor,
    lvq_radius,
    radius_of_metric,
    radius_of_squared_metric,
)
from modules.robust_pbn.heads import Head


class Components(nn.Module):
    """K points w_k of pixel space, U[0.45, 0.55] at the start. x (B, D) -> Euclidean distances (B, K).

    Args:
        count: K.
        features: D.
    """

    slack = 1.0  # what a certified radius is divided by

    def __init__(self, count: int, features: int) -> None:
        super().__init__()
        self.points = nn.Parameter(0.45 + 0.1 * torch.rand(count, features))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cdist(x, self.points)

    def constrain(self) -> None:
        """Components are images: their pixels stay in [0, 1]."""
        with torch.no_grad():
            self.points.clamp_(0, 1)


class TangentComponents(Components):
    """K affine subspaces w_k + span(B_k) with orthonormal B_k. x (B, D) -> distances to the subspaces (B, K).

    Certified radii are halved as in the released code. A distance to a subspace changes no faster than the image moves,
    so that they would hold without.

    Args:
        count: K.
        features: D.
        dimensions: of each subspace.
    """

    slack = 2.0

    def __init__(self, count: int, features: int, dimensions: int = 12) -> None:
        super().__init__(count, features)
        self.directions = nn.Parameter(torch.rand(count, features, dimensions))

    def basis(self) -> Tensor:
        """(K, D, dimensions), orthonormal columns."""
        return torch.linalg.qr(self.directions).Q

    def forward(self, x: Tensor) -> Tensor:
        basis = self.basis()
        along = torch.einsum("bd,kdr->bkr", x, basis) - torch.einsum("kd,kdr->kr", self.points, basis)  # (B, K, r)
        beside = super().forward(x).square() - along.square().sum(-1)
        return beside.clamp(min=1e-8).sqrt()

    def constrain(self) -> None:
        """The points are offsets of subspaces and no images; nothing is asked of them."""


def right_concepts(y: Tensor, classes: int, per_class: int) -> Tensor:
    """Labels (B,) -> (B, classes per_class) bool: the concepts of class c are c per_class to (c + 1) per_class - 1."""
    return nn.functional.one_hot(y, classes).bool().repeat_interleave(per_class, dim=1)


def rank(scores: Tensor) -> Tensor:
    """(B, C) -> the place of each class, 0 for the lowest: for metrics that take logits.

    Agreements of rarely detected components differ by less than a softmax in single precision can tell apart.
    """
    return scores.argsort(1).argsort(1).float()


@dataclass
class Reading:
    """What a network says of a batch (see losses.Evidence), with a radius that is computed when it is asked for."""

    scores: Tensor  # (B, P)
    distances: Tensor  # (B, K)
    per_class: int
    measure_radius: Callable[[Tensor], Tensor] = field(repr=False)

    def class_scores(self) -> Tensor:
        """(B, classes): the best concept of each class."""
        return self.scores.unflatten(1, (-1, self.per_class)).amax(2)

    def radius(self, right: Tensor) -> Tensor:
        """(B,) certified L2 radius; negative where the class is wrong."""
        return self.measure_radius(right)


class PixelNetwork(nn.Module):
    """What the shallow networks share: pixels in [0, 1], flattened, and classes that have several concepts each.

    Args:
        components: K of them.
        classes: C.
        per_class: concepts of each class.
        channels: of the images.
    """

    mean: Tensor
    std: Tensor
    certified = True  # it knows a radius

    def __init__(self, components: Components, classes: int, per_class: int, channels: int = 1) -> None:
        super().__init__()
        self.components, self.classes, self.per_class = components, classes, per_class
        self.register_buffer("mean", torch.zeros(channels, 1, 1))  # of the datamodule, see Shallow.setup
        self.register_buffer("std", torch.ones(channels, 1, 1))

    def pixels(self, x: Tensor) -> Tensor:
        """Normalised images (B, C, H, W) -> (B, D) in [0, 1]."""
        return (x * self.std + self.mean).clamp(0, 1).flatten(1)

    def right(self, y: Tensor) -> Tensor:
        """(B, P) bool."""
        return right_concepts(y, self.classes, self.per_class)

    def read(self, pixels: Tensor) -> Reading:
        """Pixels (B, D) -> what the network says of them."""
        raise NotImplementedError(f"{type(self).__name__} does not read images")

    @torch.no_grad()
    def certify(self, pixels: Tensor, y: Tensor) -> Tensor:
        """Pixels (B, D), labels (B,) -> certified L2 radii (B,), 0 where the class is wrong; in double precision."""
        exact = copy.deepcopy(self).double()
        return exact.read(pixels.double()).radius(exact.right(y)).clamp(min=0).to(pixels.dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Normalised images -> scores of the classes (B, C)."""
        return self.read(self.pixels(x)).class_scores()

    def constrain(self) -> None:
        self.components.constrain()


class DetectionNetwork(PixelNetwork):
    """d_k = exp(-D(x, w_k) / sigma_k) and a head on them.

    Args:
        components, classes, per_class: see PixelNetwork.
        head: called with K and P.
        sigma: of every component at the start.
        squared: detections fall with the squared distance.
    """

    def __init__(
        self,
        components: Components,
        classes: int,
        per_class: int,
        head: Callable[[int, int], Head],
        sigma: float,
        squared: bool = False,
    ) -> None:
        super().__init__(components, classes, per_class)
        count = len(components.points)
        self.head = head(count, classes * per_class)
        self.spread = nn.Parameter(torch.full((count,), float(sigma)))
        self.squared = squared
        self.certified = self.head.reasoning() is not None

    @property
    def sigma(self) -> Tensor:
        """(K,), positive."""
        return self.spread.abs() + 1e-7

    def detect(self, distances: Tensor) -> Tensor:
        """D (B, K) -> d (B, K)."""
        return (-(distances.square() if self.squared else distances) / self.sigma).exp()

    def read(self, pixels: Tensor) -> Reading:
        distances = self.components(pixels)  # (B, K)
        d = self.detect(distances)

        def radius(right: Tensor) -> Tensor:
            reasoning = self.head.reasoning()
            if reasoning is None:
                raise ValueError(f"no certificate is known for {type(self.head).__name__}")
            # Of doubles what is measured is exact; of floats the loss has a gradient everywhere.
            factor = largest_factor(d, *reasoning, right, SOUND if d.dtype == torch.float64 else TINY)
            if self.squared:
                return radius_of_squared_metric(factor, self.sigma, distances) / self.components.slack
            return radius_of_metric(factor, self.sigma) / self.components.slack

        return Reading(self.head(d), distances, self.per_class, radius)

    def constrain(self) -> None:
        super().constrain()
        self.head.constrain()


class PrototypeNetwork(PixelNetwork):
    """GLVQ: the class of the nearest prototype; each component is one. Scores are negative distances.

    Args:
        components, classes: see PixelNetwork; equally many prototypes for each class.
        squared: the loss compares squared distances. Neither classes nor certificates depend on it.
    Raises:
        ValueError: prototypes that cannot be shared out.
    """

    def __init__(self, components: Components, classes: int, squared: bool = True) -> None:
        count = len(components.points)
        if count % classes:
            raise ValueError(f"{count} prototypes cannot be shared out to {classes} classes")
        super().__init__(components, classes, count // classes)
        self.squared = squared

    def read(self, pixels: Tensor) -> Reading:
        distances = self.components(pixels)  # (B, K)

        def radius(right: Tensor) -> Tensor:
            return lvq_radius(distances, right)

        scores = -(distances.square() if self.squared else distances)
        return Reading(scores, distances, self.per_class, radius)
