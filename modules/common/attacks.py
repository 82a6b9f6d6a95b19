"""Adversarial examples: the perturbation of bounded length that raises an objective most."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def l2_pgd(
    objective: Callable[[Tensor], Tensor],
    x: Tensor,
    radius: float | Tensor,
    steps: int = 40,
    rate: float = 2.5,
    restarts: int = 1,
    low: float = 0.0,
    high: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Projected gradient ascent within an L2 ball around each input and within [low, high] (Madry et al. 2018).

        x <- clip( x0 + P( x + rate radius / steps * g / |g| - x0 ) ),    g = grad objective(x)

    P scales a difference that is longer than the radius back to it; clipping to a box that holds x0 never makes it
    longer. The first restart begins at x0, each further one at a uniform point of the ball. It works within
    `inference_mode`, as long as the objective uses no tensor that was made there.

    Args:
        objective: (B, ...) -> (B,), what to raise; an input's value depends on that input alone.
        x: (B, ...) in [low, high].
        radius: of every ball, or one for each (B,); 0 leaves an input as it is.
        steps: gradient steps of each restart.
        rate: length of all steps together, in radii.
        restarts: how often to begin.
    Returns:
        the best inputs met, x0 included, (B, ...), and their objective (B,). Nothing is attached to a graph.
    Raises:
        ValueError: fewer than one step or restart.
    """

    def begin(start: Tensor, radii: Tensor) -> Tensor:
        return start + _uniform_in_ball(start) * radii

    def move(start: Tensor, point: Tensor, gradient: Tensor, radii: Tensor) -> Tensor:
        moved = point + rate / steps * radii * gradient / _length(gradient)
        difference = moved - start
        return start + difference * (radii / _length(difference)).clamp(max=1.0)

    return _ascend(objective, x, radius, steps, restarts, (low, high), begin, move)


def linf_pgd(
    objective: Callable[[Tensor], Tensor],
    x: Tensor,
    radius: float | Tensor,
    steps: int = 8,
    rate: float = 2.0,
    restarts: int = 1,
    low: float = 0.0,
    high: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """As l2_pgd, where no coordinate moves by more than the radius.

        x <- clip( x0 + clamp( x + rate radius / steps * sign(g) - x0, -radius, radius ) )

    Args:
        objective, x, radius, steps, rate, restarts, low, high: see l2_pgd.
    Returns:
        the best inputs met, x0 included, (B, ...), and their objective (B,). Nothing is attached to a graph.
    Raises:
        ValueError: fewer than one step or restart.
    """

    def begin(start: Tensor, radii: Tensor) -> Tensor:
        return start + (2 * torch.rand_like(start) - 1) * radii

    def move(start: Tensor, point: Tensor, gradient: Tensor, radii: Tensor) -> Tensor:
        moved = point + rate / steps * radii * gradient.sign()
        return start + (moved - start).clamp(-radii, radii)

    return _ascend(objective, x, radius, steps, restarts, (low, high), begin, move)


def _ascend(
    objective: Callable[[Tensor], Tensor],
    x: Tensor,
    radius: float | Tensor,
    steps: int,
    restarts: int,
    box: tuple[float, float],
    begin: Callable[[Tensor, Tensor], Tensor],
    move: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor],
) -> tuple[Tensor, Tensor]:
    """Ascent from x, then from random points; what is met is clipped to the box.

    Args:
        objective, x, radius, steps, restarts: see l2_pgd.
        begin: (x, radii (B, 1, ...)) -> a random point of each ball.
        move: (x, point, gradient, radii) -> the next point of each ball.
    """
    if steps < 1 or restarts < 1:
        raise ValueError(f"steps={steps}, restarts={restarts}: expected 1 or more of each")
    with torch.inference_mode(False), torch.enable_grad():
        start = x.detach().clone()
        radii = torch.as_tensor(radius, dtype=start.dtype, device=start.device).clone().expand(len(start))
        radii = radii.view(-1, *[1] * (start.dim() - 1))

        best, best_value = start, torch.full_like(radii.flatten(), -torch.inf)
        for restart in range(restarts):
            point = start if restart == 0 else begin(start, radii).clamp(*box)
            for step in range(steps + 1):
                point = point.detach().requires_grad_(step < steps)
                value = objective(point)  # (B,)
                better = value.detach() > best_value
                best_value = torch.where(better, value.detach(), best_value)
                best = torch.where(better.view_as(radii), point.detach(), best)
                if step == steps:
                    break

                (gradient,) = torch.autograd.grad(value.sum(), point)
                point = move(start, point.detach(), gradient, radii).clamp(*box)
        return best, best_value


def _length(x: Tensor) -> Tensor:
    """(B, ...) -> (B, 1, ...): the L2 norm of each row, at least a tiny number to divide by."""
    return x.flatten(1).norm(dim=1).clamp(min=1e-12).view(-1, *[1] * (x.dim() - 1))


def _uniform_in_ball(like: Tensor) -> Tensor:
    """Points of the unit ball, uniform: a direction times the d-th root of a uniform number."""
    direction = torch.randn_like(like)
    share = torch.rand(len(like), *[1] * (like.dim() - 1), dtype=like.dtype, device=like.device)
    return direction / _length(direction) * share ** (1 / like[0].numel())
