"""House numbers, the one of the paper's datasets that no other paper uses."""

from __future__ import annotations

from typing import Any

import torch

from datamodules.common.arrays import Split
from datamodules.common.base import Spec
from datamodules.common.torchvision_sets import TorchvisionSet


class SVHN(TorchvisionSet):
    """Street View House Numbers, cropped digits (Netzer et al. 2011), 73,257 + 26,032, 32x32."""

    kind = "SVHN"
    stored = "*_32x32.mat"
    described = Spec(
        name="SVHN",
        shape=(3, 32, 32),
        classes=tuple("0123456789"),
        sizes={"train": 73257, "test": 26032},
        mean=(0.4377, 0.4438, 0.4728),
        std=(0.1980, 0.2010, 0.1970),
        split="the official test set; val drawn from the official training set by the seed",
        where="torchvision fetches it (250 MB; needs scipy)",
    )

    def _open(self, *, train: bool, download: bool) -> Any:
        from torchvision import datasets

        return datasets.SVHN(str(self.root), split="train" if train else "test", download=download)

    @staticmethod
    def _tensors(dataset: Any) -> Split:
        return torch.as_tensor(dataset.data).contiguous(), torch.as_tensor(dataset.labels, dtype=torch.long)
