"""Measures of classes, labels and rankings, by hand and by scikit-learn."""

from __future__ import annotations

import math

import pytest
import torch
from sklearn.metrics import average_precision_score

from modules.off_the_shelf.evaluation import (
    average_precision,
    measure_classes,
    measure_labels,
    measure_ranking,
    rank,
)


def falling(count: int) -> torch.Tensor:
    return torch.arange(float(count), 0, -1)


def test_by_hand() -> None:
    relevant = torch.tensor([True, False, True])
    assert average_precision(falling(3), relevant) == pytest.approx((1 + 2 / 3) / 2)
    assert average_precision(falling(3), relevant, "trapezoid") == pytest.approx((1 + (1 / 2 + 2 / 3) / 2) / 2)
    assert average_precision(falling(3), relevant, "eleven") == pytest.approx((6 * 1 + 5 * 2 / 3) / 11)
    every = torch.ones(4)
    assert average_precision(falling(4), every, "trapezoid") == average_precision(falling(4), every, "eleven") == 1
    assert math.isnan(average_precision(falling(3), torch.zeros(3)))
    with pytest.raises(ValueError, match="rule='ten': expected one of steps, trapezoid, eleven"):
        average_precision(falling(3), relevant, "ten")


@pytest.mark.parametrize("levels", [10**6, 7, 1])
def test_by_scikit_learn_with_ties_and_constant_scores_too(levels: int) -> None:
    source = torch.Generator().manual_seed(0)
    for _ in range(20):
        scores = torch.randint(levels, (50,), generator=source).float()
        relevant = torch.rand(50, generator=source) < 0.3
        expected = average_precision_score(relevant.numpy(), scores.numpy())
        assert average_precision(scores, relevant) == pytest.approx(expected)


@pytest.mark.parametrize("rule", ["steps", "trapezoid", "eleven"])
def test_the_order_of_equal_scores_says_nothing(rule: str) -> None:
    scores = torch.tensor([2.0, 1, 1, 1, 0])
    orders = [torch.tensor([1, *middle, 0]) for middle in ([1, 0, 0], [0, 1, 0], [0, 0, 1])]
    assert len({average_precision(scores, relevant, rule) for relevant in orders}) == 1


def test_equal_scores_keep_their_order() -> None:
    assert rank(torch.tensor([0.5, 0.7, 0.5]), torch.tensor([1, 0, 0])).tolist() == [False, True, False]


def test_accuracy_is_the_mean_of_classes_where_they_are_uneven() -> None:
    scores = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    assert measure_classes(scores, torch.tensor([0, 0, 0, 1])) == {"top1": 75.0, "acc": 50.0}


def test_attributes_of_which_nothing_is_known_are_left_out() -> None:
    scores = torch.tensor([[3.0, 1, 0], [2.0, 0, 0], [1.0, 2, 0], [0.0, 3, 0]])
    y = torch.tensor([[1, 0, 1], [0, 1, 1], [1, 1, 1], [-1, 0, 1]])
    metrics = measure_labels(scores, y, "steps")  # (1, 0, 1) and (0, 1, 0, 1) by rank; the third has no negative
    assert metrics["map"] == pytest.approx(100 * ((1 + 2 / 3) / 2 + (1 / 2 + 2 / 4) / 2) / 2)
    assert metrics["mauc"] == pytest.approx(100 * (0.5 + 0.25) / 2)
    assert measure_labels(scores[:, 2:], y[:, 2:], "steps") == {"map": 0.0, "mauc": 0.0}


def test_one_positive_of_a_label_is_enough_to_judge_it() -> None:
    scores = torch.tensor([[3.0], [2.0], [1.0]])
    metrics = measure_labels(scores, torch.tensor([[0], [1], [0]]), "steps")
    assert metrics == {"map": 50.0, "mauc": 50.0}


def test_references_to_be_ignored_are_taken_out_of_the_ranking() -> None:
    metrics = measure_ranking(torch.tensor([0.1, 0.2, 0.3]), torch.tensor([-1, 0, 1]), "steps")
    assert metrics == {"map": 50.0, "mrr": 50.0, "recall4": 100.0, "top1": 0.0}
