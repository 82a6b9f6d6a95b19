"""MetaNeXt, the network of InceptionNeXt and ConvNeXt with the token mixer left open (arXiv 2303.16900, section 3.1).

    block            y = x + gamma * MLP(Norm(TokenMixer(x)))            one shortcut, not two as in MetaFormer

With it the mixers that InceptionNeXt is compared with: depthwise convolutions and self-attention.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LayerFactory = Callable[[int], nn.Module]  # C -> a mixer or a norm, (B, C, H, W) -> (B, C, H, W)
NORMS = ("batch", "layer")
HEADS = ("mlp", "linear")


def one_of(name: str, value: str, valid: Iterable[str]) -> str:
    """The value, or a ValueError that lists what there is."""
    if value not in valid:
        raise ValueError(f"{name}={value!r}: expected one of {', '.join(valid)}")
    return value


def depthwise(channels: int, height: int, width: int) -> nn.Conv2d:
    """One height x width filter per channel, same size out."""
    return nn.Conv2d(channels, channels, (height, width), padding=(height // 2, width // 2), groups=channels)


class DWConv(nn.Module):
    """Depthwise k x k on the last floor(ratio C) channels, the others pass; ConvNeXt's mixer at ratio 1.

    Args:
        channels: C.
        kernel: k, odd.
        ratio: share of the channels that is convolved.
    Raises:
        ValueError: an even kernel, or no channel left to convolve.
    """

    def __init__(self, channels: int, kernel: int = 7, ratio: float = 1.0) -> None:
        super().__init__()
        convolved = int(channels * ratio)
        if kernel % 2 == 0 or not 0 < convolved <= channels:
            raise ValueError(f"kernel={kernel}, ratio={ratio}: expected an odd kernel on 1 to {channels} channels")
        self.sizes = [channels - convolved, convolved]
        self.conv = depthwise(convolved, kernel, kernel)

    def forward(self, x: Tensor) -> Tensor:
        if not self.sizes[0]:
            return self.conv(x)
        passed, convolved = x.split(self.sizes, 1)
        return torch.cat([passed, self.conv(convolved)], 1)


class Attention(nn.Module):
    """Multi-head self-attention over all positions, as in DeiT: the mixer of MetaNeXt-Attn.

    Args:
        channels: C, a multiple of head_width.
        head_width: channels of a head.
    """

    def __init__(self, channels: int, head_width: int = 64) -> None:
        super().__init__()
        if channels % head_width:
            raise ValueError(f"head_width={head_width}: expected a divisor of {channels}")
        self.heads = channels // head_width
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        tokens = x.flatten(2).transpose(1, 2)  # (B, N, C), N = H W
        q, k, v = self.qkv(tokens).view(b, h * w, 3, self.heads, -1).permute(2, 0, 3, 1, 4)  # (B, heads, N, C / heads)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, h * w, c)
        return self.proj(mixed).transpose(1, 2).reshape(b, c, h, w)


class LayerNorm2d(nn.LayerNorm):
    """Layer norm over the channels of each position of (B, C, H, W); a view, not a copy, where channels lie last."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class MLP(nn.Module):
    """1x1 convolution C -> hidden, GELU, 1x1 convolution hidden -> C.

    Where channels lie last in memory it is computed as matrix products, which is faster; the numbers are the same.
    """

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, hidden, 1)
        self.fc2 = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        if not x.is_contiguous(memory_format=torch.channels_last):
            return self.fc2(F.gelu(self.fc1(x)))
        hidden = F.gelu(F.linear(x.permute(0, 2, 3, 1), self.fc1.weight.flatten(1), self.fc1.bias))  # (B, H, W, rC)
        return F.linear(hidden, self.fc2.weight.flatten(1), self.fc2.bias).permute(0, 3, 1, 2)


