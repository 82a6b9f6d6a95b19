"""AdvProp (Xie et al. 2020, arXiv 1911.09665): adversarial images as more data, with batch norms of their own.

    L = ( CE(f_main(x), y) + w CE(f_aux(x_adv), y) ) / (1 + w),        w = 1

f_main and f_aux share all weights but the batch norms, which have their own statistics too. x_adv comes of an attack
towards a random class, much weaker than those that networks are made robust with; what is used afterwards is f_main.
So this is not adversarial training: clean images are learnt from as before.

The sum over both halves is written in the paper; the released code takes their mean, and so do we: its learning rate
belongs to it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modules.common.attributions import loss_gradient
from modules.common.classifier import ClassificationModule
from modules.common.distributed import shared_draw
from modules.common.inference import inference
from modules.common.module import OptimizerFactory
from modules.common.schedules import Schedule


class TwoNorms(nn.Module):
    """Two batch norms, one of which is in use.

    Args:
        main: of clean images; in use unless `auxiliary` says otherwise.
    """

    def __init__(self, main: nn.BatchNorm2d) -> None:
        super().__init__()
        self.main = main
        self.aux = nn.BatchNorm2d(main.num_features, main.eps, main.momentum)
        self.aux_in_use = False

    def forward(self, x: Tensor) -> Tensor:
        return self.aux(x) if self.aux_in_use else self.main(x)


def with_two_norms(network: nn.Module) -> nn.Module:
    """Puts a second batch norm beside each one, in place. The network's own weights stay as they are."""
    for name, child in network.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(network, name, TwoNorms(child))
        else:
            with_two_norms(child)
    return network


@contextmanager
def auxiliary(network: nn.Module) -> Iterator[None]:
    """The second batch norms are in use inside."""
    layers = [layer for layer in network.modules() if isinstance(layer, TwoNorms)]
    for layer in layers:
        layer.aux_in_use = True
    try:
        yield
    finally:
        for layer in layers:
            layer.aux_in_use = False


@dataclass(frozen=True)
class WeakAttack:
    """Projected gradient descent on the cross-entropy of a random class, within a cube; in units of pixels in [0, 1].

        x <- clip( x - step sign( d CE(f(x), t) / d x ), max(x0 - eps, 0), min(x0 + eps, 1) )

    A random start may lie outside of [0, 1]; the first step brings it back, as in the released code.

    Args:
        radius: eps.
        steps: how many.
        step: length of a step; None takes eps / steps, and no step is shorter than that.
        clean_start: how often it starts at the image, and not at a random point of the cube.
    Raises:
        ValueError: no steps, or a radius below 0.
    """

    radius: float = 1 / 255
    steps: int = 1
    step: float | None = None
    clean_start: float = 0.2

    def __post_init__(self) -> None:
        if self.steps < 1 or self.radius < 0:
            raise ValueError(f"steps={self.steps}, radius={self.radius}: expected 1 or more steps and a radius from 0")

    def __call__(
        self, network: nn.Module, x: Tensor, targets: Tensor, noise: Tensor, mean: Tensor, std: Tensor
    ) -> Tensor:
        """Attacked images, as the network sees them.

        Args:
            network: keeps the mode it is in; it should be that of evaluation.
            x: (B, C, H, W), normalised.
            targets: (B,) the class to become like.
            noise: (B, C, H, W) in [-1, 1], where to start, in radii; 0 starts at the image.
            mean, std: (C, 1, 1) of the normalisation.
        """
        radius = self.radius / std
        step = max(self.step or 0.0, self.radius / self.steps) / std
        low = torch.maximum(x - radius, -mean / std)
        high = torch.minimum(x + radius, (1 - mean) / std)

        moved = x + radius * noise
        for _ in range(self.steps):
            gradient = loss_gradient(network, moved, targets)
            moved = (moved - step * gradient.sign()).clamp(min=low, max=high)
        return moved


class AdvProp(ClassificationModule):
    """Trains with clean images through the main batch norms and attacked ones through the auxiliary ones.

    The attack sees the auxiliary batch norms, in evaluation mode, as in the released code. `forward` is f_main.

    Args:
        network: gets a second batch norm beside each one.
        classes: number of classes.
        attack: makes x_adv.
        weight: w, of attacked images; 0 trains in the standard way.
        optimizer, schedule: see StageModule.
    Raises:
        ValueError: a weight below 0.
    """

    def __init__(
        self,
        network: nn.Module,
        classes: int,
        attack: WeakAttack | None = None,
        weight: float = 1.0,
        optimizer: OptimizerFactory | None = None,
        schedule: Schedule | None = None,
    ) -> None:
        if weight < 0:
            raise ValueError(f"weight={weight}: expected 0 or more")
        super().__init__(with_two_norms(network), classes, optimizer, schedule)
        self.attack = attack or WeakAttack()
        self.weight = weight

    def attacked(self, x: Tensor, y: Tensor) -> Tensor:
        """(B, C, H, W), both; targets and starts are drawn for the batch of all processes."""
        targets = (y + shared_draw(y, lambda total: torch.randint(self.classes, (total,)))) % self.classes
        noise = shared_draw(x, lambda total: 2 * torch.rand(total, *x.shape[1:]) - 1)
        from_noise = shared_draw(x, lambda total: (torch.rand(total, 1, 1, 1) >= self.attack.clean_start).float())
        spec = self.trainer.datamodule.spec  # type: ignore[attr-defined]
        mean, std = (torch.tensor(values, device=x.device).view(-1, 1, 1) for values in (spec.mean, spec.std))
        with auxiliary(self.network), inference(self.network):
            return self.attack(self.network, x, targets, from_noise * noise, mean, std)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x_adv = self.attacked(batch.x, batch.y)

        logits = self(batch.x)  # (B, C)
        main = F.cross_entropy(logits, batch.y)
        with auxiliary(self.network):
            aux = F.cross_entropy(self(x_adv), batch.y)
        loss = (main + self.weight * aux) / (1 + self.weight)

        self.track(
            len(batch.y), loss=loss, main=main, aux=aux, top1=100 * (logits.argmax(-1) == batch.y).float().mean()
        )
        return loss
