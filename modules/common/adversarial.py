"""Adversarial training (Madry et al. 2018, arXiv 1706.06083): a classifier of inputs that an attack has moved.

    min_theta E max_{|delta|_p <= eps} CE(f_theta(x + delta), y)

The inner maximum is approached by projected gradient ascent from delta = 0, the network in evaluation mode.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modules.common.attacks import l2_pgd, linf_pgd
from modules.common.classifier import ClassificationModule
from modules.common.inference import inference
from modules.common.metrics import Classification
from modules.common.module import OptimizerFactory
from modules.common.schedules import Schedule

NORMS = ("l2", "linf")


@dataclass(frozen=True)
class Attack:
    """Projected gradient ascent on the cross-entropy, in units of pixels: of inputs before mean and std.

    Args:
        radius: eps, of the ball around each input.
        norm: "l2" or "linf".
        steps: gradient steps of each restart.
        rate: length of all steps together, in radii.
        restarts: the first begins at the input, further ones at random points of the ball.
        low, high: range of pixels.
    Raises:
        ValueError: another norm, or a negative radius.
    """

    radius: float
    norm: str = "l2"
    steps: int = 5
    rate: float = 2.5
    restarts: int = 1
    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        if self.norm not in NORMS:
            raise ValueError(f"norm={self.norm!r}: expected one of {', '.join(NORMS)}")
        if self.radius < 0:
            raise ValueError(f"radius={self.radius}: expected 0 or more")

    def __call__(
        self, network: nn.Module, x: Tensor, y: Tensor, mean: Sequence[float] = (0.0,), std: Sequence[float] = (1.0,)
    ) -> Tensor:
        """Inputs of the ball whose cross-entropy is the largest met, as the network sees them: (B, C, H, W).

        Args:
            network: (B, C, H, W) -> logits (B, classes); every layer keeps the mode it is in.
            x: inputs (B, C, H, W) as the network sees them: (pixel - mean) / std.
            y: (B,) labels.
            mean, std: per channel.
        """
        with torch.inference_mode(False):
            x, y = x.detach().float().clone(), y.clone()  # inference tensors cannot take part in a gradient
            centre = torch.tensor(mean, device=x.device).view(-1, 1, 1)
            scale = torch.tensor(std, device=x.device).view(-1, 1, 1)
            pixels = (x * scale + centre).clamp(self.low, self.high)

            def loss(p: Tensor) -> Tensor:
                return F.cross_entropy(network((p - centre) / scale).float(), y, reduction="none")

            ascend = l2_pgd if self.norm == "l2" else linf_pgd
            with inference(network):
                moved, _ = ascend(loss, pixels, self.radius, self.steps, self.rate, self.restarts, self.low, self.high)
            return (moved - centre) / scale


class AdversarialClassifier(ClassificationModule):
    """A classifier of attacked inputs, or of inputs as they are.

    Test metrics: those of Classification on inputs as they are, and for each of `evaluations` the percentage that is
    right after the attack, under the name given there.

    Args:
        network, classes: see ClassificationModule.
        attack: what training inputs are moved by; None trains in the standard way.
        evaluations: name of a metric -> attack on the test images.
        optimizer, schedule: see StageModule.
    """

    def __init__(
        self,
        network: nn.Module,
        classes: int,
        attack: Attack | None = None,
        evaluations: Mapping[str, Attack] | None = None,
        optimizer: OptimizerFactory | None = None,
        schedule: Schedule | None = None,
    ) -> None:
        super().__init__(network, classes, optimizer, schedule)
        self.attack = attack
        self.evaluations = dict(evaluations or {})
        self.attacked = nn.ModuleList(Classification(classes, ("top1",)) for _ in self.evaluations)

    def moved(self, attack: Attack, batch: Any) -> Tensor:
        """The batch's inputs after an attack, (B, C, H, W)."""
        spec = self.trainer.datamodule.spec  # type: ignore[attr-defined]
        return attack(self.network, batch.x, batch.y, spec.mean, spec.std)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x = batch.x if self.attack is None else self.moved(self.attack, batch)

        logits = self(x)
        loss = F.cross_entropy(logits, batch.y)

        self.track(len(batch.y), loss=loss, top1=100 * (logits.argmax(-1) == batch.y).float().mean())
        return loss

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.test_metrics.update(self(batch.x), batch.y)
        for attack, metric in zip(self.evaluations.values(), self.attacked, strict=True):
            metric.update(self(self.moved(attack, batch)), batch.y)  # type: ignore[operator]

    def on_test_epoch_end(self) -> None:
        super().on_test_epoch_end()
        for name, metric in zip(self.evaluations, self.attacked, strict=True):
            assert isinstance(metric, Classification)
            self.log(f"test/{name}", metric.compute()["top1"])
            metric.reset()
