"""What the test counts: accuracy over inference runs and of their vote, controls, bytes that backward passes need."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MeanMetric, SumMetric
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix

from modules.common.distributed import summed


def shuffled_top1(confusion: Tensor) -> float:
    """Expected top-1 in percent once the images are permuted at random below their labels; the noise is blind to both.

    confusion (m, m) counts [label, answer]. Its margins are all that is left then, in whatever order the images came.
    """
    share = confusion.double() / confusion.sum()
    return 100 * float(share.sum(0) @ share.sum(1))


def majority(answers: Tensor, classes: int) -> Tensor:
    """The class that most runs answered, the lower of equals. answers (runs, B) -> (B,)."""
    return F.one_hot(answers, classes).sum(0).argmax(-1)


class RepeatedAccuracy(nn.Module):
    """Top-1 in percent of a classifier that is run several times on the same images.

    - top1, top1_std: mean and standard deviation over inference runs.
    - vote_top1: of the class that most runs answer.
    - train_top1: of one run on the training images.
    - shuffled_top1: what the same answers would score on average with the test images dealt out at random.
    - <station>_top1: of the guesses on the way.
    - <name>: the mean in percent of what is noted by that name.
    - n: images.

    Args:
        classes: m.
        runs: how often each image is classified.
        stations: names of the guesses on the way.
        notes: names of what is noted of each image beside its answers.
    """

    def __init__(self, classes: int, runs: int, stations: Sequence[str], notes: Sequence[str] = ()) -> None:
        super().__init__()
        self.classes = classes

        def accuracy() -> MulticlassAccuracy:
            return MulticlassAccuracy(classes, average="micro", validate_args=False)

        self.runs: Any = nn.ModuleList(accuracy() for _ in range(runs))
        self.stations: Any = nn.ModuleDict({name: accuracy() for name in stations})
        self.notes: Any = nn.ModuleDict({name: MeanMetric(nan_strategy="disable") for name in notes})
        self.vote = accuracy()
        self.training_images = accuracy()
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
        self.vote.update(majority(answers, self.classes), labels)
        self.count.update(len(labels))

    def note(self, values: Mapping[str, Tensor]) -> None:
        """Values in [0, 1] of each image, (B,), by the names that were given."""
        for name, value in values.items():
            weights = torch.ones_like(value)  # with no weights, uneven batches would count alike
            self.notes[name].update(value, weights)

    def compute(self) -> dict[str, float]:
        runs = torch.tensor([100 * float(accuracy.compute()) for accuracy in self.runs], dtype=torch.float64)
        scores = {"top1": float(runs.mean())}
        for name, accuracy in self.stations.items():
            scores[f"{name}_top1"] = 100 * float(accuracy.compute())
        for name, mean in self.notes.items():
            scores[name] = 100 * float(mean.compute())
        if self.training_images.update_called:
            scores["train_top1"] = 100 * float(self.training_images.compute())
        scores["shuffled_top1"] = shuffled_top1(self.confusion.compute())
        if len(runs) > 1:
            scores["top1_std"] = float(runs.std())
            scores["vote_top1"] = 100 * float(self.vote.compute())
        scores["n"] = float(self.count.compute())
        return scores

    def reset(self) -> None:
        """Forget the test; the validation accuracy is its own."""
        of_runs = (*self.runs, self.vote, self.training_images, self.confusion, self.count)
        for metric in (*of_runs, *self.stations.values(), *self.notes.values()):
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
