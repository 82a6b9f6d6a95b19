"""What probes read: maps of a frozen network, by the name of the block.

A source is called with images (B, C, S, S), time steps (B,), noise of the images' shape and the blocks wanted, and
gives block -> map (B, C', H, W) float32. One that is not `noisy` looks at the clean images.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torchmetrics import SumMetric

from modules.common.diffusion import DDPM, NoiseSchedule
from modules.common.distributed import gather
from modules.common.kid import kernel_distance
from modules.common.module import StageModule
from modules.common.unet import Shape, UNet
from modules.diffusion_features.pictures import draw_images

PIXELS = "pixels"


class UNetSource(nn.Module):
    """Blocks of a U-Net that sees images with the noise of a time step; they are named by their numbers.

    Args:
        network: the U-Net, whole or up to a block.
        noise: the schedule.
    """

    noisy = True

    def __init__(self, network: UNet, noise: NoiseSchedule) -> None:
        super().__init__()
        self.network, self.noise = network, noise
        self.shapes = {str(number): shape for number, shape in network.shapes.items()}

    def forward(self, x: Tensor, t: Tensor, eps: Tensor, blocks: Collection[str]) -> dict[str, Tensor]:
        outputs = self.network.features(self.noise.diffuse(x, t, eps), t, [int(name) for name in blocks])
        return {str(number): output for number, output in outputs.items()}

    def groups(self) -> dict[str, list[str]]:
        """Parts of the network: its stem, its last block, and what is near the bottleneck: the blocks of that
        resolution, and on the way up those of twice that side."""
        sides = {number: shape[1] for number, shape in self.network.shapes.items()}
        least = min(sides.values())
        first = min(number for number, side in sides.items() if side == least)
        near = [str(number) for number, side in sides.items() if number >= first and side <= 2 * least]
        return {"stem": ["1"], "near": near, "last": [str(max(sides))]}

    def cut(self, blocks: Collection[str]) -> UNetSource:
        """This source without what lies above the last of these blocks."""
        return UNetSource(self.network.up_to(max(int(name) for name in blocks)), self.noise)


class Chains(nn.Module):
    """Outputs of layers in a row, of one or several networks that see the clean images.

    Args:
        chains: names of a network's layers -> the layers, each on the output of the one before.
        shape: of the images, (C, H, W).
    """

    noisy = False

    def __init__(self, chains: list[Mapping[str, nn.Module]], shape: Shape) -> None:
        super().__init__()
        self.chains = nn.ModuleList(nn.ModuleDict(chain) for chain in chains)
        self.shapes: dict[str, Shape] = {}
        modes = {layer: layer.training for layer in self.modules()}
        with torch.no_grad():
            self.eval()
            blank = torch.zeros(1, *shape)
            made = self(blank, blank, blank, [name for chain in chains for name in chain])
        for layer, mode in modes.items():
            layer.training = mode
        for name, output in made.items():
            self.shapes[name] = (output.shape[1], output.shape[2], output.shape[3])

    def forward(self, x: Tensor, t: Tensor, eps: Tensor, blocks: Collection[str]) -> dict[str, Tensor]:
        outputs = {}
        for chain in self.chains:
            h = x
            for name, layer in chain.items():  # type: ignore[operator]
                h = layer(h)
                if name in blocks:
                    outputs[name] = h.float()
        return outputs

    def groups(self) -> dict[str, list[str]]:
        return {}

    def cut(self, blocks: Collection[str]) -> Chains:
        return self


class Diffusion(DDPM):
    """The diffusion model whose blocks are read, with the averaged weights.

    Metrics: DDPM's and, where samples are judged, `test/near_real`: percent of generated images that lie as near to a
    test image as 95% of the test images do to another one, noise 0, other real images about 95; `test/kid_pixels`: the
    kernel distance between both sets' pixels as they are served, 0 for other real images.

    Args:
        network, noise, options: see DDPM.
        judged: how many generated images are compared with the test images, 0 for none.
    """

    def __init__(self, network: UNet, noise: NoiseSchedule, judged: int = 0, **options: Any) -> None:
        super().__init__(network, noise, **options)
        self.judged = judged
        self.images: list[Tensor] = []  # of this process's share of the test set, (B, C, S, S)

    def source(self) -> UNetSource:
        return UNetSource(self.averaged(), self.noise)

    def on_test_epoch_start(self) -> None:
        super().on_test_epoch_start()
        self.images = []

    def test_step(self, batch: Any, batch_idx: int) -> None:
        super().test_step(batch, batch_idx)
        if self.judged:
            self.images.append(batch.x)

    def on_test_epoch_end(self) -> None:
        super().on_test_epoch_end()
        if self.judged:
            real = gather(torch.cat(self.images))
            samples = self.generated(self.judged, real.shape[1:])
            self.log("test/near_real", share_near(samples, real))
            self.log("test/kid_pixels", kernel_distance(samples.flatten(1), real.flatten(1)).float())
            self.images = []

    def generated(self, count: int, shape: Sequence[int]) -> Tensor:
        """(count, *shape) from 25 steps of DDIM; the same start whenever it is asked."""
        start = torch.randn(count, *shape, generator=torch.Generator().manual_seed(0))
        return self.sample(start.to(self.device), steps=25)

    def pictures(self, data: Any) -> dict[str, Figure]:
        """Generated images, of a model that was trained here."""
        if self.average is None:
            return {}
        return {"generated images": draw_images(data.shown(self.generated(36, data.spec.shape)))}


def share_near(samples: Tensor, real: Tensor, quantile: float = 0.95) -> Tensor:
    """Percent of samples whose nearest real image is within reach: the distance within which that share of the real
    images has another one.

    Args:
        samples: (M, C, S, S).
        real: (N, C, S, S).
        quantile: the share.
    """
    between = torch.cdist(real.flatten(1).double(), real.flatten(1).double())
    reach = between.fill_diagonal_(torch.inf).amin(1).quantile(quantile)
    nearest = torch.cdist(samples.flatten(1).double(), real.flatten(1).double()).amin(1)
    return 100 * (nearest <= reach).double().mean().float()


class Pixels(StageModule):
    """The images themselves, as a source with one block.

    Metrics: `test/mean`, of the test images' pixels; `test/n`, images.

    Args:
        shape: of the images, (C, H, W).
    """

    def __init__(self, shape: list[int]) -> None:
        super().__init__()
        self.shape: Shape = (shape[0], shape[1], shape[2])
        self.images, self.brightness = SumMetric(nan_strategy="disable"), SumMetric(nan_strategy="disable")

    def source(self) -> Chains:
        return Chains([{PIXELS: nn.Identity()}], self.shape)

    def forward(self, x: Tensor) -> Tensor:
        return x

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.images.update(float(len(batch.x)))
        self.brightness.update(batch.x.flatten(1).mean(1).sum())

    def on_test_epoch_end(self) -> None:
        count = self.images.compute()
        self.log_dict({"test/mean": self.brightness.compute() / count, "test/n": count})
        self.images.reset()
        self.brightness.reset()
