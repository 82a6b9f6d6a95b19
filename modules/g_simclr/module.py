"""G-SimCLR: Self-Supervised Contrastive Learning with Guided Projection via Pseudo Labelling (Chakraborty et al.).

arXiv 2009.12007. SimCLR takes all other images of a batch for negatives, those of the anchor's own class too. G-SimCLR
clusters the training images beforehand, K clusters for batches of K images (see autoencoder), and fills each batch with
one image of every cluster (see datamodules.g_simclr.orders), so that fewer negatives are false. The loss is SimCLR's:

    l(i, j) = -log [ exp(z_i . z_j / tau) / sum_{k != i} exp(z_i . z_k / tau) ],    z = g(f(x)) / |g(f(x))|,  tau = 0.1

in the mean over the 2N anchors of a batch. All arms of the comparison are this module on batches of other compositions.

What deviates, and where paper and released code differ:
- the paper draws one image of each cluster. The code sorts all images by their rank within their cluster and cuts the
  list into batches: clusters differ in size, so most of its batches repeat clusters. The claim is about the former
  ("strict"); the latter is an arm of its own ("rank_order").
- the code serves the same batches in every epoch, on CIFAR-10 to the baseline too; on photos the baseline is shuffled.
  Here strict and random batches are both drawn anew in every epoch, and rank order is compared with random batches
  that stay the same.
- `masked` leaves pairs of one true class out of the denominator, which no method without labels can do: how much false
  negatives cost at most.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modules.common.contrastive import nt_xent
from modules.common.distributed import gather
from modules.common.module import OptimizerFactory, StageModule
from modules.common.schedules import Schedule
from modules.g_simclr.networks import ProjectionHead


def same_class(labels: Tensor) -> Tensor:
    """(N,) -> (N, N), True where two images have one label."""
    return labels[:, None] == labels[None, :]


class GSimCLR(StageModule):
    """Contrastive training of an encoder and its head. Labels are looked at with `masked` alone.

    Metrics of an epoch's batches, from the datamodule: `train/same_class`, the share of pairs of images in a batch that
    are of one true class, `train/same_cluster`, `train/distinct`, the share of the training images that were served,
    all in percent. `test/similarity` is the mean cosine of the outputs for two test images; 1 is collapse.

    Args:
        encoder: images (B, C, H, W) -> (B, D), with D as `num_features`.
        head: widths of its three layers.
        temperature: tau.
        masked: leave pairs of one true class out of the denominator: an upper bound, not the method.
        views_apart: a forward pass for each view, with batch statistics of its own, as the released code; false takes
            both in one, which is faster.
        optimizer, schedule: see StageModule.
    """

    total: Tensor

    def __init__(
        self,
        encoder: nn.Module,
        head: Sequence[int] = (256, 128, 50),
        temperature: float = 0.1,
        masked: bool = False,
        views_apart: bool = False,
        optimizer: OptimizerFactory | None = None,
        schedule: Schedule | None = None,
    ) -> None:
        super().__init__(optimizer, schedule)
        self.encoder = encoder
        self.head = ProjectionHead(int(encoder.num_features), head)  # type: ignore[arg-type]
        self.temperature, self.masked = temperature, masked
        self.views_apart = views_apart
        self.register_buffer("total", torch.zeros(head[-1] + 1), persistent=False)  # sum of outputs, and their number

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        if self.views_apart:
            first, second = self(batch.x), self(batch.x2)  # (B, 50) each
        else:
            first, second = self(torch.cat([batch.x, batch.x2])).chunk(2)

        excluded = same_class(gather(batch.y)) if self.masked else None  # (N, N)
        loss = nt_xent(first, second, self.temperature, excluded)

        self.track(len(batch.y), loss=loss)
        return loss

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, 50), not normalised."""
        return self.head(self.encoder(x))

    def probed(self, x: Tensor) -> dict[str, Tensor]:
        """(B, C, H, W) -> what each probe sees, (B, D)."""
        return self.head.probed(self.encoder(x))

    def on_train_epoch_end(self) -> None:
        super().on_train_epoch_end()
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        composition = data.composition(self.current_epoch)
        self.log_dict({f"train/{name}": value for name, value in composition.items()})

    def test_step(self, batch: Any, batch_idx: int) -> None:
        outputs = F.normalize(self(batch.x).float(), dim=1)  # (B, 50)
        self.total += torch.cat([outputs.sum(0), outputs.new_tensor([len(outputs)])])

    def on_test_epoch_end(self) -> None:
        total = self.trainer.strategy.reduce(self.total.clone(), reduce_op="sum")
        self.total.zero_()
        n = total[-1]
        similarity = (total[:-1].square().sum() - n) / (n * (n - 1)).clamp(min=1)  # of pairs of different images
        self.log_dict({"test/similarity": similarity, "test/n": n})
