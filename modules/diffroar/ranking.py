"""The stage that ranks every image's coordinates by the size of its input gradient; nothing is trained."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from modules.common.adversarial import AdversarialClassifier
from modules.common.attributions import Attribution, logit_gradient, loss_gradient
from modules.common.frozen import Frozen
from modules.common.metrics import Means
from modules.common.module import StageModule

KINDS: dict[str, Attribution] = {"logit": logit_gradient, "loss": loss_gradient}
MOST = 2**16  # coordinates whose places fit into 16 bits


def places(size: Tensor, source: torch.Generator) -> Tensor:
    """The place of each coordinate when they are ordered by size: 0 is the largest. Ties are in a random order.

    Ties in the order of their indices would keep the same pixels of every image: a pattern of its own.

    Args:
        size: (B, d).
        source: of the order of ties, on the CPU.
    Returns:
        (B, d) int64, a permutation of 0 to d - 1 in each row.
    """
    shuffled = torch.rand(size.shape, generator=source).argsort(1).to(size.device)
    ordered = size.gather(1, shuffled).argsort(dim=1, descending=True, stable=True)
    order = shuffled.gather(1, ordered)  # (B, d), the coordinate at each place
    place = torch.arange(size.shape[1], device=size.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, place)


class Rank(StageModule):
    """Places of all coordinates by |gradient|, of the logit and of the loss, at the class that the network predicts.

    Channels are coordinates of their own: d = C H W. The label is not used: at the true label of a test image, the mask
    that comes of the ranking would tell it. Training and test images are seen alike, not augmented: the data's test
    goes through both.

    Metrics: n; top1, percent of all images; zero, percent of coordinates whose logit gradient is exactly 0;
    overlap, percent of the largest 5% by the one kind of gradient that are among those by the other.

    Args:
        model: the stage whose network is asked.
    Raises:
        ValueError: inputs of more coordinates than 16 bits can number.
    """

    def __init__(self, model: AdversarialClassifier) -> None:
        super().__init__()
        self.frozen = Frozen([model.network])
        self.source = torch.Generator()
        self.made: dict[str, list[Tensor]] = {}
        self.means = Means(("top1", "zero", "overlap"))

    def forward(self, x: Tensor) -> Tensor:
        (network,) = self.frozen.on(x.device)
        return network(x)

    def on_test_epoch_start(self) -> None:
        self.made = {name: [] for name in (*KINDS, "predicted")}
        self.source.manual_seed(torch.initial_seed() % 2**63)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        (network,) = self.frozen.on(self.device)
        predicted = self(batch.x).argmax(1)  # (B,)
        d = batch.x[0].numel()
        if d > MOST:
            raise ValueError(f"inputs of {d} coordinates: expected at most {MOST}")

        sizes = {kind: of(network, batch.x, predicted).abs().flatten(1) for kind, of in KINDS.items()}  # (B, d)
        placed = {kind: places(size, self.source) for kind, size in sizes.items()}
        for kind, place in placed.items():
            self.made[kind].append(place.to(torch.int32).cpu())
        self.made["predicted"].append(predicted.to(torch.int32).cpu())

        largest = max(1, round(0.05 * d))
        both = (placed["logit"] < largest) & (placed["loss"] < largest)
        self.means.update(
            {
                "top1": 100.0 * (predicted == batch.y),
                "zero": 100 * (sizes["logit"] == 0).double().mean(1),
                "overlap": 100 * both.sum(1) / largest,
            }
        )

    def on_test_epoch_end(self) -> None:
        self.log_dict({f"test/{name}": value for name, value in self.means.compute().items()})
        self.means.reset()

    def artifacts(self) -> dict[str, np.ndarray]:
        """Each kind's places (N, d) and the predicted class (N,), uint16, training images first."""
        return {name: torch.cat(chunks).numpy().astype(np.uint16) for name, chunks in self.made.items() if chunks}
