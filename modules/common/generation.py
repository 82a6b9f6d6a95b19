"""What papers that generate images share: distances between sets of features, extractors, the adversarial part.

Metrics take features or logits, never images, so that the extractor stays out of the metric, the optimiser and the
checkpoint. `fid` and `is` without a suffix mean the standard Inception-v3 (torch-fidelity's port of the 2015 weights);
any other extractor is in the name. All states are sums: several processes measure what one would.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import Metric

from modules.common.classifier import Classifier
from modules.common.module import Frozen, OptimizerFactory, StageModule
from modules.common.schedules import Schedule


def frechet_distance(mean_1: Tensor, cov_1: Tensor, mean_2: Tensor, cov_2: Tensor) -> Tensor:
    """|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)) for means (d,) and covariances (d, d), float64.

    The trace of the root is the sum of the roots of the eigenvalues of A^T S2 A with S1 = A A^T, a symmetric matrix
    with the eigenvalues of S1 S2: two symmetric decompositions, no complex numbers, and nothing special to do when a
    covariance is singular.
    """
    values, vectors = torch.linalg.eigh(cov_1)
    a = vectors * values.clamp(min=0).sqrt()
    product = torch.linalg.eigvalsh(a.T @ cov_2 @ a).clamp(min=0)
    return (mean_1 - mean_2).square().sum() + cov_1.trace() + cov_2.trace() - 2 * product.sqrt().sum()


class FrechetDistance(Metric):
    """The Frechet distance between Gaussians fitted to the features of real and of generated images.

    With fewer images than dimensions both covariances are rank-deficient: the value exists, is biased upwards, and can
    be compared only at equal numbers. NaN below two images on either side.

    Args:
        features: dimensions d.
    """

    full_state_update = False
    higher_is_better = False

    def __init__(self, features: int) -> None:
        super().__init__()
        for side in ("real", "fake"):
            self.add_state(f"{side}_sum", torch.zeros(features, dtype=torch.float64), dist_reduce_fx="sum")
            self.add_state(f"{side}_outer", torch.zeros(features, features, dtype=torch.float64), dist_reduce_fx="sum")
            self.add_state(f"{side}_n", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, features: Tensor, real: bool) -> None:
        """features (B, d) of real or generated images."""
        side, x = "real" if real else "fake", features.double()
        getattr(self, f"{side}_sum").add_(x.sum(0))
        getattr(self, f"{side}_outer").add_(x.T @ x)
        getattr(self, f"{side}_n").add_(len(x))

    def compute(self) -> Tensor:
        (mean_1, cov_1), (mean_2, cov_2) = self._moments("real"), self._moments("fake")
        if not (cov_1.isfinite().all() and cov_2.isfinite().all()):
            return torch.full_like(mean_1[0], math.nan)
        return frechet_distance(mean_1, cov_1, mean_2, cov_2)

    def _moments(self, side: str) -> tuple[Tensor, Tensor]:
        n, total = getattr(self, f"{side}_n"), getattr(self, f"{side}_sum")
        mean = total / n
        return mean, (getattr(self, f"{side}_outer") - torch.outer(total, mean)) / (n - 1)


class InceptionScore(Metric):
    """exp E_x KL(p(y|x) || p(y)), the mean over `splits` parts of the images (10 in the literature).

    An image belongs to part (its number) mod splits, wherever it is generated. The score grows with the size of a part;
    compare it at equal numbers and splits.

    Args:
        classes: C.
        splits: parts.
    """

    full_state_update = False
    higher_is_better = True
    p: Tensor
    p_log_p: Tensor
    n: Tensor

    def __init__(self, classes: int, splits: int = 10) -> None:
        super().__init__()
        self.splits = splits
        self.add_state("p", torch.zeros(splits, classes, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("p_log_p", torch.zeros(splits, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("n", torch.zeros(splits, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, logits: Tensor, numbers: Tensor) -> None:
        """logits (B, C) of generated images; numbers (B,) says which images of all they are."""
        part, log_p = numbers % self.splits, logits.double().log_softmax(-1)
        p = log_p.exp()
        self.p.index_add_(0, part, p)
        self.p_log_p.index_add_(0, part, (p * log_p).sum(-1))
        self.n.index_add_(0, part, torch.ones_like(p[:, 0]))

    def compute(self) -> Tensor:
        used = self.n > 0
        n, q = self.n[used], self.p[used] / self.n[used, None]
        return (self.p_log_p[used] / n - torch.xlogy(q, q).sum(-1)).exp().mean()


class CodebookUse(Metric):
    """How much of a codebook the tokens of images hit.

    `code_use`: percent of the codes that occur in a batch of `per` test images, the mean over whole batches; over one
    test set of any size it would saturate. Batches are drawn at random, always the same ones: test folders are sorted
    by class, and 256 consecutive images of ImageNet show six classes. `perplexity`: exp of the entropy of the codes
    over all images, at most K.

    Args:
        codes: K.
        images: how many test images there are.
        per: images in a batch, whatever the loader's.
    """

    full_state_update = False
    higher_is_better = True
    counts: Tensor
    images: Tensor
    order: Tensor

    def __init__(self, codes: int, images: int, per: int = 256) -> None:
        super().__init__()
        self.codes, self.per = codes, per
        order = torch.randperm(images, generator=torch.Generator().manual_seed(0))
        self.register_buffer("order", order, persistent=False)
        groups = -(-images // per)
        self.add_state("counts", torch.zeros(groups, codes, dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("images", torch.zeros(groups, dtype=torch.long), dist_reduce_fx="sum")

    def group(self, numbers: Tensor) -> Tensor:
        """Which batch each of the test images with these numbers belongs to, (B,)."""
        return self.order[numbers] // self.per

    def update(self, codes: Tensor, numbers: Tensor) -> None:
        """codes (B, T), the tokens of the test images with these numbers (B,)."""
        group = self.group(numbers)
        flat = (group[:, None] * self.codes + codes).flatten()
        self.counts += torch.bincount(flat, minlength=self.counts.numel()).view_as(self.counts)
        self.images += torch.bincount(group, minlength=len(self.images))

    def compute(self) -> dict[str, Tensor]:
        whole = self.images == self.per
        hit = (self.counts[whole if whole.any() else self.images > 0] > 0).double().mean(1)
        share = self.counts.sum(0) / self.counts.sum()
        return {"code_use": 100 * hit.mean(), "perplexity": (-torch.xlogy(share, share).sum()).exp()}


class PixelModule(StageModule):
    """A stage that works on pixels in [0, 1], however its data is normalised, and numbers its test images."""

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.register_buffer("pixel_mean", torch.zeros(1, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.ones(1, 1, 1), persistent=False)
        self._tested = 0

    def setup(self, stage: str) -> None:
        spec = self.trainer.datamodule.spec  # type: ignore[attr-defined]
        self.pixel_mean = torch.tensor(spec.mean, device=self.device).view(-1, 1, 1)
        self.pixel_std = torch.tensor(spec.std, device=self.device).view(-1, 1, 1)

    def pixels(self, x: Tensor) -> Tensor:
        """Images as the data serves them, (B, C, H, W), in units of [0, 1]."""
        return x * self.pixel_std + self.pixel_mean

    def on_fit_end(self) -> None:
        """Frees what a test does not need and published sizes make large: gradients and the optimisers' states."""
        self.zero_grad(set_to_none=True)
        self.trainer.optimizers = []

    def on_test_epoch_start(self) -> None:
        self._tested = 0

    def numbers(self, count: int) -> Tensor:
        """Which images of the test set the next `count` are, (count,): process r of w is dealt r, r + w, r + 2w ..."""
        rank, world = self.trainer.global_rank, self.trainer.world_size
        numbers = rank + world * torch.arange(self._tested, self._tested + count, device=self.device)
        self._tested += count
        return numbers


