"""m(t) by hand, and what a crop of the whole batch lets through."""

from __future__ import annotations

import pytest
import torch

from modules.cda.curriculum import Crops


def bounds(steps: int, at: list[int], **options: object) -> list[float]:
    crops = Crops(**options)  # type: ignore[arg-type]
    return [crops.bound(t, steps) for t in at]


def test_cosine_by_hand() -> None:
    assert bounds(4000, [0, 1000, 2000, 3000, 3999]) == pytest.approx([1.0, 0.8653, 0.54, 0.2147, 0.08], abs=1e-4)


def test_linear_by_hand() -> None:
    assert bounds(4000, [0, 1000, 2000], shape="linear") == pytest.approx([1.0, 0.77, 0.54])


def test_step_falls_at_its_milestone() -> None:
    assert bounds(4000, [0, 1999, 2000, 3999], shape="step", milestone=0.5) == [1.0, 1.0, 0.08, 0.08]
    assert set(bounds(50, list(range(50)), shape="step")) == {1.0}


@pytest.mark.parametrize("shape", ["step", "linear", "cosine"])
def test_milestone_0_is_sre2l(shape: str) -> None:
    assert set(bounds(40, list(range(40)), shape=shape, milestone=0.0)) == {0.08}


def test_shifts_and_crops_are_sre2ls_unless_said_otherwise() -> None:
    assert (Crops().jitter, Crops().smallest) == (32, 0.08)


def test_after_the_milestone_the_bound_stays() -> None:
    values = bounds(100, list(range(100)), milestone=0.4)
    assert values[20] == pytest.approx(0.54)
    assert set(values[40:]) == {0.08}
    assert values == sorted(values, reverse=True)


def test_reverse_has_the_same_bounds_in_opposite_order() -> None:
    steps = list(range(100))
    assert bounds(100, steps, reverse=True) == bounds(100, steps)[::-1]


def test_shuffled_has_the_same_bounds_in_an_order_of_its_own() -> None:
    steps = list(range(100))
    shuffled = bounds(100, steps, shuffled=True)
    assert sorted(shuffled, reverse=True) == bounds(100, steps)
    assert shuffled not in (bounds(100, steps), bounds(100, steps, reverse=True))
    assert abs(sum(shuffled[:50]) / 50 - 0.54) < 0.15  # neither falls nor grows; the cosine's first half has 0.83
    assert shuffled == bounds(100, steps, shuffled=True)


def test_whole_images_give_every_pixel_a_gradient() -> None:
    """Of scale (1, 1) and a square only the fallback fits, which is the whole image."""
    for seed in range(20):
        torch.manual_seed(seed)
        x = torch.randn(2, 1, 16, 16, requires_grad=True)
        view = Crops("step", jitter=0)(x, 0, 10)
        assert torch.equal(view, x) or torch.equal(view, x.flip(-1))
        (gradient,) = torch.autograd.grad(view.sum(), x)
        assert torch.equal(gradient, torch.ones_like(x))


def test_pixels_outside_the_crop_have_no_gradient_and_the_crop_is_one_for_the_batch() -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 3, 32, 32, requires_grad=True)
    view = Crops(milestone=0.0, jitter=0)(x, 0, 10)
    assert view.shape == x.shape
    (gradient,) = torch.autograd.grad(view.square().sum(), x)
    touched = gradient.ne(0).any(1)  # (B, H, W)
    assert all(torch.equal(touched[0], image) for image in touched)
    assert 0 < int(touched[0].sum()) < 32 * 32
    rows, columns = touched[0].any(1).nonzero(), touched[0].any(0).nonzero()
    area = (int(rows.max() - rows.min()) + 1) * (int(columns.max() - columns.min()) + 1)
    assert area == int(touched[0].sum()) >= 0.06 * 32 * 32  # one box, of 8% or more before rounding


def test_the_largest_area_stays_1() -> None:
    """Late steps may see whole images: the lower bound alone moves."""
    seen = []
    for seed in range(200):
        torch.manual_seed(seed)
        x = torch.ones(1, 1, 32, 32, requires_grad=True)
        (gradient,) = torch.autograd.grad(Crops(milestone=0.0, jitter=0)(x, 9, 10).sum(), x)
        seen.append(float(gradient.ne(0).float().mean()))
    assert max(seen) > 0.85
    assert min(seen) < 0.2


def test_shift_is_between_0_and_jitter_and_loses_nothing() -> None:
    x = torch.arange(36.0).view(1, 1, 6, 6)
    actual = set()
    for seed in range(60):
        torch.manual_seed(seed)
        view = Crops("step", jitter=2)(x, 0, 10)
        assert sorted(view.flatten().tolist()) == x.flatten().tolist()
        row, _ = divmod(int((view.flatten() == 0).nonzero()), 6)
        actual.add(row)
    assert actual == {0, 1, 2}


@pytest.mark.parametrize("options", [{"shape": "sine"}, {"milestone": 1.5}, {"smallest": 0.0}, {"jitter": -1}])
def test_wrong_options_are_named(options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        Crops(**options)  # type: ignore[arg-type]
