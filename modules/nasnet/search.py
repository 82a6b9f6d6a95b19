"""Searching over architectures made of cells: the space, how a child is trained to be judged, a table of rewards.

Follows Zoph et al., arXiv 1707.07012, appendix A; what a search does with rewards is a paper's own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from matplotlib.figure import Figure
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.nn import functional as F

from modules.common.distributed import world_size
from modules.common.module import OptimizerFactory, StageModule
from modules.common.schedules import Position, Schedule
from modules.nasnet.cells import CellNetwork, Genotype
from modules.nasnet.pictures import cell_picture
from modules.nasnet.space import Space

TOP = (1, 5, 25)  # how many of the best architectures Fig. 6 averages


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
