"""Small real and generated pictures in memory, as LOTA's networks see them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from datamodules.common.arrays import ArrayData
from datamodules.common.base import DataError, Fed, Share, Spec, generator
from datamodules.common.generated_pictures import RealOrGenerated
from datamodules.common.loader import Columns, Loader, batch_type
from datamodules.lota.bits import SELECTIONS, FrontEnd

PLACED = ("test", "val")  # splits whose crops follow from a picture's row


class Patches(RealOrGenerated):
    """One patch of each picture's noise image: x, patch, y, subset, category; see FrontEnd for x and patch.

    The places of the crops follow from epoch and place in the batch in training, and from the row alone otherwise.

    Args:
        front_end: from bytes to what networks see.
        train_select, test_select: "max", "min" or "random" patch; validation goes by the test's.
        aside: share of the source's pictures that, real and generated, no detector is trained on: the val split, on
            which rates are chosen.
        source, batch_size, names, train_on, generators, jpeg, only_real, generated: see RealOrGenerated.
    Raises:
        DataError: an unknown selection, no share, or what RealOrGenerated refuses.
    """

    def __init__(
        self,
        source: ArrayData,
        batch_size: int,
        names: Sequence[str],
        train_on: Sequence[str],
        front_end: FrontEnd,
        generators: Sequence[Fed] = (),
        train_select: str = "max",
        test_select: str = "max",
        aside: float = 0.0,
        jpeg: int | None = None,
        only_real: bool = False,
        generated: bool = False,
    ) -> None:
        super().__init__(source, batch_size, names, train_on, generators, jpeg, only_real, generated=generated)
        check_selections(train_select, test_select)
        if not 0 <= aside < 1:
            raise DataError(f"aside={aside}: expected a share from 0 to below 1")
        self.front_end = front_end
        self.selections = {"train": train_select, "val": test_select, "test": test_select}
        self.aside = aside

    def _counts(self) -> tuple[int, int]:
        """Of the pictures that detectors may learn from: how many they do, and how many lie aside, real ones each."""
        count = self.source.spec.sizes["val"]
        aside = round(self.aside * count)
        return count - aside, aside

    def setup(self, stage: str | None = None) -> None:
        if self.columns:
            return
        super().setup(stage)
        both = self.columns["train"]
        half = len(both["y"]) // 2  # the real ones, then what was generated of or beside each
        seen = torch.arange(half) < half - round(self.aside * half)
        for name, rows in (("train", seen), ("val", ~seen)):
            self.columns[name] = {key: column[rows.repeat(2)] for key, column in both.items()}

    def fetch(self, name: str) -> Callable[[Share], Any]:
        columns = Columns(self.device, **self.columns[name])
        make = batch_type(("x", "patch", "y", "subset", "category"))
        places = torch.empty(0) if name == "train" else self.places(name)

        def fetch(share: Share) -> Any:
            batch = columns(share)
            chosen = share.generator().uniform(self.front_end.draws, 2) if name == "train" else places[share.indices]
            x, patch = self.front_end(batch.x, chosen, self.selections[name])
            return make(x, patch, batch.y, batch.subset, batch.category)

        return fetch

    def places(self, name: str) -> Tensor:
        """Of the crops of each picture of a split that is not trained on, (N, K, 2)."""
        source = generator("crops of test pictures", self.seed, PLACED.index(name))
        return torch.rand(len(self.columns[name]["y"]), self.front_end.draws, 2, generator=source)

    def val_dataloader(self) -> list[Loader]:
        return [self._loader("val")] if self._counts()[1] else []

    @property
    def spec(self) -> Spec:
        front = self.front_end
        there = super().spec
        side = front.size or front.patch or there.shape[-1]
        trained, aside = self._counts()
        sizes = {**there.sizes, "train": 2 * trained, "val": 2 * aside}
        return _described(replace(there, sizes=sizes), side, front)


def _described(spec: Spec, side: int, front: FrontEnd) -> Spec:
    shape = (spec.shape[0], side, side)
    return replace(spec, shape=shape, mean=tuple(front.mean), std=tuple(front.std))


def check_selections(*selections: str) -> None:
    """Raises DataError for a selection that is none."""
    if wrong := [item for item in selections if item not in SELECTIONS]:
        raise DataError(f"select={wrong[0]!r}: expected one of {', '.join(SELECTIONS)}")
