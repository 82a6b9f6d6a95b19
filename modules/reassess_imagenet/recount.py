"""The label files of ImageNet and ImageNetV2 counted: how many images have how many valid labels (arXiv 2412.18409)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torchmetrics import Metric

from modules.common.module import StageModule
from modules.reassess_imagenet import pictures
from modules.reassess_imagenet.scores import MOST, label_counts


def pairs_of(valid: Tensor, classes: int) -> Tensor:
    """(classes, classes): for how many images (N, L) both classes are valid; the upper triangle alone."""
    first, second = torch.combinations(torch.arange(valid.shape[1])).unbind(1)
    a, b = valid[:, first], valid[:, second]  # (N, L (L - 1) / 2)
    low, high = a.minimum(b), a.maximum(b)
    places = (low * classes + high)[low >= 0]
    return places.bincount(minlength=classes * classes).view(classes, classes)


class LabelCensus(Metric):
    """How many images have 0, 1, 2, ... valid labels; exact over several processes."""

    full_state_update = False
    images: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("images", torch.zeros(MOST + 1, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, valid: Tensor) -> None:
        """valid (B, L), padded with -1."""
        self.images += label_counts(valid).bincount(minlength=MOST + 1)

    def compute(self) -> Tensor:
        return self.images.clone()


class Recount(StageModule):
    """What the label files say about themselves; nothing is predicted.

    Test data has a loader for each set, of valid sets (B, L) padded with -1. For each set: n images, `empty` and
    `usable` ones, `multi` with two labels or more, their share of the usable ones and of all (percent), the mean number
    of labels of the usable ones, and labels_1, labels_2, ...: images with that many.

    Args:
        sets: names of the test loaders, in their order.
        largest: up to which number of labels images are listed; more are an error.
    """

    def __init__(self, sets: Sequence[str] = ("v1", "v2"), largest: int = 12) -> None:
        super().__init__()
        if not 1 <= largest <= MOST:
            raise ValueError(f"largest={largest}: expected a number from 1 to {MOST}")
        self.sets, self.largest = list(sets), largest
        self.census = {name: LabelCensus() for name in sets}
        for name, census in self.census.items():  # registered for moves between devices
            self.add_module(f"census_{name}", census)

    def forward(self, valid: Tensor) -> Tensor:
        """Nothing is predicted; a dry run counts the operations of this."""
        return valid

    def test_step(self, batch: Tensor, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.census[self.sets[dataloader_idx]].update(batch)

    def on_test_epoch_end(self) -> None:
        numbers: dict[str, float] = {}
        for name, census in self.census.items():
            images = census.compute().cpu()
            if int(images[self.largest + 1 :].sum()):
                raise ValueError(f"{name}: an image has more labels than largest={self.largest}")
            n, usable, several = int(images.sum()), int(images[1:].sum()), int(images[2:].sum())
            labels = int((images * torch.arange(MOST + 1)).sum())
            counted = {"n": n, "empty": n - usable, "usable": usable, "multi": several}
            counted |= {f"labels_{k}": int(images[k]) for k in range(1, self.largest + 1)}
            shares = {"multi_share": 100 * several / usable, "multi_share_of_all": 100 * several / n}
            numbers |= {f"test/{name}_{key}": float(value) for key, value in (counted | shares).items()}
            numbers[f"test/{name}_mean_labels"] = labels / usable
            census.reset()
        self.log_dict(numbers)

    def pictures(self, data: Any) -> dict[str, Figure]:
        """Histograms of label counts, and the classes that are most often valid together."""
        names = data.spec.classes
        pairs = {}
        for name, valid in data.tables.items():
            together = pairs_of(valid, len(names))
            counts, order = together.flatten().sort(descending=True, stable=True)
            top = [divmod(int(place), len(names)) for place in order[:10]]
            pairs[name] = [(names[a], names[b], int(n)) for (a, b), n in zip(top, counts.tolist(), strict=False)]
        return {
            "valid labels of an image": pictures.draw_histograms(data.tables),
            "classes valid together": pictures.draw_pairs(pairs),
        }
