"""CIFAKE: a small CNN tells real from generated pictures (arXiv 2303.14126).

    L = -[ y ln p + (1 - y) ln(1 - p) ],   p = sigmoid(logit),   y = 1 for a generated picture

Topologies are chosen greedily: the extractor first, then the dense head on it, by accuracy on validation pictures. Only
what was chosen in the end is tested.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional as F

from modules.cifake.networks import CNN, Topology, best_of
from modules.cifake.pictures import draw_grid
from modules.cifake.scores import FAKE, BinaryScores
from modules.common.metrics import compute_and_reset
from modules.common.module import OptimizerFactory
from modules.common.schedules import Schedule
from modules.common.stopping import EarlyStopped


class TopologyDetector(EarlyStopped):
    """One topology, trained.

    Validation and test metrics: those of BinaryScores. The accuracy on validation pictures stays in `val_acc`, for the
    choice among several.

    Args:
        topology: see Topology.
        padding, side: see CNN.
        patience: training ends after so many epochs without a lower loss on validation pictures, and the weights are
            those of the lowest; None trains all epochs and keeps the last weights.
        optimizer, schedule: see StageModule.
    Raises:
        ValueError: patience below 1.
    """

    val_acc: Tensor

    def __init__(
        self,
        topology: Topology,
        padding: str = "same",
        side: int = 32,
        patience: int | None = None,
        optimizer: OptimizerFactory | None = None,
        schedule: Schedule | None = None,
    ) -> None:
        super().__init__(optimizer, schedule)
        if patience is not None and patience < 1:
            raise ValueError(f"patience={patience}: expected 1 or more epochs, or null")
        self.topology = topology
        self.network = CNN(topology, padding, side)
        self.watch(patience, network=self.network)
        self.val_scores, self.test_scores = BinaryScores(), BinaryScores()
        self.register_buffer("val_acc", torch.tensor(-1.0))
        unshared = [name for name, _ in self.named_buffers()]
        self._ddp_params_and_buffers_to_ignore = unshared  # every process arrives at the same ones

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)

    def logits(self, x: Tensor) -> Tensor:
        """Log odds of "generated", (B,) float32."""
        return self(x).float()[:, 0]

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        logits = self.logits(batch.x)  # (B,)
        generated = batch.y == FAKE
        loss = F.binary_cross_entropy_with_logits(logits, generated.float())
        self.track(len(logits), loss=loss, acc=100 * ((logits > 0) == generated).float().mean())
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.val_scores.update(self.logits(batch.x), batch.y)

    def on_validation_epoch_end(self) -> None:
        values = compute_and_reset(self.val_scores)
        self.observe(network=values["loss"])
        if not self.watched or int(self.best["network"].waited) == 0:  # type: ignore[arg-type]
            self.val_acc.copy_(values["acc"])
        self.log_dict({f"val/{name}": value for name, value in values.items()})
        self.log("val/kept_acc", self.val_acc)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.test_scores.update(self.logits(batch.x), batch.y)

    def on_test_epoch_end(self) -> None:
        self.log_dict({f"test/{name}": value for name, value in compute_and_reset(self.test_scores).items()})


class ChosenDetector(TopologyDetector):
    """The candidate with the highest accuracy on validation pictures, trained anew; or a dense head on its extractor.

    Args:
        candidates: TopologyDetectors to choose from.
        units, dense: of a head that takes the place of the chosen one's; 0 leaves what was chosen as it is.
        options: see TopologyDetector.
    """

    def __init__(
        self,
        candidates: Sequence[Any],
        units: int = 0,
        dense: int = 0,
        padding: str = "same",
        side: int = 32,
        patience: int | None = None,
        optimizer: OptimizerFactory | None = None,
        schedule: Schedule | None = None,
    ) -> None:
        scores = [(candidate.topology, float(candidate.val_acc)) for candidate in candidates]
        chosen = best_of(scores)
        if dense or units:
            chosen = replace(chosen, units=units, dense=dense)
        super().__init__(chosen, padding, side, patience, optimizer, schedule)
        self.candidates = scores

    def on_test_epoch_end(self) -> None:
        super().on_test_epoch_end()
        for name in ("filters", "convolutions", "units", "dense"):
            self.log(f"test/{name}", float(getattr(self.topology, name)))

    def pictures(self, data: Any) -> dict[str, Figure]:
        """Accuracy on validation pictures of all candidates, extractors beside heads."""
        return {"grid": draw_grid(self.candidates, self.topology)}
