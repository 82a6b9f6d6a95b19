"""Unsupervised Representation Learning by Predicting Image Rotations (Gidaris, Singh & Komodakis, ICLR 2018).

arXiv 1803.07728. A network F learns which of K rotations g(X|y) an image was turned by. All K copies of an image are in
the same batch (equations 2 and 3):

    L = mean over images of -1/K sum_y log F_y(g(X|y)),    K = 4: 0, 90, 180, 270 degrees

Its blocks are then frozen and probed: a classifier is trained on the output of each, with all labels or a few of each
class, against the same blocks at random initialisation and against the same network trained on the labels alone.

What deviates, and where paper and released code differ:
- an image is cropped and mirrored upright, then rotated, so that its copies share one crop (as in the code).
- of its CIFAR-10 probes the code keeps the epoch that is best on the test set; here the last epoch is tested.
- "random initialisation" has batch statistics of its own: one pass over the training images, upright, averaged over
  all batches (Calibrated). Statistics left at 0 and 1 would handicap it.
- the supervised network is the convolutional probe with the blocks below it trained too, which is the same
  architecture: blocks 1 and 2, a third block, one linear layer.
- rotations that are no multiple of 90 degrees are bilinear with reflected corners; the paper's way is not known.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import islice, pairwise
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.utils import make_grid

from modules.common.metrics import Classification
from modules.common.module import Frozen, OptimizerFactory, StageModule
from modules.common.schedules import Position, Schedule

Shape = tuple[int, int, int]  # (C, H, W)
HeadFactory = Callable[[Shape, int], nn.Module]  # (shape of a block's output, number of classes)
INITS = ("library", "he")
PICTURED = 2000  # test images in a picture of accuracies


def rotate(x: Tensor, angle: int) -> Tensor:
    """Turn images (..., S, S) counter-clockwise; multiples of 90 degrees only move pixels, others interpolate."""
    quarters, rest = divmod(angle, 90)
    x = torch.rot90(x, quarters, (-2, -1))
    if not rest:
        return x
    cos, sin = math.cos(math.radians(rest)), math.sin(math.radians(rest))
    theta = torch.tensor([[cos, -sin, 0.0], [sin, cos, 0.0]], dtype=x.dtype, device=x.device)
    grid = F.affine_grid(theta.expand(len(x), 2, 3), list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, padding_mode="reflection", align_corners=False)


def rotations(x: Tensor, angles: Sequence[int]) -> tuple[Tensor, Tensor]:
    """All K copies of every image and which they are: (B, C, S, S) -> (B K, C, S, S), labels 0..K-1 B times over."""
    copies = torch.stack([rotate(x, angle) for angle in angles], 1).flatten(0, 1)
    return copies, torch.arange(len(angles), device=x.device).repeat(len(x))


def table(position: Position, ends: Sequence[float], rates: Sequence[float]) -> float:
    """Learning rates as factors on the first: rates[i] until ends[i] epochs; the last one stays after its end."""
    done = position.epoch + position.step / position.steps_per_epoch
    return next((rate for end, rate in zip(ends, rates, strict=True) if done < end), rates[-1]) / rates[0]


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


def measured(blocks: Sequence[nn.Module], in_channels: int, input_size: int) -> Trunk:
    """A trunk of these blocks that knows the shape of each output."""
    x, shapes = torch.zeros(1, in_channels, input_size, input_size), []
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
    made = [
        nn.Sequential(*units(in_channels, widths[:3], 5), nn.MaxPool2d(3, 2, 1)),
        nn.Sequential(*units(widths[2], wide, 5), nn.AvgPool2d(3, 2, 1)),  # zeros of the padding are counted
    ]
    for number in range(3, blocks + 1):
        pool = [nn.AvgPool2d(3, 2, 1)] if number == 3 and pool_block3 else []
        made.append(nn.Sequential(*units(wide[0], wide, 3), *pool))
    return measured(made, in_channels, input_size)


def alexnet(in_channels: int = 3, input_size: int = 224) -> Trunk:
    """AlexNet's convolutions with batch norm after each, without groups or local response normalisation.

    A block is a convolution; the pooling layers begin the next one, so that features are those before pooling.
    """
    made = []
    widths = [in_channels, 64, 192, 384, 256, 256]
    kernels = [(11, 4, 2), (5, 1, 2), (3, 1, 1), (3, 1, 1), (3, 1, 1)]  # size, stride, padding
    for number, ((i, o), kernel) in enumerate(zip(pairwise(widths), kernels, strict=True)):
        pool = [nn.MaxPool2d(3, 2)] if number in (1, 2) else []
        made.append(nn.Sequential(*pool, nn.Conv2d(i, o, *kernel), nn.BatchNorm2d(o), nn.ReLU(inplace=True)))
    return measured(made, in_channels, input_size)


def pooled(shape: Shape, classes: int) -> nn.Module:
    """Global average and one linear layer: how the NIN ends."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(shape[0], classes))


