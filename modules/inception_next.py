"""InceptionNeXt: When Inception Meets ConvNeXt (Yu, Zhou, Yan & Wang, CVPR 2024).

arXiv 2303.16900. ConvNeXt's depthwise 7x7 convolution is cheap in FLOPs and slow on a clock. It is replaced by an
Inception depthwise convolution: most channels pass, three small groups of g = r_g C are convolved (algorithm 1).

    block            y = x + gamma * MLP(Norm(TokenMixer(x)))            one shortcut, not two as in MetaFormer
    TokenMixer(x)    = concat(x_id, DW_{k_s x k_s}(x_hw), DW_{1 x k_b}(x_w), DW_{k_b x 1}(x_h))
    of k = k_b       (2k + 9) C / 8 weights at r_g = 1/8, k_s = 3; a depthwise k x k has k^2 C

All networks of the paper are one class, MetaNeXt: InceptionNeXt (batch norm, MLP head, ratio 3 in the last stage),
ConvNeXt (layer norm, linear head, ratio 4) with any kernel on any share of the channels, isotropic ones, and
self-attention as the mixer.

Where paper and released code differ, and what is not known:
- channel order: algorithm 1 splits (hw, w, h, id), the code and its weights (id, hw, w, h). The code's is the default;
  `identity_first=False` gives the other. Weights do not carry over without permuting channels.
- widths of the atto size: the paper's table prints 90, 180 in the middle, which has 4.55M parameters instead of 4.2M;
  the code's 80, 160 are right.
- "bands in sequence" (table 8) is taken as 1 x k, then k x 1 on one group of g channels: as many weights.
- the isotropic networks are not in the released code. Here: linear head, ratio 4, 18 blocks; 12 with attention, which
  is what fits the published 22M parameters.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F

from modules.common.mixing import MixedClassifier
from modules.common.module import OptimizerFactory
from modules.common.schedules import Schedule

Mixer = Callable[[int], nn.Module]  # C -> module, (B, C, H, W) -> (B, C, H, W)
PICTURED = 16  # images in the picture of the receptive field
NORMS, HEADS = ("batch", "layer"), ("mlp", "linear")


def known(name: str, value: str, valid: Iterable[str]) -> str:
    """The value, or a ValueError that lists what there is."""
    if value not in valid:
        raise ValueError(f"{name}={value!r}: expected one of {', '.join(valid)}")
    return value


def depthwise(channels: int, height: int, width: int) -> nn.Conv2d:
    """One height x width filter per channel, same size out."""
    return nn.Conv2d(channels, channels, (height, width), padding=(height // 2, width // 2), groups=channels)


def _apply(layer: nn.Module, x: Tensor) -> Tensor:
    return layer(x)


class InceptionDWConv(nn.Module):
    """Inception depthwise convolution: identity and small depthwise convolutions side by side, nothing in between.

    Args:
        channels: C.
        square_kernel: k_s, odd.
        band_kernel: k_b, odd.
        ratio: r_g; each branch has g = floor(r_g C) channels, what is left passes.
        branches: in the order of their channels: "hw" (k_s x k_s), "w" (1 x k_b), "h" (k_b x 1), or "wh" (the two bands
            in sequence). A branch that is left out leaves its channels to the identity.
        identity_first: the identity's channels come first (released code) or last (algorithm 1).
    Raises:
        ValueError: an even kernel, an unknown branch, or more channels than there are.
    """

    def __init__(
        self,
        channels: int,
        square_kernel: int = 3,
        band_kernel: int = 11,
        ratio: float = 0.125,
        branches: Sequence[str] = ("hw", "w", "h"),
        identity_first: bool = True,
    ) -> None:
        super().__init__()
        if square_kernel % 2 == 0 or band_kernel % 2 == 0:
            raise ValueError(f"square_kernel={square_kernel}, band_kernel={band_kernel}: expected odd numbers")
        group = int(channels * ratio)
        rest = channels - group * len(branches)
        if rest < 0:
            raise ValueError(f"ratio={ratio}: {len(branches)} branches of {group} do not fit into {channels} channels")
        square, wide, tall = (square_kernel, square_kernel), (1, band_kernel), (band_kernel, 1)
        kernels = {"hw": (square,), "w": (wide,), "h": (tall,), "wh": (wide, tall)}
        self.dwconv = nn.ModuleDict()
        for name in branches if group else ():
            convolutions = [depthwise(group, *kernel) for kernel in kernels[known("branches", name, kernels)]]
            self.dwconv[name] = convolutions[0] if len(convolutions) == 1 else nn.Sequential(*convolutions)
        sizes = [group] * len(self.dwconv)
        self.identity_first, self.sizes = identity_first, [rest, *sizes] if identity_first else [*sizes, rest]

    def forward(self, x: Tensor) -> Tensor:
        parts = x.split(self.sizes, 1)
        if self.identity_first:
            return torch.cat([parts[0], *map(_apply, self.dwconv.values(), parts[1:])], 1)
        return torch.cat([*map(_apply, self.dwconv.values(), parts[:-1]), parts[-1]], 1)


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
        self.qkv, self.proj = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)

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
        self.fc1, self.fc2 = nn.Conv2d(channels, hidden, 1), nn.Conv2d(hidden, channels, 1)

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
        self, channels: int, mixer: Mixer, norm: Mixer, mlp_ratio: float, gamma: float | None, drop_path: float
    ) -> None:
        super().__init__()
        self.token_mixer, self.norm = mixer(channels), norm(channels)
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
        self.downsample, self.blocks = downsample, blocks

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(self.downsample(x))


class MLPHead(nn.Module):
    """Global average pool -> Linear C -> 3C -> GELU -> layer norm -> dropout -> Linear 3C -> classes."""

    def __init__(self, channels: int, classes: int, dropout: float, ratio: int = 3) -> None:
        super().__init__()
        self.fc1, self.norm = nn.Linear(channels, ratio * channels), nn.LayerNorm(ratio * channels, eps=1e-6)
        self.drop, self.fc2 = nn.Dropout(dropout), nn.Linear(ratio * channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.drop(self.norm(F.gelu(self.fc1(x.mean((2, 3)))))))


class LinearHead(nn.Module):
    """Global average pool -> layer norm -> dropout -> Linear C -> classes: how ConvNeXt ends."""

    def __init__(self, channels: int, classes: int, dropout: float) -> None:
        super().__init__()
        self.norm, self.drop = nn.LayerNorm(channels, eps=1e-6), nn.Dropout(dropout)
        self.fc = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.drop(self.norm(x.mean((2, 3)))))


class MetaNeXt(nn.Module):
    """Stem, stages of blocks with half the side and new width after each, head. (B, in_channels, S, S) -> (B, classes).

    Args:
        depths: blocks of each stage.
        dims: C of each stage.
        mixer: makes the token mixer of a block.
        mlp_ratios: of each stage; one number for all.
        norm: "batch" (InceptionNeXt) or "layer" (ConvNeXt).
        head: "mlp" (InceptionNeXt) or "linear" (ConvNeXt).
        patch: side and stride of the stem's convolution.
        stem_norm: normalise after the stem; isotropic networks do not.
        gamma: start of every block's scale; 1e-6 needs the published number of steps, None leaves the scales out.
        drop_path: of the last block; the rates grow linearly over all blocks.
        head_dropout: before the last linear layer.
        in_channels, classes: of the input and the output.
        channels_last: keep weights and activations in this memory layout; false takes them as they come.
    Raises:
        ValueError: lists of different lengths, or an unknown norm or head.
    """

    def __init__(
        self,
        depths: Sequence[int],
        dims: Sequence[int],
        mixer: Mixer,
        mlp_ratios: float | Sequence[float] = (4, 4, 4, 3),
        norm: str = "batch",
        head: str = "mlp",
        patch: int = 4,
        stem_norm: bool = True,
        gamma: float | None = 1e-6,
        drop_path: float = 0.0,
        head_dropout: float = 0.0,
        in_channels: int = 3,
        classes: int = 1000,
        channels_last: bool = True,
    ) -> None:
        super().__init__()
        ratios = list(mlp_ratios) if isinstance(mlp_ratios, Sequence) else [mlp_ratios] * len(depths)
        if not len(depths) == len(dims) == len(ratios):
            raise ValueError(
                f"depths has {len(depths)} entries, dims {len(dims)}, mlp_ratios {len(ratios)}; expected as many"
            )
        make_norm: Mixer = nn.BatchNorm2d if known("norm", norm, NORMS) == "batch" else LayerNorm2d
        make_head = MLPHead if known("head", head, HEADS) == "mlp" else LinearHead
        stem: list[nn.Module] = [nn.Conv2d(in_channels, dims[0], patch, patch)]
        self.stem = nn.Sequential(*stem, *([make_norm(dims[0])] if stem_norm else []))
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
        found = [x.contiguous(memory_format=torch.channels_last) if self.channels_last else x]
        for stage in self.stages:
            found.append(stage(found[-1]))
        return found[1:]

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x)[-1])


def initialise(module: nn.Module) -> None:
    """Weights of convolutions and linear layers from a normal of std 0.02 cut at 2, biases 0."""
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


@dataclass(frozen=True)
class Size:
    """A published size: what InceptionNeXt and ConvNeXt share, the former's own parts, and both drop paths."""

    depths: tuple[int, ...]
    dims: tuple[int, ...]
    drop_path: float
    convnext_drop_path: float
    mixer: Mixer = InceptionDWConv
    mlp_ratios: tuple[int, ...] = (4, 4, 4, 3)
    head: str = "mlp"
    patch: int = 4
    stem_norm: bool = True


