"""MSWAL: 3D Multi-class Segmentation of Whole Abdominal Lesions Dataset (Inception nnU-Net).

arXiv 2503.13560. nnU-Net with the ResEncL plan whose residual blocks of stride 1 and equal width get a third branch:

    block(x) = LeakyReLU(main(x) + side(x) + x),   main = norm conv3 LeakyReLU norm conv3,   side = (norm conv1)^2

All other blocks (strided, or changing the width) are residual blocks as in nnU-Net, among them every block of the
decoder. The side branch is pointwise and has no activation: the receptive field is that of the residual U-Net.

    L = sum_i w_i (CE_i - Dice_i),   w = 1, 1/2, 1/4, ... from full resolution down, 0 for the lowest, summing to 1

Where the paper's figure and the released architecture (inception.py) differ, the code is followed:
- the figure says batch norm and ReLU, the code takes instance norm and leaky ReLU from nnU-Net's plan.
- no training code, plan or weights were released: loss, optimiser, augmentation and inference are nnU-Net's defaults.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torchmetrics import MeanMetric

from modules.common.metrics import compute_and_reset
from modules.common.module import OptimizerFactory, StageModule
from modules.common.schedules import Schedule
from modules.mswal.inference import Inference, gaussian_window, list_flips, resample_to_labels, sliding_window
from modules.mswal.losses import deeply_supervised_loss
from modules.mswal.networks import transfer, watched_sides
from modules.mswal.pictures import choose_slice, draw_bars, draw_slices
from modules.mswal.scores import SegmentationScores

THRESHOLDS = (0.0, 0.1, 0.5)  # of the region F1; the paper's matching rule is not known


class Segmenter(StageModule):
    """nnU-Net's training and inference of one network.

    Test metrics: dice, region_f1 (IoU above 0.1; _t0 and _t50: above 0 and 0.5), both also for each class, n; and
    side_share where blocks have the side branch, see watched_sides. Validation metric: dice.

    Args:
        network: see networks.build_network; gives logits (B, C, ...) at every resolution, the full one first.
        pretrained: the segmenter to start from; all weights but the heads are taken over.
        batch_dice: sums of the Dice loss over the batch (nnU-Net's 3d_fullres beside a low-resolution stage).
        inference: how whole scans are segmented.
        optimizer, schedule: see StageModule.
    """

    def __init__(
        self,
        network: nn.Module,
        pretrained: Segmenter | None = None,
        batch_dice: bool = False,
        inference: Inference | None = None,
        optimizer: OptimizerFactory | None = None,
        schedule: Schedule | None = None,
    ) -> None:
        super().__init__(optimizer, schedule)
        self.network = network
        self.classes = int(network.decoder.num_classes)  # type: ignore[union-attr, arg-type]
        if pretrained is not None:
            transfer(network, pretrained.network)
        self.batch_dice = batch_dice
        self.inference = inference or Inference()
        self.flips = list_flips(self.inference.mirror)

        self.scores = SegmentationScores(self.classes, THRESHOLDS)
        self.val_scores = SegmentationScores(self.classes)
        self.inference_scores: Any = nn.ModuleDict(
            {name: SegmentationScores(self.classes) for name in ("no_mirror", "no_overlap") if self.inference.compare}
        )
        self.side_share = MeanMetric(nan_strategy="error")
        self.last_scores: dict[str, float] = {}  # of the last test, for the picture

    def forward(self, x: Tensor) -> Tensor:
        """(B, 1, *patch) -> logits (B, C, *patch)."""
        return self.network(x)[0]

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch  # (B, 1, *patch), (B, *patch)
        loss, ce, dice = deeply_supervised_loss(self.network(x), y, self.batch_dice)
        self.track(len(y), loss=loss, ce=ce, soft_dice=dice)
        return loss

    def average_views(self, windows: Tensor) -> Tensor:
        """(b, C, *patch) logits averaged over mirrored views; to compare, those of the unmirrored view after them."""
        straight = self(windows).float()
        total = straight.clone()
        for axes in self.flips[1:]:
            total += self(windows.flip(axes)).float().flip(axes)
        total /= len(self.flips)
        return torch.cat([total, straight], 1) if self.inference_scores else total

    def over_windows(self, image: Tensor, network: Callable[[Tensor], Tensor], patch: Sequence[int]) -> Tensor:
        """Logits (1, C, D, H, W) of a whole scan (1, 1, D, H, W), from overlapping windows weighted by a Gaussian."""
        how = self.inference
        return sliding_window(image, network, patch, how.step, gaussian_window(patch), how.window_batch)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Dice of whole scans without mirroring, where the data has some to choose by."""
        image, reference = batch
        patch = self.trainer.datamodule.spec.shape[1:]  # type: ignore[attr-defined]
        logits = self.over_windows(image, self, patch)
        self.val_scores.update(resample_to_labels(logits, reference.shape[1:]), reference[0])

    def on_validation_epoch_end(self) -> None:
        self.log("val/dice", self.val_scores.compute()["dice"].nanmean().float())
        self.val_scores.reset()

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        image, reference = batch  # (1, 1, D, H, W) as the network sees it, (1, D', H', W') as it was annotated
        patch = self.trainer.datamodule.spec.shape[1:]  # type: ignore[attr-defined]
        size = reference.shape[1:]

        with watched_sides(self.network) as shares:
            logits = self.over_windows(image, self.average_views, patch)
        if shares:
            self.side_share.update(torch.stack(shares))
        self.scores.update(resample_to_labels(logits[:, : self.classes], size), reference[0])
        if self.inference_scores:
            straight = resample_to_labels(logits[:, self.classes :], size)
            self.inference_scores["no_mirror"].update(straight, reference[0])
            single = sliding_window(image, self, patch, 1.0, None, self.inference.window_batch, first=True)
            self.inference_scores["no_overlap"].update(resample_to_labels(single, size), reference[0])

    def on_test_epoch_end(self) -> None:
        names = [metric_name(name) for name in self.trainer.datamodule.spec.classes[1:]]  # type: ignore[attr-defined]
        scores = self.scores.compute()
        dice = scores["dice"].reshape(-1)  # (C - 1,); torchmetrics makes a scalar of one class
        f1 = scores["f1"].reshape(len(THRESHOLDS), -1)  # (thresholds, C - 1)

        metrics = {"dice": dice.nanmean(), "n": scores["n"]}
        metrics |= {"region_f1_t0": f1[0].nanmean(), "region_f1": f1[1].nanmean(), "region_f1_t50": f1[2].nanmean()}
        for name, of_class, regions in zip(names, dice, f1[1], strict=True):
            metrics[f"dice_{name}"] = of_class
            metrics[f"region_f1_{name}"] = regions
        if self.side_share.update_count:
            metrics["side_share"] = compute_and_reset(self.side_share)
        for name, of_inference in self.inference_scores.items():
            metrics[f"dice_{name}"] = of_inference.compute()["dice"].nanmean()
            of_inference.reset()
        self.scores.reset()

        present = {name: value.float() for name, value in metrics.items() if not value.isnan()}  # a class may be absent
        self.last_scores = {name: float(value) for name, value in present.items()}
        self.log_dict({f"test/{name}": value for name, value in present.items()})

    def pictures(self, data: Any) -> dict[str, Figure]:
        """Slices with the reference and the prediction outlined, and Dice and F1 of every class."""
        names = data.spec.classes[1:]
        patch = data.spec.shape[1:]
        slices = []
        for image, reference in data.tested(4):  # the test volumes with the most classes
            x = image[None].to(self.device)
            logits = self.over_windows(x, self, patch)  # not mirrored
            predicted = resample_to_labels(logits, reference.shape).cpu()
            slices.append(choose_slice(image, reference, predicted, self.classes))

        bars = {}
        for metric, label in (("dice", "Dice"), ("region_f1", "region F1, IoU > 0.1")):
            bars[label] = [self.last_scores.get(f"{metric}_{metric_name(name)}", math.nan) for name in names]
        return {"slices": draw_slices(slices, names), "classes": draw_bars(bars, names)}


def metric_name(class_name: str) -> str:
    """A class as it stands in a metric's name: whatever is no letter, digit or _ becomes _."""
    return re.sub(r"\W+", "_", class_name)
