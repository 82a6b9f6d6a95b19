"""What G and D are trained with, as functions of tensors.

    L_G = w_img L_img + w_h1 L_h1 + w_h L_h + w_gan L_GAN

    L_img = |x - G(h)|^2,   L_h1 = |E1(x) - E1(G(h))|^2,   L_h = |E(x) - E(G(h))|^2,   L_GAN = CE(D(G(h), h), real)
    L_D   = CE(D(x, h), real) + CE(D(G(h), h), generated)

A squared distance has two forms: `sum` is Caffe's EuclideanLoss, half the sum over an image's entries, with the paper's
weights; `mean` is the mean over entries. w_mean = w_sum times half the number of entries.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from modules.common.distributed import summed, world_size

FORMS = ("sum", "mean")
GENERATED, REAL = 0, 1


@dataclass(frozen=True)
class Weights:
    """Weights of L_G's terms; a term of weight 0 is not computed.

    Attributes:
        image, feature, code, adversarial: of L_img, L_h1, L_h and L_GAN.
        form: of the squared distances, `sum` or `mean`.
    Raises:
        ValueError: a negative weight, or another form.
    """

    image: float = 2e-6
    feature: float = 0.01
    code: float = 0.0
    adversarial: float = 100.0
    form: str = "sum"

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise ValueError(f"form={self.form!r}: expected one of {', '.join(FORMS)}")
        for name in ("image", "feature", "code", "adversarial"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)}: expected a weight from 0")

    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        """The squared distance of a and b (B, ...), in the mean over the batch."""
        return euclidean_loss(a, b) if self.form == "sum" else F.mse_loss(a, b)


def euclidean_loss(a: Tensor, b: Tensor) -> Tensor:
    """Caffe's EuclideanLoss of a and b (B, ...): 1 / (2 B) times the sum of squared differences."""
    return (a - b).square().sum() / (2 * len(a))


def as_mean_weight(weight: float, entries: int) -> float:
    """The weight in form `mean` that does what `weight` does in form `sum`, for that many entries of an image."""
    return weight * entries / 2


# The adversarial part: two classes, a softmax, and a rule that pauses whoever is too far ahead


def two_class_loss(logits: Tensor, label: int) -> Tensor:
    """Softmax loss of logits (B, 2) that should all say `label`; ln 2 where D does not know."""
    return F.cross_entropy(logits, torch.full((len(logits),), label, device=logits.device))


def discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """L_D of logits (B, 2) of real and of generated pairs."""
    return two_class_loss(real, REAL) + two_class_loss(fake, GENERATED)


def adversarial_loss(fake: Tensor) -> Tensor:
    """L_GAN, before its weight: generated pairs should pass as real."""
    return two_class_loss(fake, REAL)


@dataclass(frozen=True)
class Pause:
    """Who trains on a batch, by r = L_D / L_GAN: D rests while r < low, G rests while r > high.

    Attributes:
        low, high: with low < high, so that one of them always trains.
    Raises:
        ValueError: they are not in this order.
    """

    low: float = 0.1
    high: float = 10.0

    def __post_init__(self) -> None:
        if not 0 <= self.low < self.high:
            raise ValueError(f"low={self.low}, high={self.high}: expected 0 <= low < high")

    def trains(self, discriminator: Tensor, adversarial: Tensor) -> tuple[bool, bool]:
        """Whether D trains and whether G trains; the same on all processes.

        Args:
            discriminator, adversarial: L_D and L_GAN of this process's part of the batch.
        """
        both = summed(torch.stack([discriminator.detach(), adversarial.detach()])) / world_size()
        ratio = float(both[0] / both[1].clamp(min=1e-12))
        return ratio >= self.low, ratio <= self.high
