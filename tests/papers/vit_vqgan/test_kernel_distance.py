"""The kernel distance of batches."""

from __future__ import annotations

import torch

from modules.common.kid import kernel_distance
from modules.vit_vqgan.kernel_distance import KernelDistance


def test_batches_give_what_the_whole_gives() -> None:
    torch.manual_seed(0)
    real, fake = torch.randn(9, 3), torch.randn(8, 3) + 1
    metric = KernelDistance()
    for features, side in ((real[:4], True), (fake[:3], False), (real[4:], True), (fake[3:], False)):
        metric.update(features, real=side)
    assert metric.compute() == kernel_distance(real, fake)
    metric.reset()
    assert metric.compute().isnan()
