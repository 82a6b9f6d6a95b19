"""Small real and generated pictures in memory, as LOTA's networks see them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from datamodules.common.arrays import ArrayData
from datamodules.common.base import Fed, Share, Spec, generator
from datamodules.common.generated_pictures import RealOrGenerated
from datamodules.common.loader import Columns, Loader, batch_type
from datamodules.lota.bits import FrontEnd
from datamodules.lota.subsets import Selection, Subsets

PLACED = ("test", "val")  # splits whose crops follow from a picture's row


@dataclass(frozen=True)
class History:
    """Through which files pictures went; see RealOrGenerated.

    Attributes:
        jpeg: quality of the JPEG file that every picture was last; None for none.
        only_real: only real pictures were JPEG files: a leak on purpose.
    """

    jpeg: int | None = None
    only_real: bool = False


class Patches(RealOrGenerated):
    """One patch of each picture's noise image: x, patch, y, subset, category; see FrontEnd for x and patch.

    The places of the crops follow from epoch and place in the batch in training, and from the row alone otherwise.

    Args:
        source, batch_size, generators, generated: see RealOrGenerated.
        subsets: generators by name, which are trained on, and what share of the pictures, real and generated, lies
            aside for rates to be chosen on.
        front_end: from bytes to what networks see.
        select: which patch that is.
        history: of the pictures' files.
    Raises:
        DataError: what RealOrGenerated refuses.
    """

    def __init__(
        self,
        source: ArrayData,
        batch_size: int,
        subsets: Subsets,
        front_end: FrontEnd,
        generators: Sequence[Fed] = (),
        select: Selection | None = None,
        history: History | None = None,
        generated: bool = False,
    ) -> None:
        files = history or History()
        names, train_on = subsets.names, subsets.train_on
        jpeg, only_real = files.jpeg, files.only_real
        super().__init__(source, batch_size, names, train_on, generators, jpeg, only_real, generated=generated)
        self.front_end = front_end
        self.select = select or Selection()
        self.aside = subsets.aside

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
            x, patch = self.front_end(batch.x, chosen, self.select.of(name))
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
