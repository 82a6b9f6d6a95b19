"""A search's best architectures trained again: a reward that was luck of one training does not come back."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from modules.nasnet.children import Children, ChildStage
from modules.nasnet.transfer import Searched


class Retrained(ChildStage):
    """The best architectures that a search drew, each trained anew several times and tested on test images.

    data.trials = best * trainings. Configure the trainer as for RewardTable. A search picks what was best on the images
    that give its reward, after one training each; new weights, another order and test images do not know of that.

    Args:
        search: what it drew; the best by reward of its first replay are taken.
        children: networks and training.
        best: how many different architectures.
        trainings: of each.
    Raises:
        ValueError: the search drew fewer different architectures.
    """

    chosen: Tensor  # (best, T)
    accuracies: Tensor  # (trainings, best), on test images, in [0, 1]

    def __init__(self, search: Searched, children: Children, best: int = 5, trainings: int = 1) -> None:
        super().__init__()
        self.space = search.space
        self.training_of = children
        actions = search.history.best_ones(best)
        if len(actions) < best:
            raise ValueError(f"best={best}: the search drew {len(actions)} different architectures")
        self.register_buffer("chosen", actions)
        self.register_buffer("accuracies", torch.full((trainings, best), math.nan))

    def forward(self, trials: Tensor) -> Tensor:
        """Accuracies by trial, training after training."""
        return self.accuracies.flatten()[trials]

    def example(self, shape: tuple[int, ...]) -> tuple[Any, ...]:
        return (torch.zeros(1, dtype=torch.long, device=self.device),)

    def training_step(self, batch: Tensor, batch_idx: int) -> None:
        trials = [trial for trial in batch.tolist() if trial < self.accuracies.numel()]
        genotypes = [self.space.decode(self.chosen[trial % len(self.chosen)].tolist()) for trial in trials]
        accuracies = self.train_children(self.training_of, genotypes, ["test"])  # (n, 1)
        self.accuracies.view(-1)[trials] = accuracies[:, 0]
        self.track(len(trials), top1=100 * accuracies.mean())

    def on_test_epoch_end(self) -> None:
        """`top1`, in percent: the mean over architectures and trainings."""
        self.log("test/top1", 100 * self.accuracies.nan_to_num().mean())  # a dry run stops early
