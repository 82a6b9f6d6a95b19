"""Hand-made image features, as fixed networks: images (B, C, H, W) in [0, 1] -> (B, D). Nothing in them is learnt."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Pixels(nn.Module):
    """The values themselves.

    Args:
        side: average-pooled to this many rows and columns first; None keeps the size.
    """

    def __init__(self, side: int | None = None) -> None:
        super().__init__()
        self.side = side

    def forward(self, x: Tensor) -> Tensor:
        return (x if self.side is None else F.adaptive_avg_pool2d(x, self.side)).flatten(1)


class Histogram(nn.Module):
    """Joint colour histogram, square-rooted (so that inner products compare distributions by Hellinger's kernel).

    Args:
        bins: per channel; D = bins^C.
        grey: of the channels' mean, D = bins.
    """

    def __init__(self, bins: int = 8, grey: bool = False) -> None:
        super().__init__()
        self.bins, self.grey = bins, grey

    def forward(self, x: Tensor) -> Tensor:
        x = x.mean(1, keepdim=True) if self.grey else x
        levels = (x * self.bins).long().clamp_(0, self.bins - 1).flatten(2)  # (B, C, H W)
        weights = self.bins ** torch.arange(x.shape[1], device=x.device)
        cell = (levels * weights[:, None]).sum(1)  # (B, H W)
        counts = x.new_zeros(len(x), self.bins ** x.shape[1])
        counts.scatter_add_(1, cell, torch.ones_like(cell, dtype=x.dtype))
        return (counts / cell.shape[1]).sqrt()


class HOG(nn.Module):
    """Histograms of oriented gradients (Dalal & Triggs 2005): centred differences, the channel with the largest
    gradient, unsigned orientation shared between the two nearest bins, overlapping blocks with L2-Hys. Votes are not
    shared between cells.

    D = (H // cell - block + 1) (W // cell - block + 1) block^2 bins; rows and columns left over are not used.

    Args:
        cell: side in pixels.
        bins: over 180 degrees; the first is centred at 90 / bins degrees.
        block: side in cells.
        clip: of L2-Hys: normalise, cut off here, normalise again.
    """

    def __init__(self, cell: int = 8, bins: int = 9, block: int = 2, clip: float = 0.2) -> None:
        super().__init__()
        self.cell, self.bins, self.block, self.clip = cell, bins, block, clip

    def cells(self, x: Tensor) -> Tensor:
        """Gradient magnitude per cell and orientation: (B, C, H, W) -> (B, bins, H // cell, W // cell)."""
        padded = F.pad(x, (1, 1, 1, 1), mode="replicate")
        dx = padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]
        dy = padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]
        strongest = (dx.square() + dy.square()).argmax(1, keepdim=True)
        dx, dy = dx.gather(1, strongest), dy.gather(1, strongest)  # (B, 1, H, W)
        place = torch.atan2(dy, dx).remainder(math.pi) * (self.bins / math.pi) - 0.5
        below = place.floor()
        share = place - below  # of the upper of the two bins
        magnitude = torch.hypot(dx, dy)
        votes = x.new_zeros(len(x), self.bins, *x.shape[2:])
        votes.scatter_add_(1, below.long().remainder(self.bins), magnitude * (1 - share))
        votes.scatter_add_(1, (below.long() + 1).remainder(self.bins), magnitude * share)
        return F.avg_pool2d(votes, self.cell) * self.cell**2

    def forward(self, x: Tensor) -> Tensor:
        cells = self.cells(x)
        b, bins, rows, columns = cells.shape
        if min(rows, columns) < self.block:
            raise ValueError(f"cell={self.cell}: {rows}x{columns} cells have no block of {self.block}x{self.block}")
        blocks = F.unfold(cells, self.block).view(b, bins * self.block**2, -1)  # (B, bins block^2, blocks)
        blocks = F.normalize(F.normalize(blocks, dim=1).clamp(max=self.clip), dim=1)
        return blocks.flatten(1)


class Joined(nn.Module):
    """Several descriptions of an image side by side, each at unit length, as HOG of several cells.

    D is the sum of theirs.

    Args:
        parts: images (B, C, H, W) -> (B, D) each.
    """

    def __init__(self, parts: Sequence[nn.Module]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([F.normalize(part(x), dim=1) for part in self.parts], 1)
