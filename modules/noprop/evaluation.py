"""What the test counts: accuracy over inference runs, a shuffled control, bytes that backward passes need."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import SumMetric
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix

from modules.common.distributed import summed


def shuffled_top1(confusion: Tensor) -> float:
    """Expected top-1 in percent once the images are permuted at random below their labels; the noise is blind to both.

    confusion (m, m) counts [label, answer]. Its margins are all that is left then, in whatever order the images came.
    """
    share = confusion.double() / confusion.sum()
    return 100 * float(share.sum(0) @ share.sum(1))


class RepeatedAccuracy(nn.Module):
    """Top-1 in percent of a classifier that is run several times on the same images.

    - top1, top1_std: mean and standard deviation over inference runs.
    - shuffled_top1: what the same answers would score on average with the test images dealt out at random.
    - <station>_top1: of the guesses on the way.
    - n: images.

    Args:
        classes: m.
        runs: how often each image is classified.
        stations: names of the guesses on the way.
    """

    def __init__(self, classes: int, runs: int, stations: Sequence[str]) -> None:
        super().__init__()

        def accuracy() -> MulticlassAccuracy:
            return MulticlassAccuracy(classes, average="micro", validate_args=False)

        self.runs: Any = nn.ModuleList(accuracy() for _ in range(runs))
        self.stations: Any = nn.ModuleDict({name: accuracy() for name in stations})
        self.validation = accuracy()
        self.confusion = MulticlassConfusionMatrix(classes, validate_args=False)
        self.count = SumMetric(nan_strategy="disable")

    def update(self, answers: Tensor, guesses: Sequence[Tensor], labels: Tensor) -> None:
        """answers (runs, B), guesses of each station (runs, B), labels (B,)."""
        for accuracy, answer in zip(self.runs, answers, strict=True):
            accuracy.update(answer, labels)
            self.confusion.update(answer, labels)
        for accuracy, guess in zip(self.stations.values(), guesses, strict=True):
            accuracy.update(guess, labels.expand_as(guess))
        self.count.update(len(labels))

    def compute(self) -> dict[str, float]:
        runs = torch.tensor([100 * float(accuracy.compute()) for accuracy in self.runs], dtype=torch.float64)
        scores = {"top1": float(runs.mean())}
        for name, accuracy in self.stations.items():
            scores[f"{name}_top1"] = 100 * float(accuracy.compute())
        scores["shuffled_top1"] = shuffled_top1(self.confusion.compute())
        if len(runs) > 1:
            scores["top1_std"] = float(runs.std())
        scores["n"] = float(self.count.compute())
        return scores

    def reset(self) -> None:
        """Forget the test; the validation accuracy is its own."""
        for metric in (*self.runs, *self.stations.values(), self.confusion, self.count):
            metric.reset()


class SavedBytes(nn.Module):
    """The most bytes that autograd holds when a backward pass begins, without parameters and buffers.

    A storage that several operations save counts once.
    """

    most: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("most", torch.zeros((), dtype=torch.long))
        self._sizes: dict[int, int] | None = None  # bytes of each storage held, by its address, while they are counted
        self._resident: set[int] = set()

    @contextmanager
    def counting(self, module: nn.Module) -> Iterator[None]:
        """Count in here what `module` trains with; over several processes the sum of their bytes."""
        self._resident = {t.untyped_storage().data_ptr() for t in chain(module.parameters(), module.buffers())}
        self._sizes = {}
        with torch.autograd.graph.saved_tensors_hooks(self._note, lambda tensor: tensor):
            yield
        self._sizes = None
        self.most.copy_(summed(self.most))

    def _note(self, tensor: Tensor) -> Tensor:
        assert self._sizes is not None
        storage = tensor.untyped_storage()
        self._sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    def before_backward(self) -> None:
        if self._sizes is not None:
            held = sum(size for address, size in self._sizes.items() if address not in self._resident)
            self.most.fill_(max(held, int(self.most)))

    def after_backward(self) -> None:
        if self._sizes is not None:
            self._sizes.clear()  # the graph is gone

    def compute(self) -> dict[str, float]:
        """`saved_mb` (MiB) and `saved_log2`, of what was counted before; nothing where nothing was."""
        most = int(self.most)
        return {"saved_mb": most / 2**20, "saved_log2": math.log2(most)} if most else {}
