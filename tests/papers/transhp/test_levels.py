"""What is measured of each level, by hand."""

from __future__ import annotations

import pytest
import torch

from modules.transhp.levels import Levels, selectivity
from modules.transhp.networks import Absorbed


def test_selectivity_and_level_metrics_by_hand() -> None:
    absorbed, coarse = torch.tensor([[0.2, 0.1, 0.05], [0.1, 0.3, 0.2]]), torch.tensor([0, 2])
    target, ratio = selectivity(absorbed, coarse)
    assert target.tolist() == pytest.approx([0.2, 0.2])
    assert ratio.tolist() == pytest.approx([2.0, 2 / 3])
    measure = Levels(1, prompted=True)
    for i in range(2):  # one image at a time
        measure.update(
            [torch.tensor([[3.0, 1, 2]])],
            [Absorbed(absorbed[i : i + 1], absorbed[1 - i : 2 - i])],
            coarse[i : i + 1, None],
        )
    actual = {name: float(value) for name, value in measure.compute().items()}
    assert actual == pytest.approx(
        {
            "coarse_top1": 50,
            "absorption": 0.2,
            "ratio": 4 / 3,
            "absorption_class": (0.1 + 0.05) / 2,  # as if the class tokens of the two images were exchanged
            "ratio_class": (0.1 / 0.3 + 0.05 / 0.2) / 2,
        }
    )
    two = Levels(2, prompted=False)
    two.update([torch.eye(2), torch.eye(3)[:2]], [], torch.tensor([[0, 0], [0, 1]]))
    assert {n: float(v) for n, v in two.compute().items()} == {
        "coarse_top1": 100,
        "coarse_top1_0": 50,
        "coarse_top1_1": 100,
    }
