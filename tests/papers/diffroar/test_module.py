"""DiffROAR: its sign by hand, k = 100%, independent trainings, and what a random order gives."""

from __future__ import annotations

from collections import namedtuple
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from modules.diffroar.module import Retrained, diffroar
from modules.diffroar.networks import MLP

Batch = namedtuple("Batch", ("top", "bottom", "y"))


def test_sign_and_pairs_by_hand() -> None:
    """Positive where the largest gradients, KEPT, are what an image is recognised by."""
    mean, deviation = diffroar(torch.tensor([80.0, 84.0]), torch.tensor([70.0, 74.0, 72.0]))
    assert float(mean) == pytest.approx(10)
    differences = [top - bottom for top in (80, 84) for bottom in (70, 74, 72)]
    assert float(deviation) == pytest.approx((sum((d - 10) ** 2 for d in differences) / 6) ** 0.5)


def small(classes: int = 2, d: int = 4) -> Any:
    return lambda: MLP(d, [8], classes)


class Fake:
    kind = "logit"


def logged(module: Retrained, monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    seen: dict[str, float] = {}
    monkeypatch.setattr(module, "log_dict", lambda values: seen.update({k: float(v) for k, v in values.items()}))
    monkeypatch.setattr(type(module), "trainer", type("T", (), {"datamodule": Fake()})(), raising=False)
    module.on_test_epoch_end()
    return seen


@pytest.mark.parametrize(("signal_on_top", "expected"), [(True, 50), (False, -50)])
def test_the_side_that_keeps_the_signal_decides_the_sign(
    signal_on_top: bool, expected: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Coordinate 0 is the class: the side that keeps it gets 100%, the other one chance."""
    y = torch.arange(64) % 2
    x = torch.zeros(64, 1, 2, 2)
    x[:, 0, 0, 0] = 2.0 * y - 1
    batch = Batch(x, torch.zeros_like(x), y) if signal_on_top else Batch(torch.zeros_like(x), x, y)
    module = Retrained(small(), 2, repeats=3)
    optimizer = torch.optim.Adam(module.parameters(), lr=0.05)
    for _ in range(40):
        optimizer.zero_grad()
        module.training_step(batch, 0).backward()
        optimizer.step()
    module.test_step(batch, 0)
    values = logged(module, monkeypatch)
    assert values["test/diffroar_logit"] == pytest.approx(expected)
    assert values["test/power"] == pytest.approx(75)
    assert values["test/n"] == 64


def test_the_whole_image_on_both_sides_gives_exactly_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both sides share starting weights and batches."""
    x, y = torch.randn(32, 1, 2, 2), torch.randint(2, (32,))
    module = Retrained(small(), 2, repeats=1)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    for _ in range(5):
        optimizer.zero_grad()
        module.training_step(Batch(x, x.clone(), y), 0).backward()
        optimizer.step()
    module.test_step(Batch(x, x.clone(), y), 0)
    assert logged(module, monkeypatch)["test/diffroar_logit"] == 0


def test_each_network_has_the_gradient_of_its_own_loss() -> None:
    module = Retrained(small(3), 3, repeats=2)
    batch = Batch(torch.randn(16, 1, 2, 2), torch.randn(16, 1, 2, 2), torch.randint(3, (16,)))
    module.training_step(batch, 0).backward()
    for networks, x in ((module.top, batch.top), (module.bottom, batch.bottom)):
        for network in networks:
            got = [parameter.grad.clone() for parameter in network.parameters()]
            network.zero_grad()
            nn.functional.cross_entropy(network(x), batch.y).backward()
            assert all(torch.allclose(a, p.grad) for a, p in zip(got, network.parameters(), strict=True))


def test_sides_start_alike_and_repeats_do_not() -> None:
    module = Retrained(small(), 2, repeats=3)

    def weights(network: nn.Module) -> Tensor:
        return torch.cat([parameter.flatten() for parameter in network.parameters()])

    for top, bottom in zip(module.top, module.bottom, strict=True):
        assert torch.equal(weights(top), weights(bottom))
        assert next(top.parameters()) is not next(bottom.parameters())
    assert not torch.equal(weights(module.top[0]), weights(module.top[1]))


def test_no_repeat_is_refused() -> None:
    with pytest.raises(ValueError, match="repeats=0: expected 1 or more"):
        Retrained(small(), 2, repeats=0)
