"""What is measured of ViT-VQGAN's reconstructions and samples. Takes tensors, knows nothing of training."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torchmetrics import SumMetric

from modules.common.extractors import Extractor
from modules.common.fid import FrechetDistance
from modules.common.frozen import Frozen
from modules.common.inception_score import InceptionScore
from modules.vit_vqgan.codebook_use import CodebookUse
from modules.vit_vqgan.kernel_distance import KernelDistance


class ReconstructionMetrics(nn.Module):
    """`mse`, `psnr` (dB), `rfid` named after its extractor, `code_use`, `perplexity`, and `n`, the images counted.

    Args:
        extractor: gives the features of `rfid`.
        codes: K.
    """

    def __init__(self, extractor: Extractor, codes: int) -> None:
        super().__init__()
        self.extractor = Frozen([cast(nn.Module, extractor)])
        self.suffix = extractor.suffix
        self.codes = codes
        self.rfid = FrechetDistance(extractor.features)
        self.squared_error = SumMetric(nan_strategy="disable")
        self.n = SumMetric(nan_strategy="disable")
        self.codebook_use: CodebookUse | None = None  # made in start: its size depends on the test set's
        self._examples: list[tuple[Tensor, Tensor]] = []

    def start(self, images: int) -> None:
        """Get ready for a test set of so many images."""
        self.codebook_use = CodebookUse(self.codes, images).to(self.n.device)
        self._examples = []

    def update(self, x: Tensor, x_hat: Tensor, codes: Tensor, indices: Tensor) -> None:
        """Images and reconstructions (B, C, H, W) in [0, 1], codes (B, T), indices (B,) in the test set."""
        assert self.codebook_use is not None
        self.codebook_use.update(codes, indices)
        shown = self.codebook_use.group(indices) == 0
        self._examples.append((x[shown].cpu(), codes[shown].cpu()))

        self.squared_error.update((x_hat - x).double().square().mean((1, 2, 3)).sum())
        self.n.update(float(len(x)))

        extractor = self.extractor.on(x.device)[0]
        self.rfid.update(extractor.describe(x)[0], real=True)
        self.rfid.update(extractor.describe(x_hat)[0], real=False)

    def compute(self) -> dict[str, Tensor]:
        """Every metric by name; starts anew."""
        assert self.codebook_use is not None
        n = self.n.compute()
        mse = self.squared_error.compute() / n
        metrics = {
            "mse": mse,
            "psnr": -10 * mse.log10(),
            f"rfid{self.suffix}": self.rfid.compute(),
            "n": n,
            **self.codebook_use.compute(),
        }
        for metric in (self.codebook_use, self.squared_error, self.n, self.rfid):
            metric.reset()
        return metrics

    def examples(self) -> tuple[Tensor, Tensor] | None:
        """Images (N, C, H, W) and their codes (N, T): one of the batches that `code_use` counts in, from all classes.

        None before a test.
        """
        if not self._examples:
            return None
        images, codes = zip(*self._examples, strict=True)
        return torch.cat(images), torch.cat(codes)


class SampleMetrics(nn.Module):
    """`fid`, `kid` and `is`, named after their extractor, `nll` (nats per token), and `n`, the images counted.

    Args:
        extractor: gives features and logits.
        splits: of the Inception score.
    """

    def __init__(self, extractor: Extractor, splits: int) -> None:
        super().__init__()
        self.extractor = Frozen([cast(nn.Module, extractor)])
        self.suffix = extractor.suffix
        self.fid = FrechetDistance(extractor.features)
        self.kid = KernelDistance()
        self.inception_score = InceptionScore(extractor.classes, splits)
        self.nll = SumMetric(nan_strategy="disable")
        self.n = SumMetric(nan_strategy="disable")

    def update(self, real: Tensor, generated: Tensor, token_losses: Tensor, indices: Tensor) -> None:
        """Images (B, C, H, W) in [0, 1], -ln p of the real ones' tokens (B, T), indices (B,) of the generated ones."""
        self.nll.update(token_losses.double().mean(1).sum())
        self.n.update(float(len(real)))

        extractor = self.extractor.on(real.device)[0]
        of_real = extractor.describe(real)[0]
        features, logits = extractor.describe(generated)
        for distance in (self.fid, self.kid):
            distance.update(of_real, real=True)
            distance.update(features, real=False)
        self.inception_score.update(logits, indices)

    def compute(self) -> dict[str, Tensor]:
        """Every metric by name; starts anew."""
        n = self.n.compute()
        metrics = {
            f"fid{self.suffix}": self.fid.compute(),
            f"kid{self.suffix}": self.kid.compute(),
            f"is{self.suffix}": self.inception_score.compute(),
            "nll": self.nll.compute() / n,
            "n": n,
        }
        for metric in (self.fid, self.kid, self.inception_score, self.nll, self.n):
            metric.reset()
        return metrics
