"""What this paper's modules share: pixels instead of normalised inputs, numbered draws, rows of images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from modules.common.module import StageModule


class PixelModule(StageModule):
    """A stage that works on pixels in [0, 1], however its data is normalised, and numbers its test images."""

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.register_buffer("pixel_mean", torch.zeros(1, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.ones(1, 1, 1), persistent=False)
        self._tested = 0

    def setup(self, stage: str) -> None:
        spec = self.trainer.datamodule.spec  # type: ignore[attr-defined]
        self.pixel_mean = torch.tensor(spec.mean, device=self.device).view(-1, 1, 1)
        self.pixel_std = torch.tensor(spec.std, device=self.device).view(-1, 1, 1)

    def pixels(self, x: Tensor) -> Tensor:
        """Images as the data serves them, (B, C, H, W), in units of [0, 1]."""
        return x * self.pixel_std + self.pixel_mean

    def on_fit_end(self) -> None:
        """Frees what a test does not need and published sizes make large: gradients and the optimisers' states."""
        self.zero_grad(set_to_none=True)
        self.trainer.optimizers = []

    def on_test_epoch_start(self) -> None:
        self._tested = 0

    def next_indices(self, count: int) -> Tensor:
        """Where the next `count` images are in the test set, (count,): process r of w is dealt r, r + w, r + 2w ..."""
        rank = self.trainer.global_rank
        world = self.trainer.world_size
        indices = rank + world * torch.arange(self._tested, self._tested + count, device=self.device)
        self._tested += count
        return indices


def uniforms(base: int, indices: Tensor, count: int) -> Tensor:
    """Noise in [0, 1) for images with these indices (B,), (B, count): the same wherever and in whatever batch they are.

    Args:
        base: one seed for all.
    """
    sources = [torch.Generator().manual_seed(base + index) for index in indices.tolist()]
    return torch.stack([torch.rand(count, generator=source) for source in sources]).to(indices.device)


def grid(rows: Sequence[Tensor], labels: Sequence[str]) -> Figure:
    """Rows of at most n pixels images (n, C, H, W), each row with a label; one picture, since axes are slow to draw."""
    n = max(len(row) for row in rows)
    channels, height, width = rows[0].shape[1:]
    sheet = torch.ones(channels, len(rows) * (height + 2), n * (width + 2))
    for line, row in enumerate(rows):
        for column, image in enumerate(row.float().clamp(0, 1).cpu()):
            top = line * (height + 2)
            left = column * (width + 2)
            sheet[:, top : top + height, left : left + width] = image

    figure = Figure(figsize=(9, 9 * sheet.shape[1] / sheet.shape[2] + 0.1), layout="constrained")
    axes = figure.subplots()
    axes.imshow(sheet.permute(1, 2, 0), cmap="gray", vmin=0, vmax=1)
    axes.set_yticks([line * (height + 2) + height / 2 for line in range(len(rows))], labels, fontsize=8)
    axes.set_xticks([])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return figure
