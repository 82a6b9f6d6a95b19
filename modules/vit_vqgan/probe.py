"""Linear probes of a frozen VIM's activations (arXiv 2110.04627)."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics.classification import MulticlassAccuracy

from modules.common.classifier import ClassificationModule
from modules.common.frozen import Frozen
from modules.common.module import OptimizerFactory
from modules.common.schedules import Schedule
from modules.vit_vqgan.pixels import PixelModule
from modules.vit_vqgan.vim import Vim


class LinearProbe(PixelModule, ClassificationModule):
    """One linear classifier on the activations of each of some blocks of a frozen Vim, averaged over positions.

    The Transformer sees the tokens of the image and no class. `top1` is that of `block`; the others are logged as
    `top1_block<b>`.

    Args:
        vim: its network is used, not trained.
        classes: number of classes.
        block: counts from 1.
        blocks: those swept, `block` among them.
        optimizer, schedule: see StageModule.
    Raises:
        ValueError: a block is not there, or `block` not among those swept.
    """

    network: nn.ModuleDict

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
        heads = nn.ModuleDict({str(b): nn.Linear(vim.size.dim, classes) for b in sorted(blocks)})
        super().__init__(heads, classes, optimizer, schedule)
        self.vim = Frozen([vim])
        self.block = str(block)
        self.sweep = nn.ModuleDict(
            {name: MulticlassAccuracy(classes, average="micro", validate_args=False) for name in heads}
        )

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        losses = {name: F.cross_entropy(logits, y) for name, logits in self.every_logits(x).items()}
        self.track(len(y), loss=losses[self.block])
        return torch.stack([*losses.values()]).sum()  # no parameter is shared: each gets its own loss's gradient

    def forward(self, x: Tensor) -> Tensor:
        return self.every_logits(x)[self.block]

    def every_logits(self, x: Tensor) -> dict[str, Tensor]:
        """Images as the data serves them -> logits (B, classes) by block."""
        return {name: self.network[name](features) for name, features in self.features(x).items()}

    def features(self, x: Tensor) -> dict[str, Tensor]:
        """Images as the data serves them -> the mean over positions (B, dim) by block."""
        vim = self.vim.on(x.device)[0]
        tokenizer = vim.tokenizer.on(x.device)[0]
        features: dict[str, Tensor] = {}
        with torch.inference_mode():
            codes = tokenizer.tokenize(self.pixels(x))[:, : vim.tokens]
            h = vim.embed(codes)  # (B, T, dim)
            for number, block in enumerate(vim.blocks, 1):
                h = block(h)
                if str(number) in self.network:
                    features[str(number)] = h.float().mean(1)
                if len(features) == len(self.network):
                    break
        # inference tensors cannot take part in a loss; copies can
        return {name: value.clone() for name, value in features.items()}

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        x, y = batch
        every_logits = self.every_logits(x)
        for name, logits in every_logits.items():
            cast(MulticlassAccuracy, self.sweep[name]).update(logits, y)
        self.test_metrics.update(every_logits[self.block], y)

    def on_test_epoch_end(self) -> None:
        super().on_test_epoch_end()
        for name, metric in self.sweep.items():
            accuracy = cast(MulticlassAccuracy, metric)
            self.log(f"test/top1_block{name}", 100 * accuracy.compute())
            accuracy.reset()
