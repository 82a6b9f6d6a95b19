"""Training-free probes of a set of real and generated pictures: what could tell them apart without any generator."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor
from torchmetrics import CatMetric
from torchmetrics.functional.classification import binary_auroc

from modules.common.detection import EVERY
from modules.common.generators import laplacian
from modules.common.metrics import compute_and_reset
from modules.common.module import StageModule

DITHER = 0.7  # grey levels, standard deviation


@lru_cache
def decodable() -> np.ndarray:
    """Which of the 256^3 colours, at 65536 R + 256 G + B, come out of some 8-bit Y, Cb, Cr as JFIF decodes them."""
    table = np.zeros(256**3, dtype=bool)
    cb, cr = np.meshgrid(np.arange(256) - 128.0, np.arange(256) - 128.0, indexing="ij")
    for y in range(256):
        channels = (y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb)
        r, g, b = (np.clip(np.rint(channel), 0, 255).astype(np.int64) for channel in channels)
        table[(r * 256 + g) * 256 + b] = True
    return table


def decodable_share(pictures: Tensor) -> Tensor:
    """Share of each picture's pixels whose colour a decoded JPEG file can have: (B, 3, H, W) uint8 -> (B,)."""
    r, g, b = pictures.cpu().long().unbind(1)
    found = torch.from_numpy(decodable()[((r * 256 + g) * 256 + b).numpy()])
    return found.float().flatten(1).mean(1)


def dither(pictures: Tensor, source: torch.Generator) -> Tensor:
    """Pictures of the same content without their history: each value of (B, 3, H, W) uint8 moved by about a level."""
    moved = pictures.float().cpu() + DITHER * torch.randn(pictures.shape, generator=source)
    return moved.round().clamp(0, 255).to(torch.uint8)


class Probes(StageModule):
    """What two numbers of a picture tell, without a network.

    - test/leak_<generator>: 50 + |AUROC - 50| in percent, of the share of pixels on colours that a decoded JPEG file
      can have. test/leak is the largest. What pictures show counts too: black and white pixels are such colours.
    - test/history: the same of real pictures and their dithered copies, which show the same. 50 says that nothing is
      left of a JPEG file's colours, 100 that every real picture was one.
    - test/energy_auroc_<generator>: AUROC in percent of log Laplacian energy, generated pictures being those with less.

    Batches hold pictures (B, 3, H, W) in x as the data's `shown` undoes them, y and subset.
    """

    def __init__(self) -> None:
        super().__init__()
        self.rows = CatMetric(nan_strategy="error")
        self.shares: dict[str, float] = {}
        self.source = torch.Generator()

    def on_test_epoch_start(self) -> None:
        self.source.manual_seed(self.trainer.global_rank)

    def forward(self, x: Tensor) -> Tensor:
        """Pictures in [0, 1] -> log Laplacian energy (B,)."""
        return laplacian(x).clamp(min=1e-8).log()

    def test_step(self, batch: Any, batch_idx: int) -> None:
        shown = self.trainer.datamodule.shown(batch.x)  # type: ignore[attr-defined]
        pictures = (shown * 255).round().to(torch.uint8)
        shares = [decodable_share(pictures), decodable_share(dither(pictures, self.source))]
        columns = [*shares, self(shown), torch.as_tensor(batch.y).cpu(), torch.as_tensor(batch.subset).cpu()]
        self.rows.update(torch.stack([column.double() for column in columns], 1).to(self.device))

    def on_test_epoch_end(self) -> None:
        names = self.trainer.datamodule.names  # type: ignore[attr-defined]
        rows = compute_and_reset(self.rows).view(-1, 5).cpu()
        share, without, energy, y, subset = rows.unbind(1)
        real = y == 0
        whole, copied = share[real], without[real]
        is_copy = torch.cat([torch.zeros(len(whole)), torch.ones(len(copied))]).long()
        self.log("test/history", 50 + 100 * abs(float(binary_auroc(torch.cat([whole, copied]), is_copy)) - 0.5))
        self.shares = {"real": float(whole.mean())}
        leaks = []
        for number, name in enumerate(names):
            chosen = (subset == number) | ((y == 0) & (subset == EVERY))
            labels = y[chosen].long()
            if len(labels.unique()) < 2:
                continue
            leak = float(binary_auroc(share[chosen], labels))
            lower = (-energy[chosen]).argsort().argsort() / len(labels)  # ranks: AUROC of any number
            leaks.append(50 + 100 * abs(leak - 0.5))
            self.shares[name] = float(share[chosen][labels == 1].mean())
            self.log(f"test/leak_{name}", leaks[-1])
            self.log(f"test/energy_auroc_{name}", 100 * float(binary_auroc(lower, labels)))
        self.log("test/leak", max(leaks, default=50.0))
        self.log("test/real_share", 100 * self.shares["real"])

    def pictures(self, data: Any) -> dict[str, Figure]:
        """Bars: the share of pixels on colours of decoded JPEG files; a quarter of all colours are."""
        if not self.shares:
            return {}
        figure = Figure(figsize=(5, 3), layout="constrained")
        axis = figure.subplots()
        axis.bar(list(self.shares), [100 * value for value in self.shares.values()])
        axis.axhline(25.4, color="0.5", linestyle=":")
        axis.set_ylabel("colours of decoded JPEG, %")
        return {"JPEG history": figure}
