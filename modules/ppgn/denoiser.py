"""Denoising auto-encoders as priors of their own: R_h on codes (PPGN-h) and R_x on pixels (PPGN-x).

L = |R(s + n) - s|^2,   n ~ N(0, sigma^2)             d log p(s) / ds ~ (R(s) - s) / sigma^2    (Alain & Bengio)
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modules.common.distributed import shared_normal
from modules.common.frozen import Frozen
from modules.common.module import OptimizerFactory, StageModule
from modules.common.schedules import Schedule
from modules.ppgn.codes import Codes
from modules.ppgn.networks import encode
from modules.ppgn.sums import Sums


class Denoiser(StageModule):
    """R of codes, or of pixels where there is no encoder.

    The test logs `mse`, of R(s + n) to s per entry, and `noise`, the same of s + n itself: what R has to beat.

    Args:
        network: R; codes (B, code) or images (B, C, S, S) to the same.
        codes: the stage that knows the spread of pixels and codes.
        sigma: of the noise, in the standard deviation of all entries of the codes (or pixels).
        encoder: the stage whose network is E; None denoises pixels.
        optimizer, schedule: see StageModule.
    Raises:
        ValueError: sigma is not above 0.
    """

    def __init__(
        self,
        network: nn.Module,
        codes: Codes,
        sigma: float = 0.1,
        encoder: Any = None,
        optimizer: OptimizerFactory | None = None,
        schedule: Schedule | None = None,
    ) -> None:
        super().__init__(optimizer, schedule)
        if sigma <= 0:
            raise ValueError(f"sigma={sigma}: expected a number above 0")
        self.network = network
        self.encoder = Frozen([encoder.network]) if encoder is not None else None
        self.code = int(encoder.network.code) if encoder is not None else 0
        std_x, _, std_h = codes.spread.tolist()
        self.sigma = sigma * (std_x if encoder is None else std_h)
        self.sums = Sums("mse", "noise")

    def forward(self, s: Tensor) -> Tensor:
        return self.network(s)

    def example(self, shape: tuple[int, ...]) -> tuple[Any, ...]:
        if self.encoder is None:
            return (torch.zeros(1, *shape, device=self.device),)
        return (torch.zeros(1, self.code, device=self.device),)

    def states(self, x: Tensor) -> Tensor:
        """What is denoised: codes of the images, or the images."""
        if self.encoder is None:
            return x
        (encoder,) = self.encoder.on(x.device)
        with torch.no_grad():
            return encode(encoder, x)[1]

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        s = self.states(batch.x)
        noisy = s + self.sigma * shared_normal(s, *s.shape[1:])
        loss = F.mse_loss(self(noisy), s)
        self.track(len(s), loss=loss)
        return loss

    def test_step(self, batch: Any, batch_idx: int) -> None:
        s = self.states(batch.x)
        noise = self.sigma * torch.randn_like(s)
        self.sums.add(
            mse=(self(s + noise) - s).square().flatten(1).mean(1),
            noise=noise.square().flatten(1).mean(1),
        )
        self.sums.count(len(s))

    def on_test_epoch_end(self) -> None:
        self.log_dict({f"test/{name}": value for name, value in self.sums.means().items()})
