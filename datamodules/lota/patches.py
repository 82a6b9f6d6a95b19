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
from datamodules.common.loader import Columns, batch_type
from datamodules.lota.bits import SELECTIONS, FrontEnd


class Patches(RealOrGenerated):
    """One patch of each picture's noise image: x, patch, y, subset, category; see FrontEnd for x and patch.

    The places of the crops follow from epoch and place in the batch in training, and from the row alone in the test.

    Args:
        front_end: from bytes to what networks see.
        train_select, test_select: "max", "min" or "random" patch.
        source, batch_size, names, train_on, generators, jpeg, only_real, generated: see RealOrGenerated.
    Raises:
        DataError: an unknown selection, or what RealOrGenerated refuses.
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
        jpeg: int | None = None,
        only_real: bool = False,
        generated: bool = False,
    ) -> None:
        super().__init__(source, batch_size, names, train_on, generators, jpeg, only_real, generated=generated)
        check_selections(train_select, test_select)
        self.front_end = front_end
        self.selections = {"train": train_select, "test": test_select}

    def fetch(self, name: str) -> Callable[[Share], Any]:
        columns = Columns(self.device, **self.columns[name])
        make = batch_type(("x", "patch", "y", "subset", "category"))
        places = torch.empty(0) if name == "train" else self.test_places(len(self.columns[name]["y"]))

        def fetch(share: Share) -> Any:
            batch = columns(share)
            chosen = share.generator().uniform(self.front_end.draws, 2) if name == "train" else places[share.indices]
            x, patch = self.front_end(batch.x, chosen, self.selections[name])
            return make(x, patch, batch.y, batch.subset, batch.category)

        return fetch

    def test_places(self, count: int) -> Tensor:
        """Of each test picture's crops, (count, K, 2)."""
        source = generator("crops of test pictures", self.seed)
        return torch.rand(count, self.front_end.draws, 2, generator=source)

    @property
    def spec(self) -> Spec:
        front = self.front_end
        there = super().spec
        side = front.size or front.patch or there.shape[-1]
        return _described(there, side, front)


def _described(spec: Spec, side: int, front: FrontEnd) -> Spec:
    shape = (spec.shape[0], side, side)
    return replace(spec, shape=shape, mean=tuple(front.mean), std=tuple(front.std))


def check_selections(*selections: str) -> None:
    """Raises DataError for a selection that is none."""
    if wrong := [item for item in selections if item not in SELECTIONS]:
        raise DataError(f"select={wrong[0]!r}: expected one of {', '.join(SELECTIONS)}")
