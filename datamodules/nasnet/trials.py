"""Numbered trials instead of images: what searches over architectures train on, with the images for each trial."""

from __future__ import annotations

from dataclasses import replace

from datamodules.common.arrays import ArrayData
from datamodules.common.base import DataError, Spec
from datamodules.common.loader import Loader
from datamodules.common.views import View


class Trials(View):
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
        super().__init__(source, batch_size, seed, generated)
        if trials < 1 or (trials % batch_size and not generated):
            raise DataError(f"trials={trials}: expected a multiple of batch_size={batch_size}, at least one batch")
        self.trials = batch_size * 2 if generated else trials
        self.declared_trials = trials

    @property
    def spec(self) -> Spec:
        there = self.source.spec
        own = ", ".join(f"{n:,} {name}" for name, n in there.sizes.items())
        split = f"train counts trials; each has {own} images: {there.split}"
        return replace(there, split=split, sizes={**there.sizes, "train": self.declared_trials})

    def setup(self, stage: str | None = None) -> None:
        self.source.setup(stage)

    def train_dataloader(self) -> Loader:
        """Batches of trial numbers (b,) int64, in order; several processes share a batch."""
        return Loader(self.training_in_order(self.trials), lambda share: share.indices)

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
