"""RotNet's networks (arXiv 1803.07728): Network in Network and AlexNet, cut into blocks that can be probed."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

Shape = tuple[int, int, int]  # (C, H, W)
INITS = ("library", "he")


class Trunk(nn.Sequential):
    """Blocks in a row; forward gives the output of each. (B, C, S, S) -> list of (B, *shapes[i]).

    Args:
        blocks: the blocks, block 1 first.
        shapes: (C, H, W) of each block's output.
    """

    def __init__(self, blocks: Sequence[nn.Module], shapes: Sequence[Shape]) -> None:
        super().__init__(*blocks)
        self.shapes = list(shapes)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload] # about twice as fast as the default layout on a CPU

    def forward(self, x: Tensor) -> list[Tensor]:  # type: ignore[override]
        outputs = [x.contiguous(memory_format=torch.channels_last)]
        for block in self:
            outputs.append(block(outputs[-1]))
        return outputs[1:]

    def first(self, depth: int) -> Trunk:
        """Blocks 1 to `depth`, the same ones."""
        return Trunk(list(self)[:depth], self.shapes[:depth])


def build_trunk(blocks: Sequence[nn.Module], in_channels: int, input_size: int) -> Trunk:
    """A trunk of these blocks that knows the shape of each output, from one blank image."""
    x = torch.zeros(1, in_channels, input_size, input_size)
    shapes: list[Shape] = []
    with torch.no_grad():
        for block in blocks:
            x = block.eval()(x)
            shapes.append((x.shape[1], x.shape[2], x.shape[3]))
            block.train()
    return Trunk(blocks, shapes)


def units(channels: int, widths: Sequence[int], kernel: int) -> list[nn.Module]:
    """A network-in-network block: one convolution, then 1x1 ones, each with batch norm and ReLU."""
    layers: list[nn.Module] = []
    for index, (i, o) in enumerate(pairwise([channels, *widths])):
        size = 1 if index else kernel
        layers += [nn.Conv2d(i, o, size, padding=size // 2, bias=False), nn.BatchNorm2d(o), nn.ReLU(inplace=True)]
    return layers


def nin(
    in_channels: int = 3,
    input_size: int = 32,
    blocks: int = 4,
    widths: Sequence[int] = (192, 160, 96, 192),
    pool_block3: bool = False,
) -> Trunk:
    """Network in network for small images: three units a block, a quarter of the side after block 2.

    Args:
        in_channels, input_size: of the square input.
        blocks: 2 or more; the paper compares 3, 4 and 5.
        widths: channels of block 1's three units, then of all later ones.
        pool_block3: pool after block 3 too. The code can; its RotNet does not.
    """
    if blocks < 2 or len(widths) != 4:
        raise ValueError(f"blocks={blocks}, widths={list(widths)}: expected at least 2 blocks and 4 widths")
    wide = [widths[3]] * 3
    modules = [
        nn.Sequential(*units(in_channels, widths[:3], 5), nn.MaxPool2d(3, 2, 1)),
        nn.Sequential(*units(widths[2], wide, 5), nn.AvgPool2d(3, 2, 1)),  # zeros of the padding are counted
    ]
    for number in range(3, blocks + 1):
        pool = [nn.AvgPool2d(3, 2, 1)] if number == 3 and pool_block3 else []
        modules.append(nn.Sequential(*units(wide[0], wide, 3), *pool))
    return build_trunk(modules, in_channels, input_size)


def alexnet(in_channels: int = 3, input_size: int = 224) -> Trunk:
    """AlexNet's convolutions with batch norm after each, without groups or local response normalisation.

    A block is a convolution; the pooling layers begin the next one, so that features are those before pooling.
    """
    blocks = []
    widths = [in_channels, 64, 192, 384, 256, 256]
    kernels = [(11, 4, 2), (5, 1, 2), (3, 1, 1), (3, 1, 1), (3, 1, 1)]  # size, stride, padding
    for number, ((i, o), kernel) in enumerate(zip(pairwise(widths), kernels, strict=True)):
        pool = [nn.MaxPool2d(3, 2)] if number in (1, 2) else []
        blocks.append(nn.Sequential(*pool, nn.Conv2d(i, o, *kernel), nn.BatchNorm2d(o), nn.ReLU(inplace=True)))
    return build_trunk(blocks, in_channels, input_size)


def initialise(module: nn.Module, init: str, *, dense: bool) -> None:
    """Weights of the convolutions, and with `dense` of the linear layers, from N(0, 2 / fan_out); linear biases 0.

    "library" leaves torch's own initialisation. Raises ValueError for another name.
    """
    if init not in INITS:
        raise ValueError(f"init={init!r}: expected one of {', '.join(INITS)}")
    if init == "library":
        return
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d) or (dense and isinstance(layer, nn.Linear)):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        if isinstance(layer, nn.Linear) and layer.bias is not None:
            nn.init.zeros_(layer.bias)
