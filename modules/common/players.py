"""Networks that train against or beside each other, each with an optimiser of its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from modules.common.module import OptimizerFactory, StageModule
from modules.common.schedules import Schedule


class Players(StageModule):
    """A stage of several players: a subclass names them and takes their steps in its training_step.

    Args:
        optimizer: of every player, see `factories`.
        schedule: of all of them.
    """

    partial_backward = True  # each backward pass reaches some of the players

    def __init__(self, optimizer: OptimizerFactory | None = None, schedule: Schedule | None = None) -> None:
        super().__init__(optimizer, schedule)
        self.automatic_optimization = False

    def players(self) -> Sequence[Sequence[nn.Module]]:
        """The networks of each player, in the order of the optimisers."""
        raise NotImplementedError(f"{type(self).__name__} does not name its players")

    def factories(self) -> list[OptimizerFactory]:
        """What makes each player's optimiser."""
        if self.optimizer_factory is None:
            raise ValueError(f"{type(self).__name__} is to be fitted but has no optimizer in its configuration")
        return [self.optimizer_factory] * len(self.players())

    def configure_optimizers(self) -> list[Optimizer]:
        trained = [[p for network in own for p in network.parameters() if p.requires_grad] for own in self.players()]
        pairs = zip(self.factories(), trained, strict=True)
        return [self.prepared(factory(parameters)) for factory, parameters in pairs]

    def steppers(self) -> list[Any]:
        """The optimisers as the trainer hands them out, also where there is one."""
        made: Any = self.optimizers()
        return made if isinstance(made, list) else [made]

    def minimise(self, loss: Tensor, *optimizers: Any) -> None:
        """One step of these optimisers; other players stay where they are."""
        for optimizer in optimizers:
            optimizer.zero_grad()
        self.manual_backward(loss)
        for optimizer in optimizers:
            optimizer.step()


@contextmanager
def held(*networks: nn.Module) -> Iterator[None]:
    """Gradients pass through these networks inside, and none stays in them."""
    parameters = [p for network in networks for p in network.parameters() if p.requires_grad]
    for p in parameters:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in parameters:
            p.requires_grad_(True)
