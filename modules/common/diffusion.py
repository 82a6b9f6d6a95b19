"""Denoising diffusion: noise schedule, losses, samplers, and the training of a network that predicts the noise.

    x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps,   abar_t = prod_{s <= t} (1 - beta_s),   t = 0 ... T - 1      (DDPM)
    L = |eps - eps_theta(x_t, t)|^2  (+ L_vlb of a learned variance, which does not reach the mean)             (iDDPM)

Ho et al., arXiv 2006.11239; Nichol and Dhariwal, arXiv 2102.09672; samplers: also Song et al. (DDIM), arXiv 2010.02502.
Images are in [-1, 1].
"""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from modules.common.averaging import WeightAverage
from modules.common.distributed import place_in_batch
from modules.common.module import OptimizerFactory, StageModule
from modules.common.schedules import Schedule
from modules.common.unet import UNet


class NoiseSchedule(nn.Module):
    """beta_t from `low` to `high` in equal steps, stated for 1,000 steps, and what follows from it.

    Args:
        steps: T.
        low, high: first and last beta, times 1000 / T.
    Raises:
        ValueError: betas outside of 0 to 1.
    """

    beta: Tensor
    abar: Tensor
    signal: Tensor
    noise: Tensor

    def __init__(self, steps: int = 1000, low: float = 1e-4, high: float = 0.02) -> None:
        super().__init__()
        scale = 1000 / steps
        self._set(torch.linspace(low * scale, high * scale, steps, dtype=torch.float64))

    def _set(self, beta: Tensor) -> None:
        if not bool(((beta > 0) & (beta < 1)).all()):
            raise ValueError(f"beta from {float(beta.min()):g} to {float(beta.max()):g}: expected above 0 and below 1")
        abar = (1 - beta).cumprod(0)
        before = torch.cat([abar.new_ones(1), abar[:-1]])
        variance = beta * (1 - before) / (1 - abar)
        tables = {
            "beta": beta,
            "abar": abar,
            "signal": abar.sqrt(),
            "noise": (1 - abar).sqrt(),
            "from_clean": before.sqrt() * beta / (1 - abar),  # weights of x_0 and x_t in the posterior's mean
            "from_noisy": (1 - beta).sqrt() * (1 - before) / (1 - abar),
            "log_variance": torch.cat([variance[1:2], variance[1:]]).log(),  # the first one is 0: the second stands in
        }
        for name, table in tables.items():
            self.register_buffer(name, table.float(), persistent=False)

    def __len__(self) -> int:
        return len(self.beta)

    def at(self, name: str, t: Tensor) -> Tensor:
        """A table's values at time steps (B,), as (B, 1, 1, 1)."""
        return getattr(self, name)[t].view(-1, 1, 1, 1)

    def diffuse(self, x: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """x_t of x_0 = x (B, C, H, W), with noise eps of the same shape."""
        return self.at("signal", t) * x + self.at("noise", t) * eps

    def clean(self, noisy: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """x_0, solved from x_t and eps."""
        return (noisy - self.at("noise", t) * eps) / self.at("signal", t)

    def posterior(self, x: Tensor, noisy: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of x_{t-1} given x_0 and x_t."""
        mean = self.at("from_clean", t) * x + self.at("from_noisy", t) * noisy
        return mean, self.at("log_variance", t)

    def learned(self, v: Tensor, t: Tensor) -> Tensor:
        """Log variance of a network's second output: v from -1 to 1 goes from the posterior's to beta_t's."""
        share = (v + 1) / 2
        return share * self.at("beta", t).log() + (1 - share) * self.at("log_variance", t)

    def respaced(self, count: int) -> tuple[NoiseSchedule, Tensor]:
        """A schedule of `count` evenly spaced steps with the same abar there, and these steps (count,)."""
        if not 2 <= count <= len(self):
            raise ValueError(f"steps={count}: expected 2 to {len(self)}")
        kept = torch.linspace(0, len(self) - 1, count, dtype=torch.float64).round().long().to(self.abar.device)
        abar = self.abar.double()[kept]
        made = NoiseSchedule()
        made._set(1 - abar / torch.cat([abar.new_ones(1), abar[:-1]]))
        return made, kept


def gaussian_kl(mean_1: Tensor, log_variance_1: Tensor, mean_2: Tensor, log_variance_2: Tensor) -> Tensor:
    """KL(N_1 || N_2) of each entry, nats."""
    ratio = (log_variance_1 - log_variance_2).exp()
    distance = (mean_1 - mean_2).square() * (-log_variance_2).exp()
    return 0.5 * (log_variance_2 - log_variance_1 + ratio + distance - 1)


def discretised_log_likelihood(x: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """log P of each entry of x, one of 256 values from -1 to 1, under a Gaussian with its tails at the ends, nats."""
    deviation = (0.5 * log_variance).exp()
    above = torch.special.ndtr((x - mean + 1 / 255) / deviation)
    below = torch.special.ndtr((x - mean - 1 / 255) / deviation)
    share = torch.where(x < -0.999, above, torch.where(x > 0.999, 1 - below, above - below))
    return share.clamp(min=1e-12).log()


def variational_bound(schedule: NoiseSchedule, x: Tensor, noisy: Tensor, t: Tensor, eps: Tensor, v: Tensor) -> Tensor:
    """One term of the variational bound for each image, bits per entry, (B,).

    Args:
        schedule: of the noise.
        x, noisy: x_0 and x_t, (B, C, H, W).
        t: (B,).
        eps, v: what the network predicts.
    """
    mean, log_variance = schedule.posterior(schedule.clean(noisy, t, eps), noisy, t)[0], schedule.learned(v, t)
    kl = gaussian_kl(*schedule.posterior(x, noisy, t), mean, log_variance)
    likelihood = discretised_log_likelihood(x, mean, log_variance)
    terms = torch.where(t.view(-1, 1, 1, 1) == 0, -likelihood, kl)
    return terms.flatten(1).mean(1) / math.log(2)


def draw_normal(like: Tensor) -> Tensor:
    """Noise of the shape of this process's images: drawn for the global batch and cut to its part."""
    total, start = place_in_batch(like)
    return torch.randn(total, *like.shape[1:], device=like.device)[start : start + len(like)]


def draw_steps(like: Tensor, steps: int) -> Tensor:
    """A time step below `steps` for each image of this process, drawn for the global batch and cut to its part."""
    total, start = place_in_batch(like)
    return torch.randint(steps, (total,), device=like.device)[start : start + len(like)]


class RowNoise:
    """Noise of test images that follows from one number and each image's row alone, however they are shared out.

    Args:
        seed: that number, the same on every process.
        rank, world: of this process; it is served rows rank, rank + world, ... in this order.
    """

    def __init__(self, seed: int, rank: int = 0, world: int = 1) -> None:
        self.seed, self.next, self.world = seed, rank, world

    def __call__(self, like: Tensor, steps: int = 1) -> tuple[Tensor, Tensor]:
        """For the next images (B, C, H, W): time steps (B,) below `steps`, and noise of their shape."""
        times, noises = [], []
        for _ in range(len(like)):
            source = torch.Generator().manual_seed(self.seed + self.next)
            times.append(torch.randint(steps, (), generator=source))
            noises.append(torch.randn(like.shape[1:], generator=source))
            self.next += self.world
        return torch.stack(times).to(like.device), torch.stack(noises).to(like.device)


class DDPM(StageModule):
    """A network that learns to predict the noise in images.

    Tested with the averaged weights. Metrics: `test/mse`, of the predicted noise at a random time step of each test
    image (1 for a network that always says 0); `test/n`.

    Args:
        network: the U-Net; where it has classes, batches carry labels y. With a learned variance it has twice as many
            output channels.
        noise: the schedule.
        learned_variance: add the variational bound, for the second half of the output.
        decay: of the weights' running average; None keeps none.
        optimizer, schedule: see StageModule.
    """

    def __init__(
        self,
        network: UNet,
        noise: NoiseSchedule,
        learned_variance: bool = False,
        decay: float | None = 0.9999,
        optimizer: OptimizerFactory | None = None,
        schedule: Schedule | None = None,
    ) -> None:
        super().__init__(optimizer, schedule)
        self.network, self.noise, self.learned_variance = network, noise, learned_variance
        self.average = None if decay is None else WeightAverage(network, decay)
        self.row_noise = RowNoise(0)
        self.tested = torch.zeros(2, dtype=torch.float64)  # images, sum of their errors

    def trained(self) -> Any:
        return self.network.parameters()

    def inputs(self, batch: Any) -> dict[str, Any]:
        """What the network sees besides images and time steps."""
        return {} if self.network.classes is None else {"y": batch.y}

    def forward(self, noisy: Tensor, t: Tensor, **inputs: Any) -> Tensor:
        """(B, C, S, S), (B,) -> the network's output, with the weights as they are."""
        return self.network(noisy, t, **inputs)

    def example(self, shape: tuple[int, ...]) -> tuple[Any, ...]:
        zero = torch.zeros(1, dtype=torch.long, device=self.device)
        return (torch.zeros(1, *shape, device=self.device), zero, *([] if self.network.classes is None else [zero]))

    def predict(self, noisy: Tensor, t: Tensor, **inputs: Any) -> Tensor:
        """The same with the averaged weights, not in half precision."""
        if self.average is None:
            return self.network(noisy, t, **inputs).float()
        return functional_call(self.network, self.average.values(), (noisy, t), inputs).float()

    def averaged(self) -> UNet:
        """A copy of the network with the averaged weights; without an average, the network itself."""
        if self.average is None:
            return self.network
        network = copy.deepcopy(self.network)
        network.load_state_dict(self.average.values())
        return network

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x = batch.x
        t = draw_steps(x, len(self.noise))
        eps = draw_normal(x)
        noisy = self.noise.diffuse(x, t, eps)

        output = self(noisy, t, **self.inputs(batch)).float()
        predicted, v = output.chunk(2, dim=1) if self.learned_variance else (output, None)

        mse = (predicted - eps).square().mean()
        loss = mse
        if v is not None:
            loss = loss + variational_bound(self.noise, x, noisy, t, predicted.detach(), v).mean()
        self.track(len(x), loss=loss, mse=mse)
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self.average is not None:
            self.average.update(self.network)

    # Evaluation

    def on_test_epoch_start(self) -> None:
        seed = int(torch.randint(2**31, ()))
        self.row_noise = RowNoise(seed, self.trainer.global_rank, self.trainer.world_size)
        self.tested = torch.zeros(2, dtype=torch.float64)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        x = batch.x
        t, eps = self.row_noise(x, len(self.noise))
        predicted = self.predict(self.noise.diffuse(x, t, eps), t, **self.inputs(batch))[:, : x.shape[1]]
        errors = (predicted - eps).square().flatten(1).mean(1)
        self.tested += torch.stack([errors.new_tensor(len(x)), errors.sum()]).double().cpu()

    def on_test_epoch_end(self) -> None:
        count, total = self.trainer.strategy.reduce(self.tested.to(self.device).float(), reduce_op="sum").tolist()
        self.log_dict({"test/mse": total / count, "test/n": count})

    @torch.no_grad()
    def sample(
        self,
        start: Tensor,
        steps: int | None = None,
        eta: float | None = 0.0,
        generator: torch.Generator | None = None,
        **inputs: Any,
    ) -> Tensor:
        """Images (B, C, S, S) in [-1, 1] from noise `start` of that shape, with the averaged weights.

        Args:
            start: x_T.
            steps: how many, evenly spaced; None takes all.
            eta: of DDIM: 0 depends on `start` alone, 1 adds as much noise as DDPM does. None is DDPM's own ancestral
                sampler, with the learned variance where there is one.
            generator: of the noise that is added, on the CPU.
            inputs: what the network sees besides, see `inputs`.
        """
        schedule, kept = self.noise.respaced(steps or len(self.noise))
        schedule = schedule.to(start.device)
        x = start
        for number in reversed(range(len(kept))):
            t = torch.full((len(x),), number, device=x.device)
            eps, *v = self.predict(x, kept[t], **inputs).split(x.shape[1], dim=1)
            clean = schedule.clean(x, t, eps).clamp(-1, 1)
            if eta is None:
                mean, log_variance = schedule.posterior(clean, x, t)
                log_variance = schedule.learned(v[0], t) if v else log_variance
                deviation = (0.5 * log_variance).exp()
            else:
                mean, deviation = ddim_step(schedule, clean, x, number, eta)
            added = torch.zeros_like(x)
            if number and eta != 0:
                added = torch.randn(x.shape, generator=generator).to(x)
            x = mean + deviation * added
        return x


def ddim_step(schedule: NoiseSchedule, clean: Tensor, x: Tensor, number: int, eta: float) -> tuple[Tensor, Tensor]:
    """Mean of x_{t-1} for a predicted x_0 and x_t, and the standard deviation of its noise."""
    abar = schedule.abar[number]
    before = schedule.abar[number - 1] if number else torch.ones_like(abar)
    eps = (x - abar.sqrt() * clean) / (1 - abar).sqrt()  # of the clipped prediction
    deviation = eta * ((1 - before) / (1 - abar) * (1 - abar / before)).sqrt()
    return before.sqrt() * clean + (1 - before - deviation.square()).clamp(min=0).sqrt() * eps, deviation
