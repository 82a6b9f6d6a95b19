"""The losses of ViT-VQGAN (arXiv 2110.04627) that compare an image with its reconstruction."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modules.common.frozen import Frozen

EPSILON = 0.1  # of logit-laplace: keeps pixels off 0 and 1


def logit_laplace(x: Tensor, mu: Tensor, log_b: Tensor) -> Tensor:
    """-ln of the logit-Laplace density at pixels x in [0, 1], mean over all elements."""
    x = (1 - 2 * EPSILON) * x + EPSILON
    return (math.log(2) + log_b + torch.log(x * (1 - x)) + (torch.logit(x) - mu).abs() * torch.exp(-log_b)).mean()


def logit_laplace_image(maps: Tensor) -> Tensor:
    """(mu, ln b) (B, 2 C, H, W) -> pixels (B, C, H, W), neither clamped nor rounded."""
    mu, _ = maps.chunk(2, 1)
    return (mu.sigmoid() - EPSILON) / (1 - 2 * EPSILON)


class ReconstructionLosses:
    """L_2, L_perceptual and L_logit-laplace with their weights.

    No Module: the perceptual network is in no checkpoint and in no optimiser.

    Args:
        l2_weight, perceptual_weight, logit_laplace_weight: a term with weight 0 is not computed, but for L_2.
        perceptual: a distance of images in [-1, 1]; needed where perceptual_weight is above 0.
    Raises:
        ValueError: the perceptual loss has a weight and no network.
    """

    def __init__(
        self,
        l2_weight: float = 1.0,
        perceptual_weight: float = 0.1,
        logit_laplace_weight: float = 0.0,
        perceptual: nn.Module | None = None,
    ) -> None:
        if perceptual_weight > 0 and perceptual is None:
            raise ValueError(
                f"perceptual=None, but its loss has weight {perceptual_weight}; give the network or weight 0"
            )
        self.weights = {"lpips": perceptual_weight, "laplace": logit_laplace_weight, "l2": l2_weight}
        self.perceptual = Frozen([perceptual]) if perceptual is not None and perceptual_weight > 0 else None

    def terms(self, x: Tensor, x_hat: Tensor, maps: Tensor) -> dict[str, Tensor]:
        """The unweighted terms by name.

        Args:
            x, x_hat: images and reconstructions, (B, C, H, W) in units of [0, 1].
            maps: of the decoder, (B, 2 C, H, W) = (mu, ln b) where logit-laplace has a weight.
        """
        terms = {"l2": F.mse_loss(x_hat, x)}
        if self.perceptual is not None:
            distance = self.perceptual.on(x.device)[0]
            terms["lpips"] = distance(2 * x_hat - 1, 2 * x - 1).mean()
        if self.weights["laplace"]:
            mu, log_b = maps.chunk(2, 1)
            terms["laplace"] = logit_laplace(x, mu, log_b)
        return terms
