"""Searching over architectures made of cells: the space, how a child is trained to be judged, a table of rewards.

Follows Zoph et al., arXiv 1707.07012, appendix A; what a search does with rewards is a paper's own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from matplotlib.figure import Figure
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.nn import functional as F

from modules.common.cells import OPERATIONS, Block, CellNetwork, Genotype, Graph
from modules.common.distributed import world_size
from modules.common.module import OptimizerFactory, StageModule
from modules.common.schedules import Position, Schedule

TOP = (1, 5, 25)  # how many of the best architectures Fig. 6 averages


@dataclass(frozen=True)
class Space:
    """Every choice of a search in the controller's order: per block two states, two operations, how to combine.

    Attributes:
        blocks: B.
        operations, combinations: what can be chosen.
        reduction: blocks (first, second, first_op, second_op, combine) of a reduction cell that is not searched; None
            searches it too, after the normal cell.
        inputs: states a cell reads: 2, or 4 in NASNet-B.
        merged: outputs are concatenated (NASNet-A and C).
    """

    blocks: int = 5
    operations: Sequence[str] = OPERATIONS
    combinations: Sequence[str] = ("add", "concat")
    reduction: Sequence[Sequence[Any]] | None = None
    inputs: int = 2
    merged: bool = True

    @property
    def sizes(self) -> list[int]:
        """How many options each choice has."""
        ops, ways = len(self.operations), len(self.combinations)
        cell = [n for b in range(self.blocks) for n in (self.inputs + b, self.inputs + b, ops, ops, ways)]
        return cell * (2 if self.reduction is None else 1)

    @property
    def count(self) -> int:
        """How many sequences of choices there are; several may describe one architecture."""
        return math.prod(self.sizes)

    def decode(self, actions: Sequence[int]) -> Genotype:
        """The architecture of one sequence of choices."""
        blocks = [
            Block(first, second, self.operations[op1], self.operations[op2], self.combinations[way])
            for first, second, op1, op2, way in zip(*[iter(actions)] * 5, strict=True)
        ]
        fixed = [Block(*block) for block in self.reduction] if self.reduction is not None else blocks[self.blocks :]
        normal = Graph.of(blocks[: self.blocks], self.inputs, self.merged)
        return Genotype(normal, Graph.of(fixed, self.inputs, self.merged))

    def number(self, actions: Tensor) -> Tensor:
        """Place of sequences (..., T) in the list of all, below `count`; of spaces with fewer than 2^63."""
        place = torch.zeros_like(actions[..., 0])
        for t, size in enumerate(self.sizes):
            place = place * size + actions[..., t]
        return place

    def canonical(self, actions: Tensor) -> Tensor:
        """One form (..., T) for sequences (..., T) of the same network: each block's smaller (state, operation) first.

        Addition commutes, and the other order of a concatenation permutes channels, that is, the next weights. The same
        cell written with its blocks in another order keeps its own form.
        """
        blocks = actions.unflatten(-1, (-1, 5))  # (..., blocks, 5)
        first, second, op1, op2, way = blocks.unbind(-1)
        exchange = (first > second) | ((first == second) & (op1 > op2))
        exchanged = torch.stack([second, first, op2, op1, way], -1)
        return torch.where(exchange[..., None], exchanged, blocks).flatten(-2)

    def architectures(self) -> Tensor:
        """The canonical forms (M, T) in the order of their numbers; of spaces that can be enumerated."""
        everything = torch.cartesian_prod(*(torch.arange(size) for size in self.sizes))  # (count, T)
        return self.canonical(everything).unique(dim=0)

    def place(self, actions: Tensor) -> Tensor:
        """Rows of `architectures` that sequences (..., T) stand for."""
        numbers = self.number(self.architectures().to(actions.device))
        return torch.searchsorted(numbers, self.number(self.canonical(actions)))

    def uniform(self, *shape: int, device: torch.device | None = None) -> Tensor:
        """Random sequences (*shape, T), every choice uniform."""
        return torch.stack([torch.randint(size, shape, device=device) for size in self.sizes], -1)


def total_loss(
    logits: Tensor, second: Tensor | None, labels: Tensor, weight: float = 0.4, label_smoothing: float = 0.0
) -> Tensor:
    """Cross-entropy of the network plus `weight` times that of the auxiliary head; (B, C), (B, C), (B,)."""
    loss = F.cross_entropy(logits, labels, label_smoothing=label_smoothing)
    return loss if second is None else loss + weight * F.cross_entropy(second, labels, label_smoothing=label_smoothing)


def parameter_groups(network: nn.Module) -> list[dict[str, Any]]:
    """Weights, then biases and batch norms, which no weight decay touches."""
    parameters = list(network.parameters())
    others = [p for p in parameters if p.dim() <= 1]
    return [{"params": [p for p in parameters if p.dim() > 1]}, {"params": others, "weight_decay": 0.0}]


class Children:
    """How an architecture is trained to be judged; the same for every one.

    Args:
        network: makes the network of a genotype, `network(genotype=...)`.
        epochs: over the training images.
        optimizer, schedule: as in StageModule; see parameter_groups.
        clip_norm: largest norm of the gradient; None does not clip.
    """

    def __init__(
        self,
        network: Callable[..., CellNetwork],
        epochs: int,
        optimizer: OptimizerFactory,
        schedule: Schedule | None = None,
        clip_norm: float | None = None,
    ) -> None:
        self.network, self.epochs, self.optimizer = network, epochs, optimizer
        self.schedule, self.clip_norm = schedule, clip_norm

    def train(self, genotype: Genotype, data: Any, seed: int, device: torch.device) -> CellNetwork:
        """A child trained on data.images("train"); `seed` fixes its initial weights and all that is drawn.

        The order of the images too: two trainings of one architecture have nothing in common but the images.
        """
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            torch.manual_seed(seed)
            network = self.network(genotype=genotype).to(device).train()
            network.shared_masks = False
            optimizer = self.optimizer(parameter_groups(network))
            rates = [group["lr"] for group in optimizer.param_groups]
            loader = data.images("train")
            for epoch in range(self.epochs):
                loader.sampler.set_epoch(seed * self.epochs + epoch)
                for step, (x, y) in enumerate(loader):
                    position = Position(epoch, step, len(loader), self.epochs)
                    network.progress = position.fraction
                    for group, rate in zip(optimizer.param_groups, rates, strict=True):
                        group["lr"] = rate * (1.0 if self.schedule is None else self.schedule(position))
                    optimizer.zero_grad()
                    logits, second = network.with_auxiliary(x.to(device))
                    total_loss(logits, second, y.to(device)).backward()
                    if self.clip_norm is not None:
                        nn.utils.clip_grad_norm_(network.parameters(), self.clip_norm)
                    optimizer.step()
        return network.eval()

    def outcome(
        self, genotype: Genotype, data: Any, seed: int, device: torch.device, splits: Sequence[str]
    ) -> list[float]:
        """Accuracy in [0, 1] on each of the splits after training."""
        network = self.train(genotype, data, seed, device)
        return [accuracy(network, data.images(split), device) for split in splits]


@torch.no_grad()
def accuracy(network: nn.Module, loader: Any, device: torch.device) -> float:
    right = count = 0
    for x, y in loader:
        right += int((network(x.to(device)).argmax(-1) == y.to(device)).sum())
        count += len(y)
    return right / count


class ChildStage(StageModule):
    """A stage whose steps train children, shared out over the processes. Steps optimise by hand."""

    def __init__(self, optimizer: OptimizerFactory | None = None) -> None:
        super().__init__(optimizer)
        self.automatic_optimization = False

    def configure_optimizers(self) -> Any:
        return [] if self.optimizer_factory is None else super().configure_optimizers()

    def outcomes(
        self, children: Children, genotypes: Sequence[Genotype], splits: Sequence[str] = ("val", "test")
    ) -> Tensor:
        """Accuracies of each (n, splits), in [0, 1], the same on every process. That on val is the reward."""
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        n = len(genotypes)
        seeds = torch.randint(2**31, (n,)).tolist()  # of all, so that the number of processes changes nothing
        found = torch.zeros(n, len(splits), device=self.device)
        rank, world = (dist.get_rank() if world_size() > 1 else 0), world_size()
        for k in range(n * rank // world, n * (rank + 1) // world):
            found[k] = torch.tensor(children.outcome(genotypes[k], data, seeds[k], self.device, splits))
        if world > 1:
            dist.all_reduce(found)
        return found

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """What is reported was measured in training; the test images were counted there."""


class RewardTable(ChildStage):
    """The reward of every architecture of a small space, from real trainings: a search can be replayed on it.

    Each architecture is trained twice, with other initial weights and another order of the images. The reward is the
    accuracy of training 1 on val images; what is found by it is judged by training 2 alone, so that a lucky
    initialisation does not count as an architecture.

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
        self.space, self.training_of = space, children
        self.cells = space.architectures()  # (M, T)
        for name in ("rewards", "repeated", "accuracies"):
            self.register_buffer(name, torch.full((len(self.cells),), math.nan))

    def forward(self, numbers: Tensor) -> Tensor:
        """Rewards of architectures by their row in Space.architectures."""
        return self.rewards[numbers]

    def example(self, shape: tuple[int, ...]) -> tuple[Any, ...]:
        return (torch.zeros(1, dtype=torch.long, device=self.device),)

    def training_step(self, batch: Tensor, batch_idx: int) -> None:
        numbers = [n for n in batch.tolist() if n < len(self.cells)]
        genotypes = [self.space.decode(row) for row in self.cells[numbers].tolist()]
        self.rewards[numbers] = self.outcomes(self.training_of, genotypes, ["val"])[:, 0]
        self.repeated[numbers], self.accuracies[numbers] = self.outcomes(self.training_of, genotypes).unbind(1)
        self.track(len(numbers), reward=100 * self.rewards[numbers].mean())

    def evaluated(self) -> tuple[Tensor, Tensor]:
        """All architectures (M, T) and the mean accuracy (M,) of both trainings on val images, best last."""
        means = (self.rewards + self.repeated) / 2
        order = means.argsort(stable=True)
        return self.cells.to(order.device)[order], means[order]

    def on_test_epoch_end(self) -> None:
        """In percent; `reliability`: rank correlation of both trainings' accuracies on val images, in [-1, 1]."""
        there = ~self.rewards.isnan()
        r = self.rewards[there]
        values = {"best": r.max(), "mean": r.mean(), "worst": r.min(), "std": r.std()}
        self.log_dict({f"test/{name}_reward": 100 * value for name, value in values.items()})
        self.log("test/reliability", rank_correlation(r, self.repeated[there]))

    def pictures(self, data: Any) -> dict[str, Figure]:
        """All rewards in order, and what the second training of the same architectures reached."""
        figure = Figure(figsize=(9, 3), layout="constrained")
        axes = figure.subplots()
        order = self.rewards.cpu().argsort()
        for label, values in (
            ("training 1, val images (reward)", self.rewards),
            ("training 2, val images", self.repeated),
            ("training 2, test images", self.accuracies),
        ):
            axes.plot(100 * values.cpu()[order], ".", label=label)
        axes.set(xlabel="architectures, worst reward first", ylabel="accuracy, %")
        axes.legend(fontsize=8)
        best = self.space.decode(self.cells[int(order[-1])].tolist())
        return {"the table": figure, "cell with the highest reward": cell_picture(best.normal)}


