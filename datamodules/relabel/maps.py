"""Label maps as a stage leaves them behind: (N, 2, K, H, W), scores and class numbers of the K best classes a cell."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datamodules.common.base import DataError, Fed


def maps_of(fed: Fed, labels: Tensor) -> np.ndarray:
    """The label maps of images with these labels; they stay on disk where they are memory-mapped.

    Args:
        fed: a stage with the artifacts `maps` and `labels`, a row for each image.
        labels: (N,) of the images that the maps are to serve.
    Raises:
        DataError: the maps were made of other images.
    """
    maps, theirs = fed.arrays["maps"], fed.arrays["labels"]
    if not np.array_equal(theirs, labels.numpy()):
        raise DataError(
            f"the label maps were made of {len(theirs):,} other images than these {len(labels):,}: "
            "give both stages the same data"
        )
    return maps


class MapFile:
    """Rows of label maps for worker processes: where they are a file, its name travels and not its content."""

    def __init__(self, maps: np.ndarray) -> None:
        self.maps = maps

    def __getitem__(self, row: int) -> Tensor:
        return torch.from_numpy(np.array(self.maps[row]))

    def __getstate__(self) -> dict[str, Any]:
        path = getattr(self.maps, "filename", None)
        return {"maps": self.maps} if path is None else {"path": path}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        stored = np.load(state["path"], mmap_mode="r", allow_pickle=False) if "path" in state else state["maps"]
        self.maps = stored


def random_maps(count: int, shape: tuple[int, int, int], classes: int, source: torch.Generator) -> Tensor:
    """Stand-ins of label maps, (count, 2, K, H, W).

    Args:
        shape: (K, H, W).
    """
    scores = torch.randn((count, *shape), generator=source).sort(1, descending=True).values
    kept, height, width = shape
    numbers = torch.rand(count, classes, height, width, generator=source).argsort(1)[:, :kept]
    return torch.stack([scores, numbers.float()], 1)
