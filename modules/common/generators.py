"""Four small generators of pictures: two autoencoders that differ in how they enlarge, a GAN and a diffusion model.

Each is trained in a stage of its own and makes, in that stage's test, one picture for every picture that detectors
will see: the autoencoders reconstruct it, the GAN and the diffusion model draw one at random. Pictures are in [-1, 1].
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from datamodules.common.generated_pictures import to_bytes
from modules.common.diffusion import NoiseSchedule, RowNoise
from modules.common.distributed import shared_normal
from modules.common.frozen import Frozen
from modules.common.module import OptimizerFactory, StageModule
from modules.common.players import Players, held
from modules.common.precision import at_least_single
from modules.common.schedules import Schedule
from modules.common.unet import UNet
from modules.common.velocity import VelocityDDPM

ENLARGE = ("transposed", "nearest")
SHOWN = 8  # pictures on the page


def doubled(inputs: int, outputs: int, enlarge: str) -> nn.Module:
    """A layer that doubles a map's sides: a transposed convolution, or nearest neighbours and a convolution.

    Raises:
        ValueError: another way.
    """
    if enlarge not in ENLARGE:
        raise ValueError(f"enlarge={enlarge!r}: expected one of {', '.join(ENLARGE)}")
    if enlarge == "transposed":
        return nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1)
    return nn.Sequential(nn.Upsample(scale_factor=2, mode="nearest"), nn.Conv2d(inputs, outputs, 3, padding=1))


class AutoEncoderNet(nn.Module):
    """Two halvings down to a code, two doublings up: (B, 3, S, S) -> the same, S a multiple of 4.

    Args:
        width: channels of the larger maps; the smaller have twice as many.
        code: channels of the code (B, code, S / 4, S / 4).
        enlarge: how maps are doubled, see `doubled`.
    """

    def __init__(self, width: int = 24, code: int = 16, enlarge: str = "transposed") -> None:
        super().__init__()
        self.code = code
        self.encoder = nn.Sequential(
            nn.Conv2d(3, width, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(2 * width, code, 3, padding=1),
        )
        self.decoder = nn.Sequential(
            nn.Conv2d(code, 2 * width, 3, padding=1),
            nn.ReLU(),
            doubled(2 * width, width, enlarge),
            nn.ReLU(),
            doubled(width, 3, enlarge),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.encoder(x))


class Quality:
    """What can be said of generated pictures beside real ones, in a few numbers.

    `contrast`: standard deviation of the generated pixels over that of the real ones, 0 for a generator that always
    draws the same grey. `detail`: log2 of the mean square of a Laplacian of the generated pictures over that of the
    real ones, below 0 where they are blurred. `psnr`: of each picture against the real one at its place, dB.
    """

    def __init__(self) -> None:
        self.sums = torch.zeros(8, dtype=torch.float64)

    def update(self, real: Tensor, fake: Tensor) -> None:
        """(B, C, S, S) each, in [-1, 1]."""
        error = (real - fake).square().flatten(1).mean(1) / 4  # of values from 0 to 1
        psnr = -10 * error.clamp(min=1e-10).log10()
        terms: list[Tensor] = [psnr.new_tensor(float(len(real))), psnr.sum()]
        for images in (real, fake):
            images = images.double()
            terms += [images.mean((1, 2, 3)).sum(), images.square().mean((1, 2, 3)).sum(), laplacian(images).sum()]
        self.sums += torch.stack([term.double().cpu() for term in terms])

    def compute(self) -> dict[str, float]:
        count, psnr, *rest = self.sums.tolist()
        (mean, square, sharp), (own_mean, own_square, own_sharp) = (
            [value / count for value in part] for part in (rest[:3], rest[3:])
        )
        variance, own_variance = square - mean**2, own_square - own_mean**2
        return {
            "n": count,
            "psnr": psnr / count,
            "contrast": float(np.sqrt(max(own_variance, 0.0) / variance)),
            "detail": float(np.log2(max(own_sharp, 1e-12) / max(sharp, 1e-12))),
        }


def laplacian(images: Tensor) -> Tensor:
    """Mean square of the four-neighbour Laplacian of each image (B, C, H, W), without its border: (B,)."""
    inner = images[..., 1:-1, 1:-1]
    around = images[..., :-2, 1:-1] + images[..., 2:, 1:-1] + images[..., 1:-1, :-2] + images[..., 1:-1, 2:]
    return (4 * inner - around).square().mean((1, 2, 3))


class MakesPictures(StageModule):
    """The test of a generator: a picture for each of the detectors' pictures, kept as an artifact.

    Test metrics: those of Quality. Runs in one process.
    """

    def make(self, x: Tensor, noise: Tensor) -> Tensor:
        """Pictures for the detectors' pictures x (B, 3, S, S), from noise of the same shape: (B, 3, S, S)."""
        raise NotImplementedError(f"{type(self).__name__} does not say how it makes pictures")

    def on_test_epoch_start(self) -> None:
        self.row_noise = RowNoise(int(torch.randint(2**31, ())), self.trainer.global_rank, self.trainer.world_size)
        self.quality = Quality()
        self.made: list[Tensor] = []
        self.shown: list[Tensor] = []

    def test_step(self, batch: Any, batch_idx: int) -> None:
        x = batch.x
        _, noise = self.row_noise(x)
        pictures = to_bytes((at_least_single(self.make(x, noise)) + 1) / 2)
        self.quality.update(x, pictures.float() / 127.5 - 1)
        self.made.append(pictures.cpu())
        if batch_idx == 0:
            self.shown = [x[:SHOWN].cpu(), pictures[:SHOWN].cpu().float() / 127.5 - 1]

    def on_test_epoch_end(self) -> None:
        self.log_dict({f"test/{name}": value for name, value in self.quality.compute().items()})

    def artifacts(self) -> dict[str, np.ndarray]:
        return {"pictures": torch.cat(self.made).numpy()} if getattr(self, "made", None) else {}

    def pictures(self, data: Any) -> dict[str, Figure]:
        """Real pictures above generated ones."""
        if not getattr(self, "shown", None):
            return {}
        return {"generated pictures": draw_rows([data.shown(part) for part in self.shown], ("real", "generated"))}


