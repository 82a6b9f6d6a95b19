"""InceptionNeXt: When Inception Meets ConvNeXt (Yu, Zhou, Yan & Wang, CVPR 2024).

arXiv 2303.16900. ConvNeXt's depthwise 7x7 convolution is cheap in FLOPs and slow on a clock. It is replaced by an
Inception depthwise convolution: most channels pass, three small groups of g = r_g C are convolved (algorithm 1).

    block            y = x + gamma * MLP(Norm(TokenMixer(x)))            one shortcut, not two as in MetaFormer
    TokenMixer(x)    = concat(x_id, DW_{k_s x k_s}(x_hw), DW_{1 x k_b}(x_w), DW_{k_b x 1}(x_h))
    of k = k_b       (2k + 9) C / 8 weights at r_g = 1/8, k_s = 3; a depthwise k x k has k^2 C

All networks of the paper are one class, MetaNeXt: InceptionNeXt (batch norm, MLP head, ratio 3 in the last stage),
ConvNeXt (layer norm, linear head, ratio 4) with any kernel on any share of the channels, isotropic ones, and
self-attention as the mixer.

Where paper, released code and this file differ in the networks, and what is not known:
- channel order: algorithm 1 splits (hw, w, h, id), the code and its weights (id, hw, w, h). The code's is the default;
  `identity_first=False` gives the other. Weights do not carry over without permuting channels.
- widths of the atto size: the paper's table prints 90, 180 in the middle, which has 4.55M parameters instead of 4.2M;
  the code's 80, 160 are right.
- "bands in sequence" (table 8) is taken as 1 x k, then k x 1 on one group of g channels: as many weights.
- the isotropic networks are not in the released code. Here: linear head, ratio 4, 18 blocks; 12 with attention, which
  is what fits the published 22M parameters. No norm after the stem and no gamma, as in ConvNeXt's own isotropic code,
  for all of them, so that mixers are compared. MetaNeXt-Attn has layer norm, as the transformers whose mixer it takes.
- MLPs are matrix products where channels lie last in memory: the same numbers, faster, in every network compared.
- mini: four blocks of other widths, and gamma starts at 0.1, since 1e-6 needs the published number of steps.

And in the recipe (conf/paper/inception_next.yaml lists each with its reason): bf16 on GPUs where the paper has TF32;
batch statistics and mixing draws over a device's part of the batch, not over the 128 images of an accumulation step;
images mixed with a random partner, not with the one mirrored in the batch; ConvNeXt of the A size, and of the B size at
384, trained as InceptionNeXt is; the last epoch is reported, not the best on the validation set; fine-tuning and the
epochs of the A size as printed, not as in the scripts.
"""

from __future__ import annotations

import copy
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from modules.common.mixing import MixedClassifier
from modules.common.module import OptimizerFactory
from modules.common.schedules import Schedule
from modules.inception_next.networks import Attention, DWConv, LayerFactory, MetaNeXt, depthwise, known, receptive_field
from modules.inception_next.timing import MODES, Throughput, device_name

PICTURED = 16  # images in the picture of the receptive field


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


@dataclass(frozen=True)
class Size:
    """A published size: what InceptionNeXt and ConvNeXt share, the former's own parts, and both drop paths."""

    depths: tuple[int, ...]
    dims: tuple[int, ...]
    drop_path: float
    convnext_drop_path: float
    mixer: LayerFactory = InceptionDWConv
    mlp_ratios: tuple[int, ...] = (4, 4, 4, 3)
    head: str = "mlp"
    patch: int = 4
    stem_norm: bool = True
    gamma: float | None = 1e-6


