"""One number of a picture, its fine detail, and the threshold on it that tells two kinds of pictures apart best."""

from __future__ import annotations

from torch import Tensor

from modules.common.generators import laplacian


def energy(pictures: Tensor) -> Tensor:
    """Log mean square of the Laplacian of each picture (B, C, H, W): (B,)."""
    return laplacian(pictures.float()).clamp(min=1e-8).log()


def threshold(values: Tensor, labels: Tensor) -> tuple[float, int]:
    """The cut and the side (1: above it is generated, -1: below) that a number separates best by, in balanced accuracy.

    Args:
        values: (N,).
        labels: (N,), 1 for generated; both labels are there.
    """
    order = values.argsort()
    sorted_labels = labels[order].double()
    fakes, reals = sorted_labels.sum(), (1 - sorted_labels).sum()
    below = sorted_labels.cumsum(0) / fakes - (1 - sorted_labels).cumsum(0) / reals  # of the pictures up to each
    best = int(below.abs().argmax())
    side = -1 if float(below[best]) > 0 else 1
    after = values[order[min(best + 1, len(values) - 1)]]
    return float((values[order[best]] + after) / 2), side