SIZES = {
    "atto": Size((2, 2, 6, 2), (40, 80, 160, 320), 0.1, 0.1, partial(InceptionDWConv, band_kernel=9, ratio=0.25)),
    "tiny": Size((3, 3, 9, 3), (96, 192, 384, 768), 0.1, 0.1),
    "small": Size((3, 3, 27, 3), (96, 192, 384, 768), 0.3, 0.4),
    "base": Size((3, 3, 27, 3), (128, 256, 512, 1024), 0.4, 0.5),
    "isotropic": Size((18,), (384,), 0.1, 0.1, mlp_ratios=(4,), head="linear", patch=16, stem_norm=False),
    "isotropic12": Size((12,), (384,), 0.1, 0.1, Attention, (4,), "linear", 16, False),  # MetaNeXt-Attn
}


def inception_next(
    size: str = "tiny",
    mixer: Mixer | None = None,
    norm: str = "batch",
    drop_path: float | None = None,
    classes: int = 1000,
    channels_last: bool = True,
) -> MetaNeXt:
    """InceptionNeXt at a published size.

    Args:
        size: one of SIZES.
        mixer: another token mixer; None takes the size's own.
        drop_path: None takes the size's own.
        norm, classes, channels_last: see MetaNeXt.
    """
    s = SIZES[known("size", size, SIZES)]
    return MetaNeXt(
        s.depths,
        s.dims,
        mixer or s.mixer,
        s.mlp_ratios,
        norm,
        s.head,
        s.patch,
        s.stem_norm,
        drop_path=s.drop_path if drop_path is None else drop_path,
        classes=classes,
        channels_last=channels_last,
    )


