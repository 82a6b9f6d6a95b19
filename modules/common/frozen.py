"""Networks that a stage uses and never trains."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn


class Frozen:
    """Networks that a stage uses and never trains.

    They stay outside the module tree: in no optimiser, in no checkpoint, and `module.train()` cannot put them back
    into training mode, where their batch statistics would drift.
    """

    def __init__(self, networks: Iterable[nn.Module]) -> None:
        self.networks = [network.eval().requires_grad_(False) for network in networks]
        self._device: torch.device | None = None

    def __len__(self) -> int:
        return len(self.networks)

    def on(self, device: torch.device) -> list[Any]:
        """The networks, on that device."""
        if self._device != device:
            self.networks = [network.to(device) for network in self.networks]
            self._device = device
        return self.networks

    def logits(self, x: Tensor, chosen: Sequence[int] | None = None) -> Tensor:
        """(T, B, C): the output of each network (or of those chosen) on the same batch. No gradient flows."""
        networks = self.on(x.device)
        with torch.inference_mode():
            outputs = torch.stack([networks[i](x) for i in chosen or range(len(self))])
        return outputs.clone()  # an inference tensor cannot take part in a loss; this copy can
