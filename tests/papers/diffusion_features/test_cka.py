"""Linear CKA: limits, invariances and another formula."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from modules.diffusion_features.cka import Normalised, Similarity, linear_cka


def test_of_itself_it_is_one() -> None:
    x = torch.randn(50, 7)
    assert linear_cka(x, x) == pytest.approx(1.0)


def test_invariances() -> None:
    x, y = torch.randn(60, 7), torch.randn(60, 5)
    rotation, _ = torch.linalg.qr(torch.randn(7, 7))
    assert linear_cka(x @ rotation, y) == pytest.approx(linear_cka(x, y), abs=1e-5)
    assert linear_cka(3 * x + 2, y) == pytest.approx(linear_cka(x, y), abs=1e-5)
    assert linear_cka(x, y) == pytest.approx(linear_cka(y, x))


def test_independent_features_are_not_alike() -> None:
    assert linear_cka(torch.randn(1000, 10), torch.randn(1000, 10)) == pytest.approx(0.01, abs=0.006)


def test_against_the_features_formula() -> None:
    x, y = torch.randn(40, 6), torch.randn(40, 3)
    y = y + x[:, :3]
    a, b = (v.numpy().astype(float) - v.numpy().astype(float).mean(0) for v in (x, y))
    expected = np.linalg.norm(b.T @ a) ** 2 / (np.linalg.norm(a.T @ a) * np.linalg.norm(b.T @ b))
    assert linear_cka(x, y) == pytest.approx(expected)


def test_stage(model: Callable[..., Any], batch: Any, logged: Callable[..., dict[str, float]]) -> None:
    stage = Similarity(model(), [10, 300], [1, 7, 13], images=50, others={"flat": torch.nn.Flatten()})
    stage.on_test_epoch_start()
    values = logged(stage, batch._replace(x=batch.x[:40]), batch._replace(x=batch.x[40:]))
    assert values["test/n"] == 60
    assert stage.seen == 50
    assert len(stage.kept) == 7
    assert torch.allclose(stage.similarity.diag(), torch.ones(7))
    names = list(stage.kept)
    pair = [torch.cat(stage.kept[name]) for name in ("7 at 10", "7 at 300")]
    assert float(stage.similarity[names.index("7 at 10"), names.index("7 at 300")]) == pytest.approx(linear_cka(*pair))
    assert 0 < values["test/flat_best"] <= 1
    assert set(values) == {
        "test/n",
        "test/step_neighbours",
        "test/block_neighbours",
        "test/block_ends",
        "test/flat_best",
    }


def test_all_blocks_and_those_of_another_stage(
    model: Callable[..., Any], batch: Any, logged: Callable[..., dict[str, float]]
) -> None:
    """Without a choice all 13 blocks are read; the other stage's at time step 0, beside other networks."""
    stage = Similarity(model(), [10], images=20, others={"flat": torch.nn.Flatten()}, other=model(seed=1))
    stage.on_test_epoch_start()
    values = logged(stage, batch)
    numbers = range(1, 14)
    assert list(stage.kept) == [*(f"{n} at 10" for n in numbers), *(f"other {n}" for n in numbers), "flat"]
    assert {name for name in values if name.endswith("_best")} == {
        *(f"test/other_{n}_best" for n in numbers),
        "test/flat_best",
    }
    similarity = stage.artifacts()["cka"]
    assert values["test/other_7_best"] == pytest.approx(float(similarity[13 + 6, :13].max()))


def test_networks_of_imagenet_see_its_normalisation() -> None:
    mean = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
    grey = (2 * mean - 1).expand(2, 3, 4, 4)
    assert torch.allclose(Normalised(torch.nn.Identity())(grey), torch.zeros(2, 3, 4, 4), atol=1e-6)
    white = Normalised(torch.nn.Identity())(torch.ones(1, 3, 1, 1)).flatten()
    assert white.tolist() == pytest.approx([2.2489, 2.4286, 2.64], abs=1e-3)


def test_wrong_block(model: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match="blocks: '14': expected some of 1, 2"):
        Similarity(model(), [10], [14])
