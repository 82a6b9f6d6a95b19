"""What stands in for training: batch statistics of an untrained network."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from modules.common.protopnet import ProtoPNet
from modules.explaining_prototypes.module import Statistics

Build = Callable[..., ProtoPNet]


def test_batch_statistics_are_averaged_and_nothing_is_trained(network: Build, batch: Any) -> None:
    stage = Statistics(3, network())
    before = copy.deepcopy(dict(stage.named_parameters()))
    assert stage.configure_optimizers() == []
    outputs = []
    first = stage.network.backbone[0]
    for rows in torch.arange(24).split(8):
        stage.training_step(batch._replace(x=batch.x[rows]), 0)
        outputs.append(first(batch.x[rows]).mean((0, 2, 3)))
    assert torch.allclose(stage.network.backbone[1].running_mean, torch.stack(outputs).mean(0), atol=1e-6)
    assert all(torch.equal(value, before[name]) for name, value in stage.named_parameters())


def test_statistics_are_a_fit_of_one_epoch_that_optimises_nothing(network: Build, batch: Any) -> None:
    """Through the trainer, as the stage runs: running means of all batches, weights as they were."""
    stage = Statistics(3, network())
    before = copy.deepcopy(dict(stage.named_parameters()))
    parts = [
        batch._replace(x=batch.x[rows], y=batch.y[rows], row=batch.row[rows]) for rows in torch.arange(24).split(8)
    ]
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = pl.Trainer(accelerator="cpu", devices=1, max_epochs=1, enable_checkpointing=False, **quiet)
    trainer.fit(stage, DataLoader(parts, batch_size=None))
    outputs = [stage.network.backbone[0](part.x).mean((0, 2, 3)) for part in parts]
    assert torch.allclose(stage.network.backbone[1].running_mean, torch.stack(outputs).mean(0), atol=1e-6)
    assert all(torch.equal(value, before[name]) for name, value in stage.named_parameters())
