"""Features of a frozen network, or of any fixed extractor: every view of every image, exported once by row number."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer

from modules.common.closed_form import ClosedForm
from modules.common.frozen import Frozen
from modules.common.module import StageModule
from modules.off_the_shelf.pictures import draw_views
from modules.off_the_shelf.views import Patches, Views, resize


def unit(f: Tensor) -> Tensor:
    """Each row of (..., D) at length 1."""
    return F.normalize(f, dim=-1)


class Backbone(StageModule):
    """A frozen network and the layer that is its feature. Built when it is first used: stages that are fed with an
    export do not load it.

    Args:
        network: makes the network (`_partial_: true`).
        side: input side in pixels.
        layer: name of the layer; None takes the network's output.
        relu: rectify the layer's output.
        mean, std, peak: the network sees (peak x - mean) / std of images x in [0, 1].
        channels_last: memory layout that runs faster on most processors.
        weight_seed: of networks with random weights. Not the engine's `start_like`, which seeds the construction of a
            stage: the network is built later than that, and anew in each stage that uses it.
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
        self.build_network = network
        self.side = side
        self.layer = layer
        self.relu = relu
        self.scale = [peak / s for s in std]
        self.shift = [-m / s for m, s in zip(mean, std, strict=True)]
        self.channels_last = channels_last
        self.weight_seed = weight_seed
        self.network: nn.Module | None = None
        self._layer_output = torch.empty(0)

        self.dimension = 0
        self.sums = torch.zeros(3, dtype=torch.float64)  # images, their features' norms, shares above 0

    def load_network(self) -> nn.Module:
        """The network, built at the first call."""
        if self.network is not None:
            return self.network

        with torch.random.fork_rng(devices=[]), torch.inference_mode(False):
            torch.manual_seed(self.weight_seed)
            network = self.build_network().eval().requires_grad_(False)

        if self.layer is not None:
            layers = dict(network.named_modules())
            if self.layer not in layers:
                raise ValueError(f"layer={self.layer!r}: the network has {', '.join(n for n in layers if n)}")
            layers[self.layer].register_forward_hook(self._keep_output)
        if self.channels_last:
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.network = network.to(self.device)
        return self.network

    def _keep_output(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
        self._layer_output = output.clone()  # the next layer may rectify it in place

    def train(self, mode: bool = True) -> Backbone:
        """Stays in evaluation mode: batch statistics are part of what is frozen."""
        return super().train(False)

    def example(self, shape: tuple[int, ...]) -> tuple[Any, ...]:
        return (torch.zeros(1, shape[0], self.side, self.side, device=self.device),)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 1 or 3, S, S) in [0, 1] -> (B, D) float32; maps are averaged over their positions."""
        network = self.load_network()
        scale = x.new_tensor(self.scale).view(1, -1, 1, 1)
        shift = x.new_tensor(self.shift).view(1, -1, 1, 1)
        x = (x * scale + shift).expand(-1, 3, -1, -1)
        x = x.contiguous(memory_format=torch.channels_last) if self.channels_last else x.contiguous()

        output = network(x)
        if self.layer is not None:
            output = self._layer_output
            self._layer_output = torch.empty(0)
        if self.relu:
            output = F.relu(output)
        return (output.flatten(2).mean(2) if output.ndim == 4 else output).float()

    def test_step(self, batch: Any, batch_idx: int) -> None:
        f = self(resize(batch.x, self.side))  # (B, D)
        self.dimension = f.shape[1]
        norms = f.norm(dim=1)
        positive = (f > 0).float().mean(1)
        self.sums += torch.stack([f.new_tensor(len(f)), norms.sum(), positive.sum()]).double().cpu()

    def on_test_epoch_end(self) -> None:
        n, norm, positive = self.sums.tolist()
        self.log_dict({"test/dimension": float(self.dimension), "test/norm": norm / n, "test/positive": positive / n})
        self.sums.zero_()


class RandomBackbone(Backbone):
    """The control: the network with random weights, its batch statistics from one pass over images without labels.

    Every batch counts alike. Nothing is optimised, so the stage's configuration says
    `trainer: {max_epochs: 1, devices: 1, strategy: auto}`.

    Args:
        arguments, options: see Backbone; `weight_seed` draws the weights.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.automatic_optimization = False
        layers = self.load_network().modules()  # at once: a checkpoint is loaded into it
        self.normalisations = [layer for layer in layers if isinstance(layer, _BatchNorm)]
        for layer in self.normalisations:
            layer.momentum = None  # a cumulative average
        self.train()  # as ever, in evaluation mode

    def configure_optimizers(self) -> list[Optimizer]:
        return []

    def training_step(self, batch: Any, batch_idx: int) -> None:
        for layer in self.normalisations:
            layer.train()
        with torch.no_grad():
            self(resize(batch.x, self.side))
        for layer in self.normalisations:
            layer.eval()


