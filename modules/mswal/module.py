"""MSWAL: 3D Multi-class Segmentation of Whole Abdominal Lesions Dataset (Inception nnU-Net).

arXiv 2503.13560. nnU-Net with the ResEncL plan whose residual blocks of stride 1 and equal width get a third branch:

    block(x) = LeakyReLU(main(x) + side(x) + x),   main = norm conv3 LeakyReLU norm conv3,   side = (norm conv1)^2

All other blocks (strided, or changing the width) are residual blocks as in nnU-Net, among them every block of the
decoder. The side branch is pointwise and has no activation: the receptive field is that of the residual U-Net.

    L = sum_i w_i (CE_i - Dice_i),   w = 1, 1/2, 1/4, ... from full resolution down, 0 for the lowest, summing to 1

Where the paper's figure and the released architecture (inception.py) differ, the code is followed:
- the figure says batch norm and ReLU, the code takes instance norm and leaky ReLU from nnU-Net's plan.
- no training code, plan or weights were released: loss, optimiser, augmentation and inference are nnU-Net's defaults.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
from dynamic_network_architectures.architectures.unet import ResidualUNet
from dynamic_network_architectures.building_blocks.residual import BasicBlockD
from dynamic_network_architectures.building_blocks.simple_conv_blocks import ConvDropoutNormReLU
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F

from modules.common.module import OptimizerFactory, StageModule
from modules.common.schedules import Schedule
from modules.mswal.segmentation import (
    SegmentationScores,
    deeply_supervised,
    flips,
    gaussian_window,
    resampled_labels,
    sliding_window,
)

THRESHOLDS = (0.0, 0.1, 0.5)  # of the region F1; the paper's matching rule is not known
HEADS = "seg_layers"  # in the names of the parameters that depend on the classes


class MiniInception(BasicBlockD):
    """A residual block with the side branch. Arguments as BasicBlockD.

    Raises:
        ValueError: the block is strided or changes the width, where the paper keeps the plain residual block.
    """

    def __init__(
        self,
        conv_op: type[nn.Module],
        input_channels: int,
        output_channels: int,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int],
        conv_bias: bool = False,
        norm_op: type[nn.Module] | None = None,
        norm_op_kwargs: dict[str, Any] | None = None,
        **options: Any,
    ) -> None:
        unit = (conv_op, input_channels, output_channels)
        super().__init__(*unit, kernel_size, stride, conv_bias, norm_op, norm_op_kwargs, **options)
        if not plain(self):
            raise ValueError(f"stride {self.stride}, {input_channels} -> {output_channels} channels: no side branch")
        self.side = nn.Sequential(*(ConvDropoutNormReLU(*unit, 1, 1, False, norm_op, norm_op_kwargs) for _ in range(2)))

    def forward(self, x: Tensor) -> Tensor:
        return self.nonlin2(self.conv2(self.conv1(x)) + self.side(x) + x)


def plain(block: BasicBlockD) -> bool:
    """Stride 1 and equal width: no projection is needed."""
    return all(s == 1 for s in block.stride) and block.input_channels == block.output_channels


class InceptionNnunet(ResidualUNet):
    """A ResidualUNet whose plain blocks are MiniInception blocks. Arguments as ResidualUNet."""

    def __init__(self, **plan: Any) -> None:
        super().__init__(**plan)
        names = ("conv_bias", "norm_op", "norm_op_kwargs", "dropout_op", "dropout_op_kwargs", "nonlin", "nonlin_kwargs")
        options: dict[str, Any] = {name: plan.get(name) for name in names}
        for parent in list(self.modules()):
            for name, block in list(parent.named_children()):
                if isinstance(block, BasicBlockD) and plain(block):
                    width, kernel = block.output_channels, block.conv1.conv.kernel_size
                    setattr(parent, name, MiniInception(plan["conv_op"], width, width, kernel, 1, **options))


def planned(
    architecture: Callable[..., nn.Module],
    features: Sequence[int],
    classes: int,
    decoder: int = 1,
    in_channels: int = 1,
    seed: int = 0,
) -> nn.Module:
    """A network as an nnU-Net plan describes it: kernels 3, instance norm, leaky ReLU, a head at every resolution.

    Args:
        architecture: class with nnU-Net's arguments and its blocks or convolutions per stage.
        features: channels of each stage; every stage but the first halves the resolution.
        classes: C with background.
        decoder: blocks or convolutions per decoder stage.
        seed: of the initial weights: He normal, biases 0, the last norm before every addition 0. With the same seed
            two architectures get alike what they share; the side branches are drawn last.
    """
    network = architecture(
        input_channels=in_channels,
        n_stages=len(features),
        features_per_stage=list(features),
        conv_op=nn.Conv3d,
        kernel_sizes=3,
        strides=[1] + [2] * (len(features) - 1),
        num_classes=classes,
        n_conv_per_stage_decoder=decoder,
        conv_bias=True,
        norm_op=nn.InstanceNorm3d,
        norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=nn.LeakyReLU,
        nonlin_kwargs={"inplace": True},
        deep_supervision=True,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for _, part in sorted(network.named_modules(), key=lambda item: ".side." in item[0]):
            network.initialize(part)  # type: ignore[operator]
    return network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]  # half the time, same values


def transfer(network: nn.Module, source: nn.Module) -> None:
    """Copy every weight but the heads, in place.

    Raises:
        ValueError: the two are not the same architecture.
    """
    body = {name: value for name, value in source.state_dict().items() if HEADS not in name}
    own = {name: value.shape for name, value in network.state_dict().items() if HEADS not in name}
    if own != {name: value.shape for name, value in body.items()}:
        raise ValueError("pretrained: not the network's architecture; both need the same plan")
    network.load_state_dict(body, strict=False)


class Segmenter(StageModule):
    """nnU-Net's training and inference of one network.

    Args:
        network: see `planned`; gives logits (B, C, ...) at every resolution, the full one first.
        pretrained: the segmenter to start from; all weights but the heads are taken over.
        batch_dice: sums of the Dice loss over the batch (nnU-Net's 3d_fullres beside a low-resolution stage).
        mirror: axes along which test patches are mirrored, all combinations, logits averaged.
        step: distance of test windows as a fraction of the patch; they are weighted by a Gaussian.
        window_batch: windows per forward pass.
        compare_inference: also report Dice without mirroring, and from as few windows as cover the scan, each voxel
            from one of them, on the same weights.
        optimizer, schedule: see StageModule.
    """

    def __init__(
        self,
        network: nn.Module,
        pretrained: Segmenter | None = None,
        batch_dice: bool = False,
        mirror: Sequence[int] = (0, 1, 2),
        step: float = 0.5,
        window_batch: int = 1,
        compare_inference: bool = False,
        optimizer: OptimizerFactory | None = None,
        schedule: Schedule | None = None,
    ) -> None:
        super().__init__(optimizer, schedule)
        self.network, self.classes = network, int(network.decoder.num_classes)  # type: ignore[union-attr, arg-type]
        if pretrained is not None:
            transfer(network, pretrained.network)
        self.batch_dice, self.flips, self.step, self.window_batch = batch_dice, flips(mirror), step, window_batch
        self.scores = SegmentationScores(self.classes, THRESHOLDS)
        self.inference_scores: Any = nn.ModuleDict(
            {name: SegmentationScores(self.classes) for name in ("no_mirror", "no_overlap") if compare_inference}
        )
        self.measured: dict[str, float] = {}  # the last test's numbers, for the picture

    def forward(self, x: Tensor) -> Tensor:
        """(B, 1, *patch) -> logits (B, C, *patch)."""
        return self.network(x)[0]

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch  # (B, 1, *patch), (B, *patch)
        loss, ce, dice = deeply_supervised(self.network(x), y, self.batch_dice)
        self.track(len(y), loss=loss, ce=ce, soft_dice=dice)
        return loss

    def views(self, windows: Tensor) -> Tensor:
        """(b, C, *patch) logits averaged over mirrored views; to compare, those of the unmirrored view after them."""
        straight = self(windows).float()
        total = straight.clone()
        for axes in self.flips[1:]:
            total += self(windows.flip(axes)).float().flip(axes)
        total /= len(self.flips)
        return torch.cat([total, straight], 1) if self.inference_scores else total

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        image, reference = batch  # (1, 1, D, H, W) as the network sees it, (1, D', H', W') as it was annotated
        patch = self.trainer.datamodule.spec.shape[1:]  # type: ignore[attr-defined]
        size = reference.shape[1:]
        logits = sliding_window(image, self.views, patch, self.step, gaussian_window(patch), self.window_batch)
        self.scores.update(resampled_labels(logits[:, : self.classes], size), reference[0])
        if self.inference_scores:
            straight = resampled_labels(logits[:, self.classes :], size)
            self.inference_scores["no_mirror"].update(straight, reference[0])
            single = sliding_window(image, self, patch, 1.0, None, self.window_batch, first=True)
            self.inference_scores["no_overlap"].update(resampled_labels(single, size), reference[0])

    def on_test_epoch_end(self) -> None:
        names = [re.sub(r"\W+", "_", name) for name in self.trainer.datamodule.spec.classes[1:]]  # type: ignore[attr-defined]
        found = self.scores.compute()
        dice = found["dice"].reshape(-1)  # (C - 1,); torchmetrics makes a scalar of one class
        f1 = found["f1"].reshape(len(THRESHOLDS), -1)
        values = {"dice": dice.nanmean(), "region_f1": f1[1].nanmean()}
        values |= {"region_f1_t0": f1[0].nanmean(), "region_f1_t50": f1[2].nanmean(), "n": found["n"]}
        for name, of_class, regions in zip(names, dice, f1[1], strict=True):
            values |= {f"dice_{name}": of_class, f"region_f1_{name}": regions}
        for name, scores in self.inference_scores.items():
            values[f"dice_{name}"] = scores.compute()["dice"].nanmean()
            scores.reset()
        self.scores.reset()
        scored = {name: value.float() for name, value in values.items() if not value.isnan()}  # a class may be absent
        self.measured = {name: float(value) for name, value in scored.items()}
        self.log_dict({f"test/{name}": value for name, value in scored.items()})

    def pictures(self, data: Any) -> dict[str, Figure]:
        """Slices with the reference and the prediction outlined, and Dice and F1 of every class."""
        return {"slices": self._slices(data), "classes": self._bars(data.spec.classes[1:])}

    def _slices(self, data: Any) -> Figure:
        colours = ("#1b9e77", "#d95f02", "#7570b3", "#e7298a", "#66a61e", "#e6ab02", "#a6761d")
        patch = data.spec.shape[1:]
        shown = data.tested(4)  # the test volumes with the most classes
        figure = Figure(figsize=(9, 2.9), layout="constrained")
        for axis, (image, reference) in zip(figure.subplots(1, 4), shown, strict=False):
            x, window = image[None].to(self.device), gaussian_window(patch)
            logits = sliding_window(x, self, patch, self.step, window, self.window_batch)  # mirroring is left out
            predicted = resampled_labels(logits, reference.shape).cpu()
            areas = torch.stack([(reference == c).sum((1, 2)).sqrt() for c in range(1, self.classes)])
            level = int(areas.sum(0).argmax())  # the square root keeps one large lesion from choosing alone
            scan = F.interpolate(image[None], size=list(reference.shape), mode="trilinear")[0, 0, level]
            axis.imshow(scan, cmap="gray")
            for number in range(1, self.classes):
                colour = colours[(number - 1) % len(colours)]
                for labels, style in ((reference, "solid"), (predicted, "dotted")):
                    outline = (labels[level] == number).float()
                    if outline.any():
                        axis.contour(outline, levels=[0.5], colors=[colour], linestyles=style, linewidths=1.4)
            axis.set_title(f"slice {level}", fontsize=8)
            axis.axis("off")
        for axis in figure.axes[len(shown) :]:
            axis.axis("off")
        for number, name in enumerate(data.spec.classes[1:]):
            figure.axes[0].plot([], [], color=colours[number % len(colours)], label=name)
        figure.axes[0].plot([], [], color="black", label="reference")
        figure.axes[0].plot([], [], color="black", linestyle="dotted", label="prediction")
        figure.legend(loc="outside lower center", ncols=self.classes + 1, fontsize=8, frameon=False)
        return figure

    def _bars(self, names: Sequence[str]) -> Figure:
        figure = Figure(figsize=(9, 3), layout="constrained")
        axis = figure.subplots()
        for shift, metric, label in ((-0.2, "dice", "Dice"), (0.2, "region_f1", "region F1, IoU > 0.1")):
            heights = [self.measured.get(f"{metric}_" + re.sub(r"\W+", "_", name), float("nan")) for name in names]
            bars = axis.bar([i + shift for i in range(len(names))], heights, 0.4, label=label)
            axis.bar_label(bars, fmt="%.2f", fontsize=8)
        axis.set(xticks=range(len(names)), xticklabels=names, ylim=(0, 1.05), ylabel="score")
        axis.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
        return figure
