"""Training as timm's script does it: mixed images with soft labels, averaged weights, decay on matrices alone."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms import v2

from modules.common.averaging import WeightAverage
from modules.common.classifier import Classifier
from modules.common.module import OptimizerFactory
from modules.common.schedules import Position, Schedule


def warm_cosine(
    position: Position, warmup_epochs: int = 0, start: float = 0.0, final: float = 0.0, cooldown_epochs: int = 0
) -> float:
    """timm's cosine schedule, constant within an epoch, as a factor on the rate: linear from `start` over the warm-up,
    then on a cosine whose clock began at epoch 0 down to `final`, where it stays for the cool-down.

    `max_epochs` includes the cool-down. `start` and `final` are fractions of the rate.
    """
    epochs = position.max_epochs - cooldown_epochs
    if position.epoch < warmup_epochs:
        return start + (1 - start) * position.epoch / warmup_epochs
    if position.epoch >= epochs:
        return final
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * position.epoch / epochs))


class MixedClassifier(Classifier):
    """A classifier trained on images mixed by MixUp or CutMix, one draw per batch.

    Args:
        network, classes: see ClassificationModule.
        label_smoothing: in [0, 1), also of mixed labels.
        mixup, cutmix: parameters of their Beta distributions; 0 switches one off.
        switch: probability of CutMix where both are on.
        ema: decay of the running average of weights and batch statistics, from the start on; what is validated and
            tested is the average. 0 switches it off.
        optimizer, schedule: see StageModule.
    Raises:
        ValueError: a number outside its range.
    """

    def __init__(
        self,
        network: nn.Module,
        classes: int,
        label_smoothing: float = 0.0,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        switch: float = 0.5,
        ema: float = 0.0,
        optimizer: OptimizerFactory | None = None,
        schedule: Schedule | None = None,
    ) -> None:
        if mixup < 0 or cutmix < 0 or not 0 <= switch <= 1 or not 0 <= ema < 1:
            raise ValueError(
                f"mixup={mixup}, cutmix={cutmix}: expected 0 or more; switch={switch} in [0, 1]; ema={ema} in [0, 1)"
            )
        super().__init__(network, classes, label_smoothing, optimizer, schedule)
        pairs = ((v2.MixUp, mixup), (v2.CutMix, cutmix))
        self.mixes = [make(alpha=alpha, num_classes=classes) for make, alpha in pairs if alpha]
        self.switch = switch
        self.average = WeightAverage(network, ema, warm=False) if ema else None

    def final(self) -> nn.Module:
        """The network that is tested: where weights are averaged, a copy with the averages."""
        if self.average is None:
            return self.network
        with torch.inference_mode(False):  # a copy made while testing could take part in no gradient
            copied = copy.deepcopy(self.network)
            copied.load_state_dict(self.average.values())
        return copied

    def forward(self, x: Tensor) -> Tensor:
        if self.training or self.average is None:
            return self.network(x)
        return self.average.call(self.network, x)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = self.mixed(*batch)  # (B, C, S, S), (B,) or (B, classes)
        logits = self(x)
        loss = F.cross_entropy(logits, y, label_smoothing=self.label_smoothing)
        shown = y if y.ndim == 1 else y.argmax(-1)  # of a mixed image, what most of it shows
        self.track(len(x), loss=loss, top1=100 * (logits.argmax(-1) == shown).float().mean())
        return loss

    def mixed(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The batch mixed with itself and labels (B, classes); as it is where both are off.

        Shuffled first: torchvision mixes neighbours, and repeated augmentation lays an image's copies side by side.
        """
        if not self.mixes:
            return x, y
        order = torch.randperm(len(x), device=x.device)
        x, y = x[order], y[order]
        second = len(self.mixes) == 2 and float(torch.rand(())) < self.switch
        return self.mixes[int(second)](x, y)

    def trained(self) -> list[dict[str, Any]]:
        """Weight decay on matrices and kernels; none on biases, norms and scales."""
        parameters = [p for p in self.network.parameters() if p.requires_grad]
        return [
            {"params": [p for p in parameters if p.ndim > 1]},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]

    def optimizer_step(self, *args: Any, **options: Any) -> None:
        super().optimizer_step(*args, **options)
        if self.average is not None:
            self.average.update(self.network)
