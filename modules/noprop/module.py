"""NoProp: Training Neural Networks without Back-propagation or Forward-propagation (Li, Teh & Pascanu, 2025).

arXiv 2503.24322; version 2 says "without full" of both. T blocks are each trained alone to denoise a noised class
embedding u_y, given the image; at inference they run in sequence from Gaussian noise z_0, block 1 on almost pure noise,
block T on an almost clean label. No signal passes between blocks in training. Each block is itself a small
convolutional network that back-propagation trains: what the method removes is back-propagation through the stack.

    q(z_t|y) = N(sqrt(abar_t) u_y, 1 - abar_t),   SNR(t) = abar_t / (1 - abar_t), rising with t            (Eq. 5, 6)
    z_t = A_t uhat_t(z_{t-1}, x) + B_t z_{t-1} + sqrt(C_t) eps                                                 (Eq. 3)
    L_t = -log p(y|z_T) + KL(q(z_0|y) || N(0,1)) + T/2 eta (SNR(t) - SNR(t-1)) |uhat_t(z_{t-1}, x) - u_y|^2    (Eq. 8)

NoProp-CT trains one network for all t in [0, 1] with a learned noise schedule (Eq. 9, App. B), NoProp-FM a flow from
noise to u_y (Eq. 11, 13). Baselines: the same blocks trained end to end by back-propagation (Eq. 17-19), a neural ODE
trained by the adjoint method, a convolutional network whose layers are trained greedily.

c_t is the variance of a step (Eq. 7), and its root stands beside eps (Eq. 3). Not printed and chosen here: how
close abar_T comes to 1 (`abar_cap`), the flow's sigma, where gamma_0, gamma_1, f_out and the alphas of Eq. 18 start,
the time embedding's scale. A step updates every block on one batch; the paper sweeps the data block by block.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from modules.common.module import OptimizerFactory
from modules.noprop.arms import Denoiser
from modules.noprop.label_diffusion import (
    LabelSpace,
    Noise,
    cosine_schedule,
    noised,
    prior_kl,
    squared_error,
    transitions,
)
from modules.noprop.networks import Network
from modules.noprop.pictures import draw_schedule


def block_weights(abar: Tensor, eta: float) -> Tensor:
    """T/2 eta (SNR(t) - SNR(t-1)) for t = 1..T, (T,), from abar_0..abar_T (T + 1,)."""
    blocks = len(abar) - 1
    snr = abar / (1 - abar)
    return blocks / 2 * eta * snr.diff()


class Stack(Denoiser):
    """T blocks in sequence, untrained or with the weights of another stack.

    Args:
        blocks: T.
        network: makes a Network from (dim, classes, as_image, timed).
        label, start: see Denoiser; a `start` may have more blocks.
        inference_runs, pool, stations, optimizer: see Arm.
    """

    def __init__(
        self, blocks: int, network: Callable[..., Network], label: LabelSpace, start: Stack | None, **options: Any
    ) -> None:
        super().__init__(label, start, **options)
        arguments = (label.dim, label.classes, label.kind == "prototype", False)
        self.blocks: nn.ModuleList = (
            start.blocks[:blocks] if start else nn.ModuleList(network(*arguments) for _ in range(blocks))
        )

    def move(self, t: int, z: Tensor, u_hat: Tensor) -> Tensor:
        """z_t from z_{t-1} and the guess of block t = 1..T, all (B, d)."""
        raise NotImplementedError

    def chain(self, x: Tensor, z: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        for t, block in enumerate(cast(Iterable[Network], self.blocks), 1):
            logits = block(z, block.image(x).repeat(len(z) // len(x), 1))
            u_hat = self.label.mixed(logits.softmax(-1))
            z = self.move(t, z, u_hat)
            yield logits, z


class NoProp(Stack):
    """NoProp-DT: each block is trained alone (Algorithm 1).

    Args:
        blocks, network, label, start: see Stack.
        eta: weight of the denoising term.
        abar_cap: abar_T of the cosine schedule. The last block's weight is about T/2 eta / (1 - abar_cap).
        inference_runs, pool, optimizer: see Arm.
    """

    abar: Tensor

    def __init__(
        self,
        blocks: int,
        network: Callable[..., Network],
        label: LabelSpace,
        eta: float = 0.1,
        abar_cap: float = 0.9999,
        start: Stack | None = None,
        inference_runs: int = 5,
        pool: int = 1,
        optimizer: OptimizerFactory | None = None,
    ) -> None:
        stations = [f"block{t}" for t in range(1, blocks + 1)]
        super().__init__(
            blocks,
            network,
            label,
            start,
            inference_runs=inference_runs,
            pool=pool,
            stations=stations,
            optimizer=optimizer,
            notes=["block1_p", f"block{blocks}_p", "quiet_top1"],
        )
        self.noise = 1.0  # what eps of Eq. 3 is multiplied by
        abar = cosine_schedule(blocks, cap=abar_cap)
        self.register_buffer("abar", abar.float(), persistent=False)
        self.transitions = torch.stack(transitions(abar), -1).tolist()  # (T, 3)
        self.weights = block_weights(abar, eta).tolist()  # (T,)

    def configure_optimizers(self) -> Optimizer | list[Optimizer]:
        """One for each block and one for what they share, f_out and a learned W_Embed."""
        if self.optimizer_factory is None:
            return super().configure_optimizers()
        return [self.prepared(self.optimizer_factory(part.parameters())) for part in (*self.blocks, self.label)]

    def descend(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        noise = Noise(x)
        *own, shared = cast(list[Any], self.optimizers())
        losses = []
        distances = []
        for t, optimizer in enumerate(own, 1):  # in any order: block t sees none of the others
            loss, distance = self.loss(t, x, y, noise)
            self.step(loss, optimizer, shared)  # frees this block's graph before the next one is built
            losses.append(loss.detach())
            distances.append(distance.detach())
        return {"loss": torch.stack(losses).mean(), "distance": torch.stack(distances).mean()}

    def loss(self, t: int, x: Tensor, y: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
        """L_t (Eq. 8, 61) and the mean of |uhat_t - u_y|^2, t = 1..T."""
        block = cast(Network, self.blocks[t - 1])
        u = self.label.embedding[y]  # (B, d)
        z_last = noised(u, self.abar[-1], noise.normal(u.shape[1]))
        z_before = noised(u, self.abar[t - 1], noise.normal(u.shape[1]))  # never what block t-1 put out
        u_hat = self.label.mixed(block(z_before, block.image(x)).softmax(-1))

        classification = F.cross_entropy(self.label(z_last), y)
        prior = prior_kl(u, self.abar[0]).mean()
        distance = squared_error(u_hat, u).mean()
        return classification + prior + self.weights[t - 1] * distance, distance

    def move(self, t: int, z: Tensor, u_hat: Tensor) -> Tensor:
        a, b, c = self.transitions[t - 1]
        return a * u_hat + b * z + self.noise * math.sqrt(c) * torch.randn_like(z)  # Eq. 3

    def explain(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        """Why one run answers as it does: the chain is the reverse of q, so that its class is a draw from p(y | x).

        - block1_p, block<T>_p: the probability that the first and the last block give the true class. Were the blocks'
          posteriors exact, both would be the share of runs that answer it.
        - quiet_top1: whether a run is right whose steps add no noise to that of z_0.
        """
        z_0 = torch.randn(len(x), self.label.dim, device=x.device)
        p = [logits.softmax(-1).gather(1, y[:, None])[:, 0] for logits, _ in self.chain(self.pooled(x), z_0)]

        with self.without_noise():
            quiet = self(x).argmax(-1) == y
        return {"block1_p": p[0], f"block{len(p)}_p": p[-1], "quiet_top1": quiet.float()}

    @contextmanager
    def without_noise(self) -> Iterator[None]:
        """Steps of the chain are their means in here."""
        self.noise = 0.0
        try:
            yield
        finally:
            self.noise = 1.0

    def pictures(self, data: Any) -> dict[str, Figure]:
        schedule = draw_schedule(range(len(self.abar)), self.abar.tolist(), [math.nan, *self.weights])
        return {**super().pictures(data), "schedule": schedule}
