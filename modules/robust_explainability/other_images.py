"""A trained network's accuracy on images of another kind; nothing is trained."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from modules.common.classifier import ClassificationModule


class OnOtherImages(ClassificationModule):
    """Test metrics: those of Classification, of logits among the classes that the set has.

    Args:
        model: the stage whose network is tested.
        classes: number of classes of the network.
    """

    def __init__(self, model: Any, classes: int) -> None:
        super().__init__(model.network, classes)
        self.there = torch.zeros(0, dtype=torch.long)

    def on_test_epoch_start(self) -> None:
        items = self.trainer.datamodule.items.get("test", [])  # type: ignore[attr-defined]
        labels = sorted({label for _, label in items}) or range(self.classes)
        self.there = torch.tensor(list(labels), device=self.device)

    def among_those_there(self, logits: Tensor) -> Tensor:
        """Logits (B, classes), minus infinity for classes that the set does not have."""
        absent = torch.ones(self.classes, dtype=torch.bool, device=logits.device)
        absent[self.there] = False
        return logits.float().masked_fill(absent, -torch.inf)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.test_metrics.update(self.among_those_there(self(batch.x)), batch.y)
