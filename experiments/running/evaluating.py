"""How long a stage's tests and validations take on the device at hand: some batches, timed as a training's are.

What a module does once all batches are seen (samples that are drawn, neighbours that are looked for) is not counted:
the timing ends before.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.utilities.model_helpers import is_overridden

from datamodules.common.base import DataModule
from experiments.running import pace
from experiments.running.devices import decide_precision, uses_gpu
from experiments.running.plan import Stage
from modules.common.module import StageModule


class _EnoughError(Exception):
    """Ends a test as soon as its pace is known."""


class EvaluationClock(pl.Callback):
    """Seconds of an image, from the end of one batch to the end of the next, so that the making of batches counts."""

    def __init__(self, seconds: float, now: Callable[[], float]) -> None:
        self.limit = seconds
        self._now = now
        self._began = 0.0
        self._ends: list[tuple[float, int]] = []

    @property
    def per_image(self) -> float:
        """The first batch, which is slower, counts only where there is no other."""
        counted = self._ends[1:] or self._ends
        began = self._ends[0][0] if len(self._ends) > 1 else self._began
        images = sum(number for _, number in counted)
        return (counted[-1][0] - began) / images if images else 0.0

    def on_test_batch_start(self, *_: Any, **__: Any) -> None:
        if not self._ends:
            self._began = self._now()

    def on_test_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, *_: Any, **__: Any
    ) -> None:
        pace.wait()
        self._ends.append((self._now(), len(batch[0])))
        if self._ends[-1][0] - self._began >= self.limit:
            raise _EnoughError

    def on_test_epoch_end(self, *_: Any, **__: Any) -> None:
        raise _EnoughError  # before the module does what it does at the end

    def on_validation_batch_start(self, *arguments: Any, **more: Any) -> None:
        self.on_test_batch_start(*arguments, **more)

    def on_validation_batch_end(self, *arguments: Any, **more: Any) -> None:
        self.on_test_batch_end(*arguments, **more)

    def on_validation_epoch_end(self, *_: Any, **__: Any) -> None:
        raise _EnoughError


def seconds(stage: Stage, module: StageModule, data: DataModule, sizes: Mapping[str, int], limit: float) -> float:
    """Of a seed's test and of all validations of its training.

    Args:
        data, sizes: batches to time, and how many images a real run's splits have.
        limit: seconds after which the pace of a split is known; a batch may take longer.
    """
    total = 0.0
    if stage.test and is_overridden("test_step", module):
        total += sizes.get("test", 0) * _per_image(stage, module, data, limit, "test")
    if stage.fit and sizes.get("val") and is_overridden("validation_step", module):
        validations = _validations(stage)
        total += validations * sizes["val"] * _per_image(stage, module, data, limit, "validate") if validations else 0
    return total


def _validations(stage: Stage) -> int:
    """How often a training looks at its validation images."""
    if stage.trainer.get("limit_val_batches") == 0:
        return 0
    every = stage.trainer.get("check_val_every_n_epoch") or 1
    return math.floor((stage.trainer.get("max_epochs") or 1) / every)


def _per_image(stage: Stage, module: StageModule, data: DataModule, limit: float, split: str) -> float:
    clock = EvaluationClock(limit, pace.clock(stage))
    trainer = pl.Trainer(
        accelerator="gpu" if uses_gpu(stage.trainer) else "cpu",
        devices=1,
        precision=decide_precision(stage.trainer),  # type: ignore[arg-type]
        logger=False,
        callbacks=[clock],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    with contextlib.suppress(_EnoughError):
        getattr(trainer, split)(module, datamodule=data, verbose=False)
    return clock.per_image
