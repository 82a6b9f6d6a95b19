"""Vectors whose class is written in one block, which may be another one in every vector: the paper's theorem."""

from __future__ import annotations

import torch
from torch import Tensor

from datamodules.common.base import DataError, Spec, generator
from datamodules.common.drawn import DrawnData

SPLITS = ("train", "test")


class Signals(DrawnData):
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
        signals = blocks if relevant is None else relevant
        if min(blocks, length, train_size, test_size) < 1:
            raise DataError(f"blocks={blocks}, length={length}, train_size={train_size}, test_size={test_size}: from 1")
        if not 1 <= signals <= blocks:
            raise DataError(f"relevant={signals}: expected 1 to {blocks}, the number of blocks")
        if noise < 0:
            raise DataError(f"noise={noise}: expected 0 or more")
        where = f"one of the first {signals} of {blocks} blocks of {length}"
        described = Spec(
            name="signal in one of several blocks",
            shape=(1, 1, blocks * length),
            classes=("-1", "+1"),
            sizes={"train": train_size, "val": 0, "test": test_size},
            mean=(0.0,),
            std=(1.0,),
            split=f"drawn anew by the seed; the class is in {where}, noise {noise}",
            source="generated",
            where="generated",
        )
        super().__init__(described, batch_size, seed, generated)
        self.blocks = blocks
        self.length = length
        self.relevant = signals
        self.noise = noise

    def draw(self) -> dict[str, dict[str, Tensor]]:
        return {name: self._vectors(name) for name in SPLITS}

    def _vectors(self, name: str) -> dict[str, Tensor]:
        count = self.spec.sizes[name]
        source = generator("signals", self.seed, SPLITS.index(name))
        y = torch.randint(2, (count,), generator=source)
        signal = torch.randint(self.relevant, (count,), generator=source)

        x = self.noise * torch.randn(count, self.blocks, self.length, generator=source) / self.length**0.5
        u = torch.full((self.length,), self.length**-0.5)
        x[torch.arange(count), signal] += (2.0 * y[:, None] - 1) * u
        return {"x": x.view(count, 1, 1, -1), "y": y, "signal": signal}
