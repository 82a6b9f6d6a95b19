"""Linear probes of a frozen VIM's activations (arXiv 2110.04627)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from modules.common.frozen import Frozen
from modules.common.module import OptimizerFactory
from modules.common.probe import Probe, keep_for_a_loss
from modules.common.schedules import Schedule
from modules.vit_vqgan.pixels import PixelModule
from modules.vit_vqgan.vim import Vim


class LinearProbe(PixelModule, Probe):
    """One linear classifier on the activations of each of some blocks of a frozen Vim, averaged over positions.

    The Transformer sees the tokens of the image and no class. `top1` is that of `block`; the others are logged as
    `block<b>_top1`.

    Args:
        vim: its network is used, not trained.
        classes: number of classes.
        block: counts from 1.
        blocks: those swept, `block` among them.
        optimizer, schedule: see StageModule.
    Raises:
        ValueError: a block is not there, or `block` not among those swept.
    """

    def __init__(
        self,
        vim: Vim,
        classes: int,
        block: int,
        blocks: list[int],
        optimizer: OptimizerFactory | None = None,
        schedule: Schedule | None = None,
    ) -> None:
        if block not in blocks or min(blocks) < 1 or max(blocks) > len(vim.blocks):
            raise ValueError(f"blocks={blocks}: expected {block} among them and all between 1 and {len(vim.blocks)}")
        heads = {f"block{b}": nn.Linear(vim.size.dim, classes) for b in sorted(blocks)}
        super().__init__(heads, classes, f"block{block}", optimizer, schedule)
        self.vim = Frozen([vim])
        self.headline = f"block{block}"

    def features(self, batch: Any) -> dict[str, Tensor]:
        """The mean over positions of each block's activations, (B, dim) each."""
        return self.activations(batch.x)

    def activations(self, x: Tensor) -> dict[str, Tensor]:
        """Images as the data serves them -> block: (B, dim)."""
        vim = self.vim.on(x.device)[0]
        tokenizer = vim.tokenizer.on(x.device)[0]
        means: dict[str, Tensor] = {}
        with torch.inference_mode():
            codes = tokenizer.tokenize(self.pixels(x))[:, : vim.tokens]
            h = vim.embed(codes)  # (B, T, dim)
            for number, block in enumerate(vim.blocks, 1):
                h = block(h)
                if f"block{number}" in self.heads:
                    means[f"block{number}"] = h.float().mean(1)
                if len(means) == len(self.heads):
                    break
        return keep_for_a_loss(means)

    def forward(self, x: Tensor) -> Tensor:
        """Images as the data serves them -> logits (B, classes) of the block that the paper reports."""
        return self.classify(self.activations(x))[self.headline]
