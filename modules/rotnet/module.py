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
from torchvision.utils import make_grid

from modules.common.metrics import Classification
from modules.common.module import OptimizerFactory, StageModule
from modules.common.schedules import Position, Schedule
from modules.rotnet.heads import HeadFactory
from modules.rotnet.networks import Trunk, initialise


def rotate(x: Tensor, angle: int) -> Tensor:
    """Turn images (..., S, S) counter-clockwise; multiples of 90 degrees only move pixels, others interpolate."""
    quarters, rest = divmod(angle, 90)
    x = torch.rot90(x, quarters, (-2, -1))
    if not rest:
        return x
    cos, sin = math.cos(math.radians(rest)), math.sin(math.radians(rest))
    theta = torch.tensor([[cos, -sin, 0.0], [sin, cos, 0.0]], dtype=x.dtype, device=x.device)
    grid = F.affine_grid(theta.expand(len(x), 2, 3), list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, padding_mode="reflection", align_corners=False)


def rotations(x: Tensor, angles: Sequence[int]) -> tuple[Tensor, Tensor]:
    """All K copies of every image and which they are: (B, C, S, S) -> (B K, C, S, S), labels 0..K-1 B times over."""
    copies = torch.stack([rotate(x, angle) for angle in angles], 1).flatten(0, 1)
    return copies, torch.arange(len(angles), device=x.device).repeat(len(x))


def table(position: Position, ends: Sequence[float], rates: Sequence[float]) -> float:
    """Learning rates as factors on the first: rates[i] until ends[i] epochs; the last one stays after its end."""
    done = position.epoch + position.step / position.steps_per_epoch
    return next((rate for end, rate in zip(ends, rates, strict=True) if done < end), rates[-1]) / rates[0]


class Scored(StageModule):
    """Top-1 of one or more predictions for every image, in percent, over an epoch of validation or test.

    Args:
        names: what the metrics are called.
        classes: number of classes of each prediction.
        copies: predictions counted for an image under each name; `n` stays the number of images.
        optimizer, schedule: see StageModule.
    """

    def __init__(
        self,
        names: Sequence[str],
        classes: int,
        copies: int = 1,
        optimizer: OptimizerFactory | None = None,
        schedule: Schedule | None = None,
    ) -> None:
        super().__init__(optimizer, schedule)
        self.copies = copies
        self.measures = {split: {n: Classification(classes, ("top1",)) for n in names} for split in ("val", "test")}
        for split, measures in self.measures.items():  # registered for moves between devices; the dict keeps their type
            self.add_module(f"{split}_metrics", nn.ModuleDict(measures))

    def predictions(self, batch: tuple[Tensor, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
        """Name of a metric -> logits (n, classes), labels (n,)."""
        raise NotImplementedError(f"{type(self).__name__} does not say what it predicts")

    def measure(self, batch: tuple[Tensor, Tensor], split: str) -> None:
        for name, (logits, labels) in self.predictions(batch).items():
            self.measures[split][name].update(logits, labels)

    def measured(self, split: str) -> dict[str, Tensor]:
        """Every metric since the last call, and `n`."""
        found = {name: measure.compute() for name, measure in self.measures[split].items()}
        for measure in self.measures[split].values():
            measure.reset()
        counted = next(iter(found.values()))["n"] / self.copies
        return {**{name: values["top1"] for name, values in found.items()}, "n": counted}

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.measure(batch, "val")

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.measure(batch, "test")

    def on_validation_epoch_end(self) -> None:
        self.log_dict({f"val/{name}": value for name, value in self.measured("val").items()})

    def on_test_epoch_end(self) -> None:
        self.log_dict({f"test/{name}": value for name, value in self.measured("test").items()})


class RotNet(Scored):
    """Rotation prediction: F = head(last block of the trunk). Labels of the data are not looked at.

    Args:
        network: the trunk; not needed with `start`.
        head: makes the layers behind the last block; None takes that of `start`.
        start: a RotNet whose trunk to train on; the head is made anew.
        angles: the rotations, degrees counter-clockwise.
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
        super().__init__(("rotation_top1",), len(angles), len(angles), optimizer, schedule)
        trunk = network if start is None else start.trunk
        factory = head if start is None else head or start.head_factory
        if trunk is None or factory is None or (start is not None and network is not None):
            raise ValueError("expected either network and head, or start from needs: {start: <stage>}")
        self.trunk: Trunk = trunk
        self.head_factory: HeadFactory = factory
        self.angles = list(angles)
        self.head = factory(trunk.shapes[-1], len(self.angles))
        if start is None:
            initialise(self, init, dense=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, S, S) -> logits of the rotations (B, K)."""
        return self.head(self.trunk(x)[-1])

    def predictions(self, batch: tuple[Tensor, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
        copies, y = rotations(batch[0], self.angles)  # (B K, C, S, S), (B K,)
        return {"rotation_top1": (self(copies), y)}

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor | None:
        copies, y = rotations(batch[0], self.angles)  # (B K, C, S, S), (B K,)
        z = self(copies)  # (B K, K)
        loss = F.cross_entropy(z, y)  # the mean over images of the mean over their K copies
        self.track(len(y), loss=loss, rotation_top1=100 * (z.argmax(-1) == y).float().mean())
        return loss

    def pictures(self, data: Any) -> dict[str, Figure]:
        """The first test image with its rotations and what the network makes of them; the first layer's filters."""
        x = next(iter(data.test_dataloader()))[0][:1].to(self.device)
        copies, _ = rotations(x, self.angles)
        p = self(copies).float().softmax(-1).cpu()
        mean, std = (torch.tensor(value).view(-1, 1, 1) for value in (data.spec.mean, data.spec.std))
        k = len(self.angles)
        turned = Figure(figsize=(max(6.0, 1.5 * k), 3), layout="constrained")
        axes = turned.subplots(2, k, squeeze=False)
        for column, (image, angle) in enumerate(zip(copies.cpu(), self.angles, strict=True)):
            axes[0, column].imshow((image * std + mean).clamp(0, 1).permute(1, 2, 0), cmap="gray", vmin=0, vmax=1)
            axes[0, column].set_title(f"turned by {angle}°", fontsize=9)
            axes[0, column].axis("off")
            axes[1, column].bar(range(k), p[column], color=["C1" if i == column else "C0" for i in range(k)])
            axes[1, column].set(ylim=(0, 1), yticks=[0, 1] if not column else [], xticks=range(k))
            axes[1, column].set_xticklabels([f"{a}°" for a in self.angles], fontsize=7)
        axes[1, 0].set_ylabel("probability", fontsize=8)
        layer = next(part for part in self.trunk.modules() if isinstance(part, nn.Conv2d))
        weights = layer.weight.detach().float().cpu().contiguous()  # (O, C, k, k)
        filters = Figure(figsize=(9, 3), layout="constrained")
        nrow = math.ceil(math.sqrt(3 * len(weights)))
        grid = make_grid(weights, nrow, padding=1, normalize=True, scale_each=True, pad_value=1.0)
        ax = filters.subplots()
        ax.imshow(grid.permute(1, 2, 0))
        ax.set_title(f"the {len(weights)} filters of the first layer, each scaled to its own range", fontsize=9)
        ax.axis("off")
        return {"rotations": turned, "first layer": filters}


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
        for part in self.modules():
            if isinstance(part, _BatchNorm):
                part.momentum = None

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        return []

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        with torch.no_grad():
            self(batch[0])