def convnext(
    size: str = "tiny",
    kernel: int = 7,
    ratio: float = 1.0,
    drop_path: float | None = None,
    classes: int = 1000,
    channels_last: bool = True,
) -> MetaNeXt:
    """ConvNeXt at a published size with a depthwise kernel x kernel on `ratio` of the channels (table 1)."""
    s = SIZES[known("size", size, SIZES)]
    return MetaNeXt(
        s.depths,
        s.dims,
        partial(DWConv, kernel=kernel, ratio=ratio),
        4,
        "layer",
        "linear",
        s.patch,
        s.stem_norm,
        drop_path=s.convnext_drop_path if drop_path is None else drop_path,
        classes=classes,
        channels_last=channels_last,
    )


def renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of the released InceptionNeXt, of timm's inception_next_* and convnext_*, or of the ConvNeXt code, under
    our names. Linear layers inside blocks become 1x1 convolutions."""
    rules = (
        (r"^downsample_layers\.0\.(\d)", r"stem.\1"),  # the ConvNeXt code's names
        (r"^downsample_layers\.(\d)\.", r"stages.\1.downsample."),
        (r"^stages\.(\d+)\.(\d+)\.", r"stages.\1.blocks.\2."),
        (r"\.(dwconv|conv_dw)\.(conv\.)?(?=weight|bias)", r".token_mixer.conv."),
        (r"\.pwconv", r".mlp.fc"),
        (r"^norm\.", r"head.norm."),
        (r"^head\.(?=weight|bias)", r"head.fc."),
        (r"\.dwconv_", r".dwconv."),  # timm's and the released names of the Inception branches
    )
    found = {}
    for key, value in state.items():
        for pattern, replacement in rules:
            key = re.sub(pattern, replacement, key)
        found[key] = value[:, :, None, None] if re.search(r"mlp\.fc\d\.weight$", key) and value.ndim == 2 else value
    return found


class MetaNeXtClassifier(MixedClassifier):
    """A MetaNeXt trained by the paper's recipe (see MixedClassifier), or fine-tuned from another stage.

    Args:
        classes: number of classes.
        network: what to train; not needed with `start`.
        start: a stage whose network is trained on, e.g. at a larger input; its averaged weights where it has them.
        drop_path, head_dropout: new rates for the network; None keeps its own.
        label_smoothing, mixup, cutmix, switch, ema, optimizer, schedule: see MixedClassifier.
    Raises:
        ValueError: neither or both of network and start, or a number outside its range.
    """

    def __init__(
        self,
        classes: int,
        network: MetaNeXt | None = None,
        start: MetaNeXtClassifier | None = None,
        drop_path: float | None = None,
        head_dropout: float | None = None,
        label_smoothing: float = 0.0,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        switch: float = 0.5,
        ema: float = 0.0,
        optimizer: OptimizerFactory | None = None,
        schedule: Schedule | None = None,
    ) -> None:
        used = network if start is None else start.final()
        if not isinstance(used, MetaNeXt) or (start is not None and network is not None):
            raise ValueError("expected either network, or start from needs: {start: <stage>}")
        if drop_path is not None:
            used.set_drop_path(drop_path)
        if head_dropout is not None:
            used.head.drop.p = head_dropout
        used.requires_grad_(True)
        super().__init__(used, classes, label_smoothing, mixup, cutmix, switch, ema, optimizer, schedule)

    def pictures(self, data: Any) -> dict[str, Figure]:
        """How far the network sees, and the filters of the first block's mixer."""
        network = self.final()
        assert isinstance(network, MetaNeXt)
        images = next(iter(data.test_dataloader()))[0][:PICTURED].to(self.device)
        found = {"effective receptive field": _receptive_figure(receptive_field(network, images))}
        mixer = network.blocks()[0].token_mixer
        kernels = {n: m.weight.detach().float().cpu() for n, m in mixer.named_modules() if isinstance(m, nn.Conv2d)}
        if kernels:
            found["filters of the first block"] = _kernel_figure(kernels)
        return found


