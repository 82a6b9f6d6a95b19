"""Certified radii in closed form: within this L2 distance of an image no other image gets another class.

Moving an image by eps changes every distance by at most eps and every d_k by a factor in [1/z, z], z = exp(eps/sigma).
For a concept i of the right class and j of another one the worst case is

    p_i - p_j >= (a z^2 + b z + c) / z,    a = -(d r-_i + d r+_j),  b = sum r-_i - sum r-_j,  c = d r+_i + d r-_j

(d r sums over components), a parabola that opens downwards and is p_i - p_j at z = 1. Its positive root is how far one
may go; the radius is sigma ln min_j max_i z_ij with the smallest sigma of all components. It is negative for images
that are classified wrongly, so that it can be maximised from the first step.
"""

from __future__ import annotations

import torch
from torch import Tensor

TINY = 1e-8  # keeps the gradient of roots and quotients finite, as in the released code
SOUND = 1e-300  # for measuring, in double precision: no detection that can be told from 0 comes near it


def coefficients(
    d: Tensor, positive: Tensor, negative: Tensor, own: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """a, b, c of pairs of concepts (i, j), (B, I, P) each.

    Args:
        d: detections (B, K).
        positive, negative: r+, r- (K, P).
        own: which concepts i, (B, I); None takes all.
    """
    present, absent = d @ positive, d @ negative  # (B, P)
    total = negative.sum(0)  # (P,)
    if own is None:
        own = torch.arange(len(total), device=d.device).expand_as(present)

    a = -(absent.gather(1, own)[:, :, None] + present[:, None, :])
    b = total[own][:, :, None] - total
    c = present.gather(1, own)[:, :, None] + absent[:, None, :]
    return a, b, c


def largest_factor(d: Tensor, positive: Tensor, negative: Tensor, right: Tensor, tiny: float = TINY) -> Tensor:
    """min_j max_i z_ij (B,): by which factor all d_k may change before a wrong concept may win; below 1 if one does.

    The root is taken in the one of two forms that subtracts nothing of nearly the same size. The released code has one
    form, which its floors turn into far too large radii where no component is near.

    Args:
        d, positive, negative: see coefficients.
        right: (B, P), which concepts belong to the image's class, as many for each image.
        tiny: floor of -a, of the discriminant and of z. It keeps gradients finite; where detections come close to it,
            radii are too small.
    """
    own = right.nonzero()[:, 1].view(len(right), -1)  # (B, I)
    a, b, c = coefficients(d, positive, negative, own)
    a = a.clamp(max=-tiny)
    root = (b.square() - 4 * a * c).clamp(min=tiny).sqrt()
    z = torch.where(b > 0, (b + root) / (-2 * a), 2 * c / (root + b.abs()))  # (B, I, P)
    best = z.clamp(min=tiny).amax(1)  # (B, P)
    return best.masked_fill(right, torch.inf).amin(1)


def radius_of_metric(factor: Tensor, sigma: Tensor) -> Tensor:
    """(B,) for detections exp(-D / sigma) with a metric D; the smallest of the components' sigmas (K,) counts."""
    return sigma.min() * factor.log()


def radius_of_squared_metric(factor: Tensor, sigma: Tensor, distances: Tensor, negative_weight: float = 1.0) -> Tensor:
    """(B,) for detections exp(-D^2 / sigma), which change faster the further a component is away.

    With L = sigma ln z and beta the largest distance, eps solves 3 eps^2 + 2 beta eps = L, which is more than
    eps^2 + 2 beta eps, what a squared distance gains. Of a negative L only a share is returned.

    Args:
        distances: D (B, K), not squared.
        negative_weight: what L is multiplied by where it is negative, that is where the image is classified wrongly.
    """
    length = radius_of_metric(factor, sigma)
    beta = distances.amax(1)
    safe = length.clamp(min=0) + TINY  # TINY: the root has no gradient at 0
    certified = -beta / 3 + (beta.square() / 9 + safe / 3).sqrt()
    return torch.where(length > 0, certified, length * negative_weight)


def lvq_radius(distances: Tensor, right: Tensor) -> Tensor:
    """(B,) for nearest prototypes: half the difference of the distances to the nearest wrong and the nearest right one.

    Args:
        distances: (B, P), of a metric, not squared.
        right: (B, P), which prototypes are of the image's class.
    """
    nearest_right = distances.masked_fill(~right, torch.inf).amin(1)
    nearest_wrong = distances.masked_fill(right, torch.inf).amin(1)
    return (nearest_wrong - nearest_right) / 2
