"""Negatives from the past: a slowly moving copy of the network and a queue of its outputs (SimCLR v2, MoCo)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from modules.common.averaging import WeightAverage
from modules.common.distributed import gather


class Memory(nn.Module):
    """The last `size` outputs of an exponential moving average of the network, oldest first out.

    No gradient enters. Several processes keep the same queue, which holds the outputs of all of them.

    Args:
        network: what is averaged: images to outputs (B, outputs).
        size: of the queue.
        outputs: width of an output.
        decay: of the average, from the first step on.
    Raises:
        ValueError: the size is below 1.
    """

    queue: Tensor
    written: Tensor

    def __init__(self, network: nn.Module, size: int, outputs: int, decay: float = 0.999) -> None:
        super().__init__()
        if size < 1:
            raise ValueError(f"memory.size={size}: expected at least 1")
        self.average = WeightAverage(network, decay, warm=False)
        self.register_buffer("queue", torch.zeros(size, outputs))
        self.register_buffer("written", torch.tensor(0))

    def negatives(self) -> Tensor | None:
        """What the queue holds so far, (M, outputs); None while it is empty."""
        count = min(int(self.written), len(self.queue))
        return self.queue[:count].clone() if count else None

    @torch.no_grad()
    def remember(self, network: nn.Module, x: Tensor) -> None:
        """Put the average's outputs for x into the queue."""
        outputs = gather(self.average.call(network, x).float())[-len(self.queue) :]
        places = (self.written + torch.arange(len(outputs), device=x.device)) % len(self.queue)
        self.queue.index_copy_(0, places, outputs)
        self.written += len(outputs)

    def follow(self, network: nn.Module) -> None:
        """Move the average towards the network; to be called after each step."""
        self.average.update(network)