def receptive_field(network: MetaNeXt, images: Tensor) -> Tensor:
    """|d (middle of the last stage's map, summed over channels) / d input|, mean over images and channels: (S, S)."""
    training = network.training
    with torch.inference_mode(False), torch.enable_grad():
        x = images.clone().requires_grad_()
        last = network.eval().features(x)[-1]  # (B, C, h, w)
        (gradient,) = torch.autograd.grad(last[..., last.shape[-2] // 2, last.shape[-1] // 2].sum(), x)
    network.train(training)
    return gradient.abs().mean((0, 1)).float().cpu()


def _receptive_figure(field: Tensor) -> Figure:
    figure = Figure(figsize=(3.6, 3.6), layout="constrained")
    ax = figure.subplots()
    ax.imshow((field / field.max().clamp_min(1e-30)).sqrt(), cmap="magma", vmin=0, vmax=1)
    ax.set_title("input pixels that move the middle of the last map\n(square root of the gradient)", fontsize=8)
    ax.axis("off")
    return figure


def _kernel_figure(kernels: Mapping[str, Tensor], shown: int = 8) -> Figure:
    """The first filters (channels, 1, h, w) of each convolution, each on its own range."""
    figure = Figure(figsize=(9, 1.3 * len(kernels) + 0.3), layout="constrained")
    axes = figure.subplots(len(kernels), shown, squeeze=False)
    for row, (name, weights) in zip(axes, kernels.items(), strict=True):
        for ax, weight in zip(row, weights[:shown, 0], strict=False):
            limit = float(weight.abs().max())
            ax.imshow(weight, cmap="RdBu", vmin=-limit, vmax=limit)
        for ax in row:
            ax.set(xticks=[], yticks=[])
        row[0].set_ylabel(f"{name.removeprefix('dwconv.')}\n{'x'.join(map(str, weights.shape[2:]))}", fontsize=8)
    return figure
