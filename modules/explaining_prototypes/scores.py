"""Local and global scores of visual characteristics, and what they say together (arXiv 2011.02863)."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric

from modules.common.distances import squared_distances
from modules.common.prototypes import strongest


def read_at(maps: Tensor, places: Tensor) -> Tensor:
    """Maps (..., B, P, H, W) at the places (B, P, 2) of row and column -> (..., B, P)."""
    index = places[..., 0] * maps.shape[-1] + places[..., 1]  # (B, P)
    flat = maps.flatten(-2)
    return flat.gather(-1, index[..., None].expand(*flat.shape[:-1], 1)).squeeze(-1)


def local_scores(original: Tensor, modified: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """How much similarity each modification takes, at the place where the prototype was in the original image.

    Args:
        original: similarity maps (B, P, H, W).
        modified: those of the M modified versions, (M, B, P, H, W).
    Returns:
        g (B, P), the similarity in the original; phi_local (M, B, P); and as a comparison (M, B, P) the same with the
        prototype looked for anew in the modified image, which is never more.
    """
    g, places = strongest(original)
    fixed = g - read_at(modified, places)
    relocated = g - modified.flatten(-2).amax(-1)
    return g, fixed, relocated


class GlobalScores(Metric):
    """phi_global = sum_k g phi_local / sum_k g over the images of each set, exact over several processes.

    Args:
        sets: how many sets of images.
        modifications: M.
        prototypes: P.
    """

    weight: Tensor
    weighted: Tensor
    plain: Tensor
    relocated: Tensor
    images: Tensor

    def __init__(self, sets: int, modifications: int, prototypes: int) -> None:
        super().__init__()
        shape = (sets, modifications, prototypes)
        double = torch.float64  # sums over many images
        self.add_state("weight", torch.zeros(sets, 1, prototypes, dtype=double), dist_reduce_fx="sum")
        self.add_state("weighted", torch.zeros(shape, dtype=double), dist_reduce_fx="sum")
        self.add_state("relocated", torch.zeros(shape, dtype=double), dist_reduce_fx="sum")
        self.add_state("plain", torch.zeros(shape, dtype=double), dist_reduce_fx="sum")
        self.add_state("images", torch.zeros(sets, 1, 1, dtype=double), dist_reduce_fx="sum")

    def update(self, g: Tensor, fixed: Tensor, relocated: Tensor, member: Tensor) -> None:
        """Add images: g (B, P), scores (M, B, P), member (B,) number of each image's set."""
        g, fixed, relocated = g.double(), fixed.double(), relocated.double()
        self.weight.index_add_(0, member, g[:, None])
        self.weighted.index_add_(0, member, (g * fixed).transpose(0, 1))
        self.relocated.index_add_(0, member, (g * relocated).transpose(0, 1))
        self.plain.index_add_(0, member, fixed.transpose(0, 1))
        self.images.index_add_(0, member, torch.ones_like(g[:, :1, None]))

    def compute(self) -> dict[str, Tensor]:
        """`global`, `relocated` and `unweighted` scores, (sets, M, P) each; and `images` (sets,)."""
        return {
            "global": self.weighted / self.weight,
            "relocated": self.relocated / self.weight,
            "unweighted": self.plain / self.images,
            "images": self.images.flatten(),
        }


def normalise(scores: Tensor) -> Tensor:
    """Each characteristic in units of its mean size over all prototypes: strengths of modifications are not comparable.

    (M, P) -> (M, P).
    """
    return scores / scores.abs().mean(1, keepdim=True).clamp(min=1e-12)


def share_of_planted(scores: Tensor, planted: Tensor) -> dict[int, float]:
    """In which share of the prototypes that show a characteristic this one has the largest score.

    Args:
        scores: (M, P).
        planted: (P,) the characteristic that each shows; -1 where none.
    Returns:
        percent for each characteristic that some prototype shows.
    """
    top = scores.argmax(0)
    return {
        m: 100 * float((top == m)[planted == m].double().mean())
        for m in range(len(scores))
        if bool((planted == m).any())
    }


def permuted_share(scores: Tensor, planted: Tensor) -> float:
    """The mean of `share_of_planted` over its groups and over all permutations of what prototypes show, in percent.

    That is what comes of how often each characteristic is on top, whatever a prototype shows.
    """
    shown = planted >= 0
    top = scores.argmax(0)[shown]
    groups = planted[shown].unique()
    return 100 * float((top == groups[:, None]).double().mean()) if len(groups) else 0.0


def correlation(a: Tensor, b: Tensor) -> Tensor:
    """Pearson's r of each characteristic over the prototypes: (M, P), (M, P) -> (M,); 0 where nothing varies."""
    a = a - a.mean(1, keepdim=True)
    b = b - b.mean(1, keepdim=True)
    scale = a.norm(dim=1) * b.norm(dim=1)
    return torch.where(scale > 0, (a * b).sum(1) / scale.clamp(min=1e-300), 0.0)


def permuted_correlation(a: Tensor, b: Tensor, groups: Tensor) -> Tensor:
    """The mean of `correlation` over all permutations of b's prototypes within their groups: what groups alone explain.

    A permuted b is in the mean its group's mean, and permuting changes no variance; so this is exact.

    Args:
        a, b: (M, P).
        groups: (P,) whole numbers.
    """
    mean = torch.zeros_like(b)
    for group in groups.unique():
        own = groups == group
        mean[:, own] = b[:, own].mean(1, keepdim=True)
    a = a - a.mean(1, keepdim=True)
    scale = a.norm(dim=1) * (b - b.mean(1, keepdim=True)).norm(dim=1)
    return torch.where(scale > 0, (a * (mean - b.mean(1, keepdim=True))).sum(1) / scale.clamp(min=1e-300), 0.0)


def look_alikes(pixels: Tensor, planted: Tensor) -> tuple[Tensor, Tensor]:
    """Pairs of prototypes that look alike and show different characteristics: each with its nearest of another kind.

    Args:
        pixels: patches (P, ...).
        planted: (P,), see share_of_planted; prototypes with -1 are in no pair.
    Returns:
        both members' numbers, (N,) each.
    """
    shown = (planted >= 0).nonzero().flatten()
    distances = squared_distances(pixels[shown].flatten(1).float(), pixels[shown].flatten(1).float())
    same = planted[shown][:, None] == planted[shown]
    distances = distances.masked_fill(same, torch.inf)
    paired = (~same).any(1)
    return shown[paired], shown[distances.argmin(1)][paired]


def share_apart(scores: Tensor, pairs: tuple[Tensor, Tensor]) -> float:
    """Percent of pairs whose members have different characteristics on top. (M, P), pairs of numbers."""
    top = scores.argmax(0)
    return 100 * float((top[pairs[0]] != top[pairs[1]]).double().mean())
