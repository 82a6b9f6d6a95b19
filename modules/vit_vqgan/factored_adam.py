"""Adam in the memory of Adafactor (Shazeer & Stern, arXiv 1804.04235), as arXiv 2110.04627 trains its stage 2."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


class FactoredAdam(Optimizer):
    """AdamW in little memory, as Adafactor saves it: momentum in bfloat16, and of a matrix's squared gradients only
    the means of rows and columns, whose outer product stands for them.

    Args:
        params: parameters or groups; lr, betas, eps, weight_decay: AdamW's.
    """

    def __init__(
        self,
        params: Any,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.96),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": tuple(betas), "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in (p for p in group["params"] if p.grad is not None):
                direction, scale = self._moments(p.grad.float(), self.state[p], *group["betas"])
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.addcdiv_(direction, scale.add_(group["eps"]), value=-group["lr"])
        return loss

    @staticmethod
    def _moments(g: Tensor, state: dict[str, Any], b1: float, b2: float) -> tuple[Tensor, Tensor]:
        """The momentum and the root of the second moment, both corrected for starting at 0."""
        square = g.square()
        if g.ndim > 1:
            moments = {"rows": square.mean(-1, keepdim=True), "columns": square.mean(-2, keepdim=True)}
        else:
            moments = {"square": square}

        if not state:
            state["step"] = 0
            state["momentum"] = torch.zeros_like(g)
            state |= {name: torch.zeros_like(value) for name, value in moments.items()}
        state["step"] += 1

        momentum = state["momentum"].float().lerp_(g, 1 - b1)
        state["momentum"] = momentum.bfloat16()
        for name, value in moments.items():
            state[name].lerp_(value, 1 - b2)
        if g.ndim > 1:
            square = state["rows"] * state["columns"] / state["rows"].mean(-2, keepdim=True).clamp(min=1e-30)
        else:
            square = state["square"].clone()

        return momentum / (1 - b1 ** state["step"]), square.div_(1 - b2 ** state["step"]).sqrt_()
