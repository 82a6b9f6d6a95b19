"""Votes, their history and the quantile, against values by hand and in limit cases."""

from __future__ import annotations

import copy

import pytest
import torch

from modules.sparse.pseudo_labels import History, Voting, above_quantile, confidence, vote

C, D = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 1.0]])


@pytest.mark.parametrize(
    ("temperature", "confidences", "voted"),
    [(0.5, (0.870021, 0.472935), (0.678167, 0.321833)), (2.0, (0.160058, 0.043714), (0.655221, 0.344779))],
)
def test_confidences_and_votes(
    temperature: float, confidences: tuple[float, float], voted: tuple[float, float]
) -> None:
    ours = [float(confidence((logits / temperature).softmax(-1))) for logits in (C, D)]
    assert ours == pytest.approx(confidences, abs=1e-5)
    assert vote([C, D], temperature)[0].tolist() == pytest.approx(voted, abs=1e-5)


def test_the_released_vote_is_divided_by_two() -> None:
    assert vote([C, D], 0.5, normalised=False)[0].tolist() == pytest.approx((0.455374, 0.216104), abs=1e-5)


def test_confidence_in_its_limits() -> None:
    assert float(confidence(torch.full((5,), 0.2))) == pytest.approx(0, abs=1e-6)
    assert float(confidence(torch.tensor([0.0, 1.0, 0.0]))) == 1


def test_networks_that_know_nothing_vote_their_mean() -> None:
    nothing = torch.zeros(2, 4)
    assert torch.allclose(vote([nothing, nothing], 2.0), torch.full((2, 4), 0.25))
    assert torch.allclose(vote([nothing, 100 * torch.eye(4)[:2]], 1.0), torch.eye(4)[:2])


def test_a_quantile_of_three_quarters_keeps_a_quarter() -> None:
    p = torch.rand(200, 5).softmax(1)
    kept = above_quantile(p, 0.75)
    assert int(kept.sum()) == 50
    assert float(p.amax(1)[kept].min()) > float(p.amax(1)[~kept].max())
    assert bool(above_quantile(p, 0.0).all())


def test_images_are_followed_by_their_row_whatever_their_place_in_a_batch() -> None:
    first, second = torch.rand(2, 3).softmax(1), torch.rand(2, 3).softmax(1)
    rules = Voting()
    history = History(10, 3)
    assert torch.equal(history.follow(torch.tensor([7, 2]), first, rules), first)
    assert torch.equal(history.average[[7, 2]], first)
    p_ens = history.follow(torch.tensor([2, 7]), second, rules)  # the other way round
    assert torch.allclose(p_ens, 0.6 * second + 0.4 * first.flip(0))
    assert torch.allclose(history.average[[2, 7]], 0.99 * first.flip(0) + 0.01 * p_ens)
    assert history.seen.nonzero().flatten().tolist() == [2, 7]


def test_the_average_of_equal_predictions_stays_equal_to_them() -> None:
    p = torch.rand(4, 3).softmax(1)
    history = History(4, 3)
    for _ in range(50):
        p_ens = history.follow(torch.arange(4), p, Voting())
        assert torch.allclose(p_ens, p, atol=1e-6)
    assert torch.allclose(history.average, p, atol=1e-6)


def test_a_present_of_one_forgets_the_past() -> None:
    history = History(4, 3)
    for _ in range(3):
        p = torch.rand(4, 3).softmax(1)
        assert torch.equal(history.follow(torch.arange(4), p, Voting(present=1.0)), p)


def test_a_history_follows_in_the_precision_it_is_given() -> None:
    history = History(4, 3)
    p = torch.rand(4, 3, dtype=torch.double).softmax(1)
    assert history.follow(torch.arange(4), p, Voting()).dtype == torch.double
    assert torch.equal(history.average, p)


def test_a_history_goes_on_from_its_state() -> None:
    history, other = History(4, 3), History(0, 3)
    history.follow(torch.arange(4), torch.rand(4, 3).softmax(1), Voting())
    other.restore(copy.deepcopy(history.state()))
    p = torch.rand(4, 3).softmax(1)
    assert torch.equal(history.follow(torch.arange(4), p, Voting()), other.follow(torch.arange(4), p, Voting()))


def test_wrong_arguments() -> None:
    with pytest.raises(ValueError, match=r"quantile=1.5: expected a number from 0 to 1"):
        Voting(quantile=1.5)
    with pytest.raises(ValueError, match="temperature=0"):
        Voting(temperature=0)
