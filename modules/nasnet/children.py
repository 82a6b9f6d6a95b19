"""How a child, an architecture to be judged, is trained and tested (Zoph et al., arXiv 1707.07012, appendix A).

Children are trained in a loop of their own inside a step of the stage that asks for them, although stages can feed each
other: a child's reward decides which architecture the same stage draws next, while stages are fixed before the first of
them runs. A table of rewards trains its children by the same loop, so that its rewards are those a search would get.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from modules.common.distributed import world_size
from modules.common.module import OptimizerFactory, StageModule
from modules.common.schedules import Position, Schedule
from modules.nasnet.cells import Genotype
from modules.nasnet.networks import CellNetwork


def total_loss(
    logits: Tensor, second: Tensor | None, labels: Tensor, weight: float = 0.4, label_smoothing: float = 0.0
) -> Tensor:
    """Cross-entropy of the network plus `weight` times that of the auxiliary head; (B, C), (B, C), (B,)."""
    loss = F.cross_entropy(logits, labels, label_smoothing=label_smoothing)
    if second is None:
        return loss
    return loss + weight * F.cross_entropy(second, labels, label_smoothing=label_smoothing)


def parameter_groups(network: nn.Module) -> list[dict[str, Any]]:
    """Weights, then biases and batch norms, which no weight decay touches."""
    parameters = list(network.parameters())
    weights = [p for p in parameters if p.dim() > 1]
    others = [p for p in parameters if p.dim() <= 1]
    return [{"params": weights}, {"params": others, "weight_decay": 0.0}]


@torch.no_grad()
def accuracy(network: nn.Module, loader: Any, device: torch.device) -> float:
    """In [0, 1], over all images of the loader."""
    right = 0
    count = 0
    for x, y in loader:
        right += int((network(x.to(device)).argmax(-1) == y.to(device)).sum())
        count += len(y)
    return right / count


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
        self.network = network
        self.epochs = epochs
        self.optimizer = optimizer
        self.schedule = schedule
        self.clip_norm = clip_norm

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
                    factor = 1.0 if self.schedule is None else self.schedule(position)
                    for group, rate in zip(optimizer.param_groups, rates, strict=True):
                        group["lr"] = rate * factor

                    optimizer.zero_grad()
                    logits, second = network.with_auxiliary(x.to(device))
                    total_loss(logits, second, y.to(device)).backward()
                    if self.clip_norm is not None:
                        nn.utils.clip_grad_norm_(network.parameters(), self.clip_norm)
                    optimizer.step()
        return network.eval()

    def evaluate(
        self, genotype: Genotype, data: Any, seed: int, device: torch.device, splits: Sequence[str]
    ) -> list[float]:
        """Accuracy in [0, 1] on each of the splits after training."""
        network = self.train(genotype, data, seed, device)
        return [accuracy(network, data.images(split), device) for split in splits]


class ChildStage(StageModule):
    """A stage whose steps train children, shared out over the processes. Steps optimise by hand."""

    def __init__(self, optimizer: OptimizerFactory | None = None) -> None:
        super().__init__(optimizer)
        self.automatic_optimization = False

    def configure_optimizers(self) -> Any:
        return [] if self.optimizer_factory is None else super().configure_optimizers()

    def train_children(
        self, children: Children, genotypes: Sequence[Genotype], splits: Sequence[str] = ("val", "test")
    ) -> Tensor:
        """Accuracies of each (n, splits), in [0, 1], the same on every process. That on val is the reward."""
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        n = len(genotypes)
        seeds = torch.randint(2**31, (n,)).tolist()  # of all, so that the number of processes changes nothing

        accuracies = torch.zeros(n, len(splits), device=self.device)
        world = world_size()
        rank = dist.get_rank() if world > 1 else 0
        for k in range(n * rank // world, n * (rank + 1) // world):
            accuracies[k] = torch.tensor(children.evaluate(genotypes[k], data, seeds[k], self.device, splits))
        if world > 1:
            dist.all_reduce(accuracies)
        return accuracies

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """What is reported was measured in training; the test images were counted there."""
