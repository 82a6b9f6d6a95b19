"""Unsupervised Representation Learning by Predicting Image Rotations (Gidaris, Singh & Komodakis, ICLR 2018).

arXiv 1803.07728. A network F learns which of K rotations g(X|y) an image was turned by. All K copies of an image are in
the same batch (equations 2 and 3):

    L = mean over images of -1/K sum_y log F_y(g(X|y)),    K = 4: 0, 90, 180, 270 degrees

Its blocks are then frozen and probed: a classifier is trained on the output of each, with all labels or a few of each
class, against the same blocks at random initialisation and against the same network trained on the labels alone.

What deviates, and where paper and released code differ:
- an image is cropped and mirrored upright, then rotated, so that its copies share one crop (as in the code).
- of its CIFAR-10 probes the code keeps the epoch that is best on the test set; here the last epoch is tested.
- "random initialisation" has batch statistics of its own: one pass over the training images, upright, averaged over
  all batches (Calibrated). Statistics left at 0 and 1 would handicap it.
- the supervised network is the convolutional probe with the blocks below it trained too, which is the same
  architecture: blocks 1 and 2, a third block, one linear layer.
- rotations that are no multiple of 90 degrees are bilinear with reflected corners; the paper's way is not known.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from modules.common.metrics import Classification
from modules.common.module import OptimizerFactory, StageModule
from modules.common.schedules import Schedule
from modules.rotnet.heads import HeadFactory
from modules.rotnet.networks import Trunk, initialise
from modules.rotnet.pictures import draw_filters, draw_rotations


def rotate(x: Tensor, angle: int) -> Tensor:
    """Turn images (..., S, S) counter-clockwise; multiples of 90 degrees only move pixels, others interpolate."""
    quarters, rest = divmod(angle, 90)
    x = torch.rot90(x, quarters, (-2, -1))
    if not rest:
        return x
    cos = math.cos(math.radians(rest))
    sin = math.sin(math.radians(rest))
    theta = torch.tensor([[cos, -sin, 0.0], [sin, cos, 0.0]], dtype=x.dtype, device=x.device)
    grid = F.affine_grid(theta.expand(len(x), 2, 3), list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, padding_mode="reflection", align_corners=False)


def rotations(x: Tensor, angles: Sequence[int]) -> tuple[Tensor, Tensor]:
    """All K copies of every image and which they are: (B, C, S, S) -> (B K, C, S, S), labels 0..K-1 B times over."""
    copies = torch.stack([rotate(x, angle) for angle in angles], 1).flatten(0, 1)
    labels = torch.arange(len(angles), device=x.device).repeat(len(x))
    return copies, labels


class RotNet(StageModule):
    """Rotation prediction: F = head(last block of the trunk). Labels of the data are not looked at.

    Args:
        network: the trunk; not needed with `start`.
        head: makes the layers after the last block; None takes that of `start`.
        start: a RotNet whose trunk to train on; the head is made anew.
        angles: the K rotations, degrees counter-clockwise.
        init: "library" (what the code trains from) or "he" (what the code defines and never calls).
        optimizer, schedule: see StageModule.
    Raises:
        ValueError: neither or both of network and start, or no head.
    """

    def __init__(
        self,
        network: Trunk | None = None,
        head: HeadFactory | None = None,
        start: RotNet | None = None,
        angles: Sequence[int] = (0, 90, 180, 270),
        init: str = "library",
        optimizer: OptimizerFactory | None = None,
        schedule: Schedule | None = None,
    ) -> None:
        super().__init__(optimizer, schedule)
        trunk = network if start is None else start.trunk
        factory = head if start is None else head or start.head_factory
        if trunk is None or factory is None or (start is not None and network is not None):
            raise ValueError("expected either network and head, or start from needs: {start: <stage>}")
        self.trunk: Trunk = trunk
        self.head_factory: HeadFactory = factory
        self.angles = list(angles)
        self.val_metrics = Classification(len(self.angles), ("top1",))
        self.test_metrics = Classification(len(self.angles), ("top1",))
        self.head = factory(trunk.shapes[-1], len(self.angles))
        if start is None:
            initialise(self, init, dense=False)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor | None:
        copies, y = rotations(batch[0], self.angles)  # (B K, C, S, S), (B K,)
        z = self(copies)  # (B K, K)
        loss = F.cross_entropy(z, y)  # the mean over images of the mean over their K copies
        self.track(len(y), loss=loss, rotation_top1=100 * (z.argmax(-1) == y).float().mean())
        return loss

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, S, S) -> logits of the rotations (B, K)."""
        return self.head(self.trunk(x)[-1])

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        copies, y = rotations(batch[0], self.angles)  # (B K, C, S, S), (B K,)
        self.val_metrics.update(self(copies), y)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        copies, y = rotations(batch[0], self.angles)
        self.test_metrics.update(self(copies), y)

    def on_validation_epoch_end(self) -> None:
        self._report("val", self.val_metrics)

    def on_test_epoch_end(self) -> None:
        self._report("test", self.test_metrics)

    def _report(self, split: str, metrics: Classification) -> None:
        scores = metrics.compute()
        metrics.reset()
        self.log_dict({f"{split}/rotation_top1": scores["top1"], f"{split}/n": scores["n"] / len(self.angles)})

    def pictures(self, data: Any) -> dict[str, Figure]:
        """The first test image with its rotations and what the network makes of them; the first layer's filters."""
        x = next(iter(data.test_dataloader()))[0][:1].to(self.device)
        copies, _ = rotations(x, self.angles)  # (K, C, S, S)
        probabilities = self(copies).float().softmax(-1).cpu()  # (K, K)
        mean, std = (torch.tensor(value).view(-1, 1, 1) for value in (data.spec.mean, data.spec.std))
        convolution = next(layer for layer in self.trunk.modules() if isinstance(layer, nn.Conv2d))
        return {
            "rotations": draw_rotations(copies.cpu() * std + mean, probabilities, self.angles),
            "first layer": draw_filters(convolution.weight.detach().float().cpu().contiguous()),
        }


class Calibrated(RotNet):
    """The random baseline: weights as they start, batch statistics from one pass over the upright training images.

    Every batch counts alike (a cumulative average), whatever the layers' own momentum. Nothing is optimised, so the
    stage's configuration says `trainer: {max_epochs: 1, devices: 1, strategy: auto}`.

    Args:
        start: the untrained RotNet.
    """

    def __init__(self, start: RotNet) -> None:
        super().__init__(start=start, angles=start.angles)
        self.automatic_optimization = False
        self.head = start.head
        for layer in self.modules():
            if isinstance(layer, _BatchNorm):
                layer.momentum = None

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        return []

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        with torch.no_grad():
            self(batch[0])
