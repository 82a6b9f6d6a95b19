"""Which test images a classifier had right: a bit for each, beside a stage's metrics. It changes no number.

An accuracy on one test set varies with its images as well as with seeds, and only single images tell how much.
"""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from experiments.common import files
from experiments.running.callbacks import Quick
from modules.common.metrics import Classification

METRIC = "test/top1"
NAME = "hits.npz"  # in a stage's directory
PIXEL = 1e4  # an image counts as the same where its mean pixel is, to a ten-thousandth


@dataclass(frozen=True)
class Hits:
    """One stage's answers on its test images, in their order.

    Attributes:
        right: (N,) bool.
        images: a hash of labels and images: stages of one test set, in one order, have the same.
    """

    right: np.ndarray
    images: str


class KeepHits(Quick):
    """Keeps which test images a module's `test_metrics` counted as right.

    Nothing is kept of modules whose accuracy comes from elsewhere, nor of several processes, each of which sees a part
    of the images.
    """

    def __init__(self) -> None:
        self._right: list[Tensor] = []
        self._seen = (hashlib.sha256(), hashlib.sha256())  # of labels and of images, however they come in batches
        self._measure: Classification | None = None

    def on_test_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        measure = getattr(module, "test_metrics", None)
        if trainer.world_size > 1 or not isinstance(measure, Classification) or "top1" not in measure.metrics:
            return
        self._right, self._measure = [], measure
        self._seen = (hashlib.sha256(), hashlib.sha256())
        update = measure.update

        def listening(logits: Tensor, labels: Tensor) -> None:
            self._right.append((logits.float().argmax(-1) == labels).cpu())
            update(logits, labels)

        measure.update = listening  # type: ignore[method-assign]

    def on_test_batch_start(
        self, trainer: pl.Trainer, module: pl.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if self._measure is None:
            return
        for seen, name in zip(self._seen, ("y", "x"), strict=True):
            column = getattr(batch, name, None)
            if isinstance(column, Tensor):
                means = column.flatten(1).float().mean(1) if column.dim() > 1 else column.float()
                seen.update(torch.round(means * PIXEL).cpu().numpy().tobytes())

    def on_test_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if self._measure is not None:
            del self._measure.update  # the class's own again
            self._measure = None

    def hits(self, top1: float | None) -> Hits | None:
        """What was kept, where it is what the accuracy `top1` (percent) was computed from."""
        if not self._right or top1 is None:
            return None
        right = torch.cat(self._right).numpy()
        if abs(100 * right.mean() - top1) > 1e-3:
            return None
        both = hashlib.sha256("".join(seen.hexdigest() for seen in self._seen).encode())
        return Hits(right, both.hexdigest()[:12])


def write(directory: Path, hits: Hits) -> None:
    with files.replacing(directory / NAME) as temporary, temporary.open("wb") as out:
        np.savez_compressed(
            out, right=np.packbits(hits.right), count=np.array(len(hits.right)), images=np.array(hits.images)
        )


def read(directory: Path) -> Hits | None:
    """What write() left; None where nothing did, or it is damaged: it is beside the results, not part of them."""
    try:
        with np.load(directory / NAME, allow_pickle=False) as kept:
            right = np.unpackbits(kept["right"], count=int(kept["count"])).astype(bool)
            return Hits(right, str(kept["images"]))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        return None
