"""scikit-learn's handwritten digits (UCI Optical Recognition of Handwritten Digits, test part)."""

from __future__ import annotations

from functools import lru_cache

import torch

from datamodules.common.arrays import ArrayData, Split
from datamodules.common.base import Spec


class Digits(ArrayData):
    """1,797 scans of 8x8 pixels with 17 grey levels, 10 classes, split at random by the seed.

    Mean and standard deviation are those of all pixels divided by 16.
    """

    peak = 16

    def declared(self) -> Spec:
        return Spec(
            name="digits",
            shape=(1, 8, 8),
            classes=tuple("0123456789"),
            sizes={"train": 1797},
            mean=(0.3053,),
            std=(0.3761,),
            split="one set, cut into train, val and test at random by the seed",
            where="comes with scikit-learn",
        )

    def read(self) -> tuple[Split, None]:
        images, labels = scans()
        return (images.clone(), labels.clone()), None


@lru_cache(maxsize=1)
def scans() -> Split:
    """Images (1797, 1, 8, 8) uint8 and labels (1797,) int64; unpacked once a process, which takes 20 ms."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = torch.as_tensor(bunch.images, dtype=torch.uint8).unsqueeze(1)
    return images, torch.as_tensor(bunch.target, dtype=torch.long)
