"""The U-Net of guided diffusion, "ADM" (Dhariwal and Nichol, arXiv 2105.05233), whose blocks can be read one by one.

Parameters carry the names of OpenAI's released files, which therefore load as they are. Blocks are numbered from 1: the
input blocks (1 is the 3x3 stem), the middle block, the output blocks. A block's output is what it hands on, before an
output block joins it with the next skip connection.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Collection, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Shape = tuple[int, int, int]  # channels, height, width


def embed_time(t: Tensor, width: int) -> Tensor:
    """Cosines, then sines, of t at width / 2 frequencies from 1 down to 1 / 10,000: (B,) -> (B, width) float32."""
    half = width // 2
    frequencies = torch.exp(-math.log(10_000) * torch.arange(half, dtype=torch.float32, device=t.device) / half)
    angles = t.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=1)


class ResBlock(nn.Module):
    """Two convolutions beside a skip; the embedding scales and shifts what the second norm gives.

    Args:
        inputs, outputs: channels.
        embedding: length of the embedding.
        groups: of the group norms; divides both numbers of channels.
        dropout: before the second convolution.
        resample: "up" doubles both sides (nearest), "down" halves them (mean), "" keeps them.
    """

    def __init__(
        self, inputs: int, outputs: int, embedding: int, groups: int, dropout: float = 0.0, resample: str = ""
    ) -> None:
        super().__init__()
        self.resample = resample
        self.in_layers = nn.Sequential(
            nn.GroupNorm(groups, inputs), nn.SiLU(), nn.Conv2d(inputs, outputs, 3, padding=1)
        )
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(embedding, 2 * outputs))
        self.out_layers = nn.Sequential(
            nn.GroupNorm(groups, outputs),
            nn.SiLU(),
            nn.Dropout(dropout),
            nn.Conv2d(outputs, outputs, 3, padding=1),
        )
        self.skip_connection = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)

    def resize(self, x: Tensor) -> Tensor:
        if self.resample == "up":
            return F.interpolate(x, scale_factor=2.0, mode="nearest")
        return F.avg_pool2d(x, 2) if self.resample == "down" else x

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """(B, inputs, H, W), (B, embedding) -> (B, outputs, H', W')."""
        norm, activation, convolution = self.in_layers
        h = convolution(self.resize(activation(norm(x))))

        scale, shift = self.emb_layers(embedding)[:, :, None, None].chunk(2, dim=1)  # (B, outputs, 1, 1) each
        norm, *rest = self.out_layers
        h = norm(h) * (1 + scale) + shift
        for layer in rest:
            h = layer(h)
        return self.skip_connection(self.resize(x)) + h


class SelfAttention(nn.Module):
    """Multi-head attention among the places of a map, added to it.

    A head's queries, keys and values are neighbours in the channels of `qkv`, as in the released networks.

    Args:
        channels: of the map.
        head_channels: of each head; divides the channels.
        groups: of the group norm.
    """

    def __init__(self, channels: int, head_channels: int, groups: int) -> None:
        super().__init__()
        self.heads = channels // head_channels
        self.norm = nn.GroupNorm(groups, channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = nn.Conv1d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same."""
        flat = x.flatten(2)  # (B, C, HW)
        qkv = self.qkv(self.norm(flat)).unflatten(1, (self.heads, 3, -1)).transpose(-1, -2)  # (B, heads, 3, HW, c)
        q, k, v = (part.contiguous() for part in qkv.unbind(2))
        mixed = F.scaled_dot_product_attention(q, k, v)  # (B, heads, HW, c)
        return x + self.proj_out(mixed.transpose(-1, -2).reshape_as(flat)).view_as(x)


class Block(nn.Sequential):
    """Layers in a row, of which residual blocks see the embedding too."""

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:  # type: ignore[override]
        for layer in self:
            x = layer(x, embedding) if isinstance(layer, ResBlock) else layer(x)
        return x


