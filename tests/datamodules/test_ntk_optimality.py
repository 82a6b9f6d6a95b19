"""Generated Dirichlet classes: what is declared is served, the released stream, no point in two splits."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch

from datamodules import ntk_optimality as dirichlet
from datamodules.common.base import DataError
from datamodules.ntk_optimality import Dirichlet, coincide

PAIRS = [
    ([1, 2], [2, 1]),
    ([0.5, 0.5, 2.5], [2.5, 0.1, 0.5]),
    ([3, 1, 2, 1, 1], [1, 2, 2, 2, 3]),
    ([1, 2, 1, 2, 1, 1, 1, 1, 1], [1, 1, 1, 2, 3, 4, 2, 2, 1]),
]


def made(**options: Any) -> Dirichlet:
    data = Dirichlet(**{"batch_size": 64, "plus": [1, 2], "minus": [2, 1], "n_train": 300, "n_test": 200, **options})
    data.setup()
    return data


@pytest.mark.parametrize(("plus", "minus"), PAIRS)
def test_spec_is_what_is_served(plus: list[float], minus: list[float]) -> None:
    data = made(plus=plus, minus=minus)
    assert (data.spec.source, data.spec.where) == ("generated", "computed")
    assert f"P(+1) = 0.4, +1 from Dirichlet{tuple(plus)}, -1 from Dirichlet{tuple(minus)}" in data.spec.split
    assert "300 + 200 points" in data.spec.split
    assert len(data.spec.identity) == 12
    assert {name: len(labels) for name, (_, labels) in data.splits.items()} == {"train": 300, "test": 200}
    x, y = next(iter(data.train_dataloader()))
    assert x.shape == (64, *data.spec.shape)
    assert (x.dtype, y.dtype) == (torch.float64, torch.int64)
    everything = torch.cat([rows for rows, _ in data.splits.values()])
    assert bool((everything >= 0).all())
    assert torch.allclose(everything.norm(dim=1), torch.ones(500, dtype=torch.float64), atol=1e-15, rtol=0)
    assert len(everything.unique(dim=0)) == 500  # no point in two splits, or twice in one
    assert sum(int(labels.sum()) for _, labels in data.splits.values()) == 200  # int(0.4 * 500)


def test_each_class_has_its_density() -> None:
    data = made(plus=[3, 1, 2], minus=[1, 2, 2], n_train=6000, n_test=1)
    x, y = data.splits["train"]
    simplex = x / x.sum(1, keepdim=True)
    for label, alpha in ((1, [3, 1, 2]), (0, [1, 2, 2])):
        mean = np.array(alpha) / sum(alpha)
        assert np.allclose(simplex[y == label].mean(0).numpy(), mean, atol=0.02)


def test_the_stream_is_the_released_one() -> None:
    """Global numpy and Python generators, scipy's rvs, and the samples themselves shuffled, as in dataset.py."""
    np.random.seed(1717)
    random.seed(1717)
    rows = np.concatenate([scipy.stats.dirichlet.rvs([1, 2], 200), scipy.stats.dirichlet.rvs([2, 1], 300)])
    rows = rows / np.linalg.norm(rows, axis=1).reshape(-1, 1)
    pairs = list(zip(rows, [1] * 200 + [0] * 300, strict=True))
    random.shuffle(pairs)
    data = made(seed=1717)
    assert np.array_equal(data.splits["train"][0].numpy(), np.array([row for row, _ in pairs[:300]]))
    assert data.splits["test"][1].tolist() == [label for _, label in pairs[300:]]


def test_a_smaller_training_set_is_a_part_of_a_larger_one() -> None:
    small, large = made(n_train=50, pool=300), made(n_train=300)
    assert torch.equal(small.splits["train"][0], large.splits["train"][0][:50])
    assert all(torch.equal(a, b) for a, b in zip(small.splits["test"], large.splits["test"], strict=True))
    assert small.spec.sizes["train"] == 50


def test_the_seed_decides() -> None:
    assert made(seed=3).spec.identity == made(seed=3).spec.identity != made(seed=4).spec.identity


def test_coinciding_points_are_drawn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    first = made()
    answers = iter([True, False])
    monkeypatch.setattr(dirichlet, "coincide", lambda rows: next(answers))
    assert not torch.equal(made().splits["train"][0], first.splits["train"][0])
    monkeypatch.setattr(dirichlet, "coincide", lambda rows: True)
    with pytest.raises(DataError, match="coincide in each of"):
        made()


def test_coinciding_means_an_inner_product_of_one() -> None:
    angles = np.array([0.1, 0.5, 0.9, 1.3])
    circle = np.stack([np.cos(angles), np.sin(angles)], 1)
    assert not coincide(circle)
    near = 0.5 + 1e-9
    assert coincide(np.concatenate([circle, [[np.cos(near), np.sin(near)]]]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"plus": [1, 2, 3]}, "as many numbers"),
        ({"minus": [0, 1]}, "above 0"),
        ({"prior": 1.0}, "prior=1.0"),
        ({"pool": 100}, "at most 100"),
    ],
)
def test_what_does_not_fit_is_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        made(**options)
