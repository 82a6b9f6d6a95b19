"""What is measured: accuracies of the networks and their ensemble, and whether G translates, by a judge."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric, Metric, SumMetric
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score

METRICS = ("top1", "balanced", "f1")


class Accuracies(nn.Module):
    """`top1` and `balanced` (the mean of the classes' recalls), percent; `f1`, weighted by class sizes, in [0, 1].

    Args:
        classes: K.
        members: what predicts; a name other than "" ends the metrics' names.
    """

    def __init__(self, classes: int, members: tuple[str, ...]) -> None:
        super().__init__()
        self.measures: dict[str, Metric] = {}
        for member in members:
            end = f"_{member}" if member else ""
            self.measures |= {
                f"top1{end}": MulticlassAccuracy(classes, average="micro", validate_args=False),
                f"balanced{end}": MulticlassAccuracy(classes, average="macro", validate_args=False),
                f"f1{end}": MulticlassF1Score(classes, average="weighted", validate_args=False),
            }
        self.count = SumMetric(nan_strategy="disable")
        for name, measure in self.measures.items():  # registered for moves between devices; the dict keeps their type
            self.add_module(name, measure)

    def update(self, y: Tensor, **probabilities: Tensor) -> None:
        """y (B,); each member's probabilities (B, K), the one without a name as `plain`."""
        for member, p in probabilities.items():
            end = "" if member == "plain" else f"_{member}"
            for name in METRICS:
                self.measures[name + end].update(p, y)
        self.count.update(float(len(y)))

    def compute(self) -> dict[str, Tensor]:
        """Every metric by name, and `n`; starts anew afterwards."""
        values = {name: (1.0 if name.startswith("f1") else 100.0) * m.compute() for name, m in self.measures.items()}
        values["n"] = self.count.compute()
        for measure in (*self.measures.values(), self.count):
            measure.reset()
        return values


def asked_classes(y: Tensor, rows: Tensor, classes: int) -> Tensor:
    """For each image another class than its own, all of them equally often: (B,) labels, (B,) rows -> (B,)."""
    return (y + 1 + rows % (classes - 1)) % classes


class Translation(nn.Module):
    """Whether a judge, who learned from other images, sees the asked class in G(u, z), z another class than u's own.

    `translated` and `copied` are the percent of translations in which it sees the asked class and the image's own.
    `above_chance` is `translated` less the most that images of one class, whatever is asked, would have: the rarest
    class is asked for most often, of (1 - its share) / (K - 1) of the images; 100 / K if all are equally many.
    `moved` is the mean absolute difference of u and G(u, z).

    Args:
        classes: K.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.translated = MeanMetric()
        self.copied = MeanMetric()
        self.moved = MeanMetric()
        self.counts = ClassCounts(classes)

    def update(self, judged: Tensor, y: Tensor, z: Tensor, u: Tensor, fake: Tensor) -> None:
        """judged, y, z (B,): the judge's answers, the images' own and the asked classes; u, fake (B, C, H, W)."""
        self.translated.update(100.0 * (judged == z).float())
        self.copied.update(100.0 * (judged == y).float())
        self.moved.update((u - fake).abs().flatten(1).mean(1))
        self.counts.update(y)

    def compute(self) -> dict[str, Tensor]:
        """Every value by name; starts anew afterwards."""
        counts = self.counts.compute()
        of_one_class = 100 * (counts.sum() - counts.min()) / (counts.sum() * (len(counts) - 1))

        values = {name: getattr(self, name).compute() for name in ("translated", "copied", "moved")}
        values["above_chance"] = values["translated"] - of_one_class
        for measure in (self.translated, self.copied, self.moved, self.counts):
            measure.reset()
        return values


class ClassCounts(Metric):
    """How many images each of K classes has: (K,)."""

    counts: Tensor

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.add_state("counts", torch.zeros(classes), dist_reduce_fx="sum")

    def update(self, y: Tensor) -> None:
        """y (B,) labels."""
        self.counts += y.bincount(minlength=len(self.counts))

    def compute(self) -> Tensor:
        return self.counts


class Best(nn.Module):
    """The weights that a network had when its accuracy on the validation images was highest; the first, in a tie.

    Args:
        network: whose weights and batch statistics are kept.
    """

    accuracy: Tensor

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.register_buffer("accuracy", torch.tensor(-1.0))
        self.names = {name: name.replace(".", "/") for name in network.state_dict()}
        for name, value in network.state_dict().items():
            self.register_buffer(self.names[name], value.detach().clone())

    def look(self, network: nn.Module, accuracy: Tensor) -> None:
        """Keep the weights if they are better than all before."""
        if accuracy <= self.accuracy:
            return
        self.accuracy.copy_(accuracy)
        for name, value in network.state_dict().items():
            getattr(self, self.names[name]).copy_(value)

    def restore(self, network: nn.Module) -> None:
        """Give the network its best weights; none are known before the first look."""
        if self.accuracy >= 0:
            network.load_state_dict({name: getattr(self, kept) for name, kept in self.names.items()})
