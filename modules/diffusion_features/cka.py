"""How alike two representations are: linear CKA (Kornblith et al., arXiv 1905.00414)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from modules.common.diffusion import RowNoise
from modules.common.frozen import Frozen
from modules.common.module import StageModule
from modules.diffusion_features.pictures import draw_similarity


def gram(x: Tensor) -> Tensor:
    """Inner products of centred features (n, D), divided by their norm: (n, n)."""
    centred = (x - x.mean(0)).double()
    products = centred @ centred.T
    return products / products.norm().clamp(min=1e-30)


def linear_cka(x: Tensor, y: Tensor) -> float:
    """|Y'X|^2 / (|X'X| |Y'Y|) of centred features (n, D), (n, E) of the same n images, Frobenius norms. In [0, 1]."""
    return float((gram(x) * gram(y)).sum())


class Normalised(nn.Module):
    """A network of ImageNet's normalised images, for images in [-1, 1].

    Args:
        network: images (B, 3, S, S) to features (B, D).
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.network(((x + 1) / 2 - self.mean) / self.std)


class Similarity(StageModule):
    """Linear CKA of the blocks of a U-Net at several time steps, and of other networks, on the first test images.

    Maps are averaged over their places. The stage runs on one device.

    Metrics: `test/step_neighbours`, mean CKA of one block at neighbouring time steps; `test/block_neighbours`, of
    neighbouring blocks at one step; `test/block_ends`, of the first and the last block at one step;
    `test/<network>_best`, the most alike block's with another network's output; `test/n`, images.

    Args:
        source: a stage whose `source()` is read.
        blocks: which ones; None takes all.
        steps: time steps.
        images: of the test set, the first ones of each batch until there are so many.
        others: name -> network of images (B, C, S, S) in [-1, 1] to features (B, D).
        other: a stage whose `source()` is read too, at time step 0.
    """

    def __init__(
        self,
        source: Any,
        steps: Sequence[int],
        blocks: Sequence[int] | None = None,
        images: int = 1000,
        others: dict[str, nn.Module] | None = None,
        other: Any = None,
    ) -> None:
        super().__init__()
        read = source.source()
        self.steps, self.images = list(steps), images
        self.blocks = [str(block) for block in blocks] if blocks is not None else list(read.shapes)
        if wrong := [block for block in self.blocks if block not in read.shapes]:
            raise ValueError(f"blocks: {wrong[0]!r}: expected some of {', '.join(read.shapes)}")
        self.others = dict(others or {})
        self.frozen = Frozen([read, *([other.source()] if other is not None else []), *self.others.values()])
        self.has_other = other is not None
        self.row_noise = RowNoise(0)
        self.kept: dict[str, list[Tensor]] = {}
        self.counted = self.seen = 0
        self.similarity = torch.zeros(0, 0)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Images (B, C, S, S) -> name of block and step, or of another network: features (B, D)."""
        return self.features(x, torch.zeros_like(x))

    def features(self, x: Tensor, eps: Tensor) -> dict[str, Tensor]:
        source, *rest = self.frozen.on(x.device)
        features: dict[str, Tensor] = {}
        with torch.inference_mode():
            for step in self.steps:
                t = torch.full((len(x),), step, device=x.device)
                maps = source(x, t, eps, self.blocks)
                features |= {f"{block} at {step}": maps[block].mean((2, 3)) for block in self.blocks}
            if self.has_other:
                other = rest.pop(0)
                t = torch.zeros(len(x), dtype=torch.long, device=x.device)
                features |= {f"other {n}": m.mean((2, 3)) for n, m in other(x, t, eps, list(other.shapes)).items()}
            for name, network in zip(self.others, rest, strict=True):
                features[name] = network(x).float().flatten(1)
        return features

    def on_test_epoch_start(self) -> None:
        self.row_noise = RowNoise(int(torch.randint(2**31, ())))
        self.kept, self.counted, self.seen = {}, 0, 0

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.counted += len(batch.x)
        x = batch.x[: max(0, self.images - self.seen)]
        if not len(x):
            return
        self.seen += len(x)
        for name, value in self.features(x, self.row_noise(x)[1]).items():
            self.kept.setdefault(name, []).append(value.cpu())

    def on_test_epoch_end(self) -> None:
        grams = torch.stack([gram(torch.cat(parts)).flatten() for parts in self.kept.values()])
        self.similarity = (grams @ grams.T).float()
        names = list(self.kept)

        def cka(first: str, second: str) -> float:
            return float(self.similarity[names.index(first), names.index(second)])

        metrics = {"n": float(self.counted)}
        steps = [cka(f"{b} at {s}", f"{b} at {t}") for b in self.blocks for s, t in pairwise(self.steps)]
        blocks = [cka(f"{a} at {s}", f"{b} at {s}") for s in self.steps for a, b in pairwise(self.blocks)]
        ends = [cka(f"{self.blocks[0]} at {s}", f"{self.blocks[-1]} at {s}") for s in self.steps]
        for name, values in {"step_neighbours": steps, "block_neighbours": blocks, "block_ends": ends}.items():
            if values:
                metrics[name] = sum(values) / len(values)
        own = len(self.blocks) * len(self.steps)
        for name in names[own:]:
            metrics[f"{name.replace(' ', '_')}_best"] = float(self.similarity[names.index(name), :own].max())
        self.log_dict({f"test/{name}": value for name, value in metrics.items()})

    def artifacts(self) -> dict[str, np.ndarray]:
        return {"cka": self.similarity.numpy()}

    def pictures(self, data: Any) -> dict[str, Figure]:
        return {"similarity of blocks": draw_similarity(self.similarity, list(self.kept))}
