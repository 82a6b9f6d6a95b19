"""L_adv: StyleGAN's discriminator and losses (Karras et al. 2019, 2020), and the discriminator's side of a training."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modules.common.module import OptimizerFactory


class EqualizedConv(nn.Module):
    """StyleGAN2's convolution: unit-normal weights scaled at run time, so that all learn at the same speed.

    Args:
        inputs, outputs: channels.
        kernel: side.
        padding: zeros around.
        down: blur with [1, 3, 3, 1] and halve the side (rounded down).
        bias: add one number per output channel.
        activate: leaky ReLU of slope 0.2 with gain sqrt(2).
    """

    blur: Tensor

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        padding: int = 0,
        down: bool = False,
        bias: bool = True,
        activate: bool = True,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        self.scale = 1 / math.sqrt(inputs * kernel**2)
        self.padding = padding
        self.down = down
        self.activate = activate
        taps = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
        self.register_buffer("blur", torch.outer(taps, taps)[None, None], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        kernel = self.weight.shape[-1]
        stride = 1
        if self.down:  # before a 1x1 kernel only every second blurred pixel is needed
            early = kernel == 1
            blur = self.blur.expand(x.shape[1], 1, 4, 4).to(x.dtype)
            x = F.conv2d(x, blur, padding=1 + kernel // 2, stride=2 if early else 1, groups=x.shape[1])
            stride = 1 if early else 2
        x = F.conv2d(x, self.weight * self.scale, self.bias, stride=stride, padding=0 if self.down else self.padding)
        return F.leaky_relu(x, 0.2) * math.sqrt(2) if self.activate else x


class StyleBlock(nn.Module):
    """Two 3x3 convolutions beside a 1x1 shortcut; halves the side."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv_1 = EqualizedConv(inputs, inputs, 3, padding=1)
        self.conv_2 = EqualizedConv(inputs, outputs, 3, down=True)
        self.skip = EqualizedConv(inputs, outputs, 1, down=True, bias=False, activate=False)

    def forward(self, x: Tensor) -> Tensor:
        return (self.conv_2(self.conv_1(x)) + self.skip(x)) / math.sqrt(2)


class StyleDiscriminator(nn.Module):
    """StyleGAN2's residual discriminator (Karras et al. 2020) for images in [-1, 1].

    The width at side s is min(capacity / s, widest). Sides are halved down to 4 or less. The standard deviation over
    groups of consecutive images is a further map at the end, so that several processes group as one would.

    Args:
        size: side of the images.
        channels: of the images.
        capacity, widest: 32768 and 512 as published.
        group: largest group; the largest number up to it that divides the batch is taken.
    """

    def __init__(self, size: int, channels: int = 3, capacity: int = 32768, widest: int = 512, group: int = 4) -> None:
        super().__init__()
        self.group = group
        width = min(capacity // size, widest)
        layers: list[nn.Module] = [EqualizedConv(channels, width, 1)]
        while size > 4:
            size //= 2
            inputs = width
            width = min(capacity // size, widest)
            layers.append(StyleBlock(inputs, width))
        self.blocks = nn.Sequential(*layers)
        self.head = nn.Sequential(
            EqualizedConv(width + 1, width, 3, padding=1),
            EqualizedConv(width, width, size),
            EqualizedConv(width, 1, 1, activate=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, S, S) -> logits (B,); above 0 is real."""
        h = self.blocks(x)  # (B, width, s, s)
        b, _, height, width = h.shape
        group = max(g for g in range(1, self.group + 1) if b % g == 0)
        variance = h.reshape(b // group, group, -1).float().var(1, unbiased=False)  # (B / group, width s s)
        deviation = (variance + 1e-8).sqrt().mean(1)  # (B / group,)
        deviation = deviation.repeat_interleave(group).to(h.dtype).view(b, 1, 1, 1).expand(b, 1, height, width)
        return self.head(torch.cat([h, deviation], 1)).flatten()


def generator_loss(fake: Tensor) -> Tensor:
    """Non-saturating logistic loss of a generator, from the discriminator's logits (B,)."""
    return F.softplus(-fake.float()).mean()


def discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Logistic loss of a discriminator, the mean over real and generated logits: ln 2 where it knows nothing."""
    return 0.5 * (F.softplus(-real.float()).mean() + F.softplus(fake.float()).mean())


def r1_penalty(discriminator: nn.Module, real: Tensor) -> Tensor:
    """E |dD(x)/dx|^2 over real images (Mescheder et al. 2018), in fp32; times gamma / 2 it is R1."""
    with torch.autocast(real.device.type, enabled=False):
        x = real.detach().float().requires_grad_()
        (gradient,) = torch.autograd.grad(discriminator(x).sum(), x, create_graph=True)
    return gradient.square().sum([1, 2, 3]).mean()


class Critic(nn.Module):
    """The discriminator with what its part in the training takes. Images come in [0, 1] and are shown in [-1, 1].

    Args:
        discriminator: images in [-1, 1] -> logits (B,), above 0 is real.
        weight: of L_adv in the other network's loss.
        start: batches before the discriminator takes part; 0 in the paper.
        r1_gamma: R1's strength.
        r1_every: batches between R1's uses; it weighs as many times more.
        optimizer: None takes the same as the other network.
    """

    def __init__(
        self,
        discriminator: nn.Module,
        weight: float = 0.1,
        start: int = 0,
        r1_gamma: float = 10.0,
        r1_every: int = 16,
        optimizer: OptimizerFactory | None = None,
    ) -> None:
        super().__init__()
        self.discriminator = discriminator
        self.weight = weight
        self.start = start
        self.r1_gamma = r1_gamma
        self.r1_every = r1_every
        self.optimizer_factory = optimizer

    def generator_loss(self, x_hat: Tensor) -> Tensor:
        """L_adv of reconstructions (B, C, H, W). Its gradient passes through the discriminator, not into it."""
        self.discriminator.requires_grad_(False)
        return generator_loss(self.discriminator(2 * x_hat - 1))

    def discriminator_loss(self, x: Tensor, x_hat: Tensor) -> Tensor:
        """The discriminator's own loss of images and reconstructions (B, C, H, W), the latter without a gradient."""
        self.discriminator.requires_grad_(True)
        fake = self.discriminator(2 * x_hat.detach() - 1)
        real = self.discriminator(2 * x - 1)
        return discriminator_loss(real, fake)

    def penalty(self, x: Tensor, batches_seen: int) -> Tensor:
        """R1 on every `r1_every`-th batch of images (B, C, H, W), else 0."""
        if batches_seen % self.r1_every:
            return x.new_zeros(())
        return 0.5 * self.r1_gamma * self.r1_every * r1_penalty(self.discriminator, 2 * x - 1)
