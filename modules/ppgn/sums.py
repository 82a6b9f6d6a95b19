"""Sums over a test, by name, on any number of processes."""

from __future__ import annotations

from torch import Tensor, nn
from torchmetrics import SumMetric


class Sums(nn.Module):
    """Adds up values of single images, and the images themselves as `n`.

    Args:
        names: of the sums.
    """

    def __init__(self, *names: str) -> None:
        super().__init__()
        self.metrics = {name: SumMetric(nan_strategy="disable") for name in (*names, "n")}
        for name, metric in self.metrics.items():  # registered for moves between devices; the dict keeps their type
            self.add_module(name, metric)

    def add(self, **values: Tensor) -> None:
        """One value for each of some images, (B,), in each sum that is named."""
        for name, value in values.items():
            self.metrics[name].update(value.float().sum())

    def count(self, images: int) -> None:
        self.metrics["n"].update(float(images))

    def compute(self) -> dict[str, Tensor]:
        """Every sum by name; starts anew."""
        made = {}
        for name, metric in self.metrics.items():
            if not metric.update_called:  # torchmetrics warns of a sum of nothing
                metric.update(0.0)
            made[name] = metric.compute()
            metric.reset()
        return made

    def means(self) -> dict[str, Tensor]:
        """Every sum over `n`, and `n`; starts anew."""
        sums = self.compute()
        n = sums.pop("n")
        return {name: value / n for name, value in sums.items()} | {"n": n}


def percent(right: Tensor) -> Tensor:
    """100 where true, 0 elsewhere."""
    return 100.0 * right.float()
