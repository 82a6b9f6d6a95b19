"""The trainer settings that a configuration may name. The engine sets the rest."""

from __future__ import annotations

from typing import Any


def arguments(
    accelerator: str = "auto",
    devices: int | list[int] = 1,
    strategy: str = "auto",
    precision: str = "auto",
    max_epochs: int | None = None,
    check_val_every_n_epoch: int = 1,
    accumulate_grad_batches: int = 1,
    gradient_clip_val: float | None = None,
    num_nodes: int = 1,
    sync_batchnorm: bool = False,
) -> dict[str, Any]:
    """These are pytorch_lightning.Trainer's arguments of the same names."""
    return dict(locals())