def hidden_layers(inputs: int, hidden: int, classes: int) -> list[nn.Module]:
    """Two layers of `hidden` units with batch norm and ReLU, then a linear one."""
    layers: list[nn.Module] = [nn.Flatten()]
    for i, o in ((inputs, hidden), (hidden, hidden)):
        layers += [nn.Linear(i, o, bias=False), nn.BatchNorm1d(o), nn.ReLU(inplace=True)]
    return [*layers, nn.Linear(hidden, classes)]


def mlp(shape: Shape, classes: int) -> nn.Module:
    """The non-linear probe of CIFAR-10: three layers on the whole map, min(20 classes, 2048) hidden units."""
    return nn.Sequential(*hidden_layers(math.prod(shape), min(20 * classes, 2048), classes))


def conv_block(shape: Shape, classes: int) -> nn.Module:
    """The convolutional probe: a third NIN block as wide as its input, global average, one linear layer."""
    return nn.Sequential(*units(shape[0], [shape[0]] * 3, 3), *pooled(shape, classes).children())


def linear(shape: Shape, classes: int, inputs: int = 9600) -> nn.Module:
    """The linear probe of ImageNet: max-pooled to at most `inputs` numbers, batch norm without scale, one layer."""
    side = min(math.isqrt(inputs // shape[0]), shape[1])
    norm = nn.BatchNorm2d(shape[0], affine=False)
    return nn.Sequential(nn.AdaptiveMaxPool2d(side), norm, nn.Flatten(), nn.Linear(shape[0] * side**2, classes))


def fully_connected(shape: Shape, classes: int, hidden: int = 4096, conv: bool = False) -> nn.Module:
    """The rest of AlexNet after conv5, or with `conv` after conv4: its rotation head and the non-linear probes."""
    head = [nn.Conv2d(shape[0], 256, 3, padding=1), nn.BatchNorm2d(256), nn.ReLU(inplace=True)] if conv else []
    side = (shape[1] - 3) // 2 + 1
    inputs = (256 if conv else shape[0]) * side**2
    return nn.Sequential(*head, nn.MaxPool2d(3, 2), *hidden_layers(inputs, hidden, classes))


def initialise(module: nn.Module, init: str, *, dense: bool) -> None:
    """Weights of the convolutions, and with `dense` of the linear layers, from N(0, 2 / fan_out); linear biases 0.

    "library" leaves torch's own initialisation. Raises ValueError for another name.
    """
    if init not in INITS:
        raise ValueError(f"init={init!r}: expected one of {', '.join(INITS)}")
    for part in module.modules() if init == "he" else ():
        if isinstance(part, nn.Conv2d) or (dense and isinstance(part, nn.Linear)):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
        if isinstance(part, nn.Linear) and part.bias is not None:
            nn.init.zeros_(part.bias)


class Scored(StageModule):
    """Top-1 of one or more predictions for every image, in percent, over an epoch of validation or test.

    Args:
        names: what the metrics are called.
        classes: number of classes of each prediction.
        copies: predictions counted for an image under each name; `n` stays the number of images.
        optimizer, schedule: see StageModule.
    """

    def __init__(
        self,
        names: Sequence[str],
        classes: int,
        copies: int = 1,
        optimizer: OptimizerFactory | None = None,
        schedule: Schedule | None = None,
    ) -> None:
        super().__init__(optimizer, schedule)
        self.copies = copies
        self.measures = {split: {n: Classification(classes, ("top1",)) for n in names} for split in ("val", "test")}
        for split, measures in self.measures.items():  # registered for moves between devices; the dict keeps their type
            self.add_module(f"{split}_metrics", nn.ModuleDict(measures))

    def predictions(self, batch: tuple[Tensor, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
        """Name of a metric -> logits (n, classes), labels (n,)."""
        raise NotImplementedError(f"{type(self).__name__} does not say what it predicts")

    def measure(self, batch: tuple[Tensor, Tensor], split: str) -> None:
        for name, (logits, labels) in self.predictions(batch).items():
            self.measures[split][name].update(logits, labels)

    def measured(self, split: str) -> dict[str, Tensor]:
        """Every metric since the last call, and `n`."""
        found = {name: measure.compute() for name, measure in self.measures[split].items()}
        for measure in self.measures[split].values():
            measure.reset()
        counted = next(iter(found.values()))["n"] / self.copies
        return {**{name: values["top1"] for name, values in found.items()}, "n": counted}

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.measure(batch, "val")

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.measure(batch, "test")

    def on_validation_epoch_end(self) -> None:
        self.log_dict({f"val/{name}": value for name, value in self.measured("val").items()})

    def on_test_epoch_end(self) -> None:
        self.log_dict({f"test/{name}": value for name, value in self.measured("test").items()})


class RotNet(Scored):
    """Rotation prediction: F = head(last block of the trunk). Labels of the data are not looked at.

    Args:
        network: the trunk; not needed with `start`.
        head: makes the layers behind the last block; None takes that of `start`.
        start: a RotNet whose trunk to train on; the head is made anew.
        angles: the rotations, degrees counter-clockwise.
        init: "library" (what the code trains from) or "he" (what the code defines and never calls).
        optimizer, schedule: see StageModule.
    Raises:
        ValueError: neither or both of network and start, or no head.
    """

    def __init__(
        self,
        network: Trunk | None = None,
        head: HeadFactory | None = None,
        start: RotNet | None = None,
        angles: Sequence[int] = (0, 90, 180, 270),
        init: str = "library",
        optimizer: OptimizerFactory | None = None,
        schedule: Schedule | None = None,
    ) -> None:
        super().__init__(("rotation_top1",), len(angles), len(angles), optimizer, schedule)
        trunk = network if start is None else start.trunk
        factory = head if start is None else head or start.head_factory
        if trunk is None or factory is None or (start is not None and network is not None):
            raise ValueError("expected either network and head, or start from needs: {start: <stage>}")
        self.trunk: Trunk = trunk
        self.head_factory: HeadFactory = factory
        self.angles = list(angles)
        self.head = factory(trunk.shapes[-1], len(self.angles))
        if start is None:
            initialise(self, init, dense=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, S, S) -> logits of the rotations (B, K)."""
        return self.head(self.trunk(x)[-1])

    def predictions(self, batch: tuple[Tensor, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
        copies, y = rotations(batch[0], self.angles)  # (B K, C, S, S), (B K,)
        return {"rotation_top1": (self(copies), y)}

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor | None:
        copies, y = rotations(batch[0], self.angles)  # (B K, C, S, S), (B K,)
        z = self(copies)  # (B K, K)
        loss = F.cross_entropy(z, y)  # the mean over images of the mean over their K copies
        self.track(len(y), loss=loss, rotation_top1=100 * (z.argmax(-1) == y).float().mean())
        return loss

    def pictures(self, data: Any) -> dict[str, Figure]:
        """The first test image with its rotations and what the network makes of them; the first layer's filters."""
        x = next(iter(data.test_dataloader()))[0][:1].to(self.device)
        copies, _ = rotations(x, self.angles)
        p = self(copies).float().softmax(-1).cpu()
        mean, std = (torch.tensor(value).view(-1, 1, 1) for value in (data.spec.mean, data.spec.std))
        k = len(self.angles)
        turned = Figure(figsize=(max(6.0, 1.5 * k), 3), layout="constrained")
        axes = turned.subplots(2, k, squeeze=False)
        for column, (image, angle) in enumerate(zip(copies.cpu(), self.angles, strict=True)):
            axes[0, column].imshow((image * std + mean).clamp(0, 1).permute(1, 2, 0), cmap="gray", vmin=0, vmax=1)
            axes[0, column].set_title(f"turned by {angle}°", fontsize=9)
            axes[0, column].axis("off")
            axes[1, column].bar(range(k), p[column], color=["C1" if i == column else "C0" for i in range(k)])
            axes[1, column].set(ylim=(0, 1), yticks=[0, 1] if not column else [], xticks=range(k))
            axes[1, column].set_xticklabels([f"{a}°" for a in self.angles], fontsize=7)
        axes[1, 0].set_ylabel("probability", fontsize=8)
        layer = next(part for part in self.trunk.modules() if isinstance(part, nn.Conv2d))
        weights = layer.weight.detach().float().cpu().contiguous()  # (O, C, k, k)
        filters = Figure(figsize=(9, 3), layout="constrained")
        nrow = math.ceil(math.sqrt(3 * len(weights)))
        grid = make_grid(weights, nrow, padding=1, normalize=True, scale_each=True, pad_value=1.0)
        ax = filters.subplots()
        ax.imshow(grid.permute(1, 2, 0))
        ax.set_title(f"the {len(weights)} filters of the first layer, each scaled to its own range", fontsize=9)
        ax.axis("off")
        return {"rotations": turned, "first layer": filters}


class Calibrated(RotNet):
    """The random baseline: weights as they start, batch statistics from one pass over the upright training images.

    Every batch counts alike (a cumulative average), whatever the layers' own momentum. Nothing is optimised, so the
    stage's configuration says `trainer: {max_epochs: 1, devices: 1, strategy: auto}`.

    Args:
        start: the untrained RotNet.
    """

    def __init__(self, start: RotNet) -> None:
        super().__init__(start=start, angles=start.angles)
        self.automatic_optimization = False
        self.head = start.head
        for part in self.modules():
            if isinstance(part, _BatchNorm):
                part.momentum = None

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        return []

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        with torch.no_grad():
            self(batch[0])


class FrozenTrunk(Frozen):
    """A trunk that is used and never trained, with the outputs of its blocks."""

    def __init__(self, trunk: Trunk) -> None:
        super().__init__([trunk])

    def outputs(self, x: Tensor, wanted: Collection[int]) -> dict[int, Tensor]:
        """The outputs of the blocks wanted, by number from 0. No gradient flows."""
        with torch.inference_mode():
            outputs = self.networks[0].to(x.device)(x)
        return {i: outputs[i].clone() for i in wanted}  # inference tensors cannot take part in a loss; copies can


class Probe(Scored):
    """Classifiers on the blocks of a trunk, one for each block named, trained side by side.

    The trunk is frozen in evaluation mode and outside this module, so that the heads are independent: their losses are
    added and none sees another's gradient. With `tuned` it is trained too, as part of this module.

    Args:
        source: the RotNet whose trunk is probed; blocks above the last one named are not run.
        classes: number of classes.
        heads: "block<number>" -> maker of the head on that block's output. Metrics carry the block's name where there
            are several heads.
        tuned: train the trunk as well. From an untrained one, this is the supervised network.
        init: of the heads, "he" (what the code's probes use) or "library".
        head_seed: fixes the heads' initial weights, so that arms with the same seed start alike.
        optimizer, schedule: see StageModule.
    Raises:
        ValueError: a head is for a block that is not there, or several share a tuned trunk.
    """

    def __init__(
        self,
        source: RotNet,
        classes: int,
        heads: Mapping[str, HeadFactory],
        tuned: bool = False,
        init: str = "he",
        head_seed: int = 0,
        optimizer: OptimizerFactory | None = None,
        schedule: Schedule | None = None,
    ) -> None:
        blocks = {f"block{i + 1}": i for i in range(len(source.trunk))}
        if wrong := sorted(set(heads) - set(blocks)):
            raise ValueError(f"heads.{wrong[0]}: there is no such block; expected some of {', '.join(blocks)}")
        if not heads or (tuned and len(heads) > 1):
            raise ValueError(
                f"heads has {len(heads)} entries; expected one or more, and one on a trunk that is trained"
            )
        named = {block: f"{block}_top1" if len(heads) > 1 else "top1" for block in heads}
        super().__init__(list(named.values()), classes, 1, optimizer, schedule)
        self.named, self.depths = named, {block: blocks[block] for block in heads}
        trunk = source.trunk.first(1 + max(self.depths.values()))
        self.heads = nn.ModuleDict()
        with torch.random.fork_rng(devices=[]):
            for block, depth in self.depths.items():
                torch.manual_seed(1000 * head_seed + depth)
                self.heads[block] = heads[block](trunk.shapes[depth], classes)
                initialise(self.heads[block], init, dense=True)
        self.heads.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.trunk = trunk.requires_grad_(True) if tuned else nn.Identity()
        self.frozen = None if tuned else FrozenTrunk(trunk)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(B, C, S, S) -> block: logits (B, classes) of its head."""
        outputs = self.frozen.outputs(x, self.depths.values()) if self.frozen else dict(enumerate(self.trunk(x)))
        return {block: head(outputs[self.depths[block]]) for block, head in self.heads.items()}

    def predictions(self, batch: tuple[Tensor, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
        return {self.named[block]: (logits, batch[1]) for block, logits in self(batch[0]).items()}

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        found = self.predictions(batch)
        loss = torch.stack([F.cross_entropy(logits, y) for logits, y in found.values()]).sum()
        right = {name: 100 * (logits.argmax(-1) == y).float().mean() for name, (logits, y) in found.items()}
        self.track(len(batch[1]), loss=loss, **right)
        return loss


class Comparison(Scored):
    """Two trained probes on the same test images: how many points `first` is ahead, for each head they share.

    Logs `test/<block>_gap`, or `test/gap` where each has one head. Not trained.

    Args:
        first, second: the probes.
        titles: what to call them in the picture.
        classes: number of classes.
    Raises:
        ValueError: the probes share no head.
    """

    def __init__(self, first: Probe, second: Probe, classes: int, titles: Sequence[str] = ("first", "second")) -> None:
        shared = [name for name in first.named.values() if name in second.named.values()]
        if not shared:
            raise ValueError(f"heads: {', '.join(first.named)} and {', '.join(second.named)} have none in common")
        super().__init__([f"{which}_{name}" for which in ("first", "second") for name in shared], classes)
        self.first, self.second, self.shared, self.titles = first, second, shared, list(titles)

    def forward(self, x: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        return self.first(x), self.second(x)

    def predictions(self, batch: tuple[Tensor, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
        both = {"first": self.first.predictions(batch), "second": self.second.predictions(batch)}
        return {f"{which}_{name}": found[name] for which, found in both.items() for name in self.shared}

    def on_test_epoch_end(self) -> None:
        found = self.measured("test")
        gaps = {name.replace("top1", "gap"): found[f"first_{name}"] - found[f"second_{name}"] for name in self.shared}
        self.log_dict({f"test/{name}": value for name, value in {**gaps, "n": found["n"]}.items()})

    def pictures(self, data: Any) -> dict[str, Figure]:
        """Accuracy of both per block, as bars."""
        if len(self.shared) < 2:
            return {}
        for batch in islice(data.test_dataloader(), 1 + PICTURED // data.batch_size):
            self.measure((batch[0].to(self.device), batch[1].to(self.device)), "test")
        found = self.measured("test")
        figure = Figure(figsize=(9, 3), layout="constrained")
        ax = figure.subplots()
        for offset, which, title in ((-0.2, "first", self.titles[0]), (0.2, "second", self.titles[1])):
            places = [i + offset for i in range(len(self.shared))]
            values = [float(found[f"{which}_{name}"]) for name in self.shared]
            ax.bar_label(ax.bar(places, values, 0.38, label=title), fmt="%.1f", fontsize=8)
        ax.set_xticks(range(len(self.shared)), [name.removesuffix("_top1") for name in self.shared])
        ax.set(ylim=(0, 112), ylabel="top-1, %", title=f"probe of each block, {int(found['n']):,} test images")
        ax.legend(loc="upper right", ncols=2, fontsize=8)
        return {"accuracy per block": figure}
