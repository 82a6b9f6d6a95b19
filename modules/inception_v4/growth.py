"""How activations grow with the scale of residuals (section 3.3)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torchmetrics import SumMetric

from modules.common.module import StageModule
from modules.inception_v4.networks import Inception
from modules.inception_v4.pictures import growth_picture


class Growth(StageModule):
    """How much larger the activations after the last block are than after the stem, at initialisation.

    The same random weights with several s, on one batch after the other with the statistics of that batch. Logs
    standard deviations: `test/stem`, `test/last_<s>`, and `test/growth_<s>`, the ratio of the two. Not trained.

    Args:
        network: makes an Inception-ResNet.
        scales: the values of s.
    """

    def __init__(self, network: Callable[[], Inception], scales: Sequence[float]) -> None:
        super().__init__()
        self.network = network()
        self.scales = list(scales)
        names = ["stem", *(f"{kind}_{s:g}" for kind in ("last", "growth") for s in self.scales)]
        self.sums = {name: SumMetric(nan_strategy="disable") for name in [*names, "batches"]}
        for number, metric in enumerate(self.sums.values()):  # a module's name may hold no dot
            self.add_module(f"sum_{number}", metric)

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)

    def deviations(self, x: Tensor, scale: float) -> Tensor:
        """Standard deviation of the activations after each layer, from the stem on, with that s; (layers,)."""
        self.network.train()  # batch statistics
        self.network.rescale(scale)
        deviations = [layer.float().std() for layer in self.network.layers(x)]
        return torch.stack(deviations[self.network.ends[0] - 1 :])

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        last = self.network.ends[-1] - self.network.ends[0]
        for scale in self.scales:
            deviations = self.deviations(batch[0], scale)
            self.sums[f"last_{scale:g}"].update(deviations[last])
            self.sums[f"growth_{scale:g}"].update(deviations[last] / deviations[0])
        self.sums["stem"].update(deviations[0])
        self.sums["batches"].update(1.0)

    def on_test_epoch_end(self) -> None:
        sums = {name: metric.compute() for name, metric in self.sums.items()}
        batches = sums.pop("batches")
        self.log_dict({f"test/{name}": value / batches for name, value in sums.items()})
        for metric in self.sums.values():
            metric.reset()

    def pictures(self, data: Any) -> dict[str, Figure]:
        """Activations layer by layer, for every s."""
        x = next(iter(data.test_dataloader()))[0].to(self.device)
        deviations = {scale: self.deviations(x, scale).cpu() for scale in self.scales}
        return {"activations by depth": growth_picture(deviations)}
