"""The contrastive loss of SimCLR, over the global batch (arXiv 2002.05709, Eq. 1)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from modules.common.distributed import gather, place_in_batch, summed


def nt_xent(
    first: Tensor, second: Tensor, temperature: float, excluded: Tensor | None = None, extra: Tensor | None = None
) -> Tensor:
    """NT-Xent, the normalised and temperature-scaled cross-entropy between two views of N images:

        l(i, j) = -log [ exp(z_i . z_j / tau) / sum_{k != i} exp(z_i . z_k / tau) ],    |z| = 1

    j is the other view of i's image and k runs over the other 2N - 1 views. The loss is the mean over the 2N anchors i,
    as in the paper; the released SimCLR code adds the means over first and over second views, twice this.

    Several processes hand in their own images and negatives come from all of them: value and gradient (averaged over
    processes, as DistributedDataParallel does) are those of one process with all images. Computed in float32 at least.

    Args:
        first, second: outputs (n, D) for the two views of this process's images; they are normalised here.
        temperature: tau, above 0.
        excluded: boolean, True where a pair is left out of the denominator: (N, N) by image, or (2N, 2N) by view with
            all first views before all second ones. Of the global batch, in the order of `gather`. The other view of
            the anchor's image is never left out.
        extra: further negatives (M, D) of every anchor, normalised here; they should carry no gradient.
    Raises:
        ValueError: shapes that do not fit, or a temperature that is not above 0.
    """
    if first.shape != second.shape or first.dim() != 2:
        raise ValueError(f"expected two (n, D) tensors, got {tuple(first.shape)} and {tuple(second.shape)}")
    if temperature <= 0:
        raise ValueError(f"temperature={temperature}: expected a number above 0")

    with torch.autocast(first.device.type, enabled=False):  # similarities over a small tau need all their digits
        precise = torch.promote_types(first.dtype, torch.float32)
        own = F.normalize(torch.cat([first, second]).to(precise), dim=1)  # (2n, D)
        total, start = place_in_batch(first)
        views = torch.cat([gather(half) for half in own.chunk(2)])  # (2N, D)

        images = torch.arange(start, start + len(first), device=first.device)
        anchors = torch.cat([images, images + total])  # (2n,), as rows of `views`
        partners = torch.cat([images + total, images])

        left_out = torch.zeros(2 * total, 2 * total, dtype=torch.bool, device=first.device)
        if excluded is not None:
            left_out |= _by_view(excluded, total)
        left_out = left_out[anchors].scatter(1, anchors[:, None], True).scatter(1, partners[:, None], False)

        similarities = (own @ views.T / temperature).masked_fill(left_out, -torch.inf)  # (2n, 2N)
        if extra is not None:
            negatives = F.normalize(extra.to(precise), dim=1)
            similarities = torch.cat([similarities, own @ negatives.T / temperature], dim=1)  # (2n, 2N + M)

        losses = F.cross_entropy(similarities, partners, reduction="sum")
        return summed(losses) / (2 * total)


def _by_view(excluded: Tensor, total: int) -> Tensor:
    """A mask by image, (N, N), or by view, (2N, 2N), as one by view."""
    if excluded.shape == (total, total):
        return excluded.repeat(2, 2)
    if excluded.shape != (2 * total, 2 * total):
        raise ValueError(f"excluded has shape {tuple(excluded.shape)} for {total} images: expected (N, N) or (2N, 2N)")
    return excluded
