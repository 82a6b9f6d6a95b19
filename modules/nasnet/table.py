"""The reward of every architecture of a small space, from real trainings: what a search can be replayed on."""

from __future__ import annotations

import math
from typing import Any

import torch
from matplotlib.figure import Figure
from scipy.stats import spearmanr
from torch import Tensor

from modules.nasnet.children import Children, ChildStage
from modules.nasnet.pictures import cell_picture, table_picture
from modules.nasnet.space import Space


class RewardTable(ChildStage):
    """Each architecture is trained twice, with other initial weights and another order of the images.

    The reward is the accuracy of training 1 on val images; what is found by it is judged by training 2 alone, so that a
    lucky initialisation does not count as an architecture.

    Step by step over data.trials = the number of different architectures (Space.architectures). Nothing is optimised
    here, so the stage's configuration says `trainer: {max_epochs: 1, devices: 1, strategy: auto}`.

    Args:
        space, children: which, and how each is trained.
    Raises:
        ValueError: the space has more than a million sequences.
    """

    rewards: Tensor  # (M,) training 1, accuracy on val images, in [0, 1]
    repeated: Tensor  # (M,) training 2, accuracy on the same images
    accuracies: Tensor  # (M,) training 2, accuracy on test images; no search reads the last two

    def __init__(self, space: Space, children: Children) -> None:
        super().__init__()
        if space.count > 10**6:
            raise ValueError(f"space: {space.count:.3g} architectures are too many for a table")
        self.space = space
        self.training_of = children
        self.cells = space.architectures()  # (M, T)
        for name in ("rewards", "repeated", "accuracies"):
            self.register_buffer(name, torch.full((len(self.cells),), math.nan))

    def forward(self, rows: Tensor) -> Tensor:
        """Rewards of architectures by their row in Space.architectures."""
        return self.rewards[rows]

    def example(self, shape: tuple[int, ...]) -> tuple[Any, ...]:
        return (torch.zeros(1, dtype=torch.long, device=self.device),)

    def training_step(self, batch: Tensor, batch_idx: int) -> None:
        rows = [row for row in batch.tolist() if row < len(self.cells)]
        genotypes = [self.space.decode(actions) for actions in self.cells[rows].tolist()]

        first = self.train_children(self.training_of, genotypes, ["val"])  # (n, 1)
        second = self.train_children(self.training_of, genotypes)  # (n, 2)
        self.rewards[rows] = first[:, 0]
        self.repeated[rows] = second[:, 0]
        self.accuracies[rows] = second[:, 1]
        self.track(len(rows), reward=100 * self.rewards[rows].mean())

    def ranked(self) -> tuple[Tensor, Tensor]:
        """All architectures (M, T) and the mean accuracy (M,) of both trainings on val images, best last."""
        means = (self.rewards + self.repeated) / 2
        order = means.argsort(stable=True)
        return self.cells.to(order.device)[order], means[order]

    def on_test_epoch_end(self) -> None:
        """In percent; `reliability`: rank correlation of both trainings' accuracies on val images, in [-1, 1]."""
        trained = ~self.rewards.isnan()
        rewards = self.rewards[trained]
        values = {"best": rewards.max(), "mean": rewards.mean(), "worst": rewards.min(), "std": rewards.std()}
        self.log_dict({f"test/{name}_reward": 100 * value for name, value in values.items()})
        self.log("test/reliability", rank_correlation(rewards, self.repeated[trained]))

    def pictures(self, data: Any) -> dict[str, Figure]:
        """All rewards in order with what the second training reached, and the cell of the highest reward."""
        best = self.space.decode(self.cells[int(self.rewards.cpu().argsort()[-1])].tolist())
        return {
            "the table": table_picture(self.rewards, self.repeated, self.accuracies),
            "cell with the highest reward": cell_picture(best.normal),
        }


def rank_correlation(a: Tensor, b: Tensor) -> float:
    """Spearman's, 0 where one of them is constant."""
    correlation = float(spearmanr(a.cpu().numpy(), b.cpu().numpy()).statistic)
    return correlation if math.isfinite(correlation) else 0.0