def draw_rows(rows: Sequence[Tensor], names: Sequence[str]) -> Figure:
    """One row of pictures (N, 3, S, S) in [0, 1] for each name."""
    figure = Figure(figsize=(1.1 * len(rows[0]), 1.2 * len(rows)), layout="constrained")
    grid = figure.subplots(len(rows), len(rows[0]), squeeze=False)
    for line, name, images in zip(grid, names, rows, strict=True):
        line[0].set_title(name, fontsize=8, loc="left")
        for axis, image in zip(line, images, strict=True):
            axis.imshow(image.permute(1, 2, 0).numpy())
            axis.set_axis_off()
    return figure


class AutoEncoder(MakesPictures):
    """An autoencoder of the mean squared error; its pictures are reconstructions.

    Args:
        network: pictures to pictures.
        optimizer, schedule: see StageModule.
    """

    def __init__(
        self, network: AutoEncoderNet, optimizer: OptimizerFactory | None = None, schedule: Schedule | None = None
    ) -> None:
        super().__init__(optimizer, schedule)
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = (self(batch.x) - batch.x).square().mean()
        self.track(len(batch.x), loss=loss)
        return loss

    def make(self, x: Tensor, noise: Tensor) -> Tensor:
        return self(x)


class PictureGAN(MakesPictures, Players):
    """A GAN of transposed convolutions (DCGAN's) with a spectrally normalised discriminator and the logistic loss.

    `train/right`: share of pictures that the discriminator tells apart, percent: 50 if it is blind, 100 if it has won.

    Args:
        size: side of the pictures, 4 times a power of 2.
        width: channels of the largest hidden maps.
        code: entries of the noise; not more than a picture has.
        optimizer: of either player.
        schedule: see StageModule.
    """

    def __init__(
        self,
        size: int = 32,
        width: int = 24,
        code: int = 64,
        optimizer: OptimizerFactory | None = None,
        schedule: Schedule | None = None,
    ) -> None:
        super().__init__(optimizer, schedule)
        times = (size // 4).bit_length() - 1
        if size != 4 * 2**times or times < 1:
            raise ValueError(f"size={size}: expected 4 times 2, 4, 8, ...")
        self.code = code
        maps = width * 2 ** (times - 1)
        up: list[nn.Module] = [nn.Unflatten(1, (code, 1, 1)), nn.ConvTranspose2d(code, maps, 4)]
        down: list[nn.Module] = []
        for number in reversed(range(times)):
            up += [nn.BatchNorm2d(maps), nn.ReLU()]
            fewer = maps // 2 if number else 3
            up.append(nn.ConvTranspose2d(maps, fewer, 4, stride=2, padding=1))
            down = [spectral_norm(nn.Conv2d(fewer, maps, 4, stride=2, padding=1)), nn.LeakyReLU(0.2), *down]
            maps = fewer
        self.generator = nn.Sequential(*up, nn.Tanh())
        features = width * 2 ** (times - 1) * 16
        self.discriminator = nn.Sequential(*down, nn.Flatten(), spectral_norm(nn.Linear(features, 1)))

    def players(self) -> list[list[nn.Module]]:
        return [[self.discriminator], [self.generator]]

    def forward(self, noise: Tensor) -> Tensor:
        return self.generator(noise)

    def example(self, shape: tuple[int, ...]) -> tuple[Any, ...]:
        return (torch.zeros(1, self.code, device=self.device),)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x = batch.x
        discriminator_optimizer, generator_optimizer = self.steppers()
        fake = self.generator(shared_normal(x, self.code))

        real_logit, fake_logit = self.discriminator(x), self.discriminator(fake.detach())
        loss = F.softplus(-real_logit).mean() + F.softplus(fake_logit).mean()
        self.minimise(loss, discriminator_optimizer)

        with held(self.discriminator):
            generator_loss = F.softplus(-self.discriminator(fake)).mean()
            self.minimise(generator_loss, generator_optimizer)

        right = torch.cat([real_logit > 0, fake_logit < 0]).float().mean()
        self.track(len(x), loss=loss, generator=generator_loss, right=100 * right)
        return loss.detach()

    def make(self, x: Tensor, noise: Tensor) -> Tensor:
        return self.generator(noise.flatten(1)[:, : self.code])


class PictureDDPM(MakesPictures, VelocityDDPM):
    """A diffusion model; its pictures are drawn by DDIM's sampler, from noise alone.

    With an autoencoder it is a latent diffusion model (Rombach et al., arXiv 2112.10752): what is diffused are the
    codes, each channel with mean 0 and standard deviation 1 / 3, so that nearly all values lie in [-1, 1].

    Args:
        network: the U-Net, for pictures or for codes; it answers with the velocity.
        noise: its schedule.
        steps: of the sampler.
        autoencoder: a trained stage whose codes are diffused and whose decoder draws; it stays as it is. None: pixels.
        decay: see DDPM.
        optimizer, schedule: see StageModule.
    """

    def __init__(
        self,
        network: UNet,
        noise: NoiseSchedule,
        steps: int = 20,
        autoencoder: AutoEncoder | None = None,
        decay: float | None = 0.99,
        optimizer: OptimizerFactory | None = None,
        schedule: Schedule | None = None,
    ) -> None:
        super().__init__(network, noise, decay=decay, optimizer=optimizer, schedule=schedule)
        self.steps = steps
        self.frozen = None if autoencoder is None else Frozen([autoencoder.network])
        self.standard = None if autoencoder is None else nn.BatchNorm2d(autoencoder.network.code, affine=False)

    def example(self, shape: tuple[int, ...]) -> tuple[Any, ...]:
        start = self.encode(torch.zeros(1, *shape, device=self.device))
        return start, torch.zeros(1, dtype=torch.long, device=self.device)

    def encode(self, x: Tensor) -> Tensor:
        """What is diffused: pictures (B, 3, S, S), or their codes."""
        if self.frozen is None or self.standard is None:
            return x
        (network,) = self.frozen.on(x.device)
        with torch.no_grad():
            return self.standard(network.encoder(x)) / 3

    def decode(self, codes: Tensor) -> Tensor:
        """Pictures (B, 3, S, S) in [-1, 1]."""
        if self.frozen is None or self.standard is None:
            return codes
        (network,) = self.frozen.on(codes.device)
        mean = self.standard.get_buffer("running_mean").view(1, -1, 1, 1)
        variance = self.standard.get_buffer("running_var").view(1, -1, 1, 1)
        return network.decoder(3 * codes * (variance + self.standard.eps).sqrt() + mean).clamp(-1, 1)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return super().training_step(batch._replace(x=self.encode(batch.x)), batch_idx)

    def make(self, x: Tensor, noise: Tensor) -> Tensor:
        shape = self.encode(x[:1]).shape[1:]
        start = noise.flatten(1)[:, : shape.numel()].view(-1, *shape)  # codes have fewer values than pictures
        return self.decode(self.sample(start, self.steps))
