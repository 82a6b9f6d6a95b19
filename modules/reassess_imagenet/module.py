"""Re-assessing ImageNet: How aligned is its single-label assumption with its multi-label nature? (Anzaku et al.)

arXiv 2412.18409. Top-1 accuracy falls by 11 to 14 points from ImageNet to ImageNetV2. ImageNetV2 also holds far more
images with several valid labels (48% against 16%), of which top-1 counts one. Scored against all valid labels
(`scores`: ReaL, variable top-k, ASMA) the gap is said to shrink to little or nothing.

Two sets differ in how many labels their images have and in the images themselves. `Reassessment` measures one network
on both and takes the gap of each score apart (`scores.take_apart`): on images with one valid label, and with both sets'
groups in the same shares. What is left then is not a matter of how many labels an image has.

What the paper leaves open, and what is done here:
- variable top-k: the share of the first n_i ranks that are valid; the strict reading is reported beside it.
- ASMA: the unweighted mean over groups of at least `least` images, with the number of groups.
- multi-label prediction capability (MLPC) has no formula of its own; `mlpc` is variable top-k above what the same first
  rank followed by guesses would score, over images with two labels or more.
- top-1 is reported over all images, as published, and over those with labels; gaps are taken over the latter.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F

from modules.common.classifier import Classifier
from modules.common.module import OptimizerFactory
from modules.common.multilabel import MultiLabelAccuracy
from modules.common.schedules import Schedule
from modules.reassess_imagenet import pictures, scores
from modules.reassess_imagenet.scores import Groups, Subgroups


def set_cross_entropy(z: Tensor, valid: Tensor) -> Tensor:
    """Cross-entropy of logits z (B, C) with equal weight on each valid label; valid (B, L), padded, none empty."""
    there = valid >= 0
    log_p = z.log_softmax(1).gather(1, valid.clamp(min=0))  # (B, L)
    return -(torch.where(there, log_p, 0.0).sum(1) / there.sum(1)).mean()


class Reassessment(Classifier):
    """A classifier, measured on sets of images whose valid labels are known.

    Batches are (images, original label (B,), valid (B, L) padded with -1), of one test loader for each set.

    Args:
        network: (B, C_in, H, W) -> logits (B, classes); or an earlier stage, whose network is measured.
        classes: number of classes.
        sets: names of the test loaders, in their order; the gaps are first - second.
        learns: where a stage fits it, from the "one" original label of an image or from "all" of its valid labels.
        least: images that a group needs to count in ASMA.
        last: groups of this many labels and more are one where gaps are taken apart.
        optimizer, schedule: see StageModule.
    Raises:
        ValueError: an argument out of its range, or more test loaders than sets.
    """

    def __init__(
        self,
        network: nn.Module,
        classes: int,
        sets: Sequence[str] = ("v1", "v2"),
        learns: str = "one",
        least: int = 30,
        last: int = 4,
        optimizer: OptimizerFactory | None = None,
        schedule: Schedule | None = None,
    ) -> None:
        judged = network.network if isinstance(network, Reassessment) else network
        super().__init__(judged, classes, optimizer=optimizer, schedule=schedule)
        if learns not in ("one", "all"):
            raise ValueError(f"learns={learns!r}: expected one or all")
        if not 1 <= last <= scores.MOST:
            raise ValueError(f"last={last}: expected a number from 1 to {scores.MOST}")
        self.sets, self.learns, self.least, self.last = list(sets), learns, least, last
        self.subgroups = {name: Subgroups(classes) for name in sets}
        self.accuracy = {name: MultiLabelAccuracy(classes) for name in sets}
        for name in sets:  # registered for moves between devices
            self.add_module(f"subgroups_{name}", self.subgroups[name])
            self.add_module(f"accuracy_{name}", self.accuracy[name])
        self.groups: dict[str, Groups] = {}  # of a test in this process

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        z = self(batch.x)  # (B, classes)
        loss = F.cross_entropy(z, batch.y) if self.learns == "one" else set_cross_entropy(z, batch.valid)
        self.track(len(batch.y), loss=loss, top1=100 * (z.argmax(1) == batch.y).float().mean())
        return loss

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        if dataloader_idx >= len(self.sets):
            raise ValueError(f"sets={self.sets}: the data has {dataloader_idx + 1} test loaders or more")
        name = self.sets[dataloader_idx]
        x, original, valid = batch[:3]

        z = self(x).float()
        self.subgroups[name].update(z, original, valid)
        unlabelled = scores.label_counts(valid) == 0
        self.accuracy[name].update(scores.rank_classes(z, 1)[:, 0], original, valid, unlabelled)

    def on_test_epoch_end(self) -> None:
        numbers: dict[str, float] = {}
        self.groups = {}
        for name in self.sets:
            accuracy = self.accuracy[name].compute()
            if not accuracy["n"]:
                continue  # a loader fewer than there are names
            self.groups[name] = self.subgroups[name].groups()
            numbers |= {f"{name}_{score}": value for score, value in self.summary(accuracy, self.groups[name]).items()}
        if len(self.groups) > 1:
            numbers |= self.gaps(*(self.groups[name] for name in self.sets[:2]))
        # what a set cannot tell (a group that it lacks) is left out
        self.log_dict({f"test/{name}": value for name, value in numbers.items() if value == value})
        for name in self.sets:
            self.subgroups[name].reset()
            self.accuracy[name].reset()

    def summary(self, accuracy: dict[str, Tensor], groups: Groups) -> dict[str, float]:
        """One set's numbers: of all its images (n, top1), of those with labels (the rest), and by group.

        Percent, but for counts and `labels`, the mean of n_i. `mla` is ReaL in the mean over classes, `valid_share` the
        part of the top-1 mistakes that is valid.
        """
        aggregate, used = scores.asma(groups, self.least)
        several = torch.where(torch.arange(len(groups.images)) > 0, groups.shares, 0.0)
        numbers = {name: float(accuracy[name]) for name in ("n", "top1", "mla", "valid_share")}
        numbers |= {"usable": float(accuracy["counted"]), "real": float(accuracy["ml_acc"])}
        numbers |= {
            "top1_usable": 100 * float(groups.mean("top1")),
            "vtk": 100 * float(groups.mean("vtk")),
            "strict": 100 * float(groups.mean("strict")),
            "ceiling": 100 * float(groups.mean("ceiling")),
            "asma": 100 * float(aggregate),
            "asma_groups": float(used),
            "multi": 100 * float(several.sum()),
            "labels": float((groups.shares * torch.arange(1, len(several) + 1)).sum()),
            "mlpc": 100 * float(groups.mean("mlpc", several / several.sum())) if several.sum() else float("nan"),
            "vtk_multi": 100 * float(groups.mean("vtk", several / several.sum())) if several.sum() else float("nan"),
        }
        merged = groups.merged(self.last)
        for k in range(1, self.last + 1):
            numbers[f"k{k}_n"] = float(merged.images[k - 1])
            numbers |= {f"k{k}_{s}": 100 * float(merged.scores[s][k - 1]) for s in ("top1", "real", "vtk", "strict")}
        return numbers

    def gaps(self, first: Groups, second: Groups) -> dict[str, float]:
        """gap_<score> and its parts, see scores.take_apart; points, over images with labels."""
        aggregates = [float(scores.asma(groups, self.least)[0]) for groups in (first, second)]
        numbers = {"gap_asma": 100 * (aggregates[0] - aggregates[1])}
        for name in scores.COMPARED:
            gap = scores.take_apart(first.merged(self.last), second.merged(self.last), name)
            numbers[f"gap_{name}"] = 100 * float(gap.pop("plain"))
            numbers[f"counts_{name}"] = 100 * float(gap.pop("counts"))
            numbers |= {f"gap_{name}_{part}": 100 * float(value) for part, value in gap.items()}
        return numbers

    def pictures(self, data: Any) -> dict[str, Figure]:
        """Scores by number of labels, the gap and what is left of it, and images with labels and first ranks."""
        if not self.groups:
            return {}
        merged = {name: groups.merged(self.last) for name, groups in self.groups.items()}
        drawn = {"scores by number of valid labels": pictures.draw_groups(merged)}
        if len(merged) > 1:
            drawn["gap between the sets"] = pictures.draw_gaps(self.gaps(*(merged[name] for name in self.sets[:2])))
        loaders = data.test_dataloader()
        x, original, valid = next(iter(loaders[len(self.groups) - 1]))[:3]
        chosen = scores.label_counts(valid).argsort(descending=True, stable=True)[:6]
        with torch.inference_mode():
            ranked = scores.rank_classes(self(x[chosen].to(self.device)).float().cpu(), 4)
        shown = data.shown(x[chosen])
        names = data.spec.classes
        drawn["labels and first ranks"] = pictures.draw_examples(shown, original[chosen], valid[chosen], ranked, names)
        return drawn
