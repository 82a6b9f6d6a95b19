"""A small squeezed network with statistics of its own, and recoveries from it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from datamodules.cda import Synthesis
from datamodules.common.digits import Digits
from modules.cda.curriculum import Crops
from modules.cda.module import Recover
from modules.common.classifier import Classifier
from modules.common.schedules import cosine
from tests.quiet import trainer as quiet_trainer


@pytest.fixture
def squeezed() -> Classifier:
    """Batch norms that have seen some batches; 10 classes, images (1, 8, 8)."""
    torch.manual_seed(1)
    first = [nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU()]
    second = [nn.Conv2d(6, 4, 3), nn.BatchNorm2d(4), nn.ReLU()]
    network = nn.Sequential(*first, *second, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10)).train()
    for _ in range(50):
        network(2.5 * torch.rand(16, 1, 8, 8) - 0.8)  # about the range of digits
    return Classifier(network, 10)


class Noted(Recover):
    """A recovery that notes what a test wants to know of every step."""

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        super().on_train_batch_start(batch, batch_idx)
        if batch_idx == 0:
            self.starts.append(self.x.detach().clone())
            self.states.append(len(self.trainer.optimizers[0].state))

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.rates.append(self.trainer.optimizers[0].param_groups[0]["lr"])
        self.iterates.append(self.x.detach().clone())


@pytest.fixture
def recover(squeezed: Classifier) -> Callable[..., Noted]:
    """A recovery of 20 images of digits, 2 a class, 10 together, run to its end."""

    def make(steps: int = 8, seed: int = 0, **options: Any) -> Noted:
        adam = lambda parameters: torch.optim.Adam(parameters, lr=0.2, betas=(0.5, 0.9))  # noqa: E731
        settings: dict[str, Any] = {"crops": Crops(jitter=1), "optimizer": adam, "schedule": cosine, **options}
        module = Noted(squeezed, 10, 2, (1, 8, 8), 10, **settings)
        module.starts, module.states, module.rates, module.iterates = [], [], [], []  # type: ignore[assignment]
        trainer = quiet_trainer(2, use_distributed_sampler=False)
        torch.manual_seed(seed)
        trainer.fit(module, datamodule=Synthesis(Digits(10), 10, 10, 2, steps))
        return module

    return make
