"""Training one architecture to the end: auxiliary head, ScheduledDropPath, averaged weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from matplotlib.figure import Figure
from torch import Tensor, nn

from modules.common.averaging import WeightAverage
from modules.common.classifier import ClassificationModule
from modules.common.module import OptimizerFactory
from modules.common.schedules import Schedule
from modules.nasnet.cells import Genotype
from modules.nasnet.children import parameter_groups, total_loss
from modules.nasnet.networks import CellNetwork
from modules.nasnet.pictures import cell_picture, drop_path_picture

DROP_PATHS = ("scheduled", "constant", "none")


class Searched(Protocol):
    """A search: the architecture that it hands on."""

    def genotype(self) -> Genotype: ...


@dataclass(frozen=True)
class Growth:
    """How the share of dropped paths comes to what the network's DropPath says.

    Attributes:
        kind: "scheduled": linear in the step; "constant": there from the start; "none": no path is dropped.
        steps: T, when the schedule ends; None is the end of training.
    Raises:
        ValueError: an unknown kind.
    """

    kind: str = "scheduled"
    steps: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in DROP_PATHS:
            raise ValueError(f"drop_path={self.kind!r}: expected one of {', '.join(DROP_PATHS)}")

    def progress(self, step: int, steps: int) -> float:
        """The fraction of the schedule that is over before a step, of so many in all."""
        return {"scheduled": min(1.0, step / (self.steps or steps)), "constant": 1.0, "none": 0.0}[self.kind]


@dataclass(frozen=True)
class Loss:
    """Cross-entropy, and that of the auxiliary head.

    Attributes:
        auxiliary_weight: of the auxiliary head's, where the network has one.
        label_smoothing: of both, in [0, 1).
    """

    auxiliary_weight: float = 0.4
    label_smoothing: float = 0.0


class NASNet(ClassificationModule):
    """A CellNetwork trained by the paper's recipe.

    Args:
        classes: number of classes.
        network: a CellNetwork, or with `search` what makes one of a genotype.
        search: whose architecture is trained.
        drop_path: how the share of dropped paths grows.
        loss: weights of its two parts.
        average_decay: test with an exponential moving average (WeightAverage, TensorFlow's rule); None tests with the
            last weights.
        optimizer, schedule: see StageModule. Biases and batch norms have no weight decay.
    Raises:
        ValueError: a network that does not fit `search`.
    """

    def __init__(
        self,
        classes: int,
        network: CellNetwork | Callable[..., CellNetwork],
        search: Searched | None = None,
        drop_path: Growth = Growth(),
        loss: Loss = Loss(),
        average_decay: float | None = None,
        optimizer: OptimizerFactory | None = None,
        schedule: Schedule | None = None,
    ) -> None:
        if isinstance(network, nn.Module) != (search is None):
            raise ValueError("network: expected a network, or with `search` a _partial_ one without a genotype")
        if search is not None:
            network = network(genotype=search.genotype())
        assert isinstance(network, CellNetwork)
        super().__init__(network, classes, optimizer, schedule)

        self.network: CellNetwork = network
        self.drop_path = drop_path
        self.loss = loss
        self.average = None if average_decay is None else WeightAverage(network, average_decay)

    def forward(self, x: Tensor) -> Tensor:
        if self.training or self.average is None:
            return self.network(x)
        return self.average.call(self.network, x)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        super().on_train_batch_start(batch, batch_idx)
        trainer = self.trainer
        steps_an_epoch = int(trainer.num_training_batches)
        step = self.current_epoch * steps_an_epoch + batch_idx
        self.network.progress = self.drop_path.progress(step, steps_an_epoch * (trainer.max_epochs or 1))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        logits, second = self.network.with_auxiliary(x)  # (B, C), (B, C)
        loss = total_loss(logits, second, y, self.loss.auxiliary_weight, self.loss.label_smoothing)
        self.track(len(y), loss=loss, top1=100 * (logits.argmax(-1) == y).float().mean())
        return loss

    def optimizer_step(self, *args: Any, **options: Any) -> None:
        super().optimizer_step(*args, **options)
        if self.average is not None:
            self.average.update(self.network)

    def trained(self) -> list[dict[str, Any]]:
        return parameter_groups(self.network)

    def on_test_epoch_end(self) -> None:
        super().on_test_epoch_end()
        # as the paper counts them, without the auxiliary head
        head = self.network.auxiliary
        in_head = 0 if head is None else sum(p.numel() for p in head.parameters())
        count = sum(p.numel() for p in self.network.parameters()) - in_head
        self.log("test/parameters_m", count / 1e6)

    def pictures(self, data: Any) -> dict[str, Figure]:
        """Its two cells, and what ScheduledDropPath does with each cell's paths."""
        genotype = self.network.genotype
        figures = {"normal cell": cell_picture(genotype.normal), "reduction cell": cell_picture(genotype.reduction)}
        if self.drop_path.kind != "none" and self.network.drop_path.keep < 1:
            cells = len(self.network.cells)
            figures["drop path"] = drop_path_picture(cells, self.network.drop_path, self.drop_path.kind == "constant")
        return figures
