"""What is measured of generated samples. Takes tensors, knows nothing of training."""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from modules.common.extractors import Extractor
from modules.common.fid import FrechetDistance
from modules.common.frozen import Frozen
from modules.common.inception_score import InceptionScore
from modules.common.metrics import compute_and_reset


class ModeCounts(Metric):
    """How samples spread over the modes of a distribution whose modes are equally likely.

    - modes: how many have at least `least` of all samples, and one at least;
    - kl: KL(share of samples | uniform), nats: 0 when equal, ln M when all samples are in one of M modes;
    - high_quality: percent of samples that are good.

    With n samples even the true distribution has modes of different counts: its kl is about (M - 1) / (2 n).

    Args:
        modes: M.
        least: share of the samples.
    """

    full_state_update = False
    counts: Tensor
    good: Tensor

    def __init__(self, modes: int, least: float = 0.0) -> None:
        super().__init__()
        self.least = least
        self.add_state("counts", torch.zeros(modes, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("good", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, modes: Tensor, good: Tensor) -> None:
        """The mode of each sample (B,), int64, and whether it is good (B,), bool."""
        self.counts += torch.bincount(modes, minlength=len(self.counts))
        self.good += good.sum()

    def compute(self) -> dict[str, Tensor]:
        n = self.counts.sum()
        share = self.counts / n
        covered = (self.counts > 0) & (share >= self.least)
        return {
            "modes": covered.sum().double(),
            "kl": torch.xlogy(share, share * len(share)).sum(),
            "high_quality": 100 * self.good / n,
            "n": n,
        }


class RingScores(nn.Module):
    """Modes of a ring of Gaussians: a sample belongs to the nearest, and is good within three standard deviations.

    Args:
        modes: M.
        radius: of the ring.
        deviation: of each Gaussian, in both coordinates.
    """

    def __init__(self, modes: int = 8, radius: float = 2.0, deviation: float = 0.1) -> None:
        super().__init__()
        self.centres: Tensor
        self.register_buffer("centres", ring(modes, radius), persistent=False)
        self.deviation = deviation
        self.modes = ModeCounts(modes, least=0.01)

    def start(self, judge: Any) -> None:
        """Nothing is needed of other stages."""

    def prepare(self, data: Any) -> None:
        """Nothing is needed of the data."""

    def update(self, real: Tensor, fake: Tensor, indices: Tensor) -> None:
        """Points (B, 2)."""
        distance, nearest = torch.cdist(fake, self.centres).min(1)
        self.modes.update(nearest, distance < 3 * self.deviation)

    def compute(self) -> dict[str, Tensor]:
        """Every metric by name; starts anew."""
        return compute_and_reset(self.modes)


class StackedScores(nn.Module):
    """Modes of images whose channels are digits: 10 to the power of their number, named by a judge of single digits.

    A stack is good when every digit lies as near to a real training digit, in pixels, as `typical` of the real test
    digits do: a judge is sure of noise, too. Besides `modes`, `kl` and `high_quality` there are `fid`, the Frechet
    distance to the real stacks in the judge's features of all channels, named after the judge; and `real_kl` and
    `real_high_quality`, of the real test stacks.

    Args:
        channels: digits in a stack.
        typical: share of the real test digits.
    """

    def __init__(self, channels: int = 3, typical: float = 0.95) -> None:
        super().__init__()
        self.channels = channels
        self.typical = typical
        self.digits = torch.empty(0)  # (N, H W), real training digits
        self.reach = math.inf
        self.modes = ModeCounts(10**channels)
        self.real_modes = ModeCounts(10**channels)
        self.judge: Frozen | None = None
        self.suffix = ""

    def start(self, judge: Extractor) -> None:
        """Judge with this stage's network of single digits (B, 1, H, W)."""
        self.judge = Frozen([cast(nn.Module, judge)])
        self.suffix = judge.suffix
        self.fid = FrechetDistance(self.channels * judge.features)

    def prepare(self, data: Any) -> None:
        """Learn from the stacks' datamodule what single digits look like."""
        train, test = data.single_digits()
        self.digits = train.flatten(1)
        self.reach = float(torch.cdist(test.flatten(1), self.digits).amin(1).quantile(self.typical))

    def look(self, stacks: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Pixels (B, C, H, W) in [0, 1] -> modes (B,), whether they are good (B,), features (B, C d)."""
        assert self.judge is not None
        b, c, height, width = stacks.shape
        (judge,) = self.judge.on(stacks.device)
        digits = stacks.reshape(b * c, 1, height, width)
        features, logits = judge.describe(digits)
        labels = logits.argmax(-1)
        powers = 10 ** torch.arange(c - 1, -1, -1, device=stacks.device)  # the first channel is the hundreds
        modes = (labels.view(b, c) * powers).sum(1)
        distance = torch.cdist(digits.flatten(1), self.digits.to(digits)).amin(1)  # to the nearest real digit
        return modes, (distance.view(b, c) <= self.reach).all(1), features.reshape(b, -1)

    def update(self, real: Tensor, fake: Tensor, indices: Tensor) -> None:
        """Stacks (B, C, H, W) in [-1, 1]."""
        for stacks, counts, is_real in ((real, self.real_modes, True), (fake, self.modes, False)):
            modes, good, features = self.look((stacks + 1) / 2)
            counts.update(modes, good)
            self.fid.update(features, real=is_real)

    def compute(self) -> dict[str, Tensor]:
        """Every metric by name; starts anew."""
        real = compute_and_reset(self.real_modes)
        return {
            **compute_and_reset(self.modes),
            f"fid{self.suffix}": compute_and_reset(self.fid),
            "real_high_quality": real["high_quality"],
            "real_kl": real["kl"],
        }


class InceptionVariance(Metric):
    """I-Variance: the standard deviation of p(y|x) over images x, in the mean over classes and over `splits` parts.

    As released, with n in the denominator. An image belongs to part (its number) mod splits.

    Args:
        classes: C.
        splits: parts.
    """

    full_state_update = False
    higher_is_better = True
    p: Tensor
    squares: Tensor
    n: Tensor

    def __init__(self, classes: int, splits: int = 10) -> None:
        super().__init__()
        self.splits = splits
        for name, shape in (("p", (splits, classes)), ("squares", (splits, classes)), ("n", (splits,))):
            self.add_state(name, torch.zeros(shape, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, logits: Tensor, numbers: Tensor) -> None:
        """logits (B, C) of generated images; numbers (B,) says which images of all they are."""
        part, p = numbers % self.splits, logits.double().softmax(-1)
        self.p.index_add_(0, part, p)
        self.squares.index_add_(0, part, p.square())
        self.n.index_add_(0, part, torch.ones_like(p[:, 0]))

    def compute(self) -> Tensor:
        used = self.n > 0
        n = self.n[used, None]
        variance = self.squares[used] / n - (self.p[used] / n).square()
        return variance.clamp(min=0).sqrt().mean()


class PhotoScores(nn.Module):
    """`fid`, `is` and `i_variance` of photos, named after their extractor, and `n`, the images counted.

    Args:
        splits: of the Inception score and the I-Variance.
    """

    def __init__(self, splits: int = 10) -> None:
        super().__init__()
        self.splits = splits
        self.extractor: Frozen | None = None
        self.suffix = ""
        self.n = ModeCounts(1)

    def start(self, judge: Extractor) -> None:
        """Measure in this stage's features."""
        self.extractor = Frozen([cast(nn.Module, judge)])
        self.suffix = judge.suffix
        self.fid = FrechetDistance(judge.features)
        self.inception_score = InceptionScore(judge.classes, self.splits)
        self.i_variance = InceptionVariance(judge.classes, self.splits)

    def prepare(self, data: Any) -> None:
        """Nothing is needed of the data."""

    def update(self, real: Tensor, fake: Tensor, indices: Tensor) -> None:
        """Images (B, C, H, W) in [-1, 1], and which images of all they are (B,)."""
        assert self.extractor is not None
        (extractor,) = self.extractor.on(fake.device)
        features, logits = extractor.describe((fake + 1) / 2)
        self.fid.update(features, real=False)
        self.fid.update(extractor.describe((real + 1) / 2)[0], real=True)
        self.inception_score.update(logits, indices)
        self.i_variance.update(logits, indices)
        self.n.update(torch.zeros_like(indices), torch.ones_like(indices))

    def compute(self) -> dict[str, Tensor]:
        """Every metric by name; starts anew."""
        return {
            f"fid{self.suffix}": compute_and_reset(self.fid),
            f"is{self.suffix}": compute_and_reset(self.inception_score),
            f"i_variance{self.suffix}": compute_and_reset(self.i_variance),
            "n": compute_and_reset(self.n)["n"],
        }


class CodeSpread(Metric):
    """Share of the variance of codes that comes of the samples and not of their resampling, in [0, 1].

    0 for a discriminator that answers the same to everything. Of K dimensions the variances are added.

    Args:
        outcomes: K.
    """

    full_state_update = False
    total: Tensor
    squares: Tensor
    noise: Tensor
    n: Tensor

    def __init__(self, outcomes: int) -> None:
        super().__init__()
        for name, shape in (("total", (outcomes,)), ("squares", ()), ("noise", ()), ("n", ())):
            self.add_state(name, torch.zeros(shape, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, mean: Tensor, log_variance: Tensor) -> None:
        """mu and log sigma^2 of samples, both (B, K)."""
        self.total += mean.double().sum(0)
        self.squares += mean.double().square().sum()
        self.noise += log_variance.double().exp().sum()
        self.n += len(mean)

    def compute(self) -> Tensor:
        signal = self.squares / self.n - (self.total / self.n).square().sum()
        return signal / (signal + self.noise / self.n)


def ring(modes: int, radius: float) -> Tensor:
    """Centres (M, 2) of a ring, the first on the axis of x."""
    angles = torch.arange(modes) * (2 * math.pi / modes)
    return radius * torch.stack([angles.cos(), angles.sin()], 1)
