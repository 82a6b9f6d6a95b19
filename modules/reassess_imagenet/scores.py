"""A ranking of classes against a set of valid labels, in groups of images that have equally many (arXiv 2412.18409).

For image i: S_i its valid labels, n_i = |S_i|, pi_i its classes, best first. Images with n_i = 0 count nowhere.

    top-1            [ pi_i(1) = original label ]
    ReaL             [ pi_i(1) in S_i ]
    variable top-k   |{pi_i(1), ..., pi_i(n_i)} in S_i| / n_i;  strict: [ the first n_i are S_i ]
    A_k              mean score of the images with n_i = k
    ASMA             unweighted mean of A_k (of variable top-k) over the groups with enough images

Valid sets are lists (B, L) of class numbers, padded with -1 in any place.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torchmetrics import Metric

MOST = 16  # labels of one image; ImageNet's images have up to 9, ImageNetV2's up to 12
COMPARED = ("top1", "real", "vtk")  # scores whose gap between two sets is taken apart


def label_counts(valid: Tensor) -> Tensor:
    """n_i (B,) of padded lists (B, L)."""
    return (valid >= 0).sum(1)


def rank_classes(logits: Tensor, depth: int) -> Tensor:
    """The `depth` highest classes (B, depth) of logits (B, C), best first; equal logits by class number.

    Only rows with equal logits among the first, which topk may put in any order, are sorted as a whole.
    """
    values, ranked = logits.topk(min(depth + 1, logits.shape[1]), dim=1)
    ranked = ranked[:, :depth]
    tied = ~(values[:, :-1] > values[:, 1:]).all(1)  # rows with NaN too
    if bool(tied.any()):
        ranked[tied] = logits[tied].argsort(dim=1, descending=True, stable=True)[:, :depth]
    return ranked


def valid_ranks(ranked: Tensor, valid: Tensor) -> Tensor:
    """Whether the class at each rank (B, K) is in its row of the padded lists (B, L); (B, K) bool."""
    return (ranked[:, :, None] == valid[:, None, :]).any(2)


def right_in_variable_top_k(hits: Tensor, counts: Tensor) -> Tensor:
    """How many of the first n_i ranks are valid; hits (B, K) bool with K >= n_i, counts (B,) -> (B,)."""
    inside = torch.arange(hits.shape[1], device=hits.device) < counts[:, None]  # (B, K)
    return (hits & inside).sum(1)


@dataclass(frozen=True)
class Groups:
    """Images by number of valid labels: k = 1, 2, ... is row k - 1.

    Attributes:
        images: (K,) images in each group.
        scores: name -> (K,) mean score of each group, fractions in double precision; NaN where a group is empty.
    """

    images: Tensor
    scores: Mapping[str, Tensor]

    @property
    def shares(self) -> Tensor:
        """(K,) part of the images in each group."""
        return self.images.double() / self.images.sum()

    def mean(self, name: str, shares: Tensor | None = None) -> Tensor:
        """Mean over images of a score, or what it would be with other `shares` (K,) of the groups.

        NaN if a group is asked for that has no images.
        """
        shares = self.shares if shares is None else shares
        return torch.where(shares > 0, shares * self.scores[name], 0.0).sum()

    def merged(self, last: int) -> Groups:
        """Groups 1, ..., last, where the last one holds all images with at least that many labels."""
        rest = self.images[last - 1 :].sum().view(1)
        tail = self.shares[last - 1 :] / self.shares[last - 1 :].sum()  # of the last group; NaN without images

        def merge(score: Tensor) -> Tensor:
            end = torch.where(tail > 0, tail * score[last - 1 :], 0.0).sum().view(1)
            return torch.cat([score[: last - 1], torch.where(rest > 0, end, torch.nan)])

        images = torch.cat([self.images[: last - 1], rest])
        return Groups(images, {name: merge(score) for name, score in self.scores.items()})


def asma(groups: Groups, least: int) -> tuple[Tensor, int]:
    """Aggregate Subgroup Model Accuracy, in [0, 1], and over how many groups; NaN if none has `least` images."""
    used = groups.images >= max(1, least)
    return groups.scores["vtk"][used].mean(), int(used.sum())


def take_apart(first: Groups, second: Groups, name: str) -> dict[str, Tensor]:
    """The gap first - second of a score, and what is left of it when label counts are held equal; fractions.

    plain: the gap of the two means.
    k1: on images with one valid label.
    reweighted: with the second set's groups in the first set's shares.
    reverse: with the first set's groups in the second set's shares.
    counts: what is gone then, sum_k (share_k - share'_k) A_k: the part of the gap that label counts alone make on the
        first set's images. plain = counts + reverse.

    A part that needs a group which one of the sets lacks is NaN.
    """
    a, b = first.scores[name], second.scores[name]
    plain = first.mean(name) - second.mean(name)
    reverse = first.mean(name, second.shares) - second.mean(name)
    return {
        "plain": plain,
        "k1": a[0] - b[0],
        "reweighted": first.mean(name) - second.mean(name, first.shares),
        "reverse": reverse,
        "counts": first.mean(name) - first.mean(name, second.shares),
    }


class Subgroups(Metric):
    """Scores of one set of images in groups of equal n_i: whole numbers, exact over several processes.

    `groups` gives MOST groups with the scores top1, real, vtk, strict, ceiling (the original label is valid: what a
    perfect single-label model reaches under ReaL) and mlpc: variable top-k above what the same first rank
    followed by guesses scores, ((h + (k - h)(k - 1) / (C - 1)) / k, with h = ReaL of the group). It is 0 for k = 1, and
    0 in expectation for whoever knows one label and guesses the others.

    Args:
        classes: number of classes C.
    """

    full_state_update = False
    COUNTED = ("images", "top1", "first", "right", "strict", "original")
    images: Tensor
    top1: Tensor
    first: Tensor
    right: Tensor
    strict: Tensor
    original: Tensor

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes
        for name in self.COUNTED:
            self.add_state(name, torch.zeros(MOST + 1, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, logits: Tensor, original: Tensor, valid: Tensor) -> None:
        """logits (B, C), original label (B,), valid (B, L) padded with -1.

        Raises:
            ValueError: an image with more labels than MOST.
        """
        counts = label_counts(valid)  # (B,)
        if len(counts) and int(counts.max()) > MOST:
            raise ValueError(f"an image has {int(counts.max())} valid labels; expected at most {MOST}")

        ranked = rank_classes(logits, min(valid.shape[1], self.classes))  # (B, K)
        hits = valid_ranks(ranked, valid)  # (B, K)
        right = right_in_variable_top_k(hits, counts)  # (B,)

        counted = {
            "images": torch.ones_like(counts),
            "top1": ranked[:, 0] == original,
            "first": hits[:, 0],
            "right": right,
            "strict": right == counts,
            "original": (valid == original[:, None]).any(1),
        }
        for name, values in counted.items():
            getattr(self, name).index_add_(0, counts, values.long())

    def groups(self) -> Groups:
        """`compute` as Groups."""
        values = dict(self.compute())
        return Groups(values.pop("images"), values)

    def compute(self) -> dict[str, Tensor]:
        images, top1, first, right, strict, original = (getattr(self, n)[1:].cpu() for n in self.COUNTED)
        n, k = images.double(), torch.arange(1, MOST + 1).double()
        real, vtk = first / n, right / (n * k)
        guessed = (real + (k - real) * (k - 1) / max(1, self.classes - 1)) / k
        named = {"top1": top1 / n, "real": real, "vtk": vtk, "strict": strict / n, "ceiling": original / n}
        return {"images": images, **named, "mlpc": vtk - guessed}