class UNet(nn.Module):
    """ADM: noisy images and time steps to predictions of the images' shape.

    Args:
        image_size: side of the square images; times the multipliers' number of halvings it must be whole.
        in_channels: of the images.
        width: channels, before the multipliers; the embedding has four times as many entries.
        multipliers: channels of each resolution, in widths; one halving between two of them.
        res_blocks: residual blocks of each resolution on the way down, one more on the way up.
        attention: sides of the maps that get attention after each residual block; the middle block always has it.
        head_channels: of each head of attention.
        groups: of the group norms; must divide all numbers of channels.
        learned_variance: twice as many output channels, the second half for the variance.
        classes: with labels, as many embeddings that are added to the time's; None has none.
        dropout: in the residual blocks.
        zero: the last layer of each residual and attention branch, and of the network, starts at 0, as released. False
            draws them like all others: a random network that is more than its skip connections.
    Raises:
        ValueError: numbers that do not divide each other.
    """

    def __init__(
        self,
        image_size: int,
        in_channels: int,
        width: int,
        multipliers: Sequence[int],
        res_blocks: int = 2,
        attention: Collection[int] = (),
        head_channels: int = 64,
        groups: int = 32,
        learned_variance: bool = False,
        classes: int | None = None,
        dropout: float = 0.0,
        zero: bool = True,
    ) -> None:
        super().__init__()
        channels = [multiplier * width for multiplier in multipliers]
        _check(image_size, channels, head_channels, groups)
        self.width, self.classes = width, classes
        embedding = 4 * width
        self.time_embed = nn.Sequential(nn.Linear(width, embedding), nn.SiLU(), nn.Linear(embedding, embedding))
        if classes is not None:
            self.label_emb = nn.Embedding(classes, embedding)

        def residual(inputs: int, outputs: int, resample: str = "") -> ResBlock:
            return ResBlock(inputs, outputs, embedding, groups, dropout, resample)

        def attending(maps: int) -> SelfAttention:
            return SelfAttention(maps, head_channels, groups)

        side, maps = image_size, channels[0]
        inputs = [Block(nn.Conv2d(in_channels, maps, 3, padding=1))]
        shapes: list[Shape] = [(maps, side, side)]
        for level, wide in enumerate(channels):
            for _ in range(res_blocks):
                layers: list[nn.Module] = [residual(maps, wide)]
                maps = wide
                inputs.append(Block(*layers, *([attending(maps)] if side in attention else [])))
                shapes.append((maps, side, side))
            if level + 1 < len(channels):
                inputs.append(Block(residual(maps, maps, "down")))
                side //= 2
                shapes.append((maps, side, side))

        middle = Block(residual(maps, maps), attending(maps), residual(maps, maps))
        skips = [c for c, _, _ in shapes]
        shapes.append((maps, side, side))

        outputs = []
        for level, wide in reversed(list(enumerate(channels))):
            for number in range(res_blocks + 1):
                layers = [residual(maps + skips.pop(), wide)]
                maps = wide
                layers += [attending(maps)] if side in attention else []
                if level and number == res_blocks:
                    layers.append(residual(maps, maps, "up"))
                    side *= 2
                outputs.append(Block(*layers))
                shapes.append((maps, side, side))

        self.input_blocks, self.middle_block, self.output_blocks = nn.ModuleList(inputs), middle, nn.ModuleList(outputs)
        out_channels = 2 * in_channels if learned_variance else in_channels
        self.out = nn.Sequential(nn.GroupNorm(groups, maps), nn.SiLU(), nn.Conv2d(maps, out_channels, 3, padding=1))
        self.shapes = dict(enumerate(shapes, start=1))  # block -> (C, H, W) of its output
        self.middle = len(inputs) + 1  # number of the middle block
        if zero:
            self._zero()

    def _zero(self) -> None:
        layers: list[nn.Module] = [self.out[-1]]
        for module in self.modules():
            if isinstance(module, ResBlock):
                layers.append(module.out_layers[-1])
            elif isinstance(module, SelfAttention):
                layers.append(module.proj_out)
        for layer in layers:
            for parameter in layer.parameters():
                nn.init.zeros_(parameter)

    def embed(self, t: Tensor, y: Tensor | None = None, condition: Tensor | None = None) -> Tensor:
        """The embedding that all residual blocks see, (B, 4 width)."""
        if (y is None) != (self.classes is None):
            raise ValueError(f"labels {'are missing' if y is None else 'are given'}, but classes={self.classes}")
        embedding = self.time_embed(embed_time(t, self.width))
        if y is not None:
            embedding = embedding + self.label_emb(y)
        return embedding if condition is None else embedding + condition

    def walk(self, x: Tensor, embedding: Tensor, control: Mapping[int, Tensor]) -> Iterator[tuple[int, Tensor]]:
        """(number, output) of one block after another."""
        h, skips = x, []
        for number, block in enumerate(self.input_blocks, start=1):
            h = block(h, embedding)
            skips.append(h + control[number] if number in control else h)
            yield number, h

        h = self.middle_block(h, embedding)
        if self.middle in control:
            h = h + control[self.middle]
        yield self.middle, h

        for number, block in enumerate(self.output_blocks, start=self.middle + 1):
            h = block(torch.cat([h, skips.pop()], dim=1), embedding)
            yield number, h

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        y: Tensor | None = None,
        condition: Tensor | None = None,
        control: Mapping[int, Tensor] | None = None,
    ) -> Tensor:
        """Predictions (B, out_channels, S, S).

        Args:
            x: noisy images (B, C, S, S).
            t: time steps (B,), from 0.
            y: labels (B,), where the network has classes.
            condition: (B, 4 width), added to the embedding of the time.
            control: number of an input block or the middle block -> what is added to its output as the output blocks
                see it, (B, C, H, W); the input blocks themselves do not see it.
        """
        h = x
        for _, h in self.walk(x, self.embed(t, y, condition), control or {}):  # noqa: B007
            pass
        return self.out(h)

    def features(
        self,
        x: Tensor,
        t: Tensor,
        blocks: Collection[int],
        y: Tensor | None = None,
        condition: Tensor | None = None,
    ) -> dict[int, Tensor]:
        """block -> its output (B, C, H, W) float32; blocks above the last one asked for are not run."""
        outputs = {}
        for number, h in self.walk(x, self.embed(t, y, condition), {}):
            if number in blocks:
                outputs[number] = h.float()
            if number == max(blocks):
                break
        return outputs

    def up_to(self, block: int) -> UNet:
        """This network without what lies above a block, sharing the layers below; its features can be read alone."""
        cut = copy.copy(self)
        cut._modules = {name: module for name, module in self._modules.items() if name != "out"}
        cut.input_blocks = self.input_blocks[:block]
        cut.output_blocks = self.output_blocks[: max(0, block - self.middle)]
        if block < self.middle:
            del cut._modules["middle_block"]
        cut.shapes = {number: shape for number, shape in self.shapes.items() if number <= block}
        return cut


def _check(image_size: int, channels: Sequence[int], head_channels: int, groups: int) -> None:
    halvings = len(channels) - 1
    if not channels or image_size % 2**halvings:
        raise ValueError(
            f"image_size={image_size}: expected a multiple of {2 ** max(0, halvings)}, for {halvings} halvings"
        )
    for number in channels:
        if number % groups or number % head_channels:
            raise ValueError(
                f"{number} channels: expected a multiple of groups={groups} and head_channels={head_channels}"
            )
