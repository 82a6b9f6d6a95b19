"""Continuous time: NoProp-CT, NoProp-FM and the neural ODE trained by the adjoint method (arXiv 2503.24322)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F

from modules.common.module import OptimizerFactory
from modules.noprop.label_diffusion import (
    AdjointEuler,
    LabelSpace,
    LearnedSchedule,
    Noise,
    noised,
    prior_kl,
    transitions,
)
from modules.noprop.module import Denoiser
from modules.noprop.networks import Network
from modules.noprop.pictures import schedule_figure


class Continuous(Denoiser):
    """One network for all t in [0, 1].

    Args:
        objective: "diffusion" (NoProp-CT, Algorithm 2), "flow" (NoProp-FM, Algorithm 3), or "adjoint": the flow's ODE
            trained end to end on the cross-entropy of f_out(z_1) by the adjoint method.
        steps: T, at inference and for the adjoint.
        network: makes a Network from (dim, classes, as_image, timed).
        label: see Denoiser.
        noise: the learned schedule; used by diffusion alone.
        eta: weight of diffusion's denoising term.
        sigma: standard deviation of z_t around the flow's straight path.
        start, inference_runs, pool, optimizer: see Denoiser.
    Raises:
        ValueError: no such objective.
    """

    def __init__(
        self,
        objective: str,
        steps: int,
        network: Callable[..., Network],
        label: LabelSpace,
        noise: LearnedSchedule,
        eta: float = 1.0,
        sigma: float = 0.0,
        start: Continuous | None = None,
        inference_runs: int = 5,
        pool: int = 1,
        optimizer: OptimizerFactory | None = None,
    ) -> None:
        super().__init__(label, start, inference_runs=inference_runs, pool=pool, stations=(), optimizer=optimizer)
        if objective not in ("diffusion", "flow", "adjoint"):
            raise ValueError(f"objective={objective!r}: expected one of diffusion, flow, adjoint")
        self.objective, self.steps, self.eta, self.sigma = objective, steps, eta, sigma
        arguments = (label.dim, label.classes, label.kind == "prototype", True)
        self.network: Network = start.network if start else network(*arguments)
        self.noise = noise if objective == "diffusion" else None

    def descend(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        loss = {"diffusion": self.diffusion_loss, "flow": self.flow_loss, "adjoint": self.adjoint_loss}
        value = loss[self.objective](x, y, Noise(x))
        self.step(value, self.optimizers())
        return {"loss": value.detach()}

    def diffusion_loss(self, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
        """Equation 9. The gradient also reaches the schedule, through z_t, SNR' and both ends."""
        assert self.noise is not None
        u, t = self.label.embedding[y], noise.uniform()
        gamma, slope = self.noise(torch.cat([t, t.new_tensor([0, 1])]))
        abar, rise = torch.sigmoid(-gamma), -slope * torch.exp(-gamma)  # rise = SNR'
        z = noised(u, abar[:-2, None], noise.normal(u.shape[1]))
        z_last = noised(u, abar[-1], noise.normal(u.shape[1]))
        u_hat = self.label.mixed(self.network(z, self.network.image(x), t).softmax(-1))
        denoising = rise[:-2] * (u_hat - u).square().sum(-1)
        prior = prior_kl(u, abar[-2]).mean()
        return F.cross_entropy(self.label(z_last), y) + prior + self.eta / 2 * denoising.mean()

    def flow_loss(self, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
        """Equation 11, or 13 where the embedding is learned."""
        u, t, z_0 = self.label.embedding[y], noise.uniform(), noise.normal(self.label.dim)
        z = torch.lerp(z_0, u, t[:, None]) + self.sigma * noise.normal(self.label.dim)
        v = self.label.mixed(self.network(z, self.network.image(x), t))
        loss = (v - (u - z_0)).square().sum(-1).mean()
        if self.label.kind == "onehot":
            return loss
        return loss + F.cross_entropy(self.label(z + (1 - t[:, None]) * v), y)

    def adjoint_loss(self, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
        parts = (self.network.label, self.network.time, self.network.head)
        trained = [p for part in parts for p in cast(nn.Module, part).parameters()]
        if isinstance(self.label.embedding, nn.Parameter):
            trained.append(self.label.embedding)
        z_0, features = noise.normal(self.label.dim), self.network.image(x).float()
        z_1: Any = AdjointEuler.apply(self.velocity, self.steps, z_0, features, *trained)
        return F.cross_entropy(self.label(z_1), y)

    def velocity(self, z: Tensor, features: Tensor, t: Tensor) -> Tensor:
        return self.label.mixed(self.network(z, features, t))

    def chain(self, x: Tensor, z: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        features = self.network.image(x).repeat(len(z) // len(x), 1)
        times = torch.linspace(0, 1, self.steps + 1, device=x.device, dtype=torch.float64)
        steps = None if self.noise is None else transitions(torch.sigmoid(-self.noise(times)[0]))
        for k, t in enumerate(times[:-1]):
            logits = self.network(z, features, t[None])
            if steps is None:
                z = z + self.label.mixed(logits) / self.steps
            else:
                a, b, c = (values[k].float() for values in steps)
                z = a * self.label.mixed(logits.softmax(-1)) + b * z + c.sqrt() * torch.randn_like(z)
            yield logits, z

    def answer(self, z: Tensor) -> Tensor:
        return self.label.nearness(z) if self.objective == "flow" else self.label(z)

    def pictures(self, data: Any) -> dict[str, Figure]:
        made = super().pictures(data)
        if self.noise is not None:
            t = torch.linspace(0, 1, 101, device=self.device)
            gamma, slope = self.noise(t)
            weight = -self.eta / 2 * slope * torch.exp(-gamma)
            made["learned schedule"] = schedule_figure(t.tolist(), torch.sigmoid(-gamma).tolist(), weight.tolist())
        return made
