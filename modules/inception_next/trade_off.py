"""Accuracy against throughput of trained networks (figure 1 of the paper)."""

from __future__ import annotations

import copy
import statistics
from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure
from torch import Tensor

from modules.inception_next.module import MetaNeXtClassifier
from modules.inception_next.pictures import trade_off_picture
from modules.inception_next.timing import MODES, Throughput, Timing, device_name


class TradeOff(Throughput):
    """Trained networks, all on the same images.

    Reports what Throughput does, timed on the first batch of the test, and test/top1_<name> in percent.

    Args:
        arms: the stages whose networks are compared; the tested weights of each.
        names: of the arms, in their order.
        timing: see Throughput.
    Raises:
        ValueError: another number of names than of arms, or what Throughput refuses.
    """

    def __init__(self, arms: Sequence[MetaNeXtClassifier], names: Sequence[str], timing: Timing) -> None:
        if len(arms) != len(names):
            raise ValueError(f"names={list(names)}: expected one for each of {len(arms)} arms")
        copies = [copy.deepcopy(arm.final()).requires_grad_(True) for arm in arms]  # steps are timed on the copies
        super().__init__(dict(zip(names, copies, strict=True)), timing)
        self.right = dict.fromkeys(names, 0)
        self.count = 0
        self.first_batch: Tensor | None = None

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        x, y = batch
        if self.first_batch is None:
            self.first_batch = x
        self.count += len(x)
        for name, network in self.candidates.items():
            self.right[name] += int((network.eval()(x).argmax(-1) == y).sum())

    def top1(self, name: str) -> float:
        """In percent."""
        return 100 * self.right[name] / self.count

    def on_test_epoch_end(self) -> None:
        assert self.first_batch is not None
        self.measure(self.first_batch)  # after all images were seen: training steps move weights and batch statistics
        for name in self.right:
            self.log(f"test/top1_{name}", self.top1(name))
        super().on_test_epoch_end()

    def pictures(self, data: Any) -> dict[str, Figure]:
        """One point an arm for training and one for inference."""
        if not self.times:
            return {}
        points = {
            label: {
                name: (self.images / statistics.median(self.best_times(mode, name)), self.top1(name))
                for name in self.right
            }
            for mode, label in MODES.items()
        }
        title = f"{device_name(self.device)}, batches of {self.images}"
        return {"accuracy against throughput": trade_off_picture(points, title)}
