"""Lightning for tests: a trainer on the processor that shows nothing and leaves nothing behind."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl


def trainer(epochs: int, **more: Any) -> pl.Trainer:
    return pl.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **more,
    )
