"""The control: detectors of one number, log Laplacian energy with a threshold."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from modules.common.detection import Detector
from modules.common.sharpness import energy, threshold


class OneNumber(nn.Module):
    """Pictures (B, C, H, W) -> (B, 1): how far their log Laplacian energy lies on the generated side of a threshold."""

    cut: Tensor
    side: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("cut", torch.tensor(0.0))
        self.register_buffer("side", torch.tensor(1.0))

    def forward(self, x: Tensor) -> Tensor:
        return (self.side * (energy(x) - self.cut))[:, None]


class NumberDetector(Detector):
    """OneNumber, its threshold chosen on one pass over the training pictures. Runs in one process."""

    def __init__(self) -> None:
        super().__init__(OneNumber())
        self.automatic_optimization = False
        self.seen: list[tuple[Tensor, Tensor]] = []

    def configure_optimizers(self) -> list[Any]:  # type: ignore[override]
        return []

    def training_step(self, batch: Any, batch_idx: int) -> None:  # type: ignore[override]
        self.seen.append((energy(batch.x).cpu(), batch.y.cpu()))

    def finish(self) -> None:
        """Choose the threshold on what was seen."""
        values, labels = (torch.cat(parts) for parts in zip(*self.seen, strict=True))
        self.seen = []
        assert isinstance(self.network, OneNumber)
        cut, side = threshold(values, labels)
        self.network.cut.fill_(cut)
        self.network.side.fill_(side)

    def on_train_epoch_end(self) -> None:
        self.finish()
        super().on_train_epoch_end()
