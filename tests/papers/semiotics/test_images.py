"""Random versions: known movements, and draws that no batch and no number of processes changes."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from modules.semiotics import images
from modules.semiotics.images import Randomizer
from modules.semiotics.networks import Autoencoder
from modules.semiotics.perception import Perception
from modules.semiotics.person import Person


def numbers(angle: float = 0.0, size: float = 0.0, right: float = 0.0, down: float = 0.0) -> Tensor:
    return torch.tensor([[angle, size, right, down]])


@pytest.fixture
def x() -> Tensor:
    return torch.rand(3, 1, 8, 8)


def test_nothing_asked_is_nothing_done(x: Tensor) -> None:
    assert torch.equal(Randomizer().fresh(x), x)


def test_a_shift_moves_whole_pixels_right_and_down(x: Tensor) -> None:
    moved = Randomizer(shift=2.0).change(x, numbers(right=1.0, down=0.5), torch.zeros_like(x))
    assert torch.allclose(moved[..., 1:, 2:], x[..., :-1, :-2], atol=1e-5)
    assert float(moved[..., :2].abs().max()) < 1e-5  # black comes in from outside


def test_a_quarter_turn_is_one(x: Tensor) -> None:
    turned = Randomizer(rotation=90.0).change(x, numbers(angle=1.0), torch.zeros_like(x))
    assert any(torch.allclose(turned, torch.rot90(x, k, (-2, -1)), atol=1e-5) for k in (1, 3))


def test_scale_enlarges(x: Tensor) -> None:
    ring = torch.zeros(1, 1, 8, 8)
    ring[..., 2:6, 2:6] = 1.0
    larger, smaller = (Randomizer(scale=0.5).change(ring, numbers(size=s), torch.zeros_like(ring)) for s in (1.0, -1.0))
    assert float(larger.sum()) > float(ring.sum()) > float(smaller.sum())


def test_an_image_is_turned_and_enlarged_at_once(x: Tensor) -> None:
    """Twice as large and turned by a quarter: in either order the same."""
    both = Randomizer(rotation=90.0, scale=1.0).change(x, numbers(angle=1.0, size=1.0), torch.zeros_like(x))
    larger = Randomizer(scale=1.0).change(x, numbers(size=1.0), torch.zeros_like(x))
    turned = Randomizer(rotation=90.0).change(larger, numbers(angle=1.0), torch.zeros_like(x))
    assert torch.allclose(both, turned, atol=1e-5)


def test_versions_are_moved_both_ways_by_no_more_than_is_allowed() -> None:
    """The centre of a light square: its shifts are uniform within 2 pixels, about 0 in the mean."""
    square = torch.zeros(400, 1, 16, 16)
    square[..., 7:9, 7:9] = 0.25
    torch.manual_seed(0)
    moved = Randomizer(shift=2.0).fresh(square)
    line = torch.arange(16.0) - 7.5
    for axis in (2, 3):
        shift = (moved.sum((1, 5 - axis)) * line).sum(1)
        assert 1.9 < float(shift.abs().max()) <= 2 + 1e-4
        assert float(shift.mean()) == pytest.approx(0, abs=0.2)
        assert float(shift.std()) == pytest.approx(2 / 3**0.5, rel=0.1)


def test_noise_has_its_deviation_and_is_not_clamped() -> None:
    noisy = Randomizer(noise=0.3).fresh(torch.zeros(2000, 1, 8, 8))
    assert float(noisy.std()) == pytest.approx(0.3, rel=0.02)
    assert float(noisy.min()) < 0


def test_fixed_versions_do_not_depend_on_the_batch(x: Tensor) -> None:
    randomizer = Randomizer(noise=0.2, rotation=20.0, scale=0.1, shift=1.0, versions=4)
    jointly = randomizer.fixed(x, seed=5)  # (4, 3, 1, 8, 8)
    assert torch.allclose(jointly[:, 1:2], randomizer.fixed(x[1:2], seed=5), atol=1e-6)
    assert not torch.allclose(jointly[0], jointly[1])
    assert not torch.allclose(jointly, randomizer.fixed(x, seed=6))


def test_an_image_has_at_least_one_version() -> None:
    with pytest.raises(ValueError, match="versions=0"):
        Randomizer(versions=0)


def test_a_share_of_a_batch_gets_the_draws_of_one_process(x: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    randomizer = Randomizer(noise=0.2, rotation=20.0)
    torch.manual_seed(3)
    whole = randomizer.fresh(x)
    shares = []
    for start, part in ((0, x[:1]), (1, x[1:])):
        monkeypatch.setattr(images, "place_in_batch", lambda _, start=start: (3, start))
        torch.manual_seed(3)
        shares.append(randomizer.fresh(part))
    assert torch.allclose(torch.cat(shares), whole, atol=1e-6)


def test_pixels_are_what_was_stored() -> None:
    module = Person(Autoencoder(4, 4), Perception())
    spec = SimpleNamespace(mean=(0.3,), std=(0.4,))
    module.trainer = SimpleNamespace(datamodule=SimpleNamespace(spec=spec))  # type: ignore[assignment]
    module.setup("fit")
    stored = torch.rand(2, 1, 3, 5)
    assert torch.allclose(module.pixels((stored - 0.3) / 0.4), stored, atol=1e-6)
    assert set(module.state_dict()) >= {"mean", "std"}
