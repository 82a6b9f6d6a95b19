"""What becomes of a search's ranking: cells from all of it, trained as larger networks on other data."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from matplotlib.figure import Figure
from torch import Tensor

from modules.nasnet.cells import Genotype
from modules.nasnet.children import Children, ChildStage
from modules.nasnet.history import History
from modules.nasnet.module import TOP
from modules.nasnet.networks import CellNetwork
from modules.nasnet.pictures import cell_pictures, top_picture, transfer_picture
from modules.nasnet.space import Space
from modules.nasnet.table import rank_correlation


class Ranked(Protocol):
    """A table or a search: different architectures in canonical form (M, T) and their scores (M,), best last."""

    space: Space

    def ranked(self) -> tuple[Tensor, Tensor]: ...


class Searched(Protocol):
    """A search: what it has drawn, and the architecture that it hands on."""

    space: Space
    history: History

    def select(self) -> list[int]: ...


class Ranking(ChildStage):
    """Does the order found by the search hold elsewhere? Cells from the whole ranking, trained anew on other data.

    Trains `cells` different architectures evenly spaced over the ranking, then the one that `search` hands on:
    data.trials = cells + 1. Configure the trainer as for RewardTable. The control ranks the same cells by how many
    parameters they have there, which takes no search.

    Args:
        ranked: what is ranked: a whole table, by the mean of its trainings, or what a search has drawn, by reward.
        search: whose own choice is trained too.
        against: the search that `search` is drawn against in a picture.
        children: networks and training on the new data; weights are not taken over.
        cells: how many, a multiple of 3.
    Raises:
        ValueError: another number of cells, or `ranked` and `search` in different spaces.
    """

    chosen: Tensor  # (cells + 1, T)
    sizes: Tensor  # (cells,) parameters of the networks trained here
    scores: Tensor  # (cells,) accuracy on val images where they were searched, in [0, 1]
    accuracies: Tensor  # (cells + 1,) here, on test images

    def __init__(
        self, ranked: Ranked, search: Searched, against: Searched, children: Children, cells: int = 12
    ) -> None:
        super().__init__()
        if cells < 3 or cells % 3:
            raise ValueError(f"cells={cells}: expected a multiple of 3")
        if ranked.space != search.space:
            raise ValueError("ranked and search: expected the same space")
        self.space = ranked.space
        self.training_of = children
        self.cells = cells
        self.searches = {"PPO": search, "random search": against}  # in a dict: no part of what is trained and saved

        actions, scores = ranked.ranked()
        rows = torch.linspace(0, len(actions) - 1, cells).round().long()
        self.register_buffer("chosen", torch.cat([actions[rows], torch.tensor([search.select()])]))
        self.register_buffer("scores", scores[rows])
        sizes = [parameters(children.network, self.space.decode(row)) for row in self.chosen[:-1].tolist()]
        self.register_buffer("sizes", torch.tensor(sizes, dtype=torch.float), persistent=False)
        self.register_buffer("accuracies", torch.full((cells + 1,), math.nan))

    def forward(self, rows: Tensor) -> Tensor:
        """Accuracies of architectures by their row in `chosen`."""
        return self.accuracies[rows]

    def example(self, shape: tuple[int, ...]) -> tuple[Any, ...]:
        return (torch.zeros(1, dtype=torch.long, device=self.device),)

    def training_step(self, batch: Tensor, batch_idx: int) -> None:
        rows = [row for row in batch.tolist() if row <= self.cells]
        genotypes = [self.space.decode(self.chosen[row].tolist()) for row in rows]
        accuracies = self.train_children(self.training_of, genotypes, ["test"])  # (n, 1)
        self.accuracies[rows] = accuracies[:, 0]
        self.track(len(rows), top1=100 * accuracies.mean())

    def on_test_epoch_end(self) -> None:
        """In [-1, 1]: `spearman` of score there and accuracy here, `spearman_parameters` of size and accuracy here.

        The others are in percent; `found` is the architecture that the search hands on.
        """
        accuracies = self.accuracies.nan_to_num()  # a dry run stops early
        cells = accuracies[:-1]
        worst, middle, best = cells.view(3, -1).mean(1)
        metrics = {
            "best_third": best,
            "middle_third": middle,
            "worst_third": worst,
            "mean": cells.mean(),
            "found": accuracies[-1],
        }
        self.log_dict({f"test/{name}_top1": 100 * value for name, value in metrics.items()})
        self.log("test/spearman", rank_correlation(self.scores, cells))
        self.log("test/spearman_parameters", rank_correlation(self.sizes, cells))

    def pictures(self, data: Any) -> dict[str, Figure]:
        """Accuracy on the new data against that in the search; both searches' rewards; the ends of the ranking."""
        figures = {
            "transfer of the ranking": transfer_picture(self.scores, self.accuracies[:-1], float(self.accuracies[-1])),
            "PPO against random search": top_picture(top_curves(self.searches)),
        }
        for row, name in ((-2, "best of the ranking"), (0, "worst of the ranking")):
            figures |= cell_pictures(self.space, self.chosen[row].tolist(), name)
        return figures


def parameters(network: Callable[..., CellNetwork], genotype: Genotype) -> int:
    """How many a network of a genotype has; none is allocated."""
    with torch.device("meta"):
        return sum(p.numel() for p in network(genotype=genotype).parameters())


def top_curves(
    searches: Mapping[str, Searched], points: int = 20
) -> dict[int, dict[str, tuple[list[int], list[float]]]]:
    """Mean reward, in percent, of the best 1, 5 and 25 different architectures among the first so many of each search.

    Returns, by number of best ones and by search, (architectures drawn, mean reward) at so many points.
    """
    curves: dict[int, dict[str, tuple[list[int], list[float]]]] = {number: {} for number in TOP}
    for name, search in searches.items():
        history = search.history
        samples = torch.linspace(0, history.count, points + 1).round().long()[1:].unique().tolist()
        for number in TOP:
            curves[number][name] = (samples, [100 * float(history.top(number, k)) for k in samples])
    return curves
