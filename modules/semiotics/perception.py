"""Perception as iteration: images that settle, persons that communicate, fixed points that attract."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

See = Callable[[Tensor], Tensor]  # A: images (B, ...) to images of that shape


class Perceived(NamedTuple):
    """What images were perceived as, a row each."""

    images: Tensor  # (B, ...)
    steps: Tensor  # (B,) iterations until it settled; all that were allowed where it did not
    period: Tensor  # (B,) 1: a fixed point; 2 and more: a cycle; 0: not settled


@dataclass(frozen=True)
class Perception:
    """Iterates x_{t+1} = A(x_t) until it returns to an earlier state, ||A(x_t) - x_{t+1-p}||_2 <= tolerance sqrt(d).

    The smallest such p is the period, and x_t is what is perceived: a fixed point for p = 1, a member of a cycle else.

    Attributes:
        iterations: T, after which what has not settled is left as it is; 0 perceives the image itself.
        tolerance: root mean square of pixel differences.
        memory: the longest period that is noticed.
    Raises:
        ValueError: a number lies outside its range.
    """

    iterations: int = 50
    tolerance: float = 1e-3
    memory: int = 8

    def __post_init__(self) -> None:
        if self.iterations < 0 or self.tolerance < 0 or self.memory < 1:
            raise ValueError(f"{self}: expected iterations and tolerance from 0 on, memory from 1 on")

    def __call__(self, see: See, x: Tensor) -> Perceived:
        see = precise(see)
        images = x.clone()
        steps = torch.full((len(x),), self.iterations, device=x.device)
        period = torch.zeros_like(steps)
        rows = torch.arange(len(x), device=x.device)  # that have not settled
        past = x[None]  # (m, n, ...), the latest state last

        for t in range(self.iterations):
            seen = see(past[-1])  # (n, ...)
            distance = (seen - past).flatten(2).square().mean(2).sqrt()  # (m, n)
            back = (distance <= self.tolerance).flip(0)  # [p - 1]: at the state p steps before

            settled = back.any(0)
            period[rows[settled]] = back.int().argmax(0)[settled] + 1  # argmax takes the first
            steps[rows[settled]] = t
            rows = rows[~settled]
            if not len(rows):
                break
            images[rows] = seen[~settled]
            past = torch.cat([past, seen[None]])[-self.memory :, ~settled]
        return Perceived(images, steps, period)


def precise(see: See) -> See:
    """The same without autocast: states that a tolerance of 1e-3 tells apart are often one in half precision."""

    def seen(x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return see(x)

    return seen


def repeat(see: See, x: Tensor, times: int) -> Tensor:
    """x_0 to x_times, (times + 1, B, ...)."""
    see = precise(see)
    states = [x]
    for _ in range(times):
        states.append(see(states[-1]))
    return torch.stack(states)


def communicate(
    first: See, second: See, x: Tensor, internal: tuple[int, int], perception: Perception
) -> tuple[Tensor, Perceived]:
    """Two persons by turns: each starts from what the other saw last, and sends it on after iterations of its own.

    Args:
        first, second: the persons.
        x: what the first one is shown, (B, ...).
        internal: iterations of each in a turn.
        perception: when the exchange has settled; it counts exchanges, that is pairs of turns.
    Returns:
        What the first one sends, (B, ...), and the answers to it. Together they are the bipartite orbit of an exchange
        with period 1.
    """

    def speak(image: Tensor) -> Tensor:
        return repeat(first, image, internal[0])[-1]

    def answer(image: Tensor) -> Tensor:
        return repeat(second, image, internal[1])[-1]

    answers = perception(lambda image: answer(speak(image)), x)
    return speak(answers.images), answers


def spectral_radius(see: See, image: Tensor) -> Tensor:
    """Largest absolute eigenvalue of A's Jacobian at one image (...); a fixed point attracts if it is below 1."""
    see = precise(see)

    def flat(x: Tensor) -> Tensor:
        return see(x.view(1, *image.shape)).flatten()

    jacobian = torch.func.jacrev(flat)(image.flatten())  # (d, d)
    return torch.linalg.eigvals(jacobian.double().cpu()).abs().max().float()
