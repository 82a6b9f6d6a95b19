"""Looking at what a network gives, in the middle of training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


@contextmanager
def inference(module: nn.Module) -> Iterator[None]:
    """Evaluation mode and no gradient inside; every layer is then in the mode it was in."""
    modes = {layer: layer.training for layer in module.modules()}
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for layer, mode in modes.items():
            layer.training = mode


def training_images(data: Any, rows: list[int]) -> Tensor:
    """Training images as the network sees them, not augmented: (n, C, H, W)."""
    if hasattr(data, "training_images"):  # photos, read one by one
        return data.training_images(rows)
    return data.normalised(data.splits["train"][0][rows])
