"""Training a child: a function of its seed, on the training images alone."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from modules.nasnet.children import total_loss
from modules.nasnet.networks import CellNetwork
from tests.papers.nasnet.helpers import (
    TINY,
    children,
    trials,
)


def test_a_child_is_a_function_of_its_seed_and_leaves_the_random_state() -> None:
    data, genotype = trials(4), TINY.decode([0, 1, 1, 1, 0])
    torch.manual_seed(5)
    first = children().train(genotype, data, 7, torch.device("cpu"))
    drawn = torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(3), drawn)
    again = children().train(genotype, data, 7, torch.device("cpu"))
    other = children().train(genotype, data, 8, torch.device("cpu"))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not torch.equal(first.fc.weight, other.fc.weight)


def test_other_seeds_have_other_orders_of_the_images(monkeypatch: pytest.MonkeyPatch) -> None:
    data, seen, forward = trials(4), [], CellNetwork.with_auxiliary

    def recorded(network: CellNetwork, x: Tensor) -> Any:
        seen.append(x.sum((1, 2, 3)))
        return forward(network, x)

    monkeypatch.setattr(CellNetwork, "with_auxiliary", recorded)
    for seed in (7, 7, 8):
        children().train(TINY.decode([0, 1, 1, 1, 0]), data, seed, torch.device("cpu"))
    first, again, other = (torch.cat(seen[k : k + 2]) for k in (0, 2, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.allclose(first.sort().values, other.sort().values)


def test_the_reward_is_not_test_accuracy() -> None:
    """Rewards come from images drawn from the training set that no child trains on."""
    data = trials(4)
    asked: list[str] = []
    images = data.images
    data.images = lambda split: (asked.append(split), images(split))[1]  # type: ignore[method-assign]
    children().evaluate(TINY.decode([0, 1, 1, 1, 0]), data, 0, torch.device("cpu"), ["val"])
    assert asked == ["train", "val"]
    train, val = (data.source.splits[name][0].flatten(1) for name in ("train", "val"))
    assert not (train[:, None] == val[None]).all(-1).any()


def test_loss_with_the_auxiliary_head() -> None:
    z, second, y = torch.zeros(2, 4), torch.tensor([[math.log(3.0), 0, 0, 0]] * 2), torch.tensor([0, 0])
    assert float(total_loss(z, None, y)) == pytest.approx(math.log(4))
    assert float(total_loss(z, second, y)) == pytest.approx(math.log(4) + 0.4 * math.log(2))
