"""Continuous time: NoProp-CT and NoProp-FM, one network for all t in [0, 1] (arXiv 2503.24322)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional as F

from modules.common.module import OptimizerFactory
from modules.noprop.arms import Denoiser
from modules.noprop.label_diffusion import (
    LabelSpace,
    LearnedSchedule,
    Noise,
    noised,
    prior_kl,
    squared_error,
    transitions,
)
from modules.noprop.networks import Network
from modules.noprop.pictures import draw_schedule


class Continuous(Denoiser):
    """An arm with one network for all t.

    Args:
        steps: T, at inference.
        network: makes a Network from (dim, classes, as_image, timed).
        label, start: see Denoiser.
        inference_runs, pool, optimizer: see Arm.
    """

    def __init__(
        self, steps: int, network: Callable[..., Network], label: LabelSpace, start: Continuous | None, **options: Any
    ) -> None:
        super().__init__(label, start, stations=(), **options)
        self.steps = steps
        arguments = (label.dim, label.classes, label.kind == "prototype", True)
        self.network: Network = start.network if start else network(*arguments)

    def loss(self, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
        """Of one batch; x is pooled."""
        raise NotImplementedError

    def descend(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        loss = self.loss(x, y, Noise(x))
        self.step(loss, self.optimizers())
        return {"loss": loss.detach()}

    def times(self, device: torch.device) -> Tensor:
        """0 to 1 in T steps, float64 (T + 1,)."""
        return torch.linspace(0, 1, self.steps + 1, device=device, dtype=torch.float64)


class NoPropCT(Continuous):
    """NoProp-CT: denoising under a learned noise schedule (Algorithm 2).

        L = -log p(y|z_1) + KL(q(z_0|y) || N(0,1)) + eta/2 SNR'(t) |uhat(z_t, x, t) - u_y|^2,   t ~ U(0, 1)    (Eq. 9)

    Args:
        steps, network, label, start: see Continuous.
        gamma: the learned schedule.
        eta: weight of the denoising term.
        inference_runs, pool, optimizer: see Arm.
    """

    def __init__(
        self,
        steps: int,
        network: Callable[..., Network],
        label: LabelSpace,
        gamma: LearnedSchedule,
        eta: float = 1.0,
        start: Continuous | None = None,
        inference_runs: int = 5,
        pool: int = 1,
        optimizer: OptimizerFactory | None = None,
    ) -> None:
        super().__init__(steps, network, label, start, inference_runs=inference_runs, pool=pool, optimizer=optimizer)
        self.gamma = gamma
        self.eta = eta

    def loss(self, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
        """Equation 9. The gradient also reaches the schedule, through z_t, SNR' and both ends."""
        u = self.label.embedding[y]  # (B, d)
        t = noise.uniform()
        gamma, slope = self.gamma(torch.cat([t, t.new_tensor([0, 1])]))  # (B + 2,): t of the images, then both ends
        abar = torch.sigmoid(-gamma)
        snr_slope = -slope * torch.exp(-gamma)

        z = noised(u, abar[:-2, None], noise.normal(u.shape[1]))
        z_last = noised(u, abar[-1], noise.normal(u.shape[1]))
        u_hat = self.label.mixed(self.network(z, self.network.image(x), t).softmax(-1))

        denoising = (snr_slope[:-2] * squared_error(u_hat, u)).mean()
        prior = prior_kl(u, abar[-2]).mean()
        return F.cross_entropy(self.label(z_last), y) + prior + self.eta / 2 * denoising

    def chain(self, x: Tensor, z: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        features = self.network.image(x).repeat(len(z) // len(x), 1)
        times = self.times(x.device)
        gamma, _ = self.gamma(times)
        steps = transitions(torch.sigmoid(-gamma))
        for k, t in enumerate(times[:-1]):
            logits = self.network(z, features, t[None])
            a, b, c = (values[k].float() for values in steps)
            z = a * self.label.mixed(logits.softmax(-1)) + b * z + c.sqrt() * torch.randn_like(z)  # Eq. 3
            yield logits, z

    def pictures(self, data: Any) -> dict[str, Figure]:
        t = torch.linspace(0, 1, 101, device=self.device)
        gamma, slope = self.gamma(t)
        weight = -self.eta / 2 * slope * torch.exp(-gamma)
        schedule = draw_schedule(t.tolist(), torch.sigmoid(-gamma).tolist(), weight.tolist())
        return {**super().pictures(data), "learned schedule": schedule}


class Flow(Continuous):
    """dz = v(z, x, t) dt from noise to the label, by Euler steps; v is a sum of class embeddings without a softmax."""

    def velocity(self, z: Tensor, features: Tensor, t: Tensor) -> Tensor:
        return self.label.mixed(self.network(z, features, t))

    def chain(self, x: Tensor, z: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        features = self.network.image(x).repeat(len(z) // len(x), 1)
        for t in self.times(x.device)[:-1]:
            logits = self.network(z, features, t[None])
            z = z + self.label.mixed(logits) / self.steps
            yield logits, z


class NoPropFM(Flow):
    """NoProp-FM: flow matching (Algorithm 3).

        L = |v(z_t, x, t) - (u_y - z_0)|^2,   z_t ~ N(t u_y + (1 - t) z_0, sigma^2)                            (Eq. 11)

    A learned embedding needs a second term, -log p(y|z_t + (1 - t) v) (Eq. 13).

    Args:
        steps, network, label, start: see Continuous.
        sigma: standard deviation of z_t around the straight path.
        inference_runs, pool, optimizer: see Arm.
    """

    def __init__(
        self,
        steps: int,
        network: Callable[..., Network],
        label: LabelSpace,
        sigma: float = 0.0,
        start: Continuous | None = None,
        inference_runs: int = 5,
        pool: int = 1,
        optimizer: OptimizerFactory | None = None,
    ) -> None:
        super().__init__(steps, network, label, start, inference_runs=inference_runs, pool=pool, optimizer=optimizer)
        self.sigma = sigma

    def loss(self, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
        """Equation 11, or 13 where the embedding is learned."""
        u = self.label.embedding[y]  # (B, d)
        t = noise.uniform()
        z_0 = noise.normal(self.label.dim)
        z = torch.lerp(z_0, u, t[:, None]) + self.sigma * noise.normal(self.label.dim)

        v = self.velocity(z, self.network.image(x), t)
        matching = squared_error(v, u - z_0).mean()
        if self.label.kind == "onehot":
            return matching
        return matching + F.cross_entropy(self.label(z + (1 - t[:, None]) * v), y)

    def answer(self, z: Tensor) -> Tensor:
        return self.label.nearness(z)
