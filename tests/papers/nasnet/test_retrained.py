"""A search's best architectures, trained again and tested on test images."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from modules.nasnet.cells import Genotype
from modules.nasnet.children import Children
from modules.nasnet.retrained import Retrained
from tests.papers.nasnet.helpers import TINY, children, search


def test_the_best_different_ones_are_taken_best_first() -> None:
    module = search("random", samples=20)
    module.history.drawn[:, 0] = 0
    module.history.outcome[:, 0, 0] = 0.1
    good, better = [0, 1, 0, 0, 0], [1, 1, 0, 1, 0]
    for row, (actions, reward) in {3: (good, 0.5), 7: (better, 0.9), 9: (good, 0.5)}.items():
        module.history.drawn[row, 0] = torch.tensor(actions)
        module.history.outcome[row, 0, 0] = reward
    assert module.history.best_ones(2).tolist() == [better, good]
    assert module.history.best_ones(9).tolist() == [better, good, [0] * 5]
    with pytest.raises(ValueError, match="best=5: the search drew 3 different architectures"):
        Retrained(module, children(), best=5)


def test_each_is_trained_as_often_as_asked_and_all_test_accuracies_count_alike(
    logged: Callable[..., dict[str, float]],
) -> None:
    module = Retrained(search("random"), children(), best=2, trainings=3)
    asked: list[tuple[Genotype, tuple[str, ...]]] = []

    def train_children(how: Children, genotypes: Sequence[Genotype], splits: Sequence[str] = ()) -> Tensor:
        asked.extend((genotype, tuple(splits)) for genotype in genotypes)
        return torch.arange(len(asked) - len(genotypes), len(asked))[:, None] / 10

    module.train_children = train_children  # type: ignore[method-assign]
    module.training_step(torch.arange(4), 0)
    module.training_step(torch.arange(4, 8), 1)  # two trials more than there are
    first, second = (TINY.decode(row) for row in module.chosen.tolist())
    assert [genotype for genotype, _ in asked] == [first, second] * 3
    assert {splits for _, splits in asked} == {("test",)}
    assert logged(module)["test/top1"] == pytest.approx(100 * (0.0 + 0.1 + 0.2 + 0.3 + 0.4 + 0.5) / 6)


def test_the_entropy_that_is_left_is_a_share_of_uniform_choices() -> None:
    module = search(samples=20)
    for parameter in module.controller.parameters():
        parameter.data.zero_()
    state = torch.get_rng_state()
    assert float(module.entropy_left()) == pytest.approx(1.0, abs=1e-6)
    assert torch.equal(state, torch.get_rng_state())

    size = module.space.sizes[0]
    module.controller.head_biases[0].data[..., 0] = 100.0  # the first choice is certain
    without = sum(math.log(size) for size in module.space.sizes[1:]) / sum(
        math.log(size) for size in module.space.sizes
    )
    assert size > 1
    assert float(module.entropy_left()) == pytest.approx(without, abs=1e-5)
