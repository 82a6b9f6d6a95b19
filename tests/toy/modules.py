"""Toy: a paper of a few seconds that uses what papers may use. Copied to modules/toy.py by the tests.

A maker labels the training images; learners are fed with its labels and see two views of each image. Golden notes, in
whole numbers that are the same on every machine, what the engine hands to a module.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modules.common.classifier import Classifier
from modules.common.module import OptimizerFactory, StageModule

PRIME = 1_000_003


class Maker(Classifier):
    """A classifier that leaves its labels of the training images behind."""

    def artifacts(self) -> dict[str, np.ndarray]:
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        images, _ = data.splits["train"]
        with torch.inference_mode():
            labels = self.network(data.normalised(images).to(self.device)).argmax(-1)
        return {"labels": labels.cpu().numpy()}


class Learner(Classifier):
    """Learns the labels it is fed with from both views."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        logits = self(torch.cat([batch.x, batch.x2]))  # (2B, classes)
        loss = F.cross_entropy(logits, batch.y.repeat(2))
        self.track(len(batch.y), loss=loss)
        return loss


class Golden(StageModule):
    """The engine's numerical rules as whole numbers: seeds, order of batches, what is averaged."""

    def __init__(self, optimizer: OptimizerFactory | None = None) -> None:
        super().__init__(optimizer)
        self.weight = nn.Parameter(torch.zeros(()))
        drawn = [random.randrange(PRIME), int(np.random.randint(PRIME)), int(torch.randint(PRIME, ()))]
        self.construction = self.folded(0, drawn)
        self.steps = self.order = self.tested = 0

    @staticmethod
    def folded(start: int, numbers: list[int]) -> int:
        for number in numbers:
            start = (start * 8191 + number + 1) % PRIME
        return start

    def forward(self, x: Tensor) -> Tensor:
        return x

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.steps = self.folded(self.steps, [int(torch.randint(PRIME, ()))])
        self.order = self.folded(self.order, batch.row.tolist())
        self.track(len(batch.row), row=batch.row.double().mean())
        return self.weight * 0.0

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.tested = self.folded(self.tested, [*batch.row.tolist(), int(torch.randint(PRIME, ()))])

    def on_test_epoch_end(self) -> None:
        names = ("construction", "steps", "order", "tested")
        self.log_dict({f"test/{name}": torch.tensor(float(getattr(self, name)), dtype=torch.float64) for name in names})
