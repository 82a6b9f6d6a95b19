"""Add-ons to a frozen U-Net: low-rank changes of its weights (LoRA) and a control branch on a relief (ControlNet).

LoRA         W' = W + scale * B A,   A (r, in), B (out, r), B = 0 at the start          (arXiv 2106.09685)
ControlNet   a copy of the encoder sees the noisy image and a hint; each of its outputs goes through a 1x1
             convolution that starts at 0 and is added where the encoder's own is handed on  (arXiv 2302.05543)
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from modules.common.unet import UNet

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d)


class LoRA(nn.Module):
    """Low-rank changes of all linear layers and convolutions of a network.

    Args:
        network: the network that is changed; it is only looked at.
        rank: r.
        scale: of B A.
    Raises:
        ValueError: a rank below 1.
    """

    def __init__(self, network: nn.Module, rank: int, scale: float = 1.0) -> None:
        super().__init__()
        if rank < 1:
            raise ValueError(f"rank={rank}: expected 1 or more")
        self.rank, self.scale = rank, scale
        down, up = {}, {}
        self.names: dict[str, str] = {}  # weight -> ours: a parameter's name may hold no dot
        for name, layer in network.named_modules():
            if not isinstance(layer, LAYERS):
                continue
            key = self.names[f"{name}.weight"] = name.replace(".", "-")
            rows, columns = len(layer.weight), layer.weight[0].numel()
            down[key] = nn.Parameter(torch.empty(rank, columns))
            up[key] = nn.Parameter(torch.zeros(rows, rank))
            nn.init.kaiming_uniform_(down[key], a=math.sqrt(5))
        self.down, self.up = nn.ParameterDict(down), nn.ParameterDict(up)

    def changed(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A network's weights by name, with B A added."""
        changes = {
            name: weights[name] + self.scale * (self.up[key] @ self.down[key]).view_as(weights[name])
            for name, key in self.names.items()
        }
        return {**weights, **changes}


class ControlBranch(nn.Module):
    """A trainable copy of a U-Net's encoder that is shown a hint.

    Args:
        network: the U-Net; its input blocks, middle block, embeddings are copied.
        hint_channels: of the hint.
    """

    def __init__(self, network: UNet, hint_channels: int = 1) -> None:
        super().__init__()
        self.encoder: Any = copy.deepcopy(network)  # a PromptedUNet
        del self.encoder.output_blocks, self.encoder.out
        stem, side = network.shapes[1][0], network.shapes[1][1]
        self.side = side
        self.hint = nn.Sequential(
            nn.Conv2d(hint_channels, stem, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(stem, stem, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(stem, stem, 3, padding=1),
        )
        self.exits = nn.ModuleList(
            zeroed(nn.Conv2d(network.shapes[number][0], network.shapes[number][0], 1))
            for number in range(1, network.middle + 1)
        )

    def forward(self, x: Tensor, t: Tensor, y: Tensor, style: Tensor, hint: Tensor) -> dict[int, Tensor]:
        """Noisy images, steps, words, hints (B, c, S, S) -> block -> what is added to its output, (B, C, H, W)."""
        embedding = self.encoder.embed(t, y, self.encoder.style_emb(style))
        added = {}
        h = x
        for number, block in enumerate(self.encoder.input_blocks, start=1):
            h = block(h, embedding)
            if number == 1:
                h = h + self.hint(hint)
            added[number] = self.exits[number - 1](h)
        added[self.encoder.middle] = self.exits[-1](self.encoder.middle_block(h, embedding))
        return added


def zeroed(layer: nn.Conv2d) -> nn.Conv2d:
    """The layer with all its parameters at 0."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def relief(images: Tensor) -> Tensor:
    """What stands out in images (B, 3, S, S), as a depth map would show it: (B, 1, S, S) from 0 to 1.

    The distance of each pixel's colour from the border's median, over the image's largest, so that it does not tell
    whose palette it was.
    """
    x = images.float()
    frame = torch.cat([x[..., 0, :], x[..., -1, :], x[..., :, 0], x[..., :, -1]], dim=-1)  # (B, 3, border)
    distance = (x - frame.median(-1).values[..., None, None]).square().sum(1, keepdim=True).sqrt()
    return distance / distance.amax((2, 3), keepdim=True).clamp(min=1e-6)
