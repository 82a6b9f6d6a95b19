"""Features of a frozen network, or of any fixed extractor: every view of every image, exported once by row number."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F

from modules.common.closed_form import ClosedForm
from modules.common.frozen import Frozen
from modules.common.module import StageModule
from modules.off_the_shelf.views import Patches, Views, resized


def unit(f: Tensor) -> Tensor:
    """Each row of (..., D) at length 1."""
    return F.normalize(f, dim=-1)


class Backbone(StageModule):
    """A frozen network and the layer that is its feature. Built when it is first used: stages that only need stored
    features do not load it.

    Args:
        network: makes the network (`_partial_: true`).
        side: input side in pixels.
        layer: name of the layer; None takes the network's output.
        relu: rectify the layer's output.
        mean, std, peak: the network sees (peak x - mean) / std of images x in [0, 1].
        channels_last: memory layout that runs faster on most processors.
        weight_seed: of networks with random weights.
    Raises:
        ValueError: the network has no such layer.
    """

    def __init__(
        self,
        network: Callable[[], nn.Module],
        side: int,
        layer: str | None = None,
        relu: bool = False,
        mean: Sequence[float] = (0.0,),
        std: Sequence[float] = (1.0,),
        peak: float = 1.0,
        channels_last: bool = True,
        weight_seed: int = 0,
    ) -> None:
        super().__init__()
        self.factory, self.side, self.layer, self.relu = network, side, layer, relu
        self.scale, self.shift = [peak / s for s in std], [-m / s for m, s in zip(mean, std, strict=True)]
        self.channels_last, self.weight_seed = channels_last, weight_seed
        self.network: nn.Module | None = None
        self._kept = torch.empty(0)
        self.sums = torch.zeros(3, dtype=torch.float64)  # images, their features' norms, shares above 0
        self.dimension = 0

    def built(self) -> nn.Module:
        if self.network is None:
            with torch.random.fork_rng(devices=[]), torch.inference_mode(False):
                torch.manual_seed(self.weight_seed)
                network = self.factory().eval().requires_grad_(False)
            if self.layer is not None:
                parts = dict(network.named_modules())
                if self.layer not in parts:
                    raise ValueError(f"layer={self.layer!r}: the network has {', '.join(n for n in parts if n)}")
                parts[self.layer].register_forward_hook(self._keep)
            if self.channels_last:
                network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            self.network = network.to(self.device)
        return self.network

    def _keep(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
        self._kept = output.clone()  # the next layer may rectify it in place

    def train(self, mode: bool = True) -> Backbone:
        """Stays in evaluation mode: batch statistics are part of what is frozen."""
        return super().train(False)

    def example(self, shape: tuple[int, ...]) -> tuple[Any, ...]:
        return (torch.zeros(1, shape[0], self.side, self.side, device=self.device),)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 1 or 3, S, S) in [0, 1] -> (B, D) float32; maps are averaged over their positions."""
        network = self.built()
        scale, shift = (x.new_tensor(value).view(1, -1, 1, 1) for value in (self.scale, self.shift))
        x = (x * scale + shift).expand(-1, 3, -1, -1)
        output = network(x.contiguous(memory_format=torch.channels_last) if self.channels_last else x.contiguous())
        if self.layer is not None:
            output, self._kept = self._kept, torch.empty(0)
        output = F.relu(output) if self.relu else output
        return (output.flatten(2).mean(2) if output.ndim == 4 else output).float()

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        f = self(resized(batch[0], self.side))
        self.dimension = f.shape[1]
        found = torch.stack([f.new_tensor(len(f)), f.norm(dim=1).sum(), (f > 0).float().mean(1).sum()])
        self.sums += found.double().cpu()

    def on_test_epoch_end(self) -> None:
        n, norm, positive = self.sums.tolist()
        self.log_dict({"test/dimension": float(self.dimension), "test/norm": norm / n, "test/positive": positive / n})
        self.sums.zero_()


class Features(ClosedForm):
    """Every view of every image, through the backbone and to unit length, stored by row; nothing is learnt.

    Testing extracts the first batch of test images again and logs how far that is from what was stored.

    Args:
        extractor: images (B, C, S, S) in [0, 1] -> (B, D), for features that are not a network's.
        backbone: the stage with the network, instead.
        views: what is made of an image; None leaves it whole.
        side: of the views in pixels; None takes the backbone's, or the images' own.
    Raises:
        ValueError: neither or both of extractor and backbone.
    """

    solution = ("stored",)
    stored: Tensor  # (rows, V, D)

    def __init__(
        self,
        extractor: nn.Module | None = None,
        backbone: Backbone | None = None,
        views: Views | None = None,
        side: int | None = None,
    ) -> None:
        super().__init__()
        if (extractor is None) == (backbone is None):
            raise ValueError("expected either extractor, or backbone from needs: {backbone: <stage>}")
        chosen = extractor or backbone
        assert chosen is not None
        self.frozen, self.views = Frozen([chosen]), views or Patches(1)
        self.side = side or (backbone.side if backbone is not None else None)
        self.differences: list[float] = []

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) in [0, 1] -> (B, V, D)."""
        views = self.views(x, self.side or x.shape[-1])
        return torch.stack([unit(self.frozen.logits(view)[0].float()) for view in views], 1)

    def gathered(self, x: Tensor) -> Tensor:
        return self(x)

    def solve(self, x: Tensor, y: Tensor) -> None:
        if not torch.equal(y.sort().values, torch.arange(len(y), device=y.device)):
            raise ValueError("each row of the data must be served exactly once")
        self.stored = torch.empty_like(x).index_copy_(0, y, x)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        if batch_idx == 0:
            images, rows = batch[0][:8], batch[1][:8]
            self.differences.append(float((self(images) - self.stored[rows]).abs().max()))

    def on_test_epoch_end(self) -> None:
        _, views, dimension = self.stored.shape
        found = {"views": views, "dimension": dimension, "reextraction": max(self.differences)}
        self.log_dict({f"test/{name}": float(value) for name, value in found.items()})
        self.differences = []

    def pictures(self, data: Any) -> dict[str, Figure]:
        """What one image becomes."""
        if self.stored.shape[1] == 1:
            return {}
        image = next(iter(data.test_dataloader()))[0][:1].cpu()
        views = self.views(image, self.side or image.shape[-1])
        figure = Figure(figsize=(9, 3), layout="constrained")
        columns = math.ceil(len(views) / 2)
        for number, axes in enumerate(figure.subplots(2, columns).flat):
            axes.axis("off")
            if number < len(views):
                show(axes, views[number][0])
                axes.set_title(str(number + 1), fontsize=8)
        return {"views of an image": figure}


def show(axes: Any, image: Tensor) -> None:
    axes.imshow(image.permute(1, 2, 0), cmap="gray", vmin=0, vmax=1)
    axes.set(xticks=[], yticks=[])
