"""PPO by hand, and searches on a table and with children trained on demand."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import product

import pytest
import torch
from torch import Tensor

from modules.nasnet.cells import Genotype
from modules.nasnet.children import Children
from modules.nasnet.controller import Controller
from modules.nasnet.module import Search, ppo_loss
from modules.nasnet.space import Space
from tests.papers.nasnet.helpers import (
    TINY,
    children,
    relabelled,
    search,
    share_right,
    table,
    trials,
)


def test_ppo_starts_as_reinforce_with_a_baseline() -> None:
    """At theta_old the ratio is 1 and the gradient that of -A log p."""
    torch.manual_seed(0)
    controller = Controller([3, 4, 2], units=6)
    actions, advantage = controller.sample(5), torch.randn(1, 5)
    log_p, entropy = controller(actions)
    loss = ppo_loss(log_p, log_p.detach(), advantage, entropy, 0.2, 0.0)
    ours = torch.autograd.grad(loss, list(controller.parameters()), retain_graph=True)
    reinforce = torch.autograd.grad(-(advantage * log_p).mean(), list(controller.parameters()))
    assert all(torch.allclose(a, b, atol=1e-7) for a, b in zip(ours, reinforce, strict=True))
    assert float(loss.detach()) == pytest.approx(-float(advantage.mean()), abs=1e-6)


@pytest.mark.parametrize(
    ("ratio", "advantage", "gradient"),
    [(1.3, 1.0, 0.0), (1.3, -1.0, 1.3), (0.7, 1.0, -0.7), (0.7, -1.0, 0.0), (1.1, 1.0, -1.1)],
)
def test_ppo_clips_by_hand(ratio: float, advantage: float, gradient: float) -> None:
    """d loss / d log p = -r A, and 0 where the clipped value is the smaller one."""
    log_p = torch.tensor([math.log(ratio)], requires_grad=True)
    loss = ppo_loss(log_p, torch.zeros(1), torch.tensor([advantage]), torch.tensor([2.0]), 0.2, 0.01)
    (actual,) = torch.autograd.grad(loss, log_p)
    assert float(actual) == pytest.approx(gradient, abs=1e-6)
    clipped = min(ratio * advantage, min(max(ratio, 0.8), 1.2) * advantage)
    assert float(loss.detach()) == pytest.approx(-clipped - 0.02, abs=1e-6)


def test_the_baseline_is_a_moving_average() -> None:
    """From 0.5, after rewards of 0.7: 0.51. The first minibatch sets it to its own mean."""
    module = search(samples=20)
    module.baseline.fill_(0.5)
    module.improve(module.history.drawn.transpose(0, 1), torch.full((1, 20), 0.7))
    assert float(module.baseline) == pytest.approx(0.51)
    module.baseline.fill_(math.nan)
    module.improve(module.history.drawn.transpose(0, 1), torch.full((1, 20), 0.3))
    assert float(module.baseline) == pytest.approx(0.3)


def test_ppo_learns_and_random_search_does_not(logged: Callable[..., dict[str, float]]) -> None:
    ppo, random = logged(search(replays=4)), logged(search("random", replays=4))
    mean = float(table().rewards[TINY.place(torch.tensor(list(product(range(2), repeat=5))))].mean()) * 100
    assert ppo["test/late_reward"] > mean + 4
    assert random["test/late_reward"] == pytest.approx(mean, abs=1.5)
    assert random["test/mean_reward"] == pytest.approx(mean, abs=1.0)
    assert ppo["test/late_reward"] + ppo["test/late_top1"] == pytest.approx(19, abs=1e-3)  # it saw the rewards alone


def test_what_is_drawn_is_canonical() -> None:
    module = search("random")
    assert torch.equal(module.history.drawn, TINY.canonical(module.history.drawn))
    assert torch.equal(module.history.outcome[..., 0], module.looked_up[TINY.place(module.history.drawn), 0])  # type: ignore[index]
    assert len(module.ranked()[0]) == 20


def test_an_architecture_is_trained_once() -> None:
    torch.manual_seed(0)
    module = Search(TINY, 40, children=children())
    asked: list[int] = []

    def train_children(how: Children, genotypes: Sequence[Genotype], splits: Sequence[str] = ()) -> Tensor:
        asked.append(len(genotypes))
        return torch.rand(len(genotypes), 2)

    module.train_children = train_children  # type: ignore[method-assign]
    module._trainer = type("T", (), {"datamodule": trials(20, 20)})()  # type: ignore[assignment]
    for step in range(2):
        module.training_step(torch.arange(20), step)
    rows = [tuple(row) for row in module.history.drawn[:, 0].tolist()]
    assert sum(asked) == len(set(rows)) < 40
    for row in set(rows):
        assert len({float(module.history.outcome[k, 0, 0]) for k in range(40) if rows[k] == row}) == 1
    with pytest.raises(ValueError, match="samples=40"):
        module.training_step(torch.arange(20), 2)


def test_a_table_must_be_whole_and_of_this_space() -> None:
    holed = table()
    holed.rewards[3] = math.nan
    with pytest.raises(ValueError, match=r"1 architectures have no reward"):
        Search(TINY, 20, table=holed).on_fit_start()
    with pytest.raises(ValueError, match="another one"):
        Search(Space(1, ["sep3"], ["add"], [[0, 1, "max3", "avg3", "add"]]), 20, table=table())


def test_a_childs_reward_is_its_validation_accuracy() -> None:
    """Of children trained on demand, counted by hand."""
    data, how = relabelled(2, 2), children()
    module = Search(TINY, 2, children=how)
    module._trainer = type("T", (), {"datamodule": data})()  # type: ignore[assignment]
    torch.manual_seed(1)
    module.training_step(torch.arange(2), 0)
    torch.manual_seed(1)
    drawn = TINY.canonical(TINY.uniform(1, 2))[0].tolist()
    seeds = torch.randint(2**31, (2,)).tolist()
    assert drawn[0] != drawn[1]
    for k in range(2):
        network = how.train(TINY.decode(drawn[k]), data, seeds[k], torch.device("cpu"))
        expected = [share_right(network, data, split) for split in ("val", "test")]
        assert module.history.outcome[k, 0].tolist() == pytest.approx(expected)
    assert not torch.equal(module.history.outcome[..., 0], module.history.outcome[..., 1])
