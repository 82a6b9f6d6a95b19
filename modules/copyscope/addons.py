"""Training of the add-ons beside a frozen base: the loss is the base's own, only the add-on learns."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from modules.common.frozen import Frozen
from modules.common.module import OptimizerFactory
from modules.common.schedules import Schedule
from modules.common.velocity import VelocityDDPM
from modules.copyscope.adapters import ControlBranch, LoRA, relief
from modules.copyscope.base import Base, PromptedUNet, leave_out


class AddOn(VelocityDDPM):
    """What both add-ons share. Train and test metrics: see DDPM.

    Args:
        base: the stage of the base model, of which the averaged weights are used.
        addon: what learns.
        left_out: see Base.
        optimizer, schedule: see StageModule.
    """

    network: Any

    def __init__(
        self,
        base: Base,
        addon: nn.Module,
        left_out: float,
        optimizer: OptimizerFactory | None = None,
        schedule: Schedule | None = None,
    ) -> None:
        super().__init__(addon, base.noise, decay=None, optimizer=optimizer, schedule=schedule)  # type: ignore[arg-type]
        self.left_out = left_out
        self.frozen = Frozen([base.averaged()])

    @property
    def base(self) -> PromptedUNet:
        """The frozen U-Net, on this module's device."""
        network: PromptedUNet = self.frozen.on(self.device)[0]
        return network

    def velocity(self, noisy: Tensor, t: Tensor, **inputs: Any) -> Tensor:
        return self(noisy, t, **inputs).float()

    def inputs(self, batch: Any) -> dict[str, Any]:
        if not self.training:
            return {"y": batch.y, "style": batch.style}
        return {
            "y": leave_out(batch.y, self.base.no_class, self.left_out),
            "style": leave_out(batch.style, self.base.no_style, self.left_out),
        }

    def example(self, shape: tuple[int, ...]) -> tuple[Any, ...]:
        zero = torch.zeros(1, dtype=torch.long, device=self.device)
        return torch.zeros(1, *shape, device=self.device), zero, zero, zero


class LoRATraining(AddOn):
    """Fine-tunes low-rank changes of the base's weights on a few images.

    Args:
        base: see AddOn.
        rank, scale: see LoRA.
        left_out: share of the images that lose their class word.
        options: see AddOn.
    """

    network: LoRA

    def __init__(self, base: Base, rank: int = 4, scale: float = 1.0, left_out: float = 0.5, **options: Any) -> None:
        super().__init__(base, LoRA(base.network, rank, scale), left_out, **options)

    def forward(self, noisy: Tensor, t: Tensor, y: Tensor, style: Tensor) -> Tensor:  # type: ignore[override]
        weights = self.network.changed(dict(self.base.named_parameters()))
        return functional_call(self.base, weights, (noisy, t, y, style))


class ControlTraining(AddOn):
    """Trains a control branch on reliefs of the public images.

    Args:
        base: see AddOn.
        left_out: share of the images that lose either word.
        options: see AddOn.
    """

    network: ControlBranch

    def __init__(self, base: Base, left_out: float = 0.5, **options: Any) -> None:
        super().__init__(base, ControlBranch(base.averaged()), left_out, **options)
        for parameter in self.network.parameters():
            parameter.requires_grad_(True)

    def inputs(self, batch: Any) -> dict[str, Any]:
        return {**super().inputs(batch), "hint": relief(batch.x)}

    def forward(  # type: ignore[override]
        self, noisy: Tensor, t: Tensor, y: Tensor, style: Tensor, hint: Tensor | None = None
    ) -> Tensor:
        """The velocity (B, 3, S, S) with a hint (B, 1, S, S); without one, with an empty one."""
        shown = noisy.new_zeros(len(noisy), 1, *noisy.shape[2:]) if hint is None else hint
        return self.base(noisy, t, y, style, self.network(noisy, t, y, style, shown))
