"""What is measured of each level, by hand."""

from __future__ import annotations

import pytest
import torch

from modules.transhp.levels import Levels, selection, selectivity
from modules.transhp.networks import Absorbed


def test_selectivity_and_level_metrics_by_hand() -> None:
    absorbed, coarse = torch.tensor([[0.2, 0.1, 0.05], [0.1, 0.3, 0.2]]), torch.tensor([0, 2])
    target, ratio = selectivity(absorbed, coarse)
    assert target.tolist() == pytest.approx([0.2, 0.2])
    assert ratio.tolist() == pytest.approx([2.0, 2 / 3])
    measure = Levels([3], prompted=True)
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
            "selection": (0.2 / 0.1 + 0.2 / 0.05) / 2,  # of classes 0 and 2; there is no image of class 1
            "selection_class": (0.1 / 0.2 + 0.05 / 0.2) / 2,
        }
    )
    two = Levels([2, 3], prompted=False)
    two.update([torch.eye(2), torch.eye(3)[:2]], [], torch.tensor([[0, 0], [0, 1]]))
    assert {n: float(v) for n, v in two.compute().items()} == {
        "coarse_top1": 100,
        "coarse_top1_0": 50,
        "coarse_top1_1": 100,
    }


def test_a_prompt_that_all_images_prefer_is_not_selected() -> None:
    """R(T:N) falls with it, selection does not; and where own images absorb 1.5 times as much, it says so."""
    coarse = torch.arange(6) % 3
    preferred = torch.tensor([0.3, 0.1, 0.05]).expand(6, 3)
    measure = Levels([3], prompted=True)
    chosen = preferred * torch.where(torch.eye(3)[coarse] > 0, 1.5, 1.0)
    measure.update([torch.eye(3)[coarse]], [Absorbed(preferred, chosen)], coarse[:, None])
    actual = measure.compute()
    assert float(actual["ratio"]) == pytest.approx((3 + 1 / 3 + 1 / 6) / 3)
    assert float(actual["selection"]) == pytest.approx(1)
    assert float(actual["selection_class"]) == pytest.approx(1.5)


def test_selection_needs_images_of_two_classes() -> None:
    own, others = torch.tensor([0.4, 0.0]), torch.tensor([0.0, 0.8])
    assert float(selection(own, others, torch.tensor([4, 0]))) == 1


def test_a_large_ratio_hides_none_of_those_that_follow() -> None:
    """2^25 and forty times 1: in single precision the sum would stay at 2^25."""
    measure = Levels([2], prompted=True)
    for own in (2.0**25, *[1.0] * 40):
        absorbed = Absorbed(torch.tensor([[own, 1.0]]), torch.tensor([[0.2, 0.1]]))
        measure.update([torch.eye(2)[:1]], [absorbed], torch.zeros(1, 1, dtype=torch.long))
    assert float(measure.compute()["ratio"]) == pytest.approx((2**25 + 40) / 41, rel=2e-7)
