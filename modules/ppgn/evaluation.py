"""What is measured of generated samples, in a judge's features. Takes tensors, knows nothing of chains.

The judge is a network that neither encoded, nor conditioned, nor trained anything: samples that follow a classifier's
gradient are always right for that classifier.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from modules.common.fid import FrechetDistance
from modules.common.metrics import compute_and_reset
from modules.ppgn.neighbourhoods import density_and_coverage, within_class_distance
from modules.ppgn.sums import Sums, percent

SMALLEST_MS_SSIM = 161  # side in pixels: below, five scales do not fit the kernel


class Rows(Metric):
    """Rows of all batches and all processes, (N, ...)."""

    full_state_update = False
    rows: Any

    def __init__(self) -> None:
        super().__init__()
        self.add_state("rows", [], dist_reduce_fx="cat")

    def update(self, rows: Tensor) -> None:
        self.rows.append(rows)

    def compute(self) -> Tensor:
        return torch.cat(self.rows) if isinstance(self.rows, list) else self.rows


class SampleScores(nn.Module):
    """Scores of one generated sample for each real image of the same class.

    - judge_top1, condition_top1: percent of the samples in which judge and condition network see the target;
    - fid, density, coverage (of the judge's features, names end in its suffix): against the real images;
    - diversity: mean distance of two samples of a class, different chains' ends, over that of two real images;
    - mixing: mean distance of a chain's state half way to its end, over that of two real images of a class: within
      one chain, where diversity is between chains;
    - ms_ssim: of pairs of samples of a class that follow each other, where images are large enough. Pairs are made
      within a process's batch: on several processes they are others.

    Args:
        features: dimensions of the judge's features.
        suffix: of names.
        k: neighbours of density and coverage.
        ms_ssim: measure MS-SSIM, of images in [0, 1] of at least 161 pixels.
    """

    def __init__(self, features: int, suffix: str, k: int = 5, ms_ssim: bool = False) -> None:
        super().__init__()
        self.suffix = suffix
        self.k = k
        self.fid = FrechetDistance(features)
        self.real, self.fake, self.labels = Rows(), Rows(), Rows()
        self.sums = Sums("judge_top1", "condition_top1", "mixing", "ms_ssim", "pairs")
        self.ms_ssim = ms_ssim

    def update(self, real: Tensor, fake: Tensor, target: Tensor) -> None:
        """Judge's features of real images and of samples, both (B, d), and their class (B,)."""
        self.fid.update(real, real=True)
        self.fid.update(fake, real=False)
        self.real.update(real)
        self.fake.update(fake)
        self.labels.update(target)
        self.sums.count(len(fake))

    def judge(self, judge: Tensor, condition: Tensor, moved: Tensor) -> None:
        """Whether judge and condition network see a sample's target, and how far its features moved, (B,) each."""
        self.sums.add(judge_top1=percent(judge), condition_top1=percent(condition), mixing=moved)

    def compare(self, pixels: Tensor, target: Tensor) -> None:
        """MS-SSIM of neighbouring samples of a class, pixels (B, C, S, S) in [0, 1]."""
        if not self.ms_ssim or min(pixels.shape[-2:]) < SMALLEST_MS_SSIM:
            return
        from torchmetrics.functional.image import multiscale_structural_similarity_index_measure as ms_ssim

        alike = (target[:-1] == target[1:]).nonzero().flatten()
        if len(alike):
            value = ms_ssim(pixels[alike], pixels[alike + 1], data_range=1.0, reduction="none")
            self.sums.add(ms_ssim=value, pairs=torch.ones(len(alike)))

    def compute(self) -> dict[str, Tensor]:
        """Every metric by name; starts anew."""
        sums = self.sums.compute()
        real, fake, labels = compute_and_reset(self.real), compute_and_reset(self.fake), compute_and_reset(self.labels)
        n = sums["n"]
        typical = within_class_distance(real, labels)
        scores = {
            "judge_top1": sums["judge_top1"] / n,
            "condition_top1": sums["condition_top1"] / n,
            f"fid{self.suffix}": compute_and_reset(self.fid),
            "diversity": within_class_distance(fake, labels) / typical,
            "mixing": sums["mixing"] / n / typical,
            "n": n,
        }
        if len(real) > self.k:
            scores[f"density{self.suffix}"], scores[f"coverage{self.suffix}"] = density_and_coverage(real, fake, self.k)
        if self.ms_ssim and sums["pairs"]:
            scores["ms_ssim"] = sums["ms_ssim"] / sums["pairs"]
        return scores
