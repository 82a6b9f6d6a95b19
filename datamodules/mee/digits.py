"""Stacked digits, a distribution of 1,000 modes, and the digits of the judge who names them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from datamodules.common.arrays import ArrayData, Split
from datamodules.common.base import DataError, DataModule, Spec, generator, hashed
from datamodules.common.loader import Columns, Images, Loader
from datamodules.common.views import View

SPLITS = ("train", "test", "val")


class JudgeDigits(View, ArrayData):
    """Single digits that nobody stacks for training: learns from the source's val part, is tested on its test part.

    Images are in [-1, 1], as stacks are.

    Args:
        source: single digits; its splits and seed are used.
        batch_size: the global batch, over all devices.
        augment: see ArrayData.
        generated: see DataModule.
    """

    def __init__(self, source: ArrayData, batch_size: int, generated: bool = False, **options: Any) -> None:
        super().__init__(source, batch_size, generated=generated, **options)
        self.peak = source.peak

    def declared(self) -> Spec:
        there = self.source.spec
        sizes = {"train": there.sizes["val"], "test": there.sizes["test"]}
        split = f"{there.split}; learns from val, tested on test"
        return replace(there, sizes=sizes, mean=(0.5,), std=(0.5,), split=split)

    def read(self) -> tuple[Split, Split]:
        self.source.setup()
        return self.source.splits["val"], self.source.splits["test"]


class StackedDigits(View, DataModule):
    """Images whose channels are digits, drawn at random: as many modes as numbers with that many digits.

    Training stacks are made of the source's training part, test stacks of its test part, less `val_digits` of which
    stacks to choose a recipe by are made. Images are in [-1, 1], and the label is the number: channel 0 holds the
    hundreds of three.

    Args:
        source: single digits (1, H, W); its splits and seed are used.
        batch_size: the global batch, over all devices.
        channels: digits in a stack.
        train_size, test_size, val_size: stacks.
        val_digits: of the source's test part, that only validation stacks are made of.
        generated: see DataModule.
    Raises:
        DataError: a number that makes no sense, or validation stacks without digits.
    """

    def __init__(
        self,
        source: ArrayData,
        batch_size: int,
        channels: int = 3,
        train_size: int = 12_800,
        test_size: int = 10_000,
        val_size: int = 0,
        val_digits: int = 0,
        generated: bool = False,
    ) -> None:
        super().__init__(source, batch_size, generated=generated)
        for name, value in {"channels": channels, "train_size": train_size, "test_size": test_size}.items():
            if value < 1:
                raise DataError(f"{name}={value}: expected 1 or more")
        there = source.spec.sizes["test"]
        if not bool(val_size) <= val_digits < there:
            raise DataError(
                f"val_digits={val_digits} for val_size={val_size} stacks: expected from {int(bool(val_size))} to below "
                f"the {there} test digits"
            )
        self.channels = channels
        self.val_digits = val_digits
        self.sizes = {"train": train_size, "val": val_size, "test": test_size}
        self.splits: dict[str, dict[str, Tensor]] = {}
        self._spec: Spec | None = None

    @property
    def spec(self) -> Spec:
        return self._spec or self._declared()

    def _declared(self) -> Spec:
        there = self.source.spec
        return Spec(
            name=f"{there.name}, {self.channels} stacked",
            shape=(self.channels, *there.shape[1:]),
            classes=tuple(f"{n:0{self.channels}d}" for n in range(10**self.channels)),
            sizes=self.sizes,
            mean=(0.5,) * self.channels,
            std=(0.5,) * self.channels,
            split=f"{there.split}; stacks of training digits and of test digits, drawn by the seed",
            source=there.source,
            where=there.where,
        )

    def setup(self, stage: str | None = None) -> None:
        if self.splits:
            return
        self.source.setup(stage)
        self.splits = {name: self._draw(name, self.sizes[name]) for name in SPLITS if self.sizes[name]}
        columns = [t for split in self.splits.values() for t in split.values()]
        digits = [images for images, _ in self.source.splits.values()]
        self._spec = replace(self._declared(), identity=hashed(*columns, *digits))

    def digits_of(self, name: str) -> Split:
        """Single digits that stacks of a split are made of, (N, 1, H, W) uint8, and their labels (N,)."""
        if name == "train":
            return self.source.splits["train"]
        images, labels = self.source.splits["test"]
        own = slice(self.val_digits) if name == "val" else slice(self.val_digits, None)
        return images[own], labels[own]

    def _draw(self, name: str, count: int) -> dict[str, Tensor]:
        """Which digits each stack is of, (n, channels), and its number, (n,)."""
        labels = self.digits_of(name)[1]
        source = generator("stacks of digits", self.seed, SPLITS.index(name))
        rows = torch.randint(len(labels), (count, self.channels), generator=source)
        powers = 10 ** torch.arange(self.channels - 1, -1, -1)
        return {"rows": rows, "y": (labels[rows] * powers).sum(1)}

    def single_digits(self) -> tuple[Tensor, Tensor]:
        """The digits that training stacks are made of, and those of test stacks: (N, 1, H, W) in [0, 1]."""
        train, test = (self.digits_of(name)[0].float() / self.source.peak for name in ("train", "test"))
        return train, test

    def _loader(self, name: str) -> Loader:
        split = self.splits[name]
        digits = self.digits_of(name)[0].squeeze(1).to(self.device)  # (N, H, W)

        def stack(batch: Any) -> Any:
            return batch._replace(x=digits[batch.x])  # (B, channels, H, W)

        columns = Columns(self.device, x=split["rows"], y=split["y"])
        fetch = Images(columns, self.spec, self.source.peak, make=stack)
        return Loader(self.batches(len(split["y"]), shuffle=name == "train"), fetch)

    def train_dataloader(self) -> Loader:
        return self._loader("train")

    def val_dataloader(self) -> list[Loader]:
        return [self._loader("val")] if self.sizes["val"] else []

    def test_dataloader(self) -> Loader:
        return self._loader("test")