class Features(ClosedForm):
    """Every view of every image, through the backbone and to unit length; nothing is learnt.

    Later stages are fed with the artifact `features` (rows, V, D) float32: its row is the image's row number. No
    checkpoint of a finished export holds it a second time.

    Testing extracts the first test images again and logs how far that is from the export (`reextraction`); `spread` is
    1 - |mean of all features|^2, from 0, where all images have the same feature, to 1.

    Args:
        extractor: images (B, C, S, S) in [0, 1] -> (B, D), for features that are not a network's.
        backbone: the stage with the network, instead.
        views: what is made of an image; None leaves it whole.
        side: of the views in pixels; None takes the backbone's, or the images' own.
    Raises:
        ValueError: neither or both of extractor and backbone.
    """

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
        self.frozen = Frozen([chosen])
        self.views = views or Patches(1)
        self.side = side or (backbone.side if backbone is not None else None)
        self.exported: Tensor | None = None  # (rows, V, D)
        self.difference = 0.0

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) in [0, 1] -> (B, V, D)."""
        views = self.views(x, self.side or x.shape[-1])
        return torch.stack([unit(self.frozen.logits(view)[0].float()) for view in views], 1)

    def keep(self, x: Tensor) -> Tensor:
        return self(x)

    def solve(self, x: Tensor, y: Tensor) -> None:
        """Features (rows, V, D) in order of their row numbers (rows,)."""
        if not torch.equal(y.sort().values, torch.arange(len(y), device=y.device)):
            raise ValueError("each row of the data must be served exactly once")
        self.exported = torch.empty_like(x).index_copy_(0, y, x)

    def on_test_start(self) -> None:
        """A stage that was ended after its export, before its artifact was written, exports again: the same batches."""
        if self.exported is None:
            loader = self.trainer.datamodule.train_dataloader()  # type: ignore[attr-defined]
            features, rows = zip(*((self(batch.x), batch.row) for batch in loader), strict=True)
            self.solve(torch.cat(features), torch.cat(rows))

    def test_step(self, batch: Any, batch_idx: int) -> None:
        assert self.exported is not None
        if batch_idx == 0:
            again = self(batch.x[:8])
            self.difference = float((again - self.exported[batch.row[:8]]).abs().max())

    def on_test_epoch_end(self) -> None:
        assert self.exported is not None
        _, views, dimension = self.exported.shape
        spread = 1 - self.exported.flatten(0, 1).mean(0).square().sum()
        metrics = {"views": views, "dimension": dimension, "reextraction": self.difference, "spread": spread}
        self.log_dict({f"test/{name}": float(value) for name, value in metrics.items()})  # type: ignore[arg-type]

    def artifacts(self) -> dict[str, np.ndarray]:
        assert self.exported is not None
        return {"features": self.exported.cpu().numpy()}

    def pictures(self, data: Any) -> dict[str, Figure]:
        """What one image becomes."""
        image = next(iter(data.test_dataloader())).x[:1].cpu()
        views = self.views(image, self.side or image.shape[-1])
        return {"views of an image": draw_views([view[0] for view in views])} if len(views) > 1 else {}