class MetaNeXtBlock(nn.Module):
    """y = x + gamma * MLP(Norm(TokenMixer(x))), the branch dropped for some images while training.

    Args:
        channels: C.
        mixer: makes the token mixer.
        norm: makes the normalisation.
        mlp_ratio: hidden channels of the MLP over C.
        gamma: start of the scale per channel; None leaves it out.
        drop_path: probability with which an image skips the branch.
    """

    def __init__(
        self,
        channels: int,
        mixer: LayerFactory,
        norm: LayerFactory,
        mlp_ratio: float,
        gamma: float | None,
        drop_path: float,
    ) -> None:
        super().__init__()
        self.token_mixer = mixer(channels)
        self.norm = norm(channels)
        self.mlp = MLP(channels, int(mlp_ratio * channels))
        self.gamma = nn.Parameter(torch.full((channels,), float(gamma))) if gamma is not None else None
        self.drop_path = nn.Dropout(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        y = self.mlp(self.norm(self.token_mixer(x)))  # (B, C, H, W)
        scale = None if self.gamma is None else self.gamma.view(1, -1, 1, 1)
        if self.training and self.drop_path.p:
            kept = self.drop_path(x.new_ones(len(x), 1, 1, 1))  # dropout of ones: 0 or 1 / (1 - p) for each image
            scale = kept if scale is None else scale * kept
        return x + y if scale is None else torch.addcmul(x, y, scale)  # fp32 under autocast: x keeps small branches


class Stage(nn.Module):
    """A downsampling (empty in the first stage), then blocks."""

    def __init__(self, downsample: nn.Sequential, blocks: nn.Sequential) -> None:
        super().__init__()
        self.downsample = downsample
        self.blocks = blocks

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(self.downsample(x))


class MLPHead(nn.Module):
    """Global average pool -> Linear C -> 3C -> GELU -> layer norm -> dropout -> Linear 3C -> classes."""

    def __init__(self, channels: int, classes: int, dropout: float, ratio: int = 3) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, ratio * channels)
        self.norm = nn.LayerNorm(ratio * channels, eps=1e-6)
        self.drop = nn.Dropout(dropout)
        self.fc2 = nn.Linear(ratio * channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.gelu(self.fc1(x.mean((2, 3))))  # (B, 3C)
        return self.fc2(self.drop(self.norm(hidden)))


class LinearHead(nn.Module):
    """Global average pool -> layer norm -> dropout -> Linear C -> classes: how ConvNeXt ends."""

    def __init__(self, channels: int, classes: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.drop = nn.Dropout(dropout)
        self.fc = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.drop(self.norm(x.mean((2, 3)))))


@dataclass(frozen=True)
class Stem:
    """What comes before the blocks: one convolution and a norm.

    Attributes:
        in_channels: of the input.
        patch: side and stride of the convolution.
        norm: normalise after it; isotropic networks do not.
    """

    in_channels: int = 3
    patch: int = 4
    norm: bool = True


class MetaNeXt(nn.Module):
    """Stem, stages of blocks with half the side and new width after each, head. (B, C_in, S, S) -> (B, classes).

    Args:
        depths: blocks of each stage.
        dims: C of each stage.
        mixer: makes the token mixer of a block.
        mlp_ratios: of each stage; one number for all.
        norm: "batch" (InceptionNeXt) or "layer" (ConvNeXt).
        head: "mlp" (InceptionNeXt) or "linear" (ConvNeXt).
        stem: what comes before the blocks.
        gamma: start of every block's scale; 1e-6 needs the published number of steps, None leaves the scales out.
        drop_path: of the last block; the rates grow linearly over all blocks.
        head_dropout: before the last linear layer.
        classes: of the output.
        channels_last: keep weights and activations in this memory layout; false takes them as they come.
    Raises:
        ValueError: lists of different lengths, or an unknown norm or head.
    """

    def __init__(
        self,
        depths: Sequence[int],
        dims: Sequence[int],
        mixer: LayerFactory,
        mlp_ratios: float | Sequence[float] = (4, 4, 4, 3),
        norm: str = "batch",
        head: str = "mlp",
        stem: Stem = Stem(),
        gamma: float | None = 1e-6,
        drop_path: float = 0.0,
        head_dropout: float = 0.0,
        classes: int = 1000,
        channels_last: bool = True,
    ) -> None:
        super().__init__()
        ratios = list(mlp_ratios) if isinstance(mlp_ratios, Sequence) else [mlp_ratios] * len(depths)
        if not len(depths) == len(dims) == len(ratios):
            raise ValueError(
                f"depths has {len(depths)} entries, dims {len(dims)}, mlp_ratios {len(ratios)}; expected as many"
            )
        make_norm: LayerFactory = nn.BatchNorm2d if one_of("norm", norm, NORMS) == "batch" else LayerNorm2d
        make_head = MLPHead if one_of("head", head, HEADS) == "mlp" else LinearHead

        self.stem = nn.Sequential(nn.Conv2d(stem.in_channels, dims[0], stem.patch, stem.patch))
        if stem.norm:
            self.stem.append(make_norm(dims[0]))
        self.stages = nn.Sequential()
        for depth, c, before, ratio in zip(depths, dims, [dims[0], *dims[:-1]], ratios, strict=True):
            down = [make_norm(before), nn.Conv2d(before, c, 2, 2)] if len(self.stages) else []
            blocks = [MetaNeXtBlock(c, mixer, make_norm, ratio, gamma, 0.0) for _ in range(depth)]
            self.stages.append(Stage(nn.Sequential(*down), nn.Sequential(*blocks)))
        self.head = make_head(dims[-1], classes, head_dropout)

        self.channels_last = channels_last
        self.set_drop_path(drop_path)
        self.apply(initialise)
        if channels_last:
            self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def blocks(self) -> list[MetaNeXtBlock]:
        return [block for block in self.modules() if isinstance(block, MetaNeXtBlock)]

    def set_drop_path(self, rate: float) -> None:
        """0 in the first block, growing linearly to `rate` in the last."""
        blocks = self.blocks()
        for number, block in enumerate(blocks):
            block.drop_path.p = rate * number / max(1, len(blocks) - 1)

    def features(self, x: Tensor) -> list[Tensor]:
        """The output of each stage: (B, dims[i], S / patch / 2^i, S / patch / 2^i)."""
        x = self.stem(x)
        if self.channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        features = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return features

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x)[-1])


def initialise(module: nn.Module) -> None:
    """Weights of convolutions and linear layers from a normal of std 0.02 cut at 2, biases 0."""
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def receptive_field(network: MetaNeXt, images: Tensor) -> Tensor:
    """|d (middle of the last stage's map, summed over channels) / d input|, mean over images and channels: (S, S)."""
    training = network.training
    with torch.inference_mode(False), torch.enable_grad():
        x = images.clone().requires_grad_()
        last = network.eval().features(x)[-1]  # (B, C, h, w)
        (gradient,) = torch.autograd.grad(last[..., last.shape[-2] // 2, last.shape[-1] // 2].sum(), x)
    network.train(training)
    return gradient.abs().mean((0, 1)).float().cpu()
