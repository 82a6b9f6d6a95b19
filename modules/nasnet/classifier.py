"""Training one architecture to the end: auxiliary head, ScheduledDropPath, averaged weights."""

from __future__ import annotations

from collections.abc import Callable
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


class NASNet(ClassificationModule):
    """A CellNetwork trained by the paper's recipe.

    Args:
        classes: number of classes.
        network: a CellNetwork, or with `search` what makes one of a genotype.
        search: whose architecture is trained.
        drop_path: "scheduled": up to the network's `keep`, linear in the step; "constant": from the start; "none".
        drop_path_steps: T, when the schedule ends; None is the end of training.
        auxiliary_weight: of the auxiliary head's loss, where the network has one.
        label_smoothing: in [0, 1).
        average_decay: test with an exponential moving average (WeightAverage, TensorFlow's rule); None tests with the
            last weights.
        optimizer, schedule: see StageModule. Biases and batch norms have no weight decay.
    Raises:
        ValueError: an unknown drop_path, or a network that does not fit `search`.
    """

    def __init__(
        self,
        classes: int,
        network: CellNetwork | Callable[..., CellNetwork],
        search: Searched | None = None,
        drop_path: str = "scheduled",
        drop_path_steps: int | None = None,
        auxiliary_weight: float = 0.4,
        label_smoothing: float = 0.0,
        average_decay: float | None = None,
        optimizer: OptimizerFactory | None = None,
        schedule: Schedule | None = None,
    ) -> None:
        if drop_path not in DROP_PATHS:
            raise ValueError(f"drop_path={drop_path!r}: expected one of {', '.join(DROP_PATHS)}")
        if isinstance(network, nn.Module) != (search is None):
            raise ValueError("network: expected a network, or with `search` a _partial_ one without a genotype")
        if search is not None:
            network = network(genotype=search.genotype())
        assert isinstance(network, CellNetwork)
        super().__init__(network, classes, optimizer, schedule)

        self.network: CellNetwork = network
        self.drop_path = drop_path
        self.drop_path_steps = drop_path_steps
        self.auxiliary_weight = auxiliary_weight
        self.label_smoothing = label_smoothing
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
        end = self.drop_path_steps or steps_an_epoch * (trainer.max_epochs or 1)
        self.network.progress = {"scheduled": min(1.0, step / end), "constant": 1.0, "none": 0.0}[self.drop_path]

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        logits, second = self.network.with_auxiliary(x)  # (B, C), (B, C)
        loss = total_loss(logits, second, y, self.auxiliary_weight, self.label_smoothing)
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
        if self.drop_path != "none" and self.network.drop_path.keep < 1:
            cells = len(self.network.cells)
            figures["drop path"] = drop_path_picture(cells, self.network.drop_path, self.drop_path == "constant")
        return figures
