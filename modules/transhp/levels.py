"""What each level of the hierarchy did: coarse accuracy, and who absorbs which prompt (TransHP, Figure 3)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
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


def selection(own: Tensor, others: Tensor, counts: Tensor) -> Tensor:
    """What its own coarse class's images absorb of a prompt over what all other images do, mean over classes.

    Unlike R(T:N) it is 1 where all images prefer one prompt, whatever they show.

    Args:
        own, others: (M,) sums of each prompt's absorption weights over its own images, and over all others.
        counts: (M,) images of each coarse class.
    Returns:
        a scalar; 1 where there is no class with images beside which there are others.
    """
    rest = counts.sum() - counts
    there = (counts > 0) & (rest > 0)
    if not there.any():
        return torch.ones_like(own.sum())
    return ((own / counts)[there] / (others / rest)[there]).mean()


class Levels(Metric):
    """What each level of the hierarchy did, mean over images, exact over several processes.

    `compute` gives `coarse_top1`, percent, and with prompts `absorption`, the mean absorption weight of each image's
    own prompt, `ratio`, the mean R(T:N), and `selection`, see there, all in the mean over tokens, and
    `absorption_class`, `ratio_class` and `selection_class` of the class token's attention; all of the finest level.
    Where there are several, each is there by its number, `ratio_<l>`, coarsest 0, as well.

    Args:
        sizes: M of each level, coarsest first.
        prompted: there are absorption weights.
    """

    full_state_update = False
    sums: Tensor
    images: Tensor
    by_class: Tensor
    counts: Tensor

    def __init__(self, sizes: Sequence[int], prompted: bool) -> None:
        super().__init__()
        absorbed = ("absorption", "ratio", "absorption_class", "ratio_class") if prompted else ()
        self.names = ("coarse_top1", *absorbed)
        levels, widest = len(sizes), max(sizes)
        self.add_state("sums", torch.zeros(len(self.names), levels, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("images", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")
        # absorption weights over tokens and of the class token, of each prompt's own and of other images
        self.add_state("by_class", torch.zeros(2, 2, levels, widest, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("counts", torch.zeros(levels, widest, dtype=torch.long), dist_reduce_fx="sum")

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
                self._add_by_class(level, absorbed[level], own)

    def _add_by_class(self, level: int, absorbed: Absorbed, own: Tensor) -> None:
        """Absorption weights (B, M) of each prompt, those of its own images apart from those of others."""
        m = absorbed.tokens.shape[1]
        is_own = F.one_hot(own, m).double()  # (B, M)
        self.counts[level, :m] += is_own.sum(0).long()
        for kind, weights in enumerate(absorbed):
            of_own = (weights * is_own).sum(0)
            self.by_class[kind, 0, level, :m] += of_own
            self.by_class[kind, 1, level, :m] += weights.sum(0) - of_own

    def compute(self) -> dict[str, Tensor]:
        means = dict(zip(self.names, (self.sums / self.images).float(), strict=True))
        if "ratio" in means:
            for kind, name in enumerate(("selection", "selection_class")):
                sums = zip(*self.by_class[kind], self.counts, strict=True)  # of each level
                means[name] = torch.stack([selection(*of_level) for of_level in sums]).float()
        metrics = {name: row[-1] for name, row in means.items()}
        if len(self.sums[0]) > 1:
            metrics |= {f"{name}_{level}": value for name, row in means.items() for level, value in enumerate(row)}
        return metrics
