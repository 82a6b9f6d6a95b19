"""Methods that are computed from the training set instead of trained by gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from modules.common.module import StageModule


class ClosedForm(StageModule):
    """Sees the training set once, in order of arrival, then solves.

    A subclass implements `solve(x, y)`; what it finds belongs in buffers named in `solution`, so that later stages and
    the test load it. Nothing is augmented unless the data says so. There is no gradient for several processes to share
    and one epoch is enough: a stage's configuration says `trainer: {max_epochs: 1, devices: 1, strategy: auto}`.

    Attributes:
        solution: names of buffers whose size is known only after `solve`.
    """

    solution: tuple[str, ...] = ()

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self._seen: list[tuple[Tensor, Tensor]] = []
        for name in self.solution:
            self.register_buffer(name, torch.empty(0))

    def solve(self, x: Tensor, y: Tensor) -> None:
        """Compute the solution from the whole training set: x (N, ...), y (N, ...), in no particular order."""
        raise NotImplementedError(f"{type(self).__name__} does not say how it is solved")

    def keep(self, x: Tensor) -> Tensor:
        """What is kept of a batch until all is seen, e.g. features instead of images."""
        return x

    def configure_optimizers(self) -> list[Optimizer]:
        return []

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        if self.current_epoch == 0:
            with torch.no_grad():
                self._seen.append((self.keep(batch[0]), batch[1]))

    def on_train_epoch_end(self) -> None:
        if self._seen:
            x, y = (torch.cat(batches) for batches in zip(*self._seen, strict=True))
            self._seen = []
            with torch.no_grad():
                self.solve(x, y)
        super().on_train_epoch_end()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["seen"] = list(self._seen)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self._seen = [(x.to(self.device), y.to(self.device)) for x, y in checkpoint["seen"]]

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        for name in self.solution:
            if prefix + name in state_dict:
                setattr(self, name, torch.empty_like(state_dict[prefix + name], device=self.device))
        super()._load_from_state_dict(state_dict, prefix, *rest)