class Aside(Frozen):
    """One network that a stage uses and never trains, for use by its own methods."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__([network])

    def on(self, device: torch.device) -> Any:
        """The network, on that device."""
        if self._device != device:
            self.networks[0].to(device)
            self._device = device
        return self.networks[0]


class Extractor(Protocol):
    """What metrics are computed with. `suffix` ends their names; `describe` takes pixels in [0, 1]."""

    suffix: str
    features: int
    classes: int

    def describe(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, H, W) -> features (B, d), logits (B, classes)."""


class InceptionV3(StageModule):
    """The extractor that `fid` and `is` mean. Not trained.

    Args:
        pretrained: fetch the weights (95 MB, from torch-fidelity's release page); random otherwise, for dry runs.
        suffix: of the metrics' names; empty, since this is the standard.
    """

    def __init__(self, pretrained: bool = True, suffix: str = "") -> None:
        super().__init__()
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        class Untrained(FeatureExtractorInceptionV3):  # torch-fidelity always loads something; here, nothing
            def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
                return super().load_state_dict(state_dict, strict=bool(state_dict))

        self.suffix, self.features, self.classes = suffix, 2048, 1008
        layers = ["2048", "logits_unbiased"]
        if pretrained:
            self.network = FeatureExtractorInceptionV3("inception", layers)
        else:
            nothing = io.BytesIO()
            torch.save({}, nothing)
            nothing.seek(0)
            self.network = Untrained("inception", layers, feature_extractor_weights_path=nothing)

    def describe(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        bytes_ = (pixels.float() * 255).round().clamp(0, 255).to(torch.uint8)
        with torch.autocast(pixels.device.type, enabled=False):
            return self.network(bytes_.expand(-1, 3, -1, -1))

    def forward(self, x: Tensor) -> Tensor:
        return self.describe(x)[0]


class FeatureClassifier(PixelModule, Classifier):
    """A small classifier trained on the real images, whose last hidden layer gives features for Frechet distances.

    Args:
        network: ends in a linear layer; what enters it are the features.
        suffix: of the metrics' names, e.g. "_convnet": not empty, since its numbers are no standard FID.
        classes, optimizer, schedule: see Classifier.
    """

    network: nn.Sequential

    def __init__(
        self,
        network: nn.Sequential,
        classes: int,
        suffix: str,
        optimizer: OptimizerFactory | None = None,
        schedule: Schedule | None = None,
    ) -> None:
        if not suffix:
            raise ValueError("suffix='': expected a name such as '_convnet'; plain `fid` means Inception-v3")
        super().__init__(network, classes, optimizer=optimizer, schedule=schedule)
        last = network[-1]
        if not isinstance(last, nn.Linear):
            raise ValueError(f"network ends in {type(last).__name__}; expected a Linear, whose input are the features")
        self.suffix, self.features = suffix, last.in_features

    def describe(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast(pixels.device.type, enabled=False):
            features = pixels.float()
            for layer in [*self.network][:-1]:  # a slice of a Sequential's subclass would call its constructor
                features = layer(features)
            return features, self.network[-1](features)

    def forward(self, x: Tensor) -> Tensor:
        return self.network(self.pixels(x))


def lpips_vgg(pretrained: bool = True) -> nn.Module:
    """LPIPS with VGG-16 (Zhang et al. 2018): called with two batches in [-1, 1] it gives (B, 1, 1, 1).

    The weights of its linear layers come with torchmetrics; VGG's are fetched (528 MB).

    Args:
        pretrained: random VGG weights otherwise, for dry runs.
    """
    from torchmetrics.functional.image.lpips import _LPIPS

    return _LPIPS(pretrained=True, net="vgg", pnet_rand=not pretrained)


class EqualizedConv(nn.Module):
    """StyleGAN2's convolution: unit-normal weights scaled at run time, so that all learn at the same speed.

    Args:
        inputs, outputs: channels.
        kernel: side.
        padding: zeros around.
        down: blur with [1, 3, 3, 1] and halve the side (rounded down).
        bias, activate: bias; leaky ReLU of slope 0.2 with gain sqrt(2).
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
        self.scale, self.padding, self.down, self.activate = 1 / math.sqrt(inputs * kernel**2), padding, down, activate
        taps = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
        self.register_buffer("blur", torch.outer(taps, taps)[None, None], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        kernel = self.weight.shape[-1]
        stride = 1
        if self.down:  # before a 1x1 kernel only every second blurred pixel is needed
            blur, early = self.blur.expand(x.shape[1], 1, 4, 4).to(x.dtype), kernel == 1
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
            before, width = width, min(capacity // size, widest)
            layers.append(StyleBlock(before, width))
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
        deviation = (h.reshape(b // group, group, -1).float().var(1, unbiased=False) + 1e-8).sqrt().mean(1)
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


def uniforms(base: int, numbers: Tensor, count: int) -> Tensor:
    """Noise in [0, 1) for images with these numbers (B,), (B, count): the same wherever and in whatever batch they are.

    Args:
        base: one seed for all.
    """
    sources = [torch.Generator().manual_seed(base + number) for number in numbers.tolist()]
    return torch.stack([torch.rand(count, generator=source) for source in sources]).to(numbers.device)


def grid(rows: Sequence[Tensor], labels: Sequence[str]) -> Figure:
    """Rows of at most n pixels images (n, C, H, W), each row with a label; one picture, since axes are slow to draw."""
    n, (channels, height, width) = max(len(row) for row in rows), rows[0].shape[1:]
    sheet = torch.ones(channels, len(rows) * (height + 2), n * (width + 2))
    for line, row in enumerate(rows):
        for column, image in enumerate(row.float().clamp(0, 1).cpu()):
            top, left = line * (height + 2), column * (width + 2)
            sheet[:, top : top + height, left : left + width] = image
    figure = Figure(figsize=(9, 9 * sheet.shape[1] / sheet.shape[2] + 0.1), layout="constrained")
    axes = figure.subplots()
    axes.imshow(sheet.permute(1, 2, 0), cmap="gray", vmin=0, vmax=1)
    axes.set_yticks([line * (height + 2) + height / 2 for line in range(len(rows))], labels, fontsize=8)
    axes.set_xticks([])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return figure
