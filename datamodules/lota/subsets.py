"""Which pictures detectors learn from, and which patch of each they see: what GenImage and its small stand-in share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from datamodules.common.base import DataError
from datamodules.lota.bits import SELECTIONS

GENIMAGE = ("biggan", "midjourney", "wukong", "sd14", "sd15", "adm", "glide", "vqdm")


@dataclass(frozen=True)
class Subsets:
    """Pictures by the generator that they are of or stand beside; the test is on all of them.

    Attributes:
        train_on: those that are trained on.
        names: all, in the order of their numbers.
        aside: share of the pictures to train on that is the val split instead, which no detector is trained on.
    Raises:
        DataError: a subset that is not among the names, or no share.
    """

    train_on: Sequence[str]
    names: Sequence[str] = GENIMAGE
    aside: float = 0.0

    def __post_init__(self) -> None:
        if unknown := [name for name in self.train_on if name not in self.names]:
            raise DataError(f"train_on: {unknown[0]!r}: expected some of {', '.join(self.names)}")
        if not 0 <= self.aside < 1:
            raise DataError(f"aside={self.aside}: expected a share from 0 to below 1")


@dataclass(frozen=True)
class Selection:
    """Which of a picture's patches is seen: that with the largest gradient ("max"), the smallest, or a random one.

    Attributes:
        train: in training.
        test: in the test and in validation.
    Raises:
        DataError: no such selection.
    """

    train: str = "max"
    test: str = "max"

    def __post_init__(self) -> None:
        if wrong := [item for item in (self.train, self.test) if item not in SELECTIONS]:
            raise DataError(f"select={wrong[0]!r}: expected one of {', '.join(SELECTIONS)}")

    def of(self, split: str) -> str:
        return self.train if split == "train" else self.test
