"""NoProp: Training Neural Networks without Back-propagation or Forward-propagation (Li, Teh & Pascanu, 2025).

arXiv 2503.24322; version 2 says "without full" of both. T blocks are each trained alone to denoise a noised class
embedding u_y, given the image; at inference they run in sequence from Gaussian noise z_0, block 1 on almost pure noise,
block T on an almost clean label. No signal passes between blocks in training. Each block is itself a small
convolutional network that back-propagation trains: what the method removes is back-propagation through the stack.

    q(z_t|y) = N(sqrt(abar_t) u_y, 1 - abar_t),   SNR(t) = abar_t / (1 - abar_t), rising with t            (Eq. 5, 6)
    z_t = A_t uhat_t(z_{t-1}, x) + B_t z_{t-1} + sqrt(C_t) eps                                                 (Eq. 3)
    L_t = -log p(y|z_T) + KL(q(z_0|y) || N(0,1)) + T/2 eta (SNR(t) - SNR(t-1)) |uhat_t(z_{t-1}, x) - u_y|^2    (Eq. 8)

NoProp-CT trains one network for all t in [0, 1] with a learned noise schedule (Eq. 9, App. B), NoProp-FM a flow from
noise to u_y (Eq. 11, 13). Baselines: the same blocks trained end to end by back-propagation (Eq. 17-19), a neural ODE
trained by the adjoint method, a convolutional network whose layers are trained greedily.

Equation 3 prints c_t beside eps; c_t is the variance (Eq. 7), so its root is taken. Not printed and chosen here: how
close abar_T comes to 1 (`abar_cap`), the flow's sigma, where gamma_0, gamma_1, f_out and the alphas of Eq. 18 start,
the time embedding's scale. A step updates every block on one batch; the paper sweeps the data block by block.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import Any, cast

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer
from torchmetrics import SumMetric
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix

from modules.common.distributed import summed
from modules.common.module import OptimizerFactory, StageModule
from modules.noprop.label_diffusion import (
    LabelSpace,
    Noise,
    cosine_schedule,
    noised,
    prior_kl,
    transitions,
)
from modules.noprop.networks import Network
from modules.noprop.pictures import schedule_figure


def shuffled_top1(confusion: Tensor) -> float:
    """Expected top-1 in percent once the images are permuted at random below their labels; the noise is blind to both.

    confusion (m, m) counts [label, answer]. Its margins are all that is left then, in whatever order the images came.
    """
    share = confusion.double() / confusion.sum()
    return 100 * float(share.sum(0) @ share.sum(1))


class Arm(StageModule):
    """What all arms share: repeated stochastic inference, the shuffled control, and what backward passes need.

    Test metrics: `top1` is the mean over inference runs, `top1_std` their standard deviation; `shuffled_top1` is what
    the same answers would score on average with the test images dealt out at random; `<station>_top1` are guesses on
    the way; `saved_mb` (MiB) and `saved_log2` (log2 of the bytes) are the most that autograd held when a backward pass
    of a training step began.

    Args:
        classes: m.
        inference_runs: how often the test set is classified.
        pool: average pooling before anything else sees the image.
        stations: names of the guesses that `infer` returns.
        optimizer: see StageModule.
    """

    partial_backward = True
    saved_bytes: Tensor

    def __init__(
        self, classes: int, inference_runs: int, pool: int, stations: Sequence[str], optimizer: OptimizerFactory | None
    ) -> None:
        super().__init__(optimizer)
        self.automatic_optimization = False
        self.inference_runs, self.pool, self.stations = inference_runs, pool, list(stations)
        names = [*(f"run{r}" for r in range(inference_runs)), *self.stations, "val"]
        self.hits: Any = nn.ModuleDict(
            {n: MulticlassAccuracy(classes, average="micro", validate_args=False) for n in names}
        )
        self.confusion = MulticlassConfusionMatrix(classes, validate_args=False)
        self.count = SumMetric(nan_strategy="disable")
        self.measured: dict[str, float] = {}
        self.saved: dict[int, int] | None = None  # bytes of each storage that autograd holds, while they are counted
        self.register_buffer("saved_bytes", torch.zeros((), dtype=torch.long))

    def infer(self, x: Tensor, runs: int) -> tuple[Tensor, Sequence[Tensor]]:
        """Logits (runs, B, m), and for each station the class guessed there (runs, B)."""
        raise NotImplementedError

    def descend(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        """Update the parameters on one batch; x is pooled. Returns means to track, `loss` among them."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, m) of one inference run."""
        return self.infer(x, 1)[0][0]

    def seen(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(x, self.pool) if self.pool > 1 else x

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = self.seen(batch[0]), batch[1]
        if self.current_epoch == 0 and batch_idx == 0:  # once is enough: every full batch needs as much
            self.saved = {}
            with torch.autograd.graph.saved_tensors_hooks(self.hold, lambda held: held):
                parts = self.descend(x, y)
            self.saved = None
            self.saved_bytes.copy_(summed(self.saved_bytes))
        else:
            parts = self.descend(x, y)
        self.track(len(y), **parts)
        return parts["loss"]

    def hold(self, tensor: Tensor) -> Tensor:
        """Note a tensor that autograd saves."""
        assert self.saved is not None
        self.saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    def step(self, loss: Tensor, *optimizers: Any) -> None:
        """One update by these optimisers. Gradients are None elsewhere, so nothing else moves."""
        if self.saved is not None:
            resident = {t.untyped_storage().data_ptr() for t in chain(self.parameters(), self.buffers())}
            held = sum(size for key, size in self.saved.items() if key not in resident)
            self.saved_bytes.fill_(max(held, int(self.saved_bytes)))
        for optimizer in optimizers:
            optimizer.zero_grad()
        self.manual_backward(loss)
        if self.saved is not None:
            self.saved.clear()  # the graph is gone
        for optimizer in optimizers:
            optimizer.step()

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.hits["val"].update(self(batch[0]).argmax(-1), batch[1])

    def on_validation_epoch_end(self) -> None:
        self.log("val/top1", 100 * self.hits["val"].compute())
        self.hits["val"].reset()

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        x, y = batch
        logits, guesses = self.infer(x, self.inference_runs)
        for run, predicted in enumerate(logits.argmax(-1)):
            self.hits[f"run{run}"].update(predicted, y)
            self.confusion.update(predicted, y)
        for name, guess in zip(self.stations, guesses, strict=True):
            self.hits[name].update(guess, y.expand_as(guess))
        self.count.update(len(y))

    def on_test_epoch_end(self) -> None:
        found = {name: 100 * float(hits.compute()) for name, hits in self.hits.items() if name != "val"}
        runs = torch.tensor([found.pop(f"run{run}") for run in range(self.inference_runs)], dtype=torch.float64)
        found = {"top1": float(runs.mean()), **{f"{name}_top1": value for name, value in found.items()}}
        found["shuffled_top1"] = shuffled_top1(self.confusion.compute())
        if len(runs) > 1:
            found["top1_std"] = float(runs.std())
        if saved := int(self.saved_bytes):
            found |= {"saved_mb": saved / 2**20, "saved_log2": math.log2(saved)}
        self.measured = {**found, "n": float(self.count.compute())}
        for metric in (*self.hits.values(), self.confusion, self.count):
            metric.reset()
        self.log_dict({f"test/{name}": value for name, value in self.measured.items()})

    def pictures(self, data: Any) -> dict[str, Figure]:
        if not self.stations or not self.measured:  # tested by other processes: only their logged numbers are here
            return {}
        figure = Figure(figsize=(9, 3), layout="constrained")
        axes = figure.subplots()
        axes.plot(self.stations, [self.measured[f"{name}_top1"] for name in self.stations], "o-", label="on the way")
        axes.axhline(self.measured["top1"], color="black", lw=1, label="answer")
        axes.axhline(self.measured["shuffled_top1"], color="gray", ls=":", label="answer to another image")
        axes.set(ylim=(0, 100), ylabel="test top-1, %")
        axes.legend(fontsize=8)
        return {"accuracy along the chain": figure}


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
            self.label.start_from(self.seen(data.normalised(images)), labels)

    def chain(self, x: Tensor, z: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Logits over class embeddings (R B, m) and z_t (R B, d) of each step from z_0; x (B, C, H, W) is pooled."""
        raise NotImplementedError

    def answer(self, z: Tensor) -> Tensor:
        """Class logits (B, m) from the last z."""
        return self.label(z)

    def infer(self, x: Tensor, runs: int) -> tuple[Tensor, Sequence[Tensor]]:
        x, guesses = self.seen(x), []
        z = torch.randn(runs * len(x), self.label.dim, device=x.device)
        for logits, after in self.chain(x, z):
            if self.stations:
                guesses.append(logits.argmax(-1).view(runs, len(x)))
            z = after
        return self.answer(z).view(runs, len(x), -1), guesses

    def pictures(self, data: Any) -> dict[str, Figure]:
        """z_t of four test images as bars: its product with each class embedding, which for one-hot is z_t itself."""
        images, labels = (tensor[:4] for tensor in data.splits["test"])
        x = self.seen(data.normalised(images).to(self.device))
        z = torch.randn(len(x), self.label.dim, device=self.device)
        path = [z, *(after for _, after in self.chain(x, z))]
        shown = torch.linspace(0, len(path) - 1, min(len(path), 8)).round().long().tolist()
        figure = Figure(figsize=(9, 4), layout="constrained")
        axes = figure.subplots(len(x), 1 + len(shown), squeeze=False)
        for row, image, label in zip(axes, images, labels.tolist(), strict=True):
            row[0].imshow(image.permute(1, 2, 0), cmap="gray")
            row[0].set_title(data.spec.classes[label], fontsize=8)
            for ax in row:
                ax.set(xticks=[], yticks=[])
        for column, step in enumerate(shown, 1):
            for row, values in zip(axes, (path[step] @ self.label.embedding.T).cpu(), strict=True):
                row[column].bar(range(len(values)), values)
                row[column].set_ylim(-2.5, 2.5)
            axes[0, column].set_title(f"z after step {step}", fontsize=8)
        return {**super().pictures(data), "the label on its way": figure}


class Stack(Denoiser):
    """T blocks in sequence, each trained alone (NoProp-DT) or all end to end by back-propagation.

    Args:
        blocks: T.
        network: makes a Network from (dim, classes, as_image, timed).
        label: see Denoiser.
        training: "alone" (Algorithm 1) or "end_to_end" (Eq. 17-19).
        eta: weight of the denoising term.
        abar_cap: abar_T of the cosine schedule. The last block's weight is about T/2 eta / (1 - abar_cap).
        alpha: of Eq. 18 before training, end to end.
        start, inference_runs, pool, optimizer: see Denoiser.
    Raises:
        ValueError: no such training.
    """

    abar: Tensor

    def __init__(
        self,
        blocks: int,
        network: Callable[..., Network],
        label: LabelSpace,
        training: str = "alone",
        eta: float = 0.1,
        abar_cap: float = 0.9999,
        alpha: float = 0.5,
        start: Stack | None = None,
        inference_runs: int = 5,
        pool: int = 1,
        optimizer: OptimizerFactory | None = None,
    ) -> None:
        # end to end nothing ties a block's outputs to the classes of the same number: there are no guesses on the way
        stations = [f"block{t}" for t in range(1, blocks + 1)] if training == "alone" else []
        super().__init__(label, start, inference_runs=inference_runs, pool=pool, stations=stations, optimizer=optimizer)
        if training not in ("alone", "end_to_end"):
            raise ValueError(f"training={training!r}: expected one of alone, end_to_end")
        self.alone = training == "alone"
        arguments = (label.dim, label.classes, label.kind == "prototype", False)
        self.blocks: nn.ModuleList = (
            start.blocks[:blocks] if start else nn.ModuleList(network(*arguments) for _ in range(blocks))
        )
        abar = cosine_schedule(blocks, cap=abar_cap)
        self.register_buffer("abar", abar.float(), persistent=False)
        self.transitions = torch.stack(transitions(abar), -1).tolist()  # (T, 3)
        self.weights = (blocks / 2 * eta * (abar / (1 - abar)).diff()).tolist()  # (T,)
        self.w = None if self.alone else nn.Parameter(torch.full((blocks,), math.atanh(alpha)))

    def descend(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        optimizers: Any = self.optimizers()
        noise = Noise(x)
        if self.w is not None:
            *_, (_, z) = self.chain(x, noise.normal(self.label.dim))
            loss = F.cross_entropy(self.answer(z), y)
            self.step(loss, optimizers)
            return {"loss": loss.detach()}
        *own, shared = optimizers
        losses, distances = [], []
        for t, optimizer in enumerate(own, 1):  # in any order: block t sees none of the others
            loss, distance = self.loss(t, x, y, noise)
            self.step(loss, optimizer, shared)  # frees this block's graph before the next one is built
            losses.append(loss.detach())
            distances.append(distance.detach())
        return {"loss": torch.stack(losses).mean(), "distance": torch.stack(distances).mean()}

    def loss(self, t: int, x: Tensor, y: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
        """L_t (Eq. 8, 61) and the mean of |uhat_t - u_y|^2, t = 1..T."""
        u, abar, block = self.label.embedding[y], self.abar, cast(Network, self.blocks[t - 1])
        z_last = noised(u, abar[-1], noise.normal(u.shape[1]))
        z_before = noised(u, abar[t - 1], noise.normal(u.shape[1]))  # never what block t-1 put out
        u_hat = self.label.mixed(block(z_before, block.image(x)).softmax(-1))
        distance = (u_hat - u).square().sum(-1).mean()
        prior = prior_kl(u, abar[0]).mean()
        return F.cross_entropy(self.label(z_last), y) + prior + self.weights[t - 1] * distance, distance

    def chain(self, x: Tensor, z: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        for t, block in enumerate(cast(Iterable[Network], self.blocks)):
            logits = block(z, block.image(x).repeat(len(z) // len(x), 1))
            u_hat = self.label.mixed(logits.softmax(-1))
            if self.w is not None:
                alpha = torch.tanh(self.w[t])
                z = (1 - alpha) * z + alpha * u_hat  # Eq. 18
            else:
                a, b, c = self.transitions[t]
                z = a * u_hat + b * z + math.sqrt(c) * torch.randn_like(z)  # Eq. 3
            yield logits, z

    def configure_optimizers(self) -> Optimizer | list[Optimizer]:
        if not self.alone or self.optimizer_factory is None:
            return super().configure_optimizers()
        parts = [*self.blocks, self.label]
        return [self.prepared(self.optimizer_factory(part.parameters())) for part in parts]

    def pictures(self, data: Any) -> dict[str, Figure]:
        made = super().pictures(data)
        if self.alone:
            t = range(len(self.abar))
            made["schedule"] = schedule_figure(t, self.abar.tolist(), [math.nan, *self.weights])
        return made


class Greedy(Arm):
    """A convolutional network whose layers learn from their own classifiers on what the layers before put out.

    All layers train at the same time (decoupled greedy learning, Belilovsky et al. 2020); no gradient passes a layer.

    Args:
        classes: m.
        in_channels: of the image.
        widths: channels of each 3x3 convolution.
        pools: numbers of the layers, from 1, that are followed by 2x2 max-pooling.
        hidden: units of each layer's classifier, which sees the map averaged to 3x3.
        pool, optimizer: see Arm.
    """

    def __init__(
        self,
        classes: int,
        in_channels: int,
        widths: Sequence[int],
        pools: Sequence[int],
        hidden: int,
        pool: int = 1,
        optimizer: OptimizerFactory | None = None,
    ) -> None:
        super().__init__(classes, 1, pool, [f"layer{k}" for k in range(1, len(widths) + 1)], optimizer)
        self.bodies, self.heads = nn.ModuleList(), nn.ModuleList()
        for number, (inputs, width) in enumerate(zip([in_channels, *widths[:-1]], widths, strict=True), 1):
            body = [nn.Conv2d(inputs, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
            self.bodies.append(nn.Sequential(*body, *([nn.MaxPool2d(2)] if number in pools else [])))
            head = [nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(9 * width, hidden), nn.BatchNorm1d(hidden)]
            self.heads.append(nn.Sequential(*head, nn.ReLU(), nn.Linear(hidden, classes)))

    def outputs(self, x: Tensor) -> Iterator[Tensor]:
        """Each layer's logits (B, m) in turn."""
        for body, head in zip(self.bodies, self.heads, strict=True):
            x = body(x.detach())
            yield head(x)

    def descend(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        losses, optimizers = [], cast(Any, self.optimizers())
        for logits, optimizer in zip(self.outputs(x), optimizers, strict=True):
            loss = F.cross_entropy(logits, y)
            self.step(loss, optimizer)
            losses.append(loss.detach())
        return {"loss": torch.stack(losses).mean()}

    def infer(self, x: Tensor, runs: int) -> tuple[Tensor, Sequence[Tensor]]:
        logits = torch.stack(list(self.outputs(self.seen(x))))  # (layers, B, m)
        return logits[-1:], list(logits.argmax(-1)[:, None])

    def configure_optimizers(self) -> Optimizer | list[Optimizer]:
        if self.optimizer_factory is None:
            return super().configure_optimizers()
        layers = (nn.ModuleList(pair) for pair in zip(self.bodies, self.heads, strict=True))
        return [self.prepared(self.optimizer_factory(layer.parameters())) for layer in layers]
