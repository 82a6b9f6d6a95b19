"""Real and generated pictures of which some are held out for validation: what a detector's rate is chosen by."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from datamodules.common.arrays import ArrayData
from datamodules.common.base import DataError, Spec
from datamodules.common.generated_pictures import RealOrGenerated
from datamodules.common.loader import Loader


class HeldOut(RealOrGenerated):
    """RealOrGenerated without its last training pictures, which are the validation split, real and generated alike.

    A real picture and the generated one at its place stay in one split, since an autoencoder's shows the same.

    Args:
        source, batch_size, options: see RealOrGenerated.
        held: real pictures that are held out, and as many generated ones.
    Raises:
        DataError: nothing is held out, or nothing left to train on; see RealOrGenerated.
    """

    def __init__(self, source: ArrayData, batch_size: int, held: int, **options: Any) -> None:
        super().__init__(source, batch_size, **options)
        self.held = held

    @property
    def spec(self) -> Spec:
        there = super().spec
        sizes = {**there.sizes, "train": there.sizes["train"] - 2 * self.held, "val": 2 * self.held}
        return replace(there, sizes=sizes)

    def setup(self, stage: str | None = None) -> None:
        if self.columns:
            return
        super().setup(stage)
        seen = self.columns["train"]
        pairs = len(seen["y"]) // 2  # all real pictures stand before all generated ones
        if not 0 < self.held < pairs:
            raise DataError(f"held={self.held}: expected 1 to {pairs - 1} of {pairs} pictures")
        trained = torch.arange(2 * pairs) % pairs < pairs - self.held
        self.columns["train"] = {name: column[trained] for name, column in seen.items()}
        self.columns["val"] = {name: column[~trained] for name, column in seen.items()}

    def val_dataloader(self) -> list[Loader]:
        return [self._loader("val")]
