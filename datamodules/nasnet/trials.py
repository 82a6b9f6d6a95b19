"""Numbered trials instead of images: what searches over architectures train on, with the images for each trial."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch

from datamodules.common.arrays import ArrayData
from datamodules.common.base import Batches, DataError, DataModule, Share, Spec
from datamodules.common.loader import Loader


class InOrder(Batches):
    """Training batches of 0, 1, 2, ... that are global and resumable like shuffled ones."""

    def __iter__(self) -> Iterator[Share]:
        for share in super().__iter__():
            first = (self.position - 1) * self.batch_size + share.start
            yield replace(share, indices=torch.arange(first, first + len(share.indices)))


class Trials(DataModule):
    """`trials` numbers per epoch, `batch_size` of them per step, and the images that a trial's own training uses.

    Args:
        source: images; its splits, seed, augmentation and batch size are those of every trial. A search takes its
            rewards from the val split.
        batch_size: trials per step, over all devices.
        trials: per epoch, a multiple of the batch size.
        generated: see DataModule.
    Raises:
        DataError: the numbers do not divide.
    """

    def __init__(self, source: ArrayData, batch_size: int, trials: int, seed: int = 0, generated: bool = False) -> None:
        super().__init__(batch_size, seed, generated)
        source.generated = source.generated or generated
        self.source, self.trials = source, batch_size * 2 if generated else trials
        if trials < 1 or (trials % batch_size and not generated):
            raise DataError(f"trials={trials}: expected a multiple of batch_size={batch_size}, at least one batch")
        self.declared_trials = trials

    @property
    def root(self) -> Path | None:
        return getattr(self.source, "root", None)

    @property
    def spec(self) -> Spec:
        there = self.source.spec
        own = ", ".join(f"{n:,} {name}" for name, n in there.sizes.items())
        split = f"train counts trials; each has {own} images: {there.split}"
        return replace(there, split=split, sizes={**there.sizes, "train": self.declared_trials})

    def available(self) -> str:
        return self.source.available()

    def prepare_data(self) -> None:
        self.source.prepare_data()

    def setup(self, stage: str | None = None) -> None:
        self.source.setup(stage)

    def train_dataloader(self) -> Loader:
        """Batches of trial numbers (b,) int64, in order; several processes share a batch."""
        rank, world = self.rank_and_world
        batches = InOrder(self.trials, self.batch_size, shuffle=True, seed=self.seed, rank=rank, world=world)
        return Loader(batches, lambda share: share.indices)

    def val_dataloader(self) -> list[Loader]:
        return []

    def test_dataloader(self) -> Loader:
        return self.images("test")

    def images(self, split: str) -> Loader:
        """The images of one trial's training ("train"), reward ("val") or test, whole on every process.

        Raises DataError for another name or an empty split.
        """
        if split not in ("train", "val", "test") or not self.source.spec.sizes[split]:
            raise DataError(f"{self.source.spec.name} has no {split} images: expected train, val_size or test_size > 0")
        return self.source._loader(split)
