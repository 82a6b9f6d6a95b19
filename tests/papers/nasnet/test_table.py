"""The table of rewards: two trainings of each architecture, and what repeats."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from modules.nasnet.table import RewardTable
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
