"""A running average of a network's weights, to evaluate with."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call


class WeightAverage(nn.Module):
    """Exponential moving average of all weights and batch statistics of one network:

        average <- d average + (1 - d) value

    The values are buffers: in checkpoints, in no optimiser, and not counted as parameters. Whole numbers (batch counts)
    are copied.

    Args:
        network: the network followed; its present values are where the average starts.
        decay: d, in [0, 1).
        warm: TensorFlow's rule, d = min(decay, (1 + n) / (10 + n)) after n updates, so that the start of a short
            training does not dominate; False is timm's, d = decay from the start on.
    Raises:
        ValueError: the decay lies outside.
    """

    updates: Tensor

    def __init__(self, network: nn.Module, decay: float, warm: bool = True) -> None:
        super().__init__()
        if not 0 <= decay < 1:
            raise ValueError(f"decay={decay}: expected a number from 0 to below 1")
        self.decay, self.warm = decay, warm
        self.names = {name: name.replace(".", "-") for name in network.state_dict()}  # a buffer's name may hold no dot
        for name, value in network.state_dict().items():
            self.register_buffer(self.names[name], value.clone())
        self.register_buffer("updates", torch.tensor(0))
        self._known: int | None = None  # the same number here: reading it from a GPU would wait for the step

    def values(self) -> dict[str, Tensor]:
        """The averaged weights by the network's own names."""
        return {name: getattr(self, ours) for name, ours in self.names.items()}

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Move the average towards the network's values."""
        n = int(self.updates) if self._known is None else self._known
        d = min(self.decay, (1 + n) / (10 + n)) if self.warm else self.decay
        averages, new = self.values(), network.state_dict()
        real = [name for name, value in averages.items() if value.is_floating_point()]
        torch._foreach_lerp_([averages[name] for name in real], [new[name] for name in real], 1 - d)
        for name in averages.keys() - set(real):
            averages[name].copy_(new[name])
        self.updates += 1
        self._known = n + 1

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._known = None

    def call(self, network: nn.Module, x: Tensor) -> Tensor:
        """The network's output with the averaged weights."""
        return functional_call(network, self.values(), (x,))
