"""How much of a codebook is used."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric


class CodebookUse(Metric):
    """How much of a codebook the tokens of images hit.

    `code_use`: percent of the codes that occur in a batch of `per` test images, the mean over whole batches; over one
    test set of any size it would saturate. Batches are drawn at random, always the same ones: test folders are sorted
    by class, and 256 consecutive images of ImageNet show six classes. `perplexity`: exp of the entropy of the codes
    over all images, at most K.

    Args:
        codes: K.
        images: how many test images there are.
        per: images in a batch, whatever the loader's.
    """

    full_state_update = False
    higher_is_better = True
    counts: Tensor
    images: Tensor
    order: Tensor

    def __init__(self, codes: int, images: int, per: int = 256) -> None:
        super().__init__()
        self.codes = codes
        self.per = per
        order = torch.randperm(images, generator=torch.Generator().manual_seed(0))
        self.register_buffer("order", order, persistent=False)
        groups = -(-images // per)
        self.add_state("counts", torch.zeros(groups, codes, dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("images", torch.zeros(groups, dtype=torch.long), dist_reduce_fx="sum")

    def group(self, indices: Tensor) -> Tensor:
        """Which batch each of the test images with these indices belongs to, (B,)."""
        return self.order[indices] // self.per

    def update(self, codes: Tensor, indices: Tensor) -> None:
        """codes (B, T), the tokens of the test images with these indices (B,)."""
        group = self.group(indices)
        flat = (group[:, None] * self.codes + codes).flatten()
        self.counts += torch.bincount(flat, minlength=self.counts.numel()).view_as(self.counts)
        self.images += torch.bincount(group, minlength=len(self.images))

    def compute(self) -> dict[str, Tensor]:
        whole = self.images == self.per
        hit = (self.counts[whole if whole.any() else self.images > 0] > 0).double().mean(1)
        share = self.counts.sum(0) / self.counts.sum()
        return {"code_use": 100 * hit.mean(), "perplexity": (-torch.xlogy(share, share).sum()).exp()}
