"""The RBF and PIP-Net heads as they were released: one phase after phase 1, with schedules and layers of its own.

The released code trains these two heads by PIP-Net's own loop, not by the one of the CBC head (deep.py). Epochs from 1:

    1 to 3                 head alone          2 L_C
    4 to freeze_epochs     and upper layers    5 L_A + 2 L_T + 2 L_C
    after freeze_epochs    and all others      5 L_A + 2 L_T + 2 L_C

L_C is the cross-entropy of log(1 + s^2). After every step the head's weights W become max(W - 0.001, 0), once more at
the first batch of epochs divisible by 30 and of the last one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from modules.common.module import OptimizerFactory
from modules.robust_pbn.deep import Loss, PartClassifier, Parts, Weights
from modules.robust_pbn.heads import Head

NETWORK_FLOOR = 0.01  # of the network's rate, where its cosine would end
HEAD_FLOOR = 0.001  # the head's lowest rate
EXTRA_PULL = 30  # epochs


def network_factor(step: int, head_steps: int, steps: int) -> float:
    """What the network's rate is multiplied by at a step: one cosine that stands still while the head is alone.

    Its length counts those steps too, so that it ends short of its floor.

    Args:
        step: from 0, over all epochs.
        head_steps: steps with the head alone.
        steps: of all epochs.
    """
    done = max(0, step - head_steps) / steps
    return NETWORK_FLOOR + (1 - NETWORK_FLOOR) * (1 + math.cos(math.pi * done)) / 2


def head_rate(step: int, steps_per_epoch: int, epochs: int, rate: float) -> float:
    """The head's rate at a step: cosines of 10 epochs (5, if there are 30 epochs or fewer), each from the full rate.

    It is set after each step, from that step's place, so that it lags by one.

    Args:
        step: from 0, over all epochs.
        rate: the highest one.
    """
    period = 10 if epochs > 30 else 5
    done = max(0, step - 1) / steps_per_epoch % period / period
    return HEAD_FLOOR + (rate - HEAD_FLOOR) * (1 + math.cos(math.pi * done)) / 2


class Released(PartClassifier):
    """What follows phase 1 for the RBF and the PIP-Net head.

    Args:
        parts: phase 1.
        head: called with K and the number of classes.
        classes: number of classes.
        loss: see losses.
        weights: of the three terms once the head is no longer alone.
        head_lr: the head's highest rate.
        head_epochs: with the head alone.
        freeze_epochs: before the lower layers train too; those with the head alone count.
        optimizer: see StageModule; its rate is the network's.
    """

    partial_backward = True  # each phase reaches some of the layers

    def __init__(
        self,
        parts: Parts,
        head: Callable[[int, int], Head],
        classes: int,
        loss: Loss,
        weights: Weights,
        head_lr: float,
        freeze_epochs: int,
        head_epochs: int = 3,
        optimizer: OptimizerFactory | None = None,
    ) -> None:
        super().__init__(head(parts.parts.count, classes), classes, loss, weights, optimizer)
        # All layers ask for a gradient at first: what two processes share is looked up before the first epoch.
        self.parts = parts.parts.train().requires_grad_(True)
        self.head_lr, self.head_epochs, self.freeze_epochs = head_lr, head_epochs, freeze_epochs

    def look(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.parts(x)

    def trained(self) -> Any:
        return [
            {"params": list(self.parts.parameters())},
            {"params": list(self.head.parameters()), "lr": self.head_lr},
        ]

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        trainer = self.trainer
        assert trainer.max_epochs is not None
        per_epoch = int(trainer.num_training_batches)
        step = self.current_epoch * per_epoch + batch_idx

        network, head = trainer.optimizers[0].param_groups
        steps = trainer.max_epochs * per_epoch
        network["lr"] = network["initial_lr"] * network_factor(step, self.head_epochs * per_epoch, steps)
        head["lr"] = self.lr_scale * head_rate(step, per_epoch, trainer.max_epochs, self.head_lr)

        self.open_layers()
        epoch = self.current_epoch + 1
        if batch_idx == 0 and (epoch % EXTRA_PULL == 0 or epoch == trainer.max_epochs > 1):
            self.head.constrain()

    def head_is_alone(self) -> bool:
        return self.current_epoch < self.head_epochs

    def open_layers(self) -> None:
        """Let the layers train whose turn it is; the others get no gradient, and an optimiser passes over them."""
        backbone = self.parts.backbone
        lower = not self.head_is_alone() and self.current_epoch >= self.freeze_epochs
        backbone.requires_grad_(lower)
        backbone.upper().requires_grad_(not self.head_is_alone())

    def terms(self, maps: Tensor, d: Tensor, scores: Tensor, y: Tensor) -> Mapping[str, Tensor]:
        terms = super().terms(maps, d, scores, y)
        return {"classes": terms["classes"]} if self.head_is_alone() else terms