SIZES = {
    "atto": Size((2, 2, 6, 2), (40, 80, 160, 320), 0.1, 0.1, partial(InceptionDWConv, band_kernel=9, ratio=0.25)),
    "tiny": Size((3, 3, 9, 3), (96, 192, 384, 768), 0.1, 0.1),
    "small": Size((3, 3, 27, 3), (96, 192, 384, 768), 0.3, 0.4),
    "base": Size((3, 3, 27, 3), (128, 256, 512, 1024), 0.4, 0.5),
    "isotropic": Size((18,), (384,), 0.1, 0.1, InceptionDWConv, (4,), "linear", 16, False, None),
    "isotropic12": Size((12,), (384,), 0.1, 0.1, Attention, (4,), "linear", 16, False, None),  # MetaNeXt-Attn
}


def inception_next(
    size: str = "tiny",
    mixer: LayerFactory | None = None,
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
        s.gamma,
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
        s.gamma,
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
        """How far the network sees."""
        network = self.final()
        assert isinstance(network, MetaNeXt)
        images = next(iter(data.test_dataloader()))[0][:PICTURED].to(self.device)
        return {"effective receptive field": _receptive_figure(receptive_field(network, images))}


class TradeOff(Throughput):
    """Accuracy against throughput of trained networks (figure 1 of the paper): all on the same images.

    Reports what Throughput does, timed on the first batch of the test, and test/top1_<name> in percent.

    Args:
        arms: the stages whose networks are compared; the tested weights of each.
        names: of the arms, in their order.
        rounds, calls, warmup, threads, layouts, bf16: see Throughput.
    Raises:
        ValueError: another number of names than of arms, or what Throughput refuses.
    """

    def __init__(
        self,
        arms: Sequence[MetaNeXtClassifier],
        names: Sequence[str],
        rounds: int = 7,
        calls: int = 1,
        warmup: int = 3,
        threads: int = 1,
        layouts: Sequence[str] = ("channels_last",),
        bf16: bool = False,
    ) -> None:
        if len(arms) != len(names):
            raise ValueError(f"names={list(names)}: expected one for each of {len(arms)} arms")
        copies = [copy.deepcopy(arm.final()).requires_grad_(True) for arm in arms]  # steps are timed on the copies
        super().__init__(dict(zip(names, copies, strict=True)), rounds, calls, warmup, threads, layouts, bf16=bf16)
        self.right, self.count = dict.fromkeys(names, 0), 0
        self.first: Tensor | None = None

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        x, y = batch
        self.first = x if self.first is None else self.first
        self.count += len(x)
        for name, network in self.candidates.items():
            self.right[name] += int((network.eval()(x).argmax(-1) == y).sum())

    def on_test_epoch_end(self) -> None:
        assert self.first is not None
        self.measure(self.first)  # after all images were seen: training steps move weights and batch statistics
        for name, right in self.right.items():
            self.log(f"test/top1_{name}", 100 * right / self.count)
        super().on_test_epoch_end()

    def pictures(self, data: Any) -> dict[str, Figure]:
        """One point an arm for training and one for inference."""
        if not self.measured:
            return {}
        figure = Figure(figsize=(9, 3.4), layout="constrained")
        for ax, (mode, label) in zip(figure.subplots(1, len(MODES), sharey=True), MODES.items(), strict=True):
            for name, right in self.right.items():
                speed = self.images / statistics.median(self.best(mode, name))
                ax.plot(speed, 100 * right / self.count, "o")
                ax.annotate(name, (speed, 100 * right / self.count), (5, 4), textcoords="offset points", fontsize=8)
            ax.margins(0.2)
            ax.set_xlabel(f"images per second, {label}")
            ax.set_ylabel("top-1 (%)")
        figure.suptitle(f"{device_name(self.device)}, batches of {self.images}", fontsize=9)
        return {"accuracy against throughput": figure}


def _receptive_figure(field: Tensor) -> Figure:
    figure = Figure(figsize=(3.6, 3.6), layout="constrained")
    ax = figure.subplots()
    ax.imshow((field / field.max().clamp_min(1e-30)).sqrt(), cmap="magma", vmin=0, vmax=1)
    ax.set_title("input pixels that move the middle of the last map\n(square root of the gradient)", fontsize=8)
    ax.axis("off")
    return figure
