"""The table of rewards: two trainings of each architecture, and what repeats."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from modules.nasnet.table import RewardTable, rank_correlation
from tests.papers.nasnet.helpers import (
    TINY,
    children,
    relabelled,
    share_right,
    table,
)


def test_reward_and_judgement_come_from_two_trainings() -> None:
    """Reward: training 1 on val images. Judged by training 2 alone, on test images. Ranked by the mean on val."""
    module, data, how = RewardTable(TINY, children()), relabelled(20, 4), children()
    module._trainer = type("T", (), {"datamodule": data})()  # type: ignore[assignment]
    torch.manual_seed(0)
    module.training_step(torch.tensor([3, 5]), 0)
    torch.manual_seed(0)
    once, twice = torch.randint(2**31, (2,)).tolist(), torch.randint(2**31, (2,)).tolist()
    for k, n in enumerate((3, 5)):
        genotype = TINY.decode(TINY.architectures()[n].tolist())
        one, two = (how.train(genotype, data, seeds[k], torch.device("cpu")) for seeds in (once, twice))
        assert float(module.rewards[n]) == pytest.approx(share_right(one, data, "val"))
        assert float(module.repeated[n]) == pytest.approx(share_right(two, data, "val"))
        assert float(module.accuracies[n]) == pytest.approx(share_right(two, data, "test"))
    assert not torch.equal(module.repeated[[3, 5]], module.accuracies[[3, 5]])
    assert int(module.rewards.isnan().sum()) == 18


def test_the_table_ranks_by_the_mean_and_reports_what_repeats(logged: Callable[..., dict[str, float]]) -> None:
    module = table()
    module.repeated.copy_(torch.arange(20).flip(0) / 100 + torch.arange(20) / 50)  # mean: larger with the number
    module.repeated[0] = 1.0
    actions, means = module.ranked()
    assert torch.equal(actions[-1], TINY.architectures()[0])
    assert torch.equal(actions[:-1], TINY.architectures()[1:])
    assert float(means[-1]) == pytest.approx(0.5)
    module.repeated.copy_(module.rewards.flip(0))
    module.accuracies.copy_(module.rewards)
    assert logged(module)["test/reliability"] == pytest.approx(-1)


def test_a_step_tells_its_mean_reward_and_constant_ranks_correlate_with_nothing() -> None:
    module = table()
    tracked: dict[str, Any] = {}
    module.track = lambda count, **terms: tracked.update(terms, count=count)  # type: ignore[method-assign]
    module.train_children = lambda how, genotypes, splits=None: torch.tensor([[0.25, 0.5], [0.75, 0.5]])  # type: ignore[method-assign, assignment]
    module.training_step(torch.tensor([4, 2, 99]), 0)  # there is no row 99
    assert (tracked["count"], float(tracked["reward"])) == (2, 50.0)
    assert module.rewards[[4, 2]].tolist() == module.repeated[[4, 2]].tolist() == [0.25, 0.75]
    assert rank_correlation(torch.tensor([1.0, 2, 3]), torch.tensor([5.0, 5, 5])) == 0
    assert rank_correlation(torch.tensor([1.0, 2, 3]), torch.tensor([4.0, 5, 9])) == pytest.approx(1)
