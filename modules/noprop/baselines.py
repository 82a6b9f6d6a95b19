"""What NoProp is compared with: back-propagation through its blocks, greedy layers, the adjoint method."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from modules.common.module import OptimizerFactory
from modules.noprop.arms import Arm
from modules.noprop.continuous import Continuous, Flow
from modules.noprop.label_diffusion import LabelSpace, Noise
from modules.noprop.module import Stack
from modules.noprop.networks import Network


class EndToEnd(Stack):
    """The blocks of NoProp-DT trained by back-propagation through all of them (Eq. 17-19).

        z_t = (1 - alpha_t) z_{t-1} + alpha_t uhat_t(z_{t-1}, x),   alpha_t = tanh(w_t),   L = -log p(y|z_T)

    Args:
        blocks, network, label, start: see Stack.
        alpha: alpha_t before training.
        inference_runs, pool, optimizer: see Arm.
    """

    def __init__(
        self,
        blocks: int,
        network: Callable[..., Network],
        label: LabelSpace,
        alpha: float = 0.5,
        start: Stack | None = None,
        inference_runs: int = 5,
        pool: int = 1,
        optimizer: OptimizerFactory | None = None,
    ) -> None:
        # nothing ties a block's outputs to the classes of the same number: there are no guesses on the way
        super().__init__(
            blocks, network, label, start, inference_runs=inference_runs, pool=pool, stations=(), optimizer=optimizer
        )
        self.w = nn.Parameter(torch.full((blocks,), math.atanh(alpha)))

    def descend(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        z_0 = Noise(x).normal(self.label.dim)
        *_, (_, z) = self.chain(x, z_0)
        loss = F.cross_entropy(self.answer(z), y)
        self.step(loss, self.optimizers())
        return {"loss": loss.detach()}

    def move(self, t: int, z: Tensor, u_hat: Tensor) -> Tensor:
        alpha = torch.tanh(self.w[t - 1])
        return (1 - alpha) * z + alpha * u_hat  # Eq. 18


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
        stations = [f"layer{k}" for k in range(1, len(widths) + 1)]
        super().__init__(classes, 1, pool, stations, optimizer)
        self.bodies = nn.ModuleList()
        self.heads = nn.ModuleList()
        for number, (inputs, width) in enumerate(zip([in_channels, *widths[:-1]], widths, strict=True), 1):
            pooling = [nn.MaxPool2d(2)] if number in pools else []
            body = [nn.Conv2d(inputs, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), *pooling]
            self.bodies.append(nn.Sequential(*body))
            grid = [nn.AdaptiveAvgPool2d(3), nn.Flatten()]
            head = [*grid, nn.Linear(9 * width, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, classes)]
            self.heads.append(nn.Sequential(*head))

    def outputs(self, x: Tensor) -> Iterator[Tensor]:
        """Each layer's logits (B, m) in turn."""
        for body, head in zip(self.bodies, self.heads, strict=True):
            x = body(x.detach())
            yield head(x)

    def descend(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        optimizers = cast(Any, self.optimizers())
        losses = []
        for logits, optimizer in zip(self.outputs(x), optimizers, strict=True):
            loss = F.cross_entropy(logits, y)
            self.step(loss, optimizer)
            losses.append(loss.detach())
        return {"loss": torch.stack(losses).mean()}

    def infer(self, x: Tensor, runs: int) -> tuple[Tensor, Sequence[Tensor]]:
        logits = torch.stack(list(self.outputs(self.pooled(x))))  # (layers, B, m)
        return logits[-1:], list(logits.argmax(-1)[:, None])

    def configure_optimizers(self) -> Optimizer | list[Optimizer]:
        if self.optimizer_factory is None:
            return super().configure_optimizers()
        layers = [nn.ModuleList(pair) for pair in zip(self.bodies, self.heads, strict=True)]
        return [self.prepared(self.optimizer_factory(layer.parameters())) for layer in layers]


class AdjointEuler(torch.autograd.Function):
    """z_1 of dz/dt = field(z, features, t) from z_0 by Euler steps, with the gradient of the adjoint method.

    Backwards it integrates z and the adjoint from t = 1 to 0 (Chen et al. 2018) and keeps no step's graph.
    """

    @staticmethod
    def forward(ctx: Any, field: Callable[..., Tensor], steps: int, z: Tensor, features: Tensor, *p: Tensor) -> Tensor:
        times = torch.linspace(0, 1, steps + 1, device=z.device)
        with torch.autocast(z.device.type, enabled=False):
            for t in times[:-1]:
                z = z + field(z, features, t[None]) / steps
        ctx.field = field
        ctx.steps = steps
        ctx.times = times
        ctx.save_for_backward(z, features, *p)
        return z

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        z, features, *p = ctx.saved_tensors
        adjoint = gradients[0]
        features = features.detach().requires_grad_()
        totals = [torch.zeros_like(v) for v in (features, *p)]
        with torch.autocast(z.device.type, enabled=False):
            for t in ctx.times[1:].flip(0):
                z = z.detach().requires_grad_()
                with torch.enable_grad():
                    velocity = ctx.field(z, features, t[None])
                by_z, *others = torch.autograd.grad(velocity, [z, features, *p], adjoint)
                z = z - velocity / ctx.steps
                adjoint = adjoint + by_z / ctx.steps
                for total, value in zip(totals, others, strict=True):
                    total += value / ctx.steps
        return None, None, adjoint, *totals


class NeuralODE(Flow):
    """The flow's network as a neural ODE, trained end to end on the cross-entropy of f_out(z_1) by the adjoint method.

    The image's features are computed once.

    Args:
        steps: T, at inference and in training.
        network, label, start: see Continuous.
        inference_runs, pool, optimizer: see Arm.
    """

    def __init__(
        self,
        steps: int,
        network: Callable[..., Network],
        label: LabelSpace,
        start: Continuous | None = None,
        inference_runs: int = 5,
        pool: int = 1,
        optimizer: OptimizerFactory | None = None,
    ) -> None:
        super().__init__(steps, network, label, start, inference_runs=inference_runs, pool=pool, optimizer=optimizer)

    def loss(self, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
        z_0 = noise.normal(self.label.dim)
        features = self.network.image(x).float()
        z_1: Any = AdjointEuler.apply(self.velocity, self.steps, z_0, features, *self.field_parameters())
        return F.cross_entropy(self.label(z_1), y)

    def field_parameters(self) -> list[nn.Parameter]:
        """What the velocity depends on beside z, the features and t."""
        layers = (self.network.label, self.network.time, self.network.head)
        parameters = [p for layer in layers for p in cast(nn.Module, layer).parameters()]
        if isinstance(self.label.embedding, nn.Parameter):
            parameters.append(self.label.embedding)
        return parameters
