"""BiGAN (Donahue et al., arXiv 1605.09782; Dumoulin et al., arXiv 1606.00704), the GAN whose encoder is the rival.

    min_{G,E} max_D  E_x log D(x, E(x)) + E_z log(1 - D(G(z), z)),   players G and E with the non-saturating loss

The paper quotes BigBiGAN's ImageNet number; this is the small form that it grew out of.
"""

from __future__ import annotations

from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F

from modules.common.distributed import place_in_batch
from modules.common.module import OptimizerFactory
from modules.common.players import Players, held
from modules.common.schedules import Schedule
from modules.diffusion_features.pictures import draw_images
from modules.diffusion_features.sources import Chains


def halvings(size: int, start: int = 2) -> int:
    """How often `size` can be halved down to `start`. Raises ValueError if it is not start times 2, 4, 8, ..."""
    times = (size // start).bit_length() - 1
    if times < 1 or start * 2**times != size:
        raise ValueError(f"size={size}: expected {start} times 2, 4, 8, ...")
    return times


def reducing(channels: int, size: int, width: int, norm: bool) -> list[nn.Module]:
    """Convolutions of stride 2 down to 2x2; the first one's map has `width` channels, the others twice as many each."""
    layers: list[nn.Module] = []
    for number in range(halvings(size)):
        wider = width * 2**number
        normed = [nn.BatchNorm2d(wider)] if norm and number else []
        layers.append(nn.Sequential(nn.Conv2d(channels, wider, 4, 2, 1), *normed, nn.LeakyReLU(0.2)))
        channels = wider
    return layers


class Encoder(nn.Module):
    """E: images (B, C, S, S) -> codes (B, code).

    Args:
        channels, size: of the images.
        width: channels of the first map.
        code: length of the codes.
    """

    def __init__(self, channels: int, size: int, width: int, code: int) -> None:
        super().__init__()
        self.body = nn.Sequential(*reducing(channels, size, width, norm=True))
        self.head = nn.Conv2d(width * 2 ** (halvings(size) - 1), code, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x)).flatten(1)


class Generator(nn.Sequential):
    """G: codes (B, code) -> images (B, C, S, S) in [-1, 1]. Arguments as of the encoder."""

    def __init__(self, channels: int, size: int, width: int, code: int) -> None:
        times = halvings(size)
        maps = width * 2 ** (times - 1)
        layers: list[nn.Module] = [nn.Unflatten(1, (code, 1, 1)), nn.ConvTranspose2d(code, maps, 2)]
        for number in range(times):
            layers += [nn.BatchNorm2d(maps), nn.ReLU()]
            wide = channels if number == times - 1 else maps // 2
            layers.append(nn.ConvTranspose2d(maps, wide, 4, 2, 1))
            maps = wide
        super().__init__(*layers, nn.Tanh())


class Discriminator(nn.Module):
    """D: images and codes -> logit (B,) that the pair is (x, E(x)).

    Args:
        channels, size, width, code: as of the encoder.
        hidden: units of the layers that see both.
    """

    def __init__(self, channels: int, size: int, width: int, code: int, hidden: int = 256) -> None:
        super().__init__()
        self.body = nn.Sequential(*reducing(channels, size, width, norm=False))
        inputs = 4 * width * 2 ** (halvings(size) - 1) + code
        self.joint = nn.Sequential(
            nn.Linear(inputs, hidden), nn.LeakyReLU(0.2), nn.Linear(hidden, hidden), nn.LeakyReLU(0.2)
        )
        self.logit = nn.Linear(hidden, 1)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        return self.logit(self.joint(torch.cat([self.body(x).flatten(1), z], dim=1))).flatten().float()


def initialise(network: nn.Module) -> None:
    """DCGAN's: weights of convolutions from N(0, 0.02^2), biases 0."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(layer.weight, std=0.02)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


class BiGAN(Players):
    """Encoder and generator against the discriminator of pairs.

    Metrics: `train/right`, share of pairs that D tells apart, percent: 50 if it is blind, 100 if it has won;
    `test/reconstruction`, mean square of x - G(E(x)) over that of x - mean image.

    Args:
        channels, size, width, code: see Encoder.
        optimizer: of either player.
        schedule: see StageModule.
    """

    def __init__(
        self,
        channels: int,
        size: int,
        width: int,
        code: int,
        optimizer: OptimizerFactory | None = None,
        schedule: Schedule | None = None,
    ) -> None:
        super().__init__(optimizer, schedule)
        self.code, self.shape = code, (channels, size, size)
        self.encoder = Encoder(channels, size, width, code)
        self.generator = Generator(channels, size, width, code)
        self.discriminator = Discriminator(channels, size, width, code)
        initialise(self)
        self.sums = torch.zeros(3, dtype=torch.float64)  # images, sum of errors, of squares
        self.mean = torch.zeros(self.shape)

    def source(self) -> Chains:
        """Maps of the encoder and of the discriminator's image part."""
        body, judge = list(self.encoder.body), list(self.discriminator.body)
        encoder = {f"encoder{n}": layer for n, layer in enumerate(body, 1)} | {"code": self.encoder.head}
        return Chains([encoder, {f"discriminator{n}": layer for n, layer in enumerate(judge, 1)}], self.shape)

    def forward(self, x: Tensor) -> Tensor:
        """Images -> their codes."""
        return self.encoder(x)

    def draw_codes(self, x: Tensor) -> Tensor:
        total, start = place_in_batch(x)
        return torch.randn(total, self.code, device=x.device)[start : start + len(x)]

    def players(self) -> list[list[nn.Module]]:
        return [[self.discriminator], [self.generator, self.encoder]]

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x = batch.x
        discriminator_optimizer, others_optimizer = self.steppers()

        z = self.draw_codes(x)
        code, fake = self.encoder(x), self.generator(z)

        real_logit = self.discriminator(x, code.detach())
        fake_logit = self.discriminator(fake.detach(), z)
        loss = F.softplus(-real_logit).mean() + F.softplus(fake_logit).mean()
        self.minimise(loss, discriminator_optimizer)

        with held(self.discriminator):
            others = F.softplus(self.discriminator(x, code)).mean() + F.softplus(-self.discriminator(fake, z)).mean()
            self.minimise(others, others_optimizer)

        right = torch.cat([real_logit > 0, fake_logit < 0]).float().mean()
        self.track(len(x), loss=loss, others=others, right=100 * right)
        return loss.detach()

    def test_step(self, batch: Any, batch_idx: int) -> None:
        x = batch.x
        again = self.generator(self.encoder(x)).float()
        self.mean = self.mean.to(x.device) + x.sum(0)
        error, square = (again - x).square().flatten(1).sum(1), x.square().flatten(1).sum(1)
        self.sums += torch.stack([x.new_tensor(len(x)), error.sum(), square.sum()]).double().cpu()

    def on_test_epoch_end(self) -> None:
        reduce = self.trainer.strategy.reduce
        count, error, square = reduce(self.sums.float().to(self.device), reduce_op="sum").tolist()
        mean = reduce(self.mean.to(self.device), reduce_op="sum") / count
        spread = square - count * float(mean.square().sum())
        self.sums.zero_()
        self.mean = torch.zeros(self.shape)
        self.log_dict({"test/reconstruction": error / spread, "test/n": count})

    def pictures(self, data: Any) -> dict[str, Figure]:
        """Generated images."""
        source = torch.Generator().manual_seed(0)
        images = self.generator(torch.randn(64, self.code, generator=source).to(self.device))
        return {"generated images": draw_images(data.shown(images))}
