"""Relabel and post-train: a new network learns what f_T says of every crop (CDA, arXiv 2311.18838; FKD).

    L = KL(softmax(f_T(v) / T) || softmax(z / T)),    v a crop of a recovered image, mirrored, mixed by CutMix

The mean over the batch, no hard label, and no factor T^2 unless asked for.

The released code (fast knowledge distillation) stores, for every epoch and batch to come, crop boxes, mirrors, CutMix's
permutation, share and box, and f_T's logits in half precision: 30 GB for 50,000 images. Here images alone are stored.
Boxes, mirrors and CutMix follow from (seed, epoch, batch), and f_T labels the batch when it is served, rounded to half
precision: the same labels, as often as they are asked for.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from modules.common.classifier import ClassificationModule
from modules.common.distillation import soft_target
from modules.common.frozen import Frozen
from modules.common.mixing import MixedClassifier
from modules.common.module import OptimizerFactory
from modules.common.schedules import Schedule


def distillation_loss(z_s: Tensor, z_t: Tensor, temperature: float) -> Tensor:
    """KL(softmax(z_t / T) || softmax(z_s / T)), the mean over the batch. z_s (B, C), z_t (1, B, C)."""
    target = soft_target(z_t, temperature)  # (B, C)
    return F.kl_div(F.log_softmax(z_s / temperature, -1), target, reduction="batchmean")


class PostTrain(MixedClassifier):
    """A student of soft labels. Labels of the data are not looked at.

    Weight decay reaches matrices and kernels alone, as in the released code.

    Args:
        squeezed: the classifier f_T.
        network, classes: see ClassificationModule.
        temperature: T.
        squared: multiply the loss by T^2, as the authors do on Tiny-ImageNet.
        cutmix: parameter of CutMix's Beta distribution; 0 switches it off.
        optimizer, schedule: see StageModule.
    """

    def __init__(
        self,
        squeezed: ClassificationModule,
        network: nn.Module,
        classes: int,
        temperature: float = 20.0,
        squared: bool = False,
        cutmix: float = 1.0,
        optimizer: OptimizerFactory | None = None,
        schedule: Schedule | None = None,
    ) -> None:
        super().__init__(network, classes, cutmix=cutmix, optimizer=optimizer, schedule=schedule)
        self.squeezed = Frozen([squeezed.network])
        self.temperature = temperature
        self.scale = temperature**2 if squared else 1.0

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, _ = self.mixed(batch.x, batch.y)  # (B, C, H, W)
        z_t = self.relabel(x)  # (1, B, classes)
        z_s = self(x)  # (B, classes)

        loss = self.scale * distillation_loss(z_s, z_t, self.temperature)
        self.track(len(x), loss=loss, agreement=100 * (z_s.argmax(-1) == z_t[0].argmax(-1)).float().mean())
        return loss

    def relabel(self, x: Tensor) -> Tensor:
        """f_T's logits of the views that the student is about to see, as FKD's files hold them. -> (1, B, classes)."""
        return self.squeezed.logits(x).half().float()
