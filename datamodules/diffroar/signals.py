"""Vectors whose class is written in one block, which may be another one in every vector: the paper's theorem."""

from __future__ import annotations

import torch
from torch import Tensor

from datamodules.common.base import DataError, DataModule, Spec, generator, hashed
from datamodules.common.loader import Columns, Loader

SIZES = ("train", "test")


class Signals(DataModule):
    """x = [eta g_1, ..., y u + eta g_j, ..., eta g_d] with d blocks of one length, y = +-1, j uniform.

    u is fixed, of length 1: all its coordinates are equal. g_i are normal, of expected squared length 1. j is uniform
    in the first `relevant` blocks; the others are noise in all vectors. Blocks of length 1 without noise, all of them
    relevant, are the released code's x = y e_j. A batch is x (B, 1, 1, d length), y (B,) 0 or 1, and signal (B,), j.

    Args:
        batch_size: the global batch, over all devices.
        blocks: d.
        length: of a block.
        relevant: how many blocks hold the signal of some vector; None is all.
        noise: eta.
        train_size, test_size: vectors.
        seed, generated: see DataModule; the vectors are always generated.
    Raises:
        DataError: a number that makes no sense.
    """

    def __init__(
        self,
        batch_size: int,
        blocks: int = 10,
        length: int = 1,
        relevant: int | None = None,
        noise: float = 0.0,
        train_size: int = 10_000,
        test_size: int = 1_000,
        seed: int = 0,
        generated: bool = False,
    ) -> None:
        super().__init__(batch_size, seed, generated)
        self.blocks = blocks
        self.length = length
        self.relevant = blocks if relevant is None else relevant
        self.noise = noise
        self.counts = {"train": train_size, "test": test_size}
        if min(blocks, length, train_size, test_size) < 1:
            raise DataError(f"blocks={blocks}, length={length}, train_size={train_size}, test_size={test_size}: from 1")
        if not 1 <= self.relevant <= blocks:
            raise DataError(f"relevant={self.relevant}: expected 1 to {blocks}, the number of blocks")
        if noise < 0:
            raise DataError(f"noise={noise}: expected 0 or more")
        self.columns: dict[str, dict[str, Tensor]] = {}

    @property
    def spec(self) -> Spec:
        every = [self.columns[name][column] for name in self.columns for column in ("x", "y", "signal")]
        where = f"one of the first {self.relevant} of {self.blocks} blocks of {self.length}"
        return Spec(
            name="signal in one of several blocks",
            shape=(1, 1, self.blocks * self.length),
            classes=("-1", "+1"),
            sizes={"train": self.counts["train"], "val": 0, "test": self.counts["test"]},
            mean=(0.0,),
            std=(1.0,),
            split=f"drawn anew by the seed; the class is in {where}, noise {self.noise}",
            source="generated",
            where="generated",
            identity=hashed(*every) if every else "",
        )

    def setup(self, stage: str | None = None) -> None:
        if not self.columns:
            self.columns = {name: self._drawn(name) for name in SIZES}

    def _drawn(self, name: str) -> dict[str, Tensor]:
        count = self.counts[name]
        source = generator("signals", self.seed, SIZES.index(name))
        y = torch.randint(2, (count,), generator=source)
        signal = torch.randint(self.relevant, (count,), generator=source)

        x = self.noise * torch.randn(count, self.blocks, self.length, generator=source) / self.length**0.5
        u = torch.full((self.length,), self.length**-0.5)
        x[torch.arange(count), signal] += (2.0 * y[:, None] - 1) * u
        return {"x": x.view(count, 1, 1, -1), "y": y, "signal": signal}

    def _loader(self, name: str, *, shuffle: bool) -> Loader:
        columns = self.columns[name]
        batches = self.batches(len(columns["y"]), shuffle=shuffle)
        return Loader(batches, Columns(self.device, **columns))

    def train_dataloader(self) -> Loader:
        return self._loader("train", shuffle=True)

    def val_dataloader(self) -> list[Loader]:
        return []

    def test_dataloader(self) -> Loader:
        return self._loader("test", shuffle=False)
