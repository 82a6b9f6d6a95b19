"""Projected gradient ascent in the largest coordinate, against problems whose answer is known."""

from __future__ import annotations

import pytest
import torch

from modules.common.attacks import linf_pgd


def test_a_linear_objective_is_raised_by_the_sum_of_its_weights() -> None:
    """max w x over the cube is w x0 + r |w|_1, where the box does not cut."""
    w = torch.tensor([3.0, -4.0])
    x = torch.tensor([[0.5, 0.5], [0.4, 0.6]])
    best, value = linf_pgd(lambda p: p @ w, x, 0.1)
    assert torch.allclose(value, x @ w + 0.1 * 7, atol=1e-5)
    assert torch.allclose(best, x + 0.1 * w.sign(), atol=1e-6)


def test_cube_and_box_hold_for_every_input() -> None:
    x = torch.rand(64, 3, 4, 4)
    radii = torch.rand(64)
    target = torch.randn(64, 3, 4, 4) * 5
    best, _ = linf_pgd(lambda p: -(p - target).square().flatten(1).sum(1), x, radii, steps=10, restarts=3)
    assert bool(((best - x).flatten(1).abs().amax(1) <= radii * (1 + 1e-5)).all())
    assert float(best.min()) >= 0
    assert float(best.max()) <= 1


def test_radius_zero_and_flat_objectives_leave_inputs_alone() -> None:
    x = torch.rand(4, 5)
    best, _ = linf_pgd(lambda p: p.sum(1), x, 0.0, restarts=2)
    assert torch.equal(best, x)
    best, _ = linf_pgd(lambda p: 0 * p.sum(1), x, 1.0, restarts=2)
    assert torch.equal(best, x)


def test_the_best_point_met_is_returned_in_inference_mode_too() -> None:
    peak = lambda p: -(p - 0.52).abs().sum(1)  # noqa: E731
    x = torch.tensor([[0.5]])
    with torch.inference_mode():
        best, value = linf_pgd(peak, x, 0.4, steps=3)
    assert float(value) >= float(peak(x))
    assert float(peak(best)) == float(value)
    assert not best.requires_grad


@pytest.mark.parametrize("options", [{"steps": 0}, {"restarts": 0}])
def test_it_needs_a_step_and_a_start(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="expected 1 or more"):
        linf_pgd(lambda p: p.sum(1), torch.rand(2, 2), 0.1, **options)
