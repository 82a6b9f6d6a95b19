"""Networks side by side, for the eye: maps of all methods, and curves of insertion and deletion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torchmetrics import MeanMetric

from modules.common.frozen import Frozen
from modules.common.metrics import compute_and_reset
from modules.common.module import StageModule
from modules.robust_explainability.curves import Curves
from modules.robust_explainability.explain import Method, explain
from modules.robust_explainability.pictures import draw_curves, draw_maps


class Compare(StageModule):
    """Shows what the measures of Explain are made of; nothing is trained.

    Test metrics, percent: common, images that all networks get right; apart, images that some get right and some do
    not; n, images.

    Args:
        networks: the stages that are compared.
        names: what to call them.
        methods: see Explain.
        curves: see Explain.
        shown: images whose maps are drawn.
        followed: images whose curves are averaged.
        curve_methods: whose order the curves follow.
    Raises:
        ValueError: not as many names as networks, or a method that there is not.
    """

    def __init__(
        self,
        networks: Sequence[Any],
        names: Sequence[str],
        methods: Mapping[str, Method],
        curves: Curves | None = None,
        shown: int = 2,
        followed: int = 40,
        curve_methods: Sequence[str] = ("gradient", "gradcam"),
    ) -> None:
        super().__init__()
        if len(names) != len(networks):
            raise ValueError(f"names={list(names)}: expected one for each of {len(networks)} networks")
        if wrong := set(curve_methods) - set(methods):
            raise ValueError(f"curve_methods: {min(wrong)!r}: expected names of methods: {', '.join(methods)}")
        self.networks = Frozen([other.network for other in networks])
        self.names = tuple(names)
        self.methods = dict(methods)
        self.curves = curves or Curves()
        self.shown = shown
        self.followed = followed
        self.curve_methods = tuple(curve_methods)
        self.means: Any = torch.nn.ModuleDict(
            {name: MeanMetric(nan_strategy="disable") for name in ("common", "apart")}
        )
        self.counted = 0

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> logits (T, B, classes) of all networks."""
        return torch.stack([network(x) for network in self.on(x.device)])

    def on(self, device: torch.device) -> list[Any]:
        with torch.inference_mode(False):  # weights that are moved within it could take part in no gradient
            return self.networks.on(device)

    def on_test_epoch_start(self) -> None:
        self.counted = 0

    def test_step(self, batch: Any, batch_idx: int) -> None:
        right = self(batch.x).argmax(2) == batch.y  # (T, B)
        self.counted += len(batch.y)
        self.means["common"].update(100.0 * right.all(0))
        self.means["apart"].update(100.0 * (right.any(0) & ~right.all(0)))

    def on_test_epoch_end(self) -> None:
        self.log_dict({f"test/{name}": compute_and_reset(metric) for name, metric in self.means.items()})
        self.log("test/n", float(self.counted))

    def pictures(self, data: Any) -> dict[str, Figure]:
        """Maps of some images that all networks get right, and mean curves of some more."""
        x, y, boxes = self._common_images(data)
        if not len(y):
            return {}
        drawn = {}
        for number in range(min(self.shown, len(y))):
            image, label = x[number : number + 1], y[number : number + 1]
            maps = {
                network_name: {name: explain(of, network, image, label)[0].cpu() for name, of in self.methods.items()}
                for network_name, network in zip(self.names, self.on(x.device), strict=True)
            }
            drawn[f"maps of image {number + 1}"] = draw_maps(data.shown(image)[0], boxes[number].cpu(), maps)
        drawn["insertion and deletion"] = draw_curves(self._mean_curves(x, y))
        return drawn

    def _common_images(self, data: Any) -> tuple[Tensor, Tensor, Tensor]:
        """Up to `followed` images, labels and boxes, of those that are measured on."""
        parts: list[Any] = []
        count = 0
        for batch in data.test_dataloader():
            x, y = batch.x.to(self.device), batch.y.to(self.device)
            chosen = (self(x).argmax(2) == y).all(0) & batch.in_test.to(self.device).bool()
            parts.append((x[chosen], y[chosen], batch.boxes.to(self.device)[chosen]))
            count += int(chosen.sum())
            if count >= self.followed:
                break
        x, y, boxes = (torch.cat(part)[: self.followed] for part in zip(*parts, strict=True))
        return x, y, boxes

    def _mean_curves(self, x: Tensor, y: Tensor) -> dict[str, dict[str, dict[str, Tensor]]]:
        """Method -> "insertion" or "deletion" -> network -> (steps + 1,)."""
        curves: dict[str, dict[str, dict[str, Tensor]]] = {}
        for method in self.curve_methods:
            curves[method] = {"insertion": {}, "deletion": {}}
            for name, network in zip(self.names, self.on(x.device), strict=True):
                maps = explain(self.methods[method], network, x, y)
                for kind, curve in zip(("insertion", "deletion"), self.curves(network, x, y, maps), strict=True):
                    curves[method][kind][name] = curve[:, 0].mean(0).cpu()
        return curves
