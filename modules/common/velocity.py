"""Diffusion whose network says the velocity v = alpha eps - sigma x_0 (Salimans and Ho, arXiv 2202.00512).

    x_t = alpha x_0 + sigma eps,   alpha^2 + sigma^2 = 1;   eps = sigma x_t + alpha v,   x_0 = alpha x_t - sigma v

A small network's error in eps is multiplied by 160 where alpha is small, and colours come out at random; an error in v
is an error in x_0 of the same size.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from modules.common.diffusion import DDPM, draw_normal, draw_steps


class VelocityDDPM(DDPM):
    """A DDPM that learns v. `predict` gives eps, so that tests and samplers are the parent's."""

    def velocity(self, noisy: Tensor, t: Tensor, **inputs: Any) -> Tensor:
        """v with the weights that are tested with, not in half precision."""
        return super().predict(noisy, t, **inputs)

    def predict(self, noisy: Tensor, t: Tensor, **inputs: Any) -> Tensor:
        v = self.velocity(noisy, t, **inputs)
        return self.noise.at("noise", t) * noisy + self.noise.at("signal", t) * v

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x = batch.x
        t = draw_steps(x, len(self.noise))
        eps = draw_normal(x)
        noisy = self.noise.diffuse(x, t, eps)
        v = self.noise.at("signal", t) * eps - self.noise.at("noise", t) * x

        loss = (self(noisy, t, **self.inputs(batch)).float() - v).square().mean()
        self.track(len(x), loss=loss)
        return loss
