"""What becomes of a search's ranking: cells from all of it, trained as larger networks on other data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Protocol

import torch
from matplotlib.figure import Figure
from torch import Tensor

from modules.nasnet.pictures import cell_pictures
from modules.nasnet.search import TOP, Children, ChildStage, rank_correlation
from modules.nasnet.space import Space


class Evaluated(Protocol):
    """A table or a search: different architectures in canonical form (M, T) and their scores (M,), best last."""

    space: Space

    def evaluated(self) -> tuple[Tensor, Tensor]: ...


class Searched(Protocol):
    """A search: how many it has drawn, its best ones on average among the first so many, what it hands on."""

    space: Space
    seen: Tensor

    def top(self, number: int, samples: int | None = None) -> Tensor: ...

    def found(self) -> list[int]: ...


def top_curves(searches: Mapping[str, Searched], points: int = 20) -> Figure:
    """Fig. 6: mean reward of the best 1, 5 and 25 different architectures so far, of all searches on the same axes."""
    figure = Figure(figsize=(10, 3), layout="constrained")
    for axes, number in zip(figure.subplots(1, len(TOP), sharey=True), TOP, strict=True):
        for name, search in searches.items():
            samples = torch.linspace(0, int(search.seen), points + 1).round().long()[1:].unique().tolist()
            axes.plot(samples, [100 * float(search.top(number, k)) for k in samples], label=name)
        axes.set(title=f"best {number}", xlabel="architectures drawn")
    figure.axes[0].set_ylabel("reward, %")
    figure.axes[0].legend(fontsize=8)
    return figure


class Ranking(ChildStage):
    """Does the order found by the search hold elsewhere? Cells from the whole ranking, trained anew on other data.

    Trains `cells` different architectures evenly spaced over the ranking, then the one that `found` hands on:
    data.trials = cells + 1. Configure the trainer as for RewardTable.

    Args:
        searched: what is ranked: a whole table, by the mean of its trainings, or what a search has drawn, by reward.
        found: the search whose found architecture is trained too.
        against: the search that `found` is drawn against in a picture.
        children: networks and training on the new data; weights are not taken over.
        cells: how many, a multiple of 3.
    Raises:
        ValueError: another number of cells, or `searched` and `found` in different spaces.
    """

    chosen: Tensor  # (cells + 1, T)
    scores: Tensor  # (cells,) accuracy on val images where they were searched, in [0, 1]
    accuracies: Tensor  # (cells + 1,) here, on test images

    def __init__(
        self, searched: Evaluated, found: Searched, against: Searched, children: Children, cells: int = 12
    ) -> None:
        super().__init__()
        if cells < 3 or cells % 3:
            raise ValueError(f"cells={cells}: expected a multiple of 3")
        if searched.space != found.space:
            raise ValueError("searched and found: expected the same space")
        self.space, self.training_of, self.cells = searched.space, children, cells
        self.searches = {"PPO": found, "random search": against}  # in a dict: no part of what is trained and saved
        actions, scores = searched.evaluated()
        places = torch.linspace(0, len(actions) - 1, cells).round().long()
        self.register_buffer("chosen", torch.cat([actions[places], torch.tensor([found.found()])]))
        self.register_buffer("scores", scores[places])
        self.register_buffer("accuracies", torch.full((cells + 1,), math.nan))

    def forward(self, numbers: Tensor) -> Tensor:
        return self.accuracies[numbers]

    def example(self, shape: tuple[int, ...]) -> tuple[Any, ...]:
        return (torch.zeros(1, dtype=torch.long, device=self.device),)

    def training_step(self, batch: Tensor, batch_idx: int) -> None:
        numbers = [n for n in batch.tolist() if n <= self.cells]
        found = self.outcomes(self.training_of, [self.space.decode(self.chosen[n].tolist()) for n in numbers], ["test"])
        self.accuracies[numbers] = found[:, 0]
        self.track(len(numbers), top1=100 * found.mean())

    def on_test_epoch_end(self) -> None:
        """`spearman` of score there and accuracy here, in [-1, 1]; accuracies of thirds and of `found` in percent."""
        ranked = self.accuracies[:-1].nan_to_num()  # a dry run stops early
        worst, middle, best = ranked.view(3, -1).mean(1)
        found = {"best_third": best, "middle_third": middle, "worst_third": worst, "mean": ranked.mean()}
        found["found"] = self.accuracies[-1].nan_to_num()
        self.log_dict({f"test/{name}_top1": 100 * value for name, value in found.items()})
        self.log("test/spearman", rank_correlation(self.scores, ranked))

    def pictures(self, data: Any) -> dict[str, Figure]:
        """Accuracy on the new data against that in the search; both searches' rewards; the ends of the ranking."""
        figure = Figure(figsize=(6, 4), layout="constrained")
        axes = figure.subplots()
        axes.scatter(100 * self.scores.cpu(), 100 * self.accuracies[:-1].cpu(), label="cells from the whole ranking")
        axes.axhline(100 * float(self.accuracies[-1]), color="C1", label="the cell that PPO found")
        axes.set(xlabel="accuracy in the search, %", ylabel="test accuracy on the new data, %")
        axes.legend(fontsize=8)
        found = {"transfer of the ranking": figure, "PPO against random search": top_curves(self.searches)}
        for row, name in ((-2, "best of the ranking"), (0, "worst of the ranking")):
            found |= cell_pictures(self.space, self.chosen[row].tolist(), name)
        return found
