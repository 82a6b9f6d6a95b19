"""What each level of the hierarchy did: coarse accuracy, and who absorbs which prompt (TransHP, Figure 3)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric

from modules.transhp.networks import Absorbed


def selectivity(absorbed: Tensor, coarse: Tensor) -> tuple[Tensor, Tensor]:
    """Absorption weight of each image's own prompt, and R(T:N), its ratio to the largest other one (Figure 3).

    Args:
        absorbed: (B, M) share of attention that goes to each prompt.
        coarse: (B,) coarse class.
    """
    target = absorbed.gather(1, coarse[:, None]).squeeze(1)
    other = absorbed.scatter(1, coarse[:, None], -math.inf).amax(1)
    return target, target / other


class Levels(Metric):
    """What each level of the hierarchy did, mean over images, exact over several processes.

    `compute` gives `coarse_top1`, percent, and with prompts `absorption`, the mean absorption weight of each image's
    own prompt, and `ratio`, the mean R(T:N), both in the mean over tokens, and `absorption_class` and `ratio_class` of
    the class token's attention; all of the finest level. Where there are several, each is there by its number,
    `ratio_<l>`, coarsest 0, as well.

    Args:
        levels: L.
        prompted: there are absorption weights.
    """

    full_state_update = False
    sums: Tensor
    images: Tensor

    def __init__(self, levels: int, prompted: bool) -> None:
        super().__init__()
        absorbed = ("absorption", "ratio", "absorption_class", "ratio_class") if prompted else ()
        self.names = ("coarse_top1", *absorbed)
        self.add_state("sums", torch.zeros(len(self.names), levels, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("images", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, scores: Sequence[Tensor], absorbed: Sequence[Absorbed], coarse: Tensor) -> None:
        """Scores (B, M) and absorption weights of each level; coarse classes (B, L)."""
        self.images += len(coarse)
        for level, s in enumerate(scores):
            own = coarse[:, level]
            self.sums[0, level] += 100 * (s.argmax(-1) == own).sum()
            if absorbed:
                measured = [*selectivity(absorbed[level].tokens, own), *selectivity(absorbed[level].class_token, own)]
                for row, values in enumerate(measured, start=1):
                    self.sums[row, level] += values.sum()

    def compute(self) -> dict[str, Tensor]:
        means = dict(zip(self.names, (self.sums / self.images).float(), strict=True))
        metrics = {name: row[-1] for name, row in means.items()}
        if len(self.sums[0]) > 1:
            metrics |= {f"{name}_{level}": value for name, row in means.items() for level, value in enumerate(row)}
        return metrics
