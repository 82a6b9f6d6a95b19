"""Data that is drawn by the seed and held in memory, column by column."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from datamodules.common.base import DataModule, Spec, hashed
from datamodules.common.loader import Columns, Loader


class DrawnData(DataModule):
    """A training and a test set of named columns, drawn when they are first needed; there is no validation set.

    A subclass describes what is drawn, without its identity, and draws it.

    Args:
        described: the spec, its sizes included.
        batch_size, seed, generated: see DataModule; the data is drawn in any case.
    """

    def __init__(self, described: Spec, batch_size: int, seed: int, generated: bool) -> None:
        super().__init__(batch_size, seed, generated)
        self.columns: dict[str, dict[str, Tensor]] = {}
        self._spec = described

    @property
    def spec(self) -> Spec:
        return self._spec

    @property
    def splits(self) -> dict[str, tuple[Tensor, Tensor]]:
        """x and y of each split that is drawn."""
        return {name: (columns["x"], columns["y"]) for name, columns in self.columns.items()}

    def draw(self) -> dict[str, dict[str, Tensor]]:
        """The columns of each split, `train` and `test`: x, y and what else a batch has, each with a row per image."""
        raise NotImplementedError(f"{type(self).__name__} draws nothing")

    def setup(self, stage: str | None = None) -> None:
        if self.columns:
            return
        self.columns = self.draw()
        identity = hashed(*(column for split in self.columns.values() for column in split.values()))
        self._spec = replace(self._spec, identity=identity)

    def _loader(self, name: str) -> Loader:
        columns = self.columns[name]
        return Loader(self.batches(len(columns["y"]), shuffle=name == "train"), Columns(self.device, **columns))

    def train_dataloader(self) -> Loader:
        return self._loader("train")

    def val_dataloader(self) -> list[Loader]:
        return []

    def test_dataloader(self) -> Loader:
        return self._loader("test")
