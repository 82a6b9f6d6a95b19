"""The base model of the small workflow: a diffusion model that understands two words, a class and a style."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from modules.common.distributed import shared_draw
from modules.common.unet import UNet
from modules.common.velocity import VelocityDDPM
from modules.copyscope.pictures import draw_images


class PromptedUNet(UNet):
    """A U-Net with a class word and a style word, either of which may be left out.

    A word left out is a word of its own, the last: `classes` and `styles` themselves.

    Args:
        classes, styles: how many words there are.
        options: see UNet.
    """

    def __init__(self, classes: int, styles: int, **options: Any) -> None:
        super().__init__(classes=classes + 1, **options)
        self.no_class, self.no_style = classes, styles
        self.style_emb = nn.Embedding(styles + 1, 4 * self.width)

    def forward(  # type: ignore[override]
        self,
        x: Tensor,
        t: Tensor,
        y: Tensor,
        style: Tensor,
        control: Mapping[int, Tensor] | None = None,
    ) -> Tensor:
        """Noisy images (B, C, S, S), steps (B,), class words (B,), style words (B,) -> the predicted velocity."""
        return super().forward(x, t, y, self.style_emb(style), control)


def leave_out(words: Tensor, none: int, share: float) -> Tensor:
    """Words (B,), of which a share at random are left out; the same draws on any number of processes."""
    dropped = shared_draw(words, lambda total: torch.rand(total, device=words.device)) < share
    return torch.where(dropped, none, words)


class Base(VelocityDDPM):
    """The base model, trained on what is public, with words that are left out at random so that it can do without.

    Args:
        network: a PromptedUNet.
        left_out: share of the images that lose their class word, and, drawn apart, their style word.
        options: see DDPM.
    Raises:
        ValueError: a share outside of 0 to 1.
    """

    network: PromptedUNet

    def __init__(self, network: PromptedUNet, left_out: float = 0.3, **options: Any) -> None:
        super().__init__(network, **options)
        if not 0 <= left_out <= 1:
            raise ValueError(f"left_out={left_out}: expected a share from 0 to 1")
        self.left_out = left_out

    def inputs(self, batch: Any) -> dict[str, Any]:
        if not self.training:
            return {"y": batch.y, "style": batch.style}
        return {
            "y": leave_out(batch.y, self.network.no_class, self.left_out),
            "style": leave_out(batch.style, self.network.no_style, self.left_out),
        }

    def example(self, shape: tuple[int, ...]) -> tuple[Any, ...]:
        zero = torch.zeros(1, dtype=torch.long, device=self.device)
        return torch.zeros(1, *shape, device=self.device), zero, zero, zero

    def forward(self, noisy: Tensor, t: Tensor, *words: Tensor, **inputs: Any) -> Tensor:
        return self.network(noisy, t, *words, **inputs)

    def pictures(self, data: Any) -> dict[str, Figure]:
        """Generated images: a row for each style word, the last without one; a column for each class word."""
        styles = self.network.no_style + 1
        y = torch.arange(self.network.no_class + 1).repeat(styles)
        style = torch.arange(styles).repeat_interleave(self.network.no_class + 1)
        start = torch.randn(len(y), *data.spec.shape, generator=torch.Generator().manual_seed(0))
        images = self.sample(
            start.to(self.device), steps=20, y=y.to(self.device), style=style.to(self.device)
        )  # (styles x classes, 3, S, S)
        return {"generated images": draw_images(data.shown(images), self.network.no_class + 1)}
