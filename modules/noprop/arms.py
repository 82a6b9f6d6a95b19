"""What all arms of NoProp's comparisons share: pooled images, manual updates, repeated stochastic inference."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional as F

from modules.common.module import OptimizerFactory, StageModule
from modules.noprop.evaluation import RepeatedAccuracy, SavedBytes
from modules.noprop.label_diffusion import LabelSpace
from modules.noprop.pictures import draw_chain_accuracy, draw_labels_on_their_way

BATCH = 500  # training images that are classified at a time


class Arm(StageModule):
    """A classifier with stochastic inference whose `descend` is the training method.

    The test reports what `RepeatedAccuracy` counts, and `saved_mb` (MiB) and `saved_log2` (log2 of the bytes): the most
    that autograd held when a backward pass of a training step began.

    Args:
        classes: m.
        inference_runs: how often the test set is classified.
        pool: average pooling before anything else sees the image.
        stations: names of the guesses that `infer` returns.
        optimizer: see StageModule.
        notes: names of what `explain` returns.
    """

    partial_backward = True

    def __init__(
        self,
        classes: int,
        inference_runs: int,
        pool: int,
        stations: Sequence[str],
        optimizer: OptimizerFactory | None,
        notes: Sequence[str] = (),
    ) -> None:
        super().__init__(optimizer)
        self.automatic_optimization = False
        self.inference_runs = inference_runs
        self.pool = pool
        self.stations = list(stations)
        self.accuracy = RepeatedAccuracy(classes, inference_runs, self.stations, notes)
        self.saved = SavedBytes()
        self.scores: dict[str, float] = {}  # of the test, in this process

    def infer(self, x: Tensor, runs: int) -> tuple[Tensor, Sequence[Tensor]]:
        """Logits (runs, B, m), and for each station the class guessed there (runs, B)."""
        raise NotImplementedError

    def descend(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        """Update the parameters on one batch; x is pooled. Returns means to track, `loss` among them."""
        raise NotImplementedError

    def explain(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        """What is to be known of each test image beside its answers, (B,) in [0, 1]; nothing unless an arm says so."""
        return {}

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, m) of one inference run."""
        logits, _ = self.infer(x, 1)
        return logits[0]

    def pooled(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(x, self.pool) if self.pool > 1 else x

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        first = self.current_epoch == 0 and batch_idx == 0  # once is enough: every full batch needs as much
        with self.saved.counting(self) if first else nullcontext():
            terms = self.descend(self.pooled(x), y)
        self.track(len(y), **terms)
        return terms["loss"]

    def step(self, loss: Tensor, *optimizers: Any) -> None:
        """One update by these optimisers. Gradients are None elsewhere, so nothing else moves."""
        self.saved.before_backward()
        for optimizer in optimizers:
            optimizer.zero_grad()
        self.manual_backward(loss)
        self.saved.after_backward()
        for optimizer in optimizers:
            optimizer.step()

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        x, y = batch
        self.accuracy.validation.update(self(x).argmax(-1), y)

    def on_validation_epoch_end(self) -> None:
        self.log("val/top1", 100 * self.accuracy.validation.compute())
        self.accuracy.validation.reset()

    def on_test_epoch_start(self) -> None:
        """Classify the training images once, each process its share: how far training went, whatever the method."""
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        images, labels = (tensor[self.global_rank :: self.trainer.world_size] for tensor in data.splits["train"])
        for some, y in zip(images.split(BATCH), labels.split(BATCH), strict=True):
            answers = self(data.normalised(some).to(self.device)).argmax(-1)
            self.accuracy.training_images.update(answers, y.to(self.device))

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        x, y = batch
        logits, guesses = self.infer(x, self.inference_runs)
        self.accuracy.update(logits.argmax(-1), guesses, y)
        self.accuracy.note(self.explain(x, y))

    def on_test_epoch_end(self) -> None:
        self.scores = self.accuracy.compute() | self.saved.compute()
        self.accuracy.reset()
        self.log_dict({f"test/{name}": value for name, value in self.scores.items()})

    def pictures(self, data: Any) -> dict[str, Figure]:
        if not self.stations or not self.scores:  # tested by other processes: only their logged numbers are here
            return {}
        return {"accuracy along the chain": draw_chain_accuracy(self.stations, self.scores)}


class Denoiser(Arm):
    """Arms that carry a label, noise at first, through networks that see the image.

    Args:
        label: class embeddings and f_out.
        start: an arm with the same networks, whose weights are taken over.
        inference_runs, pool, stations, optimizer: see Arm.
    """

    def __init__(self, label: LabelSpace, start: Denoiser | None, **options: Any) -> None:
        super().__init__(label.classes, **options)
        self.label: LabelSpace = start.label if start else label

    def setup(self, stage: str) -> None:
        if stage == "fit" and self.label.kind == "prototype":  # where there is a checkpoint it is loaded later and wins
            data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
            images, labels = data.splits["train"]
            self.label.start_from(self.pooled(data.normalised(images)), labels)

    def chain(self, x: Tensor, z: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Logits over class embeddings (R B, m) and z_t (R B, d) of each step from z_0; x (B, C, H, W) is pooled."""
        raise NotImplementedError

    def answer(self, z: Tensor) -> Tensor:
        """Class logits (B, m) from the last z."""
        return self.label(z)

    def infer(self, x: Tensor, runs: int) -> tuple[Tensor, Sequence[Tensor]]:
        x = self.pooled(x)
        z = torch.randn(runs * len(x), self.label.dim, device=x.device)
        guesses = []
        for logits, after in self.chain(x, z):
            if self.stations:
                guesses.append(logits.argmax(-1).view(runs, len(x)))
            z = after
        return self.answer(z).view(runs, len(x), -1), guesses

    def pictures(self, data: Any) -> dict[str, Figure]:
        images, labels = (tensor[:4] for tensor in data.splits["test"])
        x = self.pooled(data.normalised(images).to(self.device))
        z = torch.randn(len(x), self.label.dim, device=self.device)
        path = [z, *(after for _, after in self.chain(x, z))]
        products = [(z @ self.label.embedding.T).cpu() for z in path]
        names = [data.spec.classes[label] for label in labels.tolist()]
        return {**super().pictures(data), "the label on its way": draw_labels_on_their_way(images, names, products)}
