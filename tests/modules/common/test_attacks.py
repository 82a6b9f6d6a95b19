"""Projected gradient ascent against problems whose answer is known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from modules.common.attacks import _uniform_in_ball, l2_pgd, linf_pgd


def test_a_linear_objective_is_raised_along_its_weights() -> None:
    """max w x over a ball is w x0 + r |w|, where the box does not cut."""
    w = torch.tensor([3.0, -4.0])
    x = torch.tensor([[0.5, 0.5], [0.4, 0.6]])
    best, value = l2_pgd(lambda p: p @ w, x, 0.1)
    assert torch.allclose(value, x @ w + 0.1 * 5, atol=1e-5)
    assert torch.allclose(best, x + 0.1 * w / 5, atol=1e-5)


def test_ball_and_box_hold_for_every_input() -> None:
    torch.manual_seed(1)
    x = torch.rand(64, 3, 4, 4)
    radii = torch.rand(64) * 3
    target = torch.randn(64, 3, 4, 4) * 5
    best, _ = l2_pgd(lambda p: -(p - target).square().flatten(1).sum(1), x, radii, steps=10, restarts=3)
    assert bool(((best - x).flatten(1).norm(dim=1) <= radii * (1 + 1e-5)).all())
    assert float(best.min()) >= 0
    assert float(best.max()) <= 1


def test_the_box_cuts_where_the_ball_would_leave_it() -> None:
    best, value = l2_pgd(lambda p: p.sum(1), torch.tensor([[0.9, 0.0]]), 0.5, low=0.0, high=1.0)
    assert float(best[0, 0]) == 1.0
    assert float(value) > 0.9 + 0.35


def test_radius_zero_and_flat_objectives_leave_inputs_alone() -> None:
    x = torch.rand(4, 5)
    radii = torch.tensor([0.0, 1.0, 0.0, 1.0])
    best, value = l2_pgd(lambda p: p.sum(1), x, radii, low=-9, high=9)
    assert torch.equal(best[::2], x[::2])
    assert bool((value[1::2] > x[1::2].sum(1) + 1).all())
    best, _ = l2_pgd(lambda p: 0 * p.sum(1), x, 1.0, restarts=2)
    assert torch.equal(best, x)


def test_the_best_point_met_is_returned_and_never_worse_than_the_start() -> None:
    """A step that overshoots a narrow peak is not what counts."""
    x = torch.tensor([[0.5]])
    peak = lambda p: -(p - 0.52).abs().sum(1)  # noqa: E731
    best, value = l2_pgd(peak, x, 0.4, steps=3)
    assert float(value) >= float(peak(x))
    assert float(peak(best)) == float(value)


def test_restarts_find_what_one_start_misses() -> None:
    """The start is a stationary point; any other start is not."""

    def objective(p: Tensor) -> Tensor:
        return (p - 0.5).square().sum(1)

    x = torch.full((8, 3), 0.5)
    _, once = l2_pgd(objective, x, 0.3)
    _, again = l2_pgd(objective, x, 0.3, restarts=2)
    assert float(once.max()) == 0
    assert torch.allclose(again, torch.full((8,), 0.09), atol=1e-4)


def test_it_works_in_inference_mode_and_leaves_no_gradient_behind() -> None:
    layer = torch.nn.Linear(3, 1)
    with torch.inference_mode():
        best, _ = l2_pgd(lambda p: layer(p).squeeze(1), torch.rand(5, 3), 0.2)
    assert not best.requires_grad
    assert layer.weight.grad is None


@pytest.mark.parametrize("options", [{"steps": 0}, {"restarts": 0}])
def test_it_needs_a_step_and_a_start(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="expected 1 or more"):
        l2_pgd(lambda p: p.sum(1), torch.rand(2, 2), 0.1, **options)


def test_starts_differ_from_input_to_input_and_fill_the_ball() -> None:
    """Of a uniform point of the d-ball, |u|^d is uniform on [0, 1]."""
    points = _uniform_in_ball(torch.zeros(4000, 2, 2, dtype=torch.float64))
    assert points.dtype == torch.float64
    share = points.flatten(1).norm(dim=1) ** 4
    assert 0 < float(share.min()) < float(share.max()) < 1
    assert float(share.mean()) == pytest.approx(0.5, abs=0.02)
    assert float(share.square().mean()) == pytest.approx(1 / 3, abs=0.02)
    assert _uniform_in_ball(torch.zeros(3, 2, device="meta")).device.type == "meta"


def test_radii_are_put_beside_the_inputs() -> None:
    best, value = l2_pgd(lambda p: p.sum(1), torch.zeros(3, 2, device="meta", dtype=torch.float64), 1.0, steps=2)
    assert (best.device.type, value.device.type, value.dtype) == ("meta", "meta", torch.float64)


def test_every_step_is_its_share_of_the_rate_in_radii() -> None:
    """One step of 2.5 radii ends on the ball; of ten, the first is a quarter radius long."""
    seen: list[Tensor] = []

    def objective(p: Tensor) -> Tensor:
        seen.append(p.detach().clone())
        return p.sum(1)

    for attack, first in ((l2_pgd, 0.25), (linf_pgd, 0.2 * 2**0.5)):
        seen.clear()
        attack(objective, torch.zeros(1, 2), 0.5, 10, low=-9, high=9)
        assert len(seen) == 11
        assert float((seen[1] - seen[0]).norm()) == pytest.approx(first * 0.5, rel=1e-5)
        length = float(seen[-1].norm() if attack is l2_pgd else seen[-1].abs().max())
        assert length == pytest.approx(0.5, rel=1e-5)
    seen.clear()
    l2_pgd(objective, torch.zeros(1, 2), 0.5, low=-9, high=9)
    linf_pgd(objective, torch.zeros(1, 2), 0.5, low=-9, high=9)
    assert len(seen) == 41 + 9


def test_restarts_of_the_cube_begin_anywhere_in_it() -> None:
    starts: list[Tensor] = []

    def flat(p: Tensor) -> Tensor:
        starts.append(p.detach().clone())
        return 0 * p.sum(1)

    linf_pgd(flat, torch.full((4000, 1), 0.5), 0.25, steps=1, restarts=2)
    moved = starts[2] - 0.5
    assert float(moved.abs().max()) <= 0.25
    assert float(moved.mean()) == pytest.approx(0, abs=0.01)
    assert float(moved.std()) == pytest.approx(0.5 / 12**0.5, abs=0.01)