def rank_correlation(a: Tensor, b: Tensor) -> float:
    """Spearman's, 0 where one of them is constant."""
    found = float(spearmanr(a.cpu().numpy(), b.cpu().numpy()).statistic)
    return found if math.isfinite(found) else 0.0


def cell_picture(graph: Graph) -> Figure:
    """A cell as a picture: inputs below, blocks with their operations, outputs marked."""
    figure = Figure(figsize=(9, 4), layout="constrained")
    axes = figure.subplots()
    depth = dict.fromkeys(range(graph.inputs), 0)
    for b, block in enumerate(graph.blocks):
        depth[graph.inputs + b] = 1 + max(depth[block.first], depth[block.second])
    place: dict[int, tuple[float, float]] = {}
    for level in range(max(depth.values()) + 1):
        there = [k for k, d in depth.items() if d == level]
        for i, k in enumerate(there):
            place[k] = ((i + 0.5) / len(there), float(level))
    for b, block in enumerate(graph.blocks):
        x1, y1 = place[graph.inputs + b]
        for side, k, name in ((-1, block.first, block.first_op), (1, block.second, block.second_op)):
            x0, y0 = place[k]
            axes.plot([x0, x1 + 0.035 * side], [y0, y1 - 0.3], color="0.6", lw=1, zorder=1)
            axes.annotate(name, (x1 + 0.004 * side, y1 - 0.25), ha="right" if side < 0 else "left", fontsize=7)
    for k, (x, y) in place.items():
        if k < graph.inputs:
            label = ("$h_i$", "$h_{i-1}$")[k] if graph.inputs == 2 else f"input {k}"
        else:
            label = f"{k}: {graph.blocks[k - graph.inputs].combine}"
        colour = "tab:blue" if k in graph.outputs else "0.3"
        box = {"boxstyle": "round", "fc": "white", "ec": colour, "lw": 2 if k in graph.outputs else 1}
        axes.annotate(label, (x, y), ha="center", va="center", fontsize=8, bbox=box, zorder=2)
    axes.set(xlim=(0, 1), ylim=(-0.4, max(depth.values()) + 0.4), title="blue: leaves the cell")
    axes.axis("off")
    return figure


def cell_pictures(space: Space, actions: Sequence[int], name: str) -> dict[str, Figure]:
    """The cells of one architecture that were searched, by "<name>, normal" and "<name>, reduction"."""
    genotype = space.decode(actions)
    found = {f"{name}, normal": cell_picture(genotype.normal)}
    if space.reduction is None:
        found[f"{name}, reduction"] = cell_picture(genotype.reduction)
    return found
