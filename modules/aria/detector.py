"""The benchmark's detector: all of an ImageNet network fine-tuned, the epoch chosen on the training source's own
validation pictures (Section on detection; ResNet-50_Classifier.py chooses on what it tests on).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from modules.common.detection import Detector, score_of
from modules.common.metrics import Means, compute_and_reset
from modules.common.module import OptimizerFactory
from modules.common.schedules import Position, Schedule
from modules.common.stopping import EarlyStopped


def cosine_by_epoch(position: Position) -> float:
    """Half a cosine from 1 to 0, constant within an epoch: CosineAnnealingLR stepped after each epoch."""
    return 0.5 * (1 + math.cos(math.pi * position.epoch / position.max_epochs))


class FineTunedDetector(EarlyStopped, Detector):
    """A detector that ends after `patience` epochs without a better validation accuracy, with its best weights.

    Logs val/acc, percent, over all validation pictures, and val/loss. Test metrics: see Detector.

    Args:
        network: pictures (B, 3, H, W) to (B, 2), real and generated.
        patience: epochs; None trains to the last and keeps its weights.
        optimizer, schedule: see StageModule.
    """

    def __init__(
        self,
        network: nn.Module,
        patience: int | None = 5,
        optimizer: OptimizerFactory | None = None,
        schedule: Schedule | None = None,
    ) -> None:
        super().__init__(network, optimizer, schedule)
        self.watch(patience, network=self.network)
        self.validation = Means(("acc", "loss"))

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        score = score_of(self.logits(batch))
        right = ((score > 0) == (batch.y > 0)).float()
        loss = nn.functional.binary_cross_entropy_with_logits(score, batch.y.float(), reduction="none")
        self.validation.update({"acc": 100 * right, "loss": loss})

    def on_validation_epoch_end(self) -> None:
        values = compute_and_reset(self.validation)
        self.log_dict({f"val/{name}": values[name] for name in ("acc", "loss")})
        error: Tensor = torch.as_tensor(100 - values["acc"])
        self.observe(network=error)  # lower is better
