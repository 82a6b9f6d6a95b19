"""The loss against hand-computed values and MONAI."""

from __future__ import annotations

import math

import pytest
import torch
from monai.losses import DiceCELoss

from modules.mswal.losses import deep_supervision_weights, deeply_supervised_loss, dice_ce, soft_dice
from tests.papers.mswal.helpers import labels, one_hot


def test_loss_of_two_voxels() -> None:
    total, ce, dice = dice_ce(torch.zeros(1, 2, 2), torch.tensor([[0, 1]]))
    assert float(dice) == pytest.approx(0.5000025, abs=1e-6)
    assert float(ce) == pytest.approx(math.log(2), abs=1e-6)
    assert float(total) == pytest.approx(0.193145, abs=1e-5)


def test_a_perfect_and_sure_prediction_costs_minus_one() -> None:
    y = labels(2, 4, 4, 4)
    assert float(dice_ce(100.0 * one_hot(y), y)[0]) == pytest.approx(-1, abs=1e-4)


@pytest.mark.parametrize("batch", [False, True])
def test_loss_and_gradient_are_monais(batch: bool) -> None:
    """MONAI writes 1 - Dice, so its value is one larger. Class 3 is absent from the second sample."""
    y = labels(2, 5, 6, 7)
    y[1][y[1] == 3] = 0
    z = torch.randn(2, 4, 5, 6, 7, generator=torch.Generator().manual_seed(1), requires_grad=True)
    theirs = DiceCELoss(
        include_background=False, softmax=True, to_onehot_y=True, smooth_nr=1e-5, smooth_dr=1e-5, batch=batch
    )
    ours, reference = dice_ce(z, y, batch)[0], theirs(z, y[:, None])
    assert float(ours.detach()) == pytest.approx(float(reference.detach()) - 1, abs=1e-6)
    (a,), (b,) = torch.autograd.grad(ours, z), torch.autograd.grad(reference, z)
    assert torch.allclose(a, b, atol=1e-8)


def test_an_absent_class_that_is_not_predicted_counts_as_one() -> None:
    p = torch.zeros(1, 3, 8)
    p[:, 0, :4], p[:, 1, 4:] = 1, 1
    y = torch.tensor([[0] * 4 + [1] * 4])
    assert float(soft_dice(p, y)) == pytest.approx(1)


def test_background_does_not_enter_the_dice() -> None:
    p = torch.rand(1, 3, 8)
    other = p.clone()
    other[:, 0] = torch.rand(1, 8)
    y = torch.tensor([[0, 1, 2, 1, 0, 2, 1, 0]])
    assert torch.equal(soft_dice(p, y), soft_dice(other, y))


def test_deep_supervision_weights() -> None:
    assert deep_supervision_weights(5) == pytest.approx([8 / 15, 4 / 15, 2 / 15, 1 / 15, 0])
    assert deep_supervision_weights(2) == [1, 0]
    assert deep_supervision_weights(1) == [1]


def test_deep_supervision_is_the_weighted_sum_and_the_lowest_output_gets_no_gradient() -> None:
    y = labels(2, 8, 8, 8)
    outputs = [torch.randn(2, 4, s, s, s, requires_grad=True) for s in (8, 4, 2)]
    total, ce, dice = deeply_supervised_loss(outputs, y)
    halved = y[:, 1::2, 1::2, 1::2]  # the nearest voxel of each pair
    expected = 2 / 3 * dice_ce(outputs[0], y)[0] + 1 / 3 * dice_ce(outputs[1], halved)[0]
    assert float(total.detach()) == pytest.approx(float(expected.detach()), abs=1e-6)
    assert torch.equal(ce - dice, dice_ce(outputs[0], y)[0])
    total.backward()
    sizes = [float(z.grad.abs().max()) for z in outputs if z.grad is not None]
    assert sizes[0] > 0
    assert sizes[1] > 0
    assert sizes[2] == 0
