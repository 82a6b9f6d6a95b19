"""LARS (You, Gitman & Ginsburg, arXiv 1708.03888) as SimCLR uses it: the learning rate goes into the momentum."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.optim import Optimizer


class LARS(Optimizer):
    """Layer-wise adaptive rates:

        g <- g + wd w,    v <- momentum v + lr trust ||w|| / ||g|| g,    w <- w - v

    The ratio of the norms is 1 where one of them is 0. In parameter groups with `adapt: False` there is neither ratio
    nor `trust`: plain momentum at rate lr. torch's SGD has the rate outside of v, which differs while the rate changes.

    Args:
        params: parameters or groups; a group may say `adapt`.
        lr, momentum, weight_decay: as in SGD.
        trust: the coefficient, 0.001.
        adapt: whether groups that do not say it are adapted.
    """

    def __init__(
        self,
        params: Any,
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust: float = 0.001,
        adapt: bool = True,
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "trust": trust, "adapt": adapt}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            weights = [p for p in group["params"] if p.grad is not None]
            if not weights:
                continue
            gradients = list(torch._foreach_add([p.grad for p in weights], weights, alpha=group["weight_decay"]))
            rates = self._rates(weights, gradients, group)
            torch._foreach_mul_(gradients, rates)

            for p in weights:
                if "velocity" not in self.state[p]:
                    self.state[p]["velocity"] = torch.zeros_like(p)
            velocities = [self.state[p]["velocity"] for p in weights]
            torch._foreach_mul_(velocities, group["momentum"])
            torch._foreach_add_(velocities, gradients)
            torch._foreach_sub_(weights, velocities)
        return loss

    @staticmethod
    def _rates(weights: list[torch.Tensor], gradients: list[torch.Tensor], group: dict[str, Any]) -> Any:
        """What each parameter's gradient is multiplied by: one number, or one for each in a list."""
        if not group["adapt"]:
            return float(group["lr"])
        norms = torch.stack(torch._foreach_norm(weights))
        lengths = torch.stack(torch._foreach_norm(gradients))
        ratios = torch.where((norms > 0) & (lengths > 0), group["trust"] * norms / lengths, 1.0)
        return list((group["lr"] * ratios).unbind())
