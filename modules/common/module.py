"""What the engine expects of a stage's module, and the bookkeeping that every paper would otherwise repeat."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.optim import Optimizer

from modules.common.schedules import Position, Schedule

OptimizerFactory = Callable[..., Optimizer]


class StageModule(pl.LightningModule):
    """A LightningModule with an optimiser and a schedule from the configuration and cheap, exact epoch means.

    Args:
        optimizer: called with the parameters; None for stages that are only tested.
        schedule: factor on every parameter group's own learning rate; None keeps it constant.

    Set by the engine: `lr_scale`, the effective global batch over the batch that the rates are stated for, and
    `max_steps`, batches after which training ends where it is not a number of epochs.
    `partial_backward` is for modules whose backward passes each reach only some parameters (two networks against each
    other, blocks trained alone): several processes must then be told which gradients to expect.
    """

    partial_backward = False

    def __init__(self, optimizer: OptimizerFactory | None = None, schedule: Schedule | None = None) -> None:
        super().__init__()
        self.optimizer_factory, self.schedule, self.lr_scale = optimizer, schedule, 1.0
        self.max_steps: int | None = None
        self._sums: dict[str, Tensor] = {}
        self._count = 0

    def trained(self) -> Iterable[Any]:
        """Parameters or parameter groups for the optimiser."""
        return self.parameters()

    def configure_optimizers(self) -> Optimizer | list[Optimizer]:
        if self.optimizer_factory is None:
            raise ValueError(f"{type(self).__name__} is to be fitted but has no optimizer in its configuration")
        return self.prepared(self.optimizer_factory(self.trained()))

    def prepared(self, optimizer: Optimizer) -> Optimizer:
        """Scale every group's rate to the effective batch and remember it as the schedule's reference."""
        for group in optimizer.param_groups:
            group["lr"] = group["lr"] * self.lr_scale
            group["initial_lr"] = group["lr"]
        return optimizer

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        if self.schedule is None:
            return
        trainer, batches = self.trainer, int(self.trainer.num_training_batches)
        assert trainer.max_epochs is not None
        epochs = self.max_steps / batches if self.max_steps is not None else trainer.max_epochs
        position = Position(self.current_epoch, batch_idx, batches, epochs)
        for optimizer, factor in zip(trainer.optimizers, self.factors(position), strict=True):
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] * factor

    def factors(self, position: Position) -> list[float]:
        """What each optimiser's learning rates are multiplied by; the same schedule for all unless overridden."""
        assert self.schedule is not None
        return [self.schedule(position)] * len(self.trainer.optimizers)

    def example(self, shape: tuple[int, ...]) -> tuple[Any, ...]:
        """Arguments of `forward` for one input of that shape, to count operations with."""
        return (torch.zeros(1, *shape, device=self.device),)

    def pictures(self, data: Any) -> dict[str, Figure]:
        """What a reader of the paper would want to see after the test, by file name; shown on the report page.

        `data` is the stage's datamodule, already set up.
        """
        return {}

    def artifacts(self) -> dict[str, np.ndarray]:
        """What later stages are fed with, by name: arrays, label maps, images; kept in the stage's folder.

        Asked for on the first process after the test.
        """
        return {}

    # Logging every step through Lightning costs more than a small network's step; means are summed here instead.

    def track(self, count: int, **values: Tensor) -> None:
        """Add per-batch means of `count` images to this epoch's training means, logged as train/<name>."""
        for name, value in values.items():
            term = value.detach() * count
            self._sums[name] = self._sums[name] + term if name in self._sums else term
        self._count += count

    def on_train_epoch_end(self) -> None:
        if self._sums:
            total = torch.stack([*self._sums.values(), torch.tensor(float(self._count), device=self.device)])
            *sums, count = self.trainer.strategy.reduce(total, reduce_op="sum").tolist()
            self.log_dict({f"train/{name}": value / count for name, value in zip(self._sums, sums, strict=True)})
        if self.trainer.optimizers:
            self.log("train/lr", self.trainer.optimizers[0].param_groups[0]["lr"])
        self._sums, self._count = {}, 0

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["epoch_sums"], checkpoint["epoch_count"] = dict(self._sums), self._count

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._sums, self._count = checkpoint["epoch_sums"], checkpoint["epoch_count"]
