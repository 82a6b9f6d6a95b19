"""What a search has drawn: its best, its most frequent and its top architectures."""

from __future__ import annotations

import torch

from tests.papers.nasnet.helpers import (
    TINY,
    search,
)


def test_top_counts_different_architectures() -> None:
    module = search("random", samples=20)
    module.history.outcome[:, 0, 0] = torch.tensor([3.0] * 10 + [2.0] * 9 + [1.0])
    module.history.drawn[:10], module.history.drawn[10:19], module.history.drawn[19:] = (
        0,
        1,
        torch.tensor([0, 1, 0, 0, 0]),
    )
    assert [float(module.history.top(k)) for k in (1, 2, 3, 25)] == [3, 2.5, 2, 2]
    actions, rewards = module.ranked()
    assert rewards.tolist() == [1, 2, 3]
    assert module.history.best() == module.select() == actions[-1].tolist() == [0] * 5
    assert module.genotype() == TINY.decode([0] * 5)


def test_top_counts_what_was_drawn_so_far() -> None:
    module = search("random", samples=20)
    module.history.outcome[:, 0, 0] = torch.tensor([1.0] * 5 + [3.0] * 15)
    module.history.drawn[:5], module.history.drawn[5:] = 0, 1
    assert [float(module.history.top(1, samples)) for samples in (5, 6, None)] == [1, 3, 3]
    module.history.seen.fill_(5)  # the other draws are still to come
    assert float(module.history.top(1)) == 1


def test_the_frequent_architecture_is_a_late_one() -> None:
    """Not the luckiest draw and not what was frequent early; of equally frequent ones that of higher reward."""
    module = search("random", samples=20, finds="frequent", late=0.3)  # the last six
    first, second, lucky, early = [0, 1, 0, 0, 0], [0, 1, 0, 0, 1], [1, 1, 0, 1, 0], [0, 0, 0, 0, 0]
    module.history.drawn[:, 0] = torch.tensor([early] * 14 + [first, first, second, second, lucky, early])
    module.history.outcome[:, 0, 0] = torch.tensor([0.5] * 14 + [0.2, 0.2, 0.3, 0.3, 0.9, 0.5])
    assert module.select() == second
    assert module.history.best() == lucky
    assert module.genotype() == TINY.decode(second)
